"""What objective and model cannot use of prepared sets, and what is said of their labels."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import toys

from jaxalign.config import functions, sets
from jaxalign.config.resolve import resolve


def configured(name, **sections):
    cfg = tiny.get_config(name)
    for section, values in sections.items():
        cfg[section].update(values)
    return resolve(cfg)


def prepared(*, rows=4, meta=None, **groups):
    """Groups judged one by one, as a prepared set of so many rows."""
    made = toys.groups(8, seed=0)
    made = dataclasses.replace(made, **{"paired": np.zeros(8, bool), "donors": None, "columns": {}, **groups})
    return SimpleNamespace(groups=made, folder=Path("cache/rows/plan"), meta=meta or {}, plan=np.zeros((rows, 2), int))


def weighted(one, weight):
    return SimpleNamespace(**{**vars(one), "weight": weight})


def check(cfg, one, vocab_size=61):
    objective = functions.objective(cfg)
    sets.check_rewards(cfg, objective, [one])
    sets.check_data(objective, SimpleNamespace(config=dataclasses.replace(toys.CONFIG, vocab_size=vocab_size)), [one])


def test_a_model_with_fewer_tokens_than_the_rows_is_refused():
    with pytest.raises(ValueError, match=r"holds token id \d\d but the model has 32 tokens"):
        check(configured("una"), prepared(), vocab_size=32)


def test_positions_beyond_the_table_of_the_teacher_are_refused(monkeypatch):
    config = dataclasses.replace(toys.CONFIG, learned_positions=True, rotary_fraction=0.0, max_positions=4)
    cfg = configured("sft")
    sets.check_rows(cfg, functions.objective(cfg), SimpleNamespace(config=toys.CONFIG), [prepared()])
    monkeypatch.setattr(sets.teacher, "model", lambda _: SimpleNamespace(config=config))
    with pytest.raises(ValueError, match="tokens but the teacher has 4 learned positions"):
        sets.check_rows(cfg, functions.objective(cfg), SimpleNamespace(config=toys.CONFIG), [prepared()])


def test_positions_beyond_a_learned_table_are_refused():
    config = dataclasses.replace(toys.CONFIG, learned_positions=True, rotary_fraction=0.0, max_positions=4)
    with pytest.raises(ValueError, match="tokens but the model a has 4 learned positions"):
        sets.check_fits(config, prepared(), "the model a", "")


def test_rows_beyond_the_positions_of_a_rotary_model_are_counted(caplog):
    one = prepared()
    lengths = one.groups.lengths()
    whole = lengths[:, 0] + lengths[:, 1:].max(1)
    config = dataclasses.replace(toys.CONFIG, max_positions=int(whole.max()) - 1)
    sets.check_fits(config, one, "the model a", "")
    count = int((whole == whole.max()).sum())
    assert f"{count} of {len(whole)} examples are longer than the {config.max_positions} positions of the model a" in caplog.text
    caplog.clear()
    sets.check_fits(dataclasses.replace(config, max_positions=int(whole.max())), one, "the model a", "")
    assert not caplog.records


def test_responses_labelled_bad_are_not_imitated():
    labels = (np.arange(16).reshape(8, 2) % 2).astype(np.float32)
    with pytest.raises(ValueError, match="'sft' trains on every response.*labelled bad"):
        check(configured("sft"), prepared(reward=labels, meta={"format": "binary"}))
    check(configured("sft"), prepared(reward=np.ones_like(labels), meta={"format": "binary"}))


def value(largest, rewards=("reward",), **data):
    head = dict(value_head=largest, trainable="value_head")
    return configured("value", model=head, objective=dict(rewards=rewards), data=data)


def test_a_value_head_that_cannot_reach_the_rewards_is_refused():
    scores = np.linspace(1, 5, 16, dtype=np.float32).reshape(8, 2)
    with pytest.raises(ValueError, match=r"model.value_head=1.0 but the rewards of cache/rows/plan, reward, go from 1 to 5"):
        check(value(1.0), prepared(reward=scores))
    check(value(5.0), prepared(reward=scores))


def test_computed_columns_are_summed_too():
    column = dict(kind="implicit_reward", model="a", reference="b")
    one = prepared(columns={"style": np.full((8, 2), -1.5, np.float32)})
    with pytest.raises(ValueError, match=r"reward \+ style, go from -1\.\d+ to"):
        check(value(2.0, ("reward", "style"), computed=dict(style=column)), one)


def test_class_weights_are_measured_on_what_is_drawn():
    good, bad = (prepared(rows=rows, reward=np.full((8, 2), label, np.float32)) for rows, label in ((4, 1.0), (8, 0.0)))
    for one in (good, bad):
        one.groups.valid[:] = True
    cfg = configured("kto")
    objective = functions.objective(cfg)
    once = "desirable_weight * n_D / (undesirable_weight * n_U) = "
    assert f"{once}18.000, outside" in sets.class_weights(cfg, objective, [weighted(good, 0.9), weighted(bad, 0.1)])
    assert "drawn as 94.7% desirable" in sets.class_weights(cfg, objective, [weighted(good, 0.9), weighted(bad, 0.1)])
    both = prepared(reward=np.array([[1.0, 0.0]] * 8, np.float32))
    both.groups.valid[:] = True
    assert f"{once}1.000, within" in sets.class_weights(cfg, objective, [weighted(both, 1.0)])
    assert "with one label only" in sets.class_weights(cfg, objective, [weighted(good, 1.0)])
    assert sets.class_weights(configured("dpo"), functions.objective(configured("dpo")), [weighted(both, 1.0)]) == ""

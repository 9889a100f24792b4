"""The section eval: what answers and questions are asked for, and what is refused with the way out."""

import json
from pathlib import Path

from ml_collections import ConfigDict
import pytest
from test_config import good
from test_other_names import problems
import tiny

from jaxalign.config import evaluations, judges
from jaxalign.config.prepared import held_out_sets
from jaxalign.config.resolve import ConfigError, resolve
from jaxalign.config.stages import place_stages, resolve_stages
from jaxalign.data.raw import sources
from jaxalign.models import model as models
from jaxalign.training.sources import Source

HELD_OUT = dict(train=dict(path="x.jsonl"), eval=dict(path="y.jsonl"))
REWARD_MODEL = dict(checkpoint="package:stories260k", reward_head="linear")


def config(generate=None, data=HELD_OUT, train=None, **section):
    section |= {} if generate is None else {"generate": generate}
    return good(data=data, eval=section, **({} if train is None else {"train": dict(total_steps=9, **train)}))


def test_what_is_left_out_has_defaults():
    spec = resolve(config(dict(rewards=dict(long="length")))).eval.generate
    assert (spec.limit, spec.samples, spec.temperature, spec.against, spec.kl) == (64, 1, 1.0, None, True)


@pytest.mark.parametrize(
    ("generate", "words"),
    [
        (dict(reward="length"), "eval.generate.reward: unknown key (did you mean rewards?)"),
        (dict(samples=0), "eval.generate.samples=0 is not at least 1"),
        (dict(rewards=dict(long="lenght")), "'lenght' is no reward"),
        (dict(rewards={"a/b": "length"}), "eval.generate.rewards.a/b: a name has no /"),
        (dict(rewards=dict(judge="length")), "eval.generate.rewards.judge: a name has no / and is not 'judge'"),
        (dict(against="reference"), "needs a reward that decides, and there is none; set eval.generate.rewards"),
        (dict(against="chosen", rewards=dict(a="length", b="gsm8k")), "there are a, b; name one of them in eval.generate.judge"),
        (dict(judge="length"), "has no effect without eval.generate.against"),
        (dict(against="chosen", judge="lenght"), "'lenght' is no reward"),
        (dict(against="chosen", judge=dict(url="https://x/v1")), "the judge needs model"),
        (dict(top_p=0.0), "top_p=0.0 is a probability"),
        (dict(top_k=0), "eval.generate.top_k=0 is not at least 1"),
        (dict(temperature=0, min_p=0.1), "have no effect at temperature 0"),
        (dict(temperature=0, top_p=0.5), "have no effect at temperature 0"),
        (dict(prompts=dict(hf="x", tfds="y")), "eval.generate.prompts names hf and tfds"),
        (dict(prompts=dict(path="x", responses="chosen")), "eval.generate.prompts.responses='chosen' has no effect"),
    ],
)
def test_what_cannot_be_asked_is_one_problem(generate, words):
    (line,) = problems(config(generate))
    assert words in line


@pytest.mark.parametrize("asked", [dict(generate=dict(rewards=dict(long="length"))), dict(multiple_choice=dict(path="q.jsonl"))])
def test_a_reward_model_gives_no_answers(asked):
    (line,) = problems(good(data=HELD_OUT, objective=dict(name="reward"), model=REWARD_MODEL, eval=asked))
    assert f"eval.{next(iter(asked))}: the model of objective 'reward' scores answers and predicts no tokens" in line


def test_prompts_come_from_somewhere():
    (line,) = problems(config({}, data=dict(train=dict(path="x.jsonl"))))
    assert "set eval.generate.prompts, data.eval or data.eval_fraction" in line
    resolve(config(dict(prompts="p.jsonl"), data=dict(train=dict(path="x.jsonl"))))


def test_questions_are_a_source_or_several_by_name():
    several = resolve(config(multiple_choice=dict(arc=dict(path="a"), mmlu=dict(path="b", limit=9)))).eval.multiple_choice
    assert several.arc.path == "a" and resolve(config(multiple_choice=dict(path="a"))).eval.multiple_choice.path == "a"
    assert "eval.multiple_choice.arc names no origin" in problems(config(multiple_choice=dict(arc=dict(limit=3))))[0]
    assert "eval.multiple_choice.weight=2.0 has no effect" in problems(config(multiple_choice=dict(path="a", weight=2.0)))[0]


@pytest.mark.parametrize("metric", ["-generate/win_rate", "generate/kl", "-multiple_choice/accuracy", "-generate/exact_match"])
def test_the_best_checkpoint_may_be_chosen_by_what_the_evaluations_measure_and_only_with_them(metric):
    train = dict(keep_best=1, best_metric=metric)
    generate = dict(rewards=dict(exact_match="gsm8k"), against="chosen")
    assert resolve(config(generate, multiple_choice=dict(path="q"), train=train)).train.best_metric == metric
    (line,) = problems(config(train=train))
    assert metric in line and "is no held-out metric of this run" in line


def test_the_best_checkpoint_is_not_chosen_by_what_is_not_measured():
    (line,) = problems(config(dict(rewards=dict(long="length")), train=dict(best_metric="-generate/win_rte")))
    assert "is no held-out metric of this run" in line and "generate/reward" in line
    alone = dict(data=dict(train=dict(path="x.jsonl")), multiple_choice=dict(path="q"))
    resolve(config(**alone, train=dict(keep_best=1, best_metric="-multiple_choice/accuracy")))
    assert "there are multiple_choice/accuracy" in problems(config(**alone, train=dict(best_metric="loss", keep_best=1)))[0]


def test_an_endpoint_is_a_judge_and_no_reward():
    spec = dict(rewards=None, judge="gpt-x@http://localhost:1/v1", against="chosen", kl=False)
    judging = judges.judging(spec, judges.PARSE)
    assert not judging.rewards and judging.compare == {"model": "gpt-x", "url": "http://localhost:1/v1"}
    assert "generate/win_rate" in judges.metrics(spec) and "generate/reward" not in judges.metrics(spec)


@pytest.mark.parametrize(
    ("generate", "words"),
    [
        (dict(max_new_tokens=5000), "max_new_tokens=5,000 leaves a prompt no room in the model's 512 positions"),
        (dict(prompts="nowhere.jsonl"), "nowhere.jsonl"),
        (dict(against="nowhere"), "nowhere"),
        (dict(rewards=dict(own="nowhere.py:f")), "no such file: nowhere.py"),
        (dict(rewards=dict(own="model:nowhere")), "nowhere"),
    ],
)
def test_what_cannot_be_had_is_told_before_any_row_is_prepared(generate, words):
    cfg = resolve(config({"rewards": dict(long="length"), **generate}))
    with pytest.raises((ValueError, OSError), match=words):
        evaluations.check(cfg, models.build(Source("package:stories260k").config()))


def test_a_held_out_source_beside_its_section_leads_there():
    assert "eval.path is called data.eval here." in problems(good(eval=dict(path="x.jsonl")))


def test_answers_may_be_compared_with_an_earlier_stage():
    asked = config(dict(rewards=dict(long="length"), against="stage:sft"))
    stages = resolve_stages(ConfigDict(dict(stages=("sft", "dpo"), sft=good(), dpo=asked)))
    place_stages(stages["dpo"], Path("runs/x"))
    assert stages["dpo"].eval.generate.against == "runs/x/sft"
    with pytest.raises(ConfigError, match="eval.generate.against='stage:sft' does not name an earlier stage"):
        resolve_stages(ConfigDict(dict(stages=("dpo",), dpo=asked)))


def test_held_out_rows_are_divided_by_what_a_column_has(tmp_path):
    whole = tiny.get_config()
    whole.data.prepared_dir = str(tmp_path)
    whole.eval = dict(by="score_rejected")
    whole.train.update(keep_best=1, best_metric="-by/2.0/accuracy")
    cfg = resolve(whole)
    sets = held_out_sets(cfg, tell=lambda lines: None)
    beside = evaluations.evaluations(cfg, None, sets, judging=None)
    labels, data = beside.labels[""], sets.held_out[""]
    rows = sources.read({"path": "package:sf_dialogue/test.jsonl.gz"})
    for place, group in enumerate(data.plan.ravel().tolist()):
        assert labels[place] == ("" if group < 0 else str(rows[int(data.source_rows[group])]["score_rejected"]))
    assert "by/2.0/accuracy" in beside.names() and not beside
    for column, words in (("prompt", "different values in package:sf_dialogue"), ("source", "no such column, only chosen, prompt")):
        cfg.eval.by = column
        with pytest.raises(ValueError, match=words):
            evaluations.evaluations(cfg, None, sets, judging=None)


def divided(tmp_path, *values):
    """(labels, what is told) of held-out rows with these values in the column "source"."""
    rows = [dict(prompt=f"q{i}", chosen="a", rejected="b", **value) for i, value in enumerate(values)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole, told = tiny.get_config(), []
    whole.data.prepared_dir = str(tmp_path)
    whole.data.eval = dict(path=str(tmp_path / "rows.jsonl"))
    whole.eval = dict(by="source")
    cfg = resolve(whole)
    sets = held_out_sets(cfg, tell=lambda lines: None)
    return evaluations.evaluations(cfg, None, sets, judging=None, tell=told.extend).labels[""].tolist(), told


def test_rows_without_a_value_are_a_part_with_a_name_and_counted(tmp_path):
    labels, told = divided(tmp_path, dict(source="a/c"), dict(source=""), dict(source=None), dict(source=" "))
    assert (labels.count("a-c"), labels.count("empty")) == (1, 3)
    assert told == [f"eval.by='source': 3 of 4 rows of {tmp_path / 'rows.jsonl'} have no value; they are by/empty"]


@pytest.mark.parametrize("one, other", [("a/b", "a-b"), ("a-b", "a/b"), ("", "empty"), ("x/y/z", "x-y/z")])
def test_values_that_would_be_one_part_are_refused_by_name(one, other, tmp_path):
    with pytest.raises(ValueError) as error:
        divided(tmp_path, dict(source=one), dict(source="c"), dict(source=other))
    assert f"has the values {one!r} and {other!r}, which are both called" in str(error.value)


@pytest.mark.parametrize(
    ("judge", "grades"),
    [
        ("judge:m@https://h/v1", True),
        ("m@https://h/v1", False),
        (dict(kind="judge", model="m", url="https://h/v1"), True),
        (dict(model="m", url="https://h/v1"), False),
    ],
)
def test_a_judge_that_grades_is_a_reward_and_one_that_compares_is_none(judge, grades):
    names = judges.metrics(dict(rewards=None, judge=judge, against="chosen", kl=False))
    assert "generate/win_rate" in names and ("generate/reward" in names) == grades

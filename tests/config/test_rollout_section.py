"""data.rollout: what does not go together is refused before anything is read, with the value and the way out."""

from types import SimpleNamespace

from ml_collections import ConfigDict
import pytest

from jaxalign.config import build
from jaxalign.config.resolve import ConfigError, resolve

ROLLOUT = dict(prompts="prompts.jsonl", samples=4, reward="length", feedback="pairs")


def config(rollout=ROLLOUT, *, objective=None, data=None, **sections):
    whole = dict(
        model=dict(checkpoint="package:stories260k"),
        data=dict(rollout=rollout, **(data or {})),
        batch=dict(rows=8),
        objective=objective or dict(name="dpo"),
        optimizer=dict(learning_rate=1e-4),
        train=dict(total_steps=8),
    )
    return ConfigDict(whole | sections)


def changed(**values):
    return {**ROLLOUT, **values}


def test_rollouts_alone_are_enough_and_the_options_of_their_feedback_stand_beside_them():
    resolved = resolve(config(changed(feedback="scores", score_transform="none"), objective=dict(name="una")))
    assert resolved.data.train is None and resolved.reference.rule == "frozen"
    assert resolved.data.rollout.score_transform == "none" and resolved.data.rollout.score_range is None
    assert resolved.data.rollout.epochs == 1 and resolved.data.rollout.share == 1.0


@pytest.mark.parametrize(
    ("objective", "options"),
    [
        (dict(name="kto"), dict(feedback="labels", threshold=0.5)),
        (dict(name="una_online", form="raw"), dict(feedback="scores")),
        (dict(name="grpo"), dict(feedback="group_advantage", scale="none", every_steps=4, epochs=2)),
        (dict(name="sft"), dict(feedback="samples", reward=None)),
        (dict(name="una"), dict(feedback="scores", score_transform="none", top_p=0.9, top_k=40, min_p=0.1, temperature=0.7)),
        (dict(name="reinforce"), dict(feedback="group_advantage", baseline="none", scale="none")),
    ],
)
def test_every_feedback_has_an_objective_that_reads_it(objective, options):
    assert resolve(config(changed(**options), objective=objective)).objective.name == objective["name"]


def test_an_extension_leaves_the_share_of_the_steps_before_it_as_it_was(monkeypatch):
    monkeypatch.setattr(build.step, "make_rollout_look", lambda *_, **__: None)
    cfg = resolve(config(changed(share=1.0, share_end=0.5), data=dict(train=dict(path="pairs.jsonl"), row_tokens=1024)))
    rolling = SimpleNamespace(compute=None, carried=None, source=lambda **options: options)
    made, _ = build._source(cfg, None, SimpleNamespace(total=12, planned=9), rolling)
    assert made()["steps"] == 9


def test_rollouts_may_share_the_steps_with_rows():
    data = dict(train=dict(path="pairs.jsonl"), row_tokens=1024)
    assert resolve(config(changed(share=0.5), data=data)).data.rollout.share == 0.5


def test_keys_of_texts_have_an_effect_where_rows_are_held_out():
    held_out = dict(eval=dict(path="held.jsonl"), max_response_tokens=64, train_turns="all", on_bad_row="error")
    assert resolve(config(data=held_out)).data.max_response_tokens == 64


def rows(**data):
    return dict(train=dict(path="pairs.jsonl"), **data)


@pytest.mark.parametrize(
    ("rollout", "sections", "words"),
    [
        (dict(feedback="pair"), {}, "data.rollout.feedback='pair' is not one of samples, scores, best, pairs"),
        (dict(sampels=2), {}, "data.rollout.sampels: 'pairs' has no such option (did you mean samples?)"),
        (dict(threshold=0.5), {}, "data.rollout.threshold: 'pairs' has no such option"),
        (dict(prompts=3), {}, "data.rollout.prompts=3 is int, not str or dict"),
        (dict(prompts=dict(path="p.jsonl", weight=2.0)), {}, "data.rollout.prompts.weight=2.0 has no effect"),
        (dict(reward=None), {}, "data.rollout.reward is missing: feedback 'pairs'"),
        (dict(reward="lenght"), {}, "data.rollout: 'lenght' is no reward"),
        (dict(samples=1), {}, "data.rollout.samples=1: feedback 'pairs' compares samples; draw at least 2"),
        (dict(temperature=0.0), {}, "data.rollout.temperature=0.0 draws the same sample 4 times"),
        (dict(every_steps=3, epochs=2), {}, "data.rollout.every_steps=3 is no multiple of epochs=2"),
        (dict(share=0.5), {}, "data.rollout.share=0.5: the other steps need data.train"),
        (dict(share=0.0), dict(data=rows(row_tokens=1024)), "data.rollout.share=0.0 trains on no rollout"),
        (dict(share=0.5), dict(data=rows()), "set data.row_tokens"),
        (dict(share=0.5, every_steps=2, epochs=2), dict(data=rows(row_tokens=1024)), "data.rollout.epochs=2 visits a batch"),
        ({}, dict(data=rows()), "data.train has no effect beside data.rollout"),
        ({}, dict(data=dict(row_tokens=200)), "data.row_tokens=200: 2 responses of max_new_tokens=128 take 258 tokens"),
        ({}, dict(data=dict(eval_fraction=0.1)), "data.eval_fraction=0.1 holds out rows of data.train, which is None"),
        ({}, dict(train=dict(total_epochs=2)), "train.total_epochs counts rows of data.train, which is None; give total in steps."),
        ({}, dict(objective=dict(name="kto"), reference=dict(rule="precomputed")), "reference.rule='precomputed' computes log-probs"),
        ({}, dict(objective=dict(name="pro")), "objective 'pro' reads ranked lists, which no feedback makes"),
        (dict(feedback="scores"), {}, "objective 'dpo' reads pairs; set feedback='pairs'"),
        (dict(feedback="scores", score_transform="linear"), dict(objective=dict(name="una")), "data.rollout: score_range=None with"),
        (dict(feedback="group_advantage", scale="mean"), dict(objective=dict(name="grpo")), "scale='mean' is not one of std, none"),
        (
            dict(feedback="gae", beta=0.0),
            dict(objective=dict(name="ppo", target_kl=4.0), model=dict(checkpoint="package:stories260k", critic="linear")),
            "objective.target_kl=4.0 steers the strength of a KL, and there is none; set data.rollout.beta",
        ),
        (dict(feedback="group_advantage", baseline="none"), dict(objective=dict(name="grpo")), "scale='std' with baseline='none'"),
        (dict(feedback="gae"), dict(objective=dict(name="ppo")), "feedback='gae' reads the values of a critic, and the model has none"),
        (
            dict(feedback="group_advantage", beta=0.1),
            dict(objective=dict(name="rloo"), reference=dict(rule="none")),
            "data.rollout.beta=0.1 pulls to a reference",
        ),
        (
            dict(feedback="group_advantage"),
            dict(objective=dict(name="grpo"), data=dict(eval=dict(path="held.jsonl"))),
            "data.eval: objective 'grpo' reads advantage, rollout_logps, which rollouts alone have",
        ),
        ({}, dict(objective=dict(name="simpo"), train=dict(total_steps=8, max_kl=1.0)), "train.max_kl=1.0: without a reference in memory"),
        (
            dict(feedback="group_advantage", temperature=0.7),
            dict(objective=dict(name="grpo")),
            "data.rollout.temperature=0.7: objective 'grpo' takes samples as drawn from the model's own distribution; leave the key out.",
        ),
        (
            dict(feedback="gae", top_p=0.9),
            dict(objective=dict(name="ppo"), model=dict(checkpoint="package:stories260k", critic="linear")),
            "data.rollout.top_p=0.9: objective 'ppo' takes samples as drawn",
        ),
        (
            dict(feedback="scores", min_p=0.1),
            dict(objective=dict(name="una_online", denominator="rollout")),
            "data.rollout.min_p=0.1: objective 'una_online' takes samples as drawn",
        ),
        (
            dict(feedback="scores", temperature=0.7),
            dict(objective=dict(name="una_online")),
            "data.rollout.temperature=0.7: objective 'una_online' takes samples as drawn",
        ),
        (
            dict(feedback="group_advantage", beta=0.1, temperature=0.7, every_steps=1),
            dict(objective=dict(name="reinforce")),
            "data.rollout.temperature=0.7: feedback 'group_advantage' takes samples as drawn",
        ),
        (
            dict(feedback="group_advantage", speaker="teacher"),
            dict(objective=dict(name="grpo"), reference=dict(rule="teacher", checkpoint="package:stories260k")),
            "data.rollout.speaker='teacher': objective 'grpo' is about samples of the policy itself",
        ),
        (
            dict(feedback="group_advantage", every_steps=4, epochs=2),
            dict(objective=dict(name="reinforce")),
            "data.rollout.every_steps=4: objective 'reinforce' has no ratio",
        ),
        (
            dict(feedback="group_advantage"),
            dict(objective=dict(name="grpo"), forward=dict(name="two_pass")),
            "forward.name='two_pass' gives log-probs of mixed text, and objective 'grpo' takes",
        ),
        (
            {},
            dict(train=dict(total_steps=8, max_kl=1.0), reference=dict(rule="hard", every_steps=2, keep_initial=False)),
            "train.max_kl=1.0: reference.rule='hard' moves the reference after the policy",
        ),
        (
            dict(feedback="labels"),
            dict(objective=dict(name="una_online")),
            "data.rollout.feedback='labels': objective 'una_online' trains on every response; set feedback='scores'.",
        ),
        ({}, dict(objective=dict(name="una_online")), "objective 'una_online' trains on every response; set feedback='scores'"),
        (
            dict(feedback="samples", reward=None),
            dict(objective=dict(name="una_online")),
            "data.rollout.reward is missing: objective 'una_online' fits",
        ),
        (dict(seed=-1), {}, "data.rollout.seed=-1 is not at least 0"),
        ({}, dict(data=dict(max_response_tokens=64)), "max_response_tokens=64 has no effect on rollouts, which data.rollout.max_new_"),
        ({}, dict(data=dict(response_truncation="keep_start")), "data.response_truncation='keep_start' has no effect on rollouts"),
        ({}, dict(data=dict(prompt_truncation="drop")), "data.prompt_truncation='drop' has no effect on rollouts"),
        ({}, dict(data=dict(train_turns="all")), "data.train_turns='all' has no effect on rollouts"),
        ({}, dict(data=dict(on_bad_row="error")), "data.on_bad_row='error' has no effect on rollouts"),
        ({}, dict(data=dict(sampling="positive", sampling_column="reward")), "data.sampling='positive' has no effect without data.train"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_with_the_way_out(rollout, sections, words):
    with pytest.raises(ConfigError) as error:
        resolve(config(changed(**rollout), **sections))
    assert words in str(error.value), str(error.value)


SAMPLED = dict(feedback="samples", reward=None, samples=1)


@pytest.mark.parametrize(
    ("rollout", "data", "words"),
    [
        (None, dict(train=dict(path="texts.jsonl")), "data.rollout=None: objective 'distill_sampled' is right on the policy's own"),
        (dict(speaker="teacher"), {}, "data.rollout.speaker='teacher': objective 'distill_sampled'"),
        (dict(temperature=0.7), {}, "data.rollout.temperature=0.7: objective 'distill_sampled'"),
        (dict(top_p=0.9), {}, "data.rollout.top_p=0.9: objective 'distill_sampled'"),
        (dict(every_steps=2), {}, "data.rollout.every_steps=2: objective 'distill_sampled'"),
        (dict(feedback="best", reward="length", samples=4), {}, "'best' leaves out samples by their reward, and objective 'distill_"),
        (dict(share_end=0.5), dict(train=dict(path="t.jsonl"), row_tokens=1024), "data.rollout.share=0.5: objective 'distill_sampled'"),
    ],
)  # fmt: skip
def test_distillation_from_sampled_tokens_trains_on_nothing_but_the_policys_own_samples(rollout, data, words):
    rest = dict(objective=dict(name="distill_sampled"), reference=dict(checkpoint="package:stories260k"))
    assert resolve(config(changed(**SAMPLED), **rest)).data.rollout.temperature == 1.0
    with pytest.raises(ConfigError) as error:
        resolve(config(rollout and changed(**SAMPLED | rollout), data=data, **rest))
    assert words in str(error.value), str(error.value)


def test_a_limit_of_the_kl_without_rollouts_and_nothing_to_train_on_are_refused():
    whole = config(None, data=dict(train=None), train=dict(total_steps=8, max_kl=1.0))
    with pytest.raises(ConfigError) as error:
        resolve(whole)
    assert "data.train=None: there is nothing to train on" in str(error.value) and "train.max_kl=1.0 is about rollouts" in str(error.value)

"""Names that people bring from other trainers lead to ours, in whatever section somebody writes them."""

import re

from ml_collections import ConfigDict
import pytest
from test_config import good

from jaxalign.config import functions, other_names
from jaxalign.config.resolve import ConfigError, resolve
from jaxalign.config.schema import DURATIONS, SCHEMA, SOURCE, units
from jaxalign.config.speech import GENERATE, ROLLOUT
from jaxalign.rollout.feedback import FEEDBACK

RATE = dict(learning_rate=1e-4)
STEPS = dict(total_steps=9)


def rolled(**options):
    """The section data of rollouts with these options."""
    return dict(data=dict(rollout=dict(prompts="x", samples=2, reward="length", feedback="pairs") | options))


def problems(config):
    """The problems of a configuration, one a line."""
    with pytest.raises(ConfigError) as error:
        resolve(config)
    return str(error.value).splitlines()[1:]


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        (dict(beta=0.1), "beta is called objective.beta (in the loss) or data.rollout.beta (in the reward of samples) here."),
        (dict(learning_rate=1e-4), "learning_rate is called optimizer.learning_rate here."),
        (dict(per_device_train_batch_size=8), "per_device_train_batch_size is called batch.rows here."),
        (dict(optimizer=dict(RATE, betas=(0.9, 0.95))), "optimizer.betas is called optimizer.b1 and optimizer.b2 here."),
        (dict(optimizer=dict(RATE, adam_beta1=0.9)), "optimizer.adam_beta1 is called optimizer.b1 here."),
        (dict(optimizer=dict(RATE, beta=0.9)), "optimizer.beta is called optimizer.b1 here."),
        (dict(train=dict(STEPS, seed=1)), "train.seed is called seed here."),
        (dict(train=dict(STEPS, bf16=True)), "train.bf16 is called model.dtype here."),
        (dict(kl_coef=0.1), "kl_coef is called data.rollout.beta here."),
        (
            dict(train=dict(STEPS, max_completion_length=9)),
            "train.max_completion_length is called data.rollout.max_new_tokens (of samples) or data.max_response_tokens (of rows) here.",
        ),
        (
            dict(data=dict(train=dict(path="x"), max_completion_length=9)),
            "data.max_completion_length is called data.rollout.max_new_tokens (of samples) or data.max_response_tokens (of rows) here.",
        ),
        (rolled(max_completion_length=9), "data.rollout.max_completion_length is called data.rollout.max_new_tokens here."),
        (rolled(max_response_tokens=9), "data.rollout.max_response_tokens is called data.rollout.max_new_tokens here."),
        (rolled(beta=0.1), "data.rollout.beta is called objective.beta (in the loss) here."),
        (rolled(lmbda=0.5), "data.rollout.lmbda is called data.rollout.share here."),
        (rolled(seq_kd=True), "data.rollout.seq_kd is called data.rollout.speaker='teacher' here."),
        (rolled(scale_rewards=True), "data.rollout.scale_rewards is called data.rollout.scale here."),
        (
            rolled(stop_token="eos"),
            "data.rollout.stop_token has no counterpart here: a sample ends where the model ends its turn, or at a text of "
            "data.rollout.stop.",
        ),
        (
            dict(train=dict(STEPS, mask_truncated_completions=True)),
            "train.mask_truncated_completions has no counterpart here: a sample without an end is trained, and "
            "data.rollout.missing_eos_penalty lowers its reward.",
        ),
        (dict(objective=dict(name="dpo", cliprange=0.2)), "objective.cliprange is called objective.clip_low and objective.clip_high here."),
        (dict(objective=dict(name="dpo", epsilon=0.2)), "objective.epsilon is called objective.clip_low and objective.clip_high here."),
        (dict(objective=dict(name="dpo", epsilon_high=0.3)), "objective.epsilon_high is called objective.clip_high here."),
        (dict(objective=dict(name="dpo", delta=3.0)), "objective.delta is called objective.dual_clip here."),
        (dict(importance_sampling_level="token"), "importance_sampling_level is called objective.ratio here."),
        (dict(objective=dict(name="sft", beta=0.1)), "objective.beta: 'sft' has no such option; it takes none."),
        (dict(optimizer=dict(RATE, epsilon=1e-6)), "optimizer.epsilon is called optimizer.eps here."),
        (dict(train=dict(STEPS, warmup_ratio=0.1)), "train.warmup_ratio is called optimizer.warmup_percent here."),
        (dict(train=dict(STEPS, warmup_steps=10)), "train.warmup_steps is called optimizer.warmup_steps here."),
        (dict(train=dict(STEPS, output_dir="x")), "train.output_dir is called --workdir here."),
        (dict(objective=dict(name="dpo", loss_type="ipo")), "objective.loss_type is called objective.name here."),
        (dict(model=dict(checkpoint="a", gradient_checkpointing=True)), "model.gradient_checkpointing is called model.remat here."),
        (dict(batch=dict(rows=8, row_tokens=64)), "batch.row_tokens is called data.row_tokens here."),
        (dict(data=dict(train=dict(path="x", name="y"))), "data.train.name is called data.train.config here."),
        (dict(data=dict(train=dict(path="x"), eval=dict(path="x", file="y"))), "data.eval.file is called data.eval.path here."),
        (dict(data=dict(train=dict(path="x", dataset_name="y"))), "data.train.dataset_name is called data.train.hf here."),
        (dict(data=dict(train=dict(path="x"), rename={})), "data.rename is called data.train.rename here."),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_name_of_another_trainer_or_section_is_one_problem_that_leads_to_ours(sections, line):
    assert problems(good(**sections)) == [line]


def test_a_key_that_stands_elsewhere_is_not_reported_as_missing_too():
    theirs = dict(per_device_train_batch_size=8, loss_type="dpo", lr=1e-4, num_train_epochs=1, train_dataset="x")
    config = dict(theirs, model=dict(checkpoint="a"))
    assert [line.partition(" is called ")[2] for line in sorted(problems(ConfigDict(config)))] == [
        "objective.name here.", "optimizer.learning_rate here.", "train.total_epochs here.", "batch.rows here.", "data.train here.",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (dict(objective=dict(name="modpo", weight=(1.0,))), "(did you mean weights?)"),  # rather than data.train.weight
        (dict(objective=dict(name="dpo", label_smoothing=0.1)), "objective.label_smoothing: 'dpo' has no such option"),
    ],
)
def test_a_misspelt_option_is_not_sent_to_another_section(sections, words):
    (line,) = problems(good(**sections))
    assert words in line


def test_every_name_leads_to_a_key_and_is_none_itself():
    known = {f"{section}.{key}" for section, keys in SCHEMA.items() if isinstance(keys, dict) for key in keys}
    known |= {f"{section}.{name}_{unit}" for section, names in DURATIONS.items() for name in names for unit in units(name)}
    known |= {f"{at}.{key}" for key in SOURCE for at in ("SOURCE", "data.train")} | {f"data.rollout.{key}" for key in ROLLOUT}
    known |= {f"data.rollout.{option}" for kind in FEEDBACK.values() for option in kind.options}
    known |= {f"eval.generate.{key}" for key in GENERATE}
    options = {f"{at}.{option}" for at in functions.KEYS for name in functions.table(at) for option in functions.accepted(at, name)}
    several = other_names.LENGTH, other_names.BETA
    tables = other_names.NAMES, other_names.OF_SECTION, other_names.NEAREST
    names = [name for table in tables for name in table.values() if name not in several] + [name for both in several for name in both]
    led = [set(re.findall(r"\w+(?:\.\w+)+|^seed$|^--workdir$", name)) for name in names]
    assert all(led) and set().union(*led) <= known | options | {"seed", "--workdir"}
    assert not other_names.OF_SECTION.keys() & known and not other_names.NAMES.keys() & SCHEMA.keys()

"""Names that people bring from other trainers lead to ours, in whatever section somebody writes them."""

from ml_collections import ConfigDict
import pytest
from test_config import good

from jaxalign.config import functions, other_names
from jaxalign.config.resolve import ConfigError, resolve
from jaxalign.config.schema import DURATIONS, SCHEMA, SOURCE, units
from jaxalign.config.speech import ROLLOUT

RATE = dict(learning_rate=1e-4)
STEPS = dict(total_steps=9)


def problems(config):
    """The problems of a configuration, one a line."""
    with pytest.raises(ConfigError) as error:
        resolve(config)
    return str(error.value).splitlines()[1:]


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        (dict(beta=0.1), "beta is called objective.beta here."),
        (dict(learning_rate=1e-4), "learning_rate is called optimizer.learning_rate here."),
        (dict(per_device_train_batch_size=8), "per_device_train_batch_size is called batch.rows here."),
        (dict(optimizer=dict(RATE, betas=(0.9, 0.95))), "optimizer.betas is called optimizer.b1 and optimizer.b2 here."),
        (dict(optimizer=dict(RATE, adam_beta1=0.9)), "optimizer.adam_beta1 is called optimizer.b1 here."),
        (dict(optimizer=dict(RATE, beta=0.9)), "optimizer.beta is called optimizer.b1 here."),
        (dict(train=dict(STEPS, seed=1)), "train.seed is called seed here."),
        (dict(train=dict(STEPS, bf16=True)), "train.bf16 is called model.dtype here."),
        (dict(train=dict(STEPS, beta=0.1)), "train.beta is called objective.beta here."),
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
    options = {f"{at}.{option}" for at in functions.KEYS for name in functions.table(at) for option in functions.accepted(at, name)}
    values = {part for name in (other_names.NAMES | other_names.OF_SECTION).values() for part in name.partition("=")[0].split(" and ")}
    assert values <= known | options | {"seed", "--workdir"}
    assert not other_names.OF_SECTION.keys() & known and not other_names.NAMES.keys() & SCHEMA.keys()

"""Reading, overriding and checking configurations."""

from pathlib import Path
import subprocess
import sys

from ml_collections import ConfigDict
import pytest

from jaxalign import objectives
from jaxalign.config import files
from jaxalign.config.resolve import ConfigError, resolve
from jaxalign.config.resume import check_same_run
from jaxalign.config.stages import resolve_stages
from jaxalign.hparams import REQUIRED, hparams_of

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))


ADVANTAGE = dict(kind="advantage", model="a")
MARGIN = dict(kind="implicit_reward", model="a", reference="b")
REWARDING = dict(checkpoint="a", reward_head="linear")
HELD_OUT = dict(train=dict(path="x"), eval=dict(path="y"))


def good(**sections) -> ConfigDict:
    """A configuration that passes, with sections replaced."""
    plain = dict(
        model=dict(checkpoint="package:stories260k"),
        data=dict(train=dict(path="train.jsonl")),
        batch=dict(rows=8),
        objective=dict(name="dpo"),
        optimizer=dict(learning_rate=1e-4),
        train=dict(total_steps=10),
    )
    return ConfigDict({**plain, **sections})


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_shipped_config_passes_the_check(path, monkeypatch):
    monkeypatch.setenv("JAXALIGN_DATA", "data")
    assert resolve_stages(files.load_file(str(path)))


def test_defaults_are_filled_in():
    cfg = resolve(good())
    assert cfg.objective.beta == 0.1 and cfg.reference.rule == "frozen" and cfg.optimizer.b2 == 0.999
    assert cfg.train.save_every_percent == 25 and cfg.optimizer.warmup_percent == 10


def test_an_objective_without_a_reference_gets_none():
    assert resolve(good(objective=dict(name="sft"))).reference.rule == "none"


@pytest.mark.parametrize(("beta", "rule"), [(0.0, "none"), (0.04, "frozen")])
def test_an_option_that_needs_a_reference_brings_one(beta, rule):
    rollout = dict(prompts="prompts.txt", samples=4, feedback="group_advantage", reward="length", max_new_tokens=32)
    cfg = resolve(good(objective=dict(name="grpo", beta=beta), data=dict(train=None, row_tokens=256, rollout=rollout)))
    assert cfg.reference.rule == rule


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (dict(data=dict(train=dict(path="x"), row_token=4)), ["data.row_token", "did you mean row_tokens?"]),
        (dict(objective=dict(name="dpoo")), ["objective.name='dpoo'", "dpo, dpo_nll"]),
        (dict(model=dict(checkpoint="a", critic="linear")), ["model.critic='linear': objective 'dpo' does not read it"]),
        (dict(optimizer=dict(learning_rate=1e-6, heads_learning_rate=1e-5)), ["heads_learning_rate=1e-05: the model has no value head"]),
        (
            dict(
                objective=dict(name="value"),
                model=dict(checkpoint="a", value_head=1.0, trainable="value_head"),
                optimizer=dict(learning_rate=1e-6, heads_learning_rate=1e-5),
            ),
            ["heads_learning_rate=1e-05: the value head alone is trained; set optimizer.learning_rate"],
        ),
        (dict(objective=dict(name="ppo")), ["reads the column of tokens", "set data.rollout"]),
        (dict(objective=dict(name="dpo", bta=0.1)), ["objective.bta", "it takes beta"]),
        (dict(objective=dict(name="dpo", beta="big")), ["objective.beta='big'", "not float"]),
        (dict(objective=dict(name="cdpo", label_smoothing=0.6)), ["label_smoothing=0.6", "0 <= eps < 0.5"]),
        (dict(batch=dict(rows=8, gradient_accumulation_steps=3)), ["batch.rows=8", "batch.gradient_accumulation_steps=3"]),
        (dict(batch=dict(rows=True)), ["batch.rows=True"]),
        (dict(batch=dict(rows=0)), ["batch.rows=0", "not at least 1"]),
        (dict(batch={}), ["batch.rows is missing"]),
        (dict(train=dict(total_steps=1, total_epochs=2)), ["train.total", "2 times"]),
        (dict(train=dict()), ["train.total is missing", "total_steps"]),
        (dict(train=dict(total_steps=-1)), ["train.total_steps=-1"]),
        (dict(reference=dict(rule="soft", every_steps=0)), ["reference.every_steps=0 never moves the reference"]),
        (
            dict(objective=dict(name="una", offset="value_head"), model=dict(checkpoint="package:stories260k", value_head=5.0)),
            ["model.value_head=5.0", "values in (0, 1)", "set model.value_head=1.0"],
        ),
        (dict(reference=dict(rule="soft", alpha=1.5, every_steps=2)), ["reference.alpha=1.5 is not in [0, 1]"]),
        (dict(objective=dict(name="modpo", weights=(1.0, -1.0))), ["weights=(1.0, -1.0)", "at least 0"]),
        (
            dict(objective=dict(name="alol"), data=dict(train=dict(path="x"), computed=dict(advantage=dict(kind="logps", model="a")))),
            ["column 'advantage' has one number per token"],
        ),
        (
            dict(
                objective=dict(name="modpo", margins=("m",)),
                data=dict(train=dict(path="x"), computed=dict(m=dict(kind="logps", model="a"))),
            ),
            ["column 'm' has one number per token"],
        ),
        (
            dict(data=dict(train=dict(path="x"), computed=dict(reference_logps=dict(kind="logps", model="a")))),
            ["data.computed.reference_logps: the name is taken"],
        ),
        (
            dict(
                objective=dict(name="alol"),
                data=dict(train=dict(path="x", keep_columns=dict(advantage="a")), computed=dict(advantage=ADVANTAGE)),
            ),
            ["data.computed.advantage: the name is taken"],
        ),
        (dict(data=dict(train=dict(path="x"), computed=dict(margin=MARGIN))), ["data.computed.margin is read by nothing here"]),
        (
            dict(objective=dict(name="modpo"), data=dict(train=dict(path="x"), computed=dict(margin=dict(MARGIN, beta=0.0)))),
            ["data.computed.margin.beta=0.0 makes every reward 0"],
        ),
        (
            dict(objective=dict(name="alol"), data=dict(train=dict(path="x"), computed=dict(advantage=dict(ADVANTAGE, rewards=())))),
            ["data.computed.advantage.rewards=() sums nothing"],
        ),
        (
            dict(objective=dict(name="alol"), data=dict(train=dict(path="x"), computed=dict(advantage=dict(ADVANTAGE, rewards=("foo",))))),
            ["rewards=('foo',) names columns that are not there", "advantage, reward"],
        ),
        (
            dict(objective=dict(name="alol"), data=dict(train=dict(path="x", keep_columns=dict(advantage="a")), eval=dict(path="y"))),
            ["data.eval.keep_columns has no 'advantage'"],
        ),
        (dict(data=dict(train=dict(path="x"), sampling_column="reward")), ["data.sampling_column='reward' has no effect"]),
        (dict(data=dict(train=dict(path="x", score_range=(5, 5)))), ["data.train: score_range=(5, 5)"]),
        (dict(data=dict(train=dict(path="x", format="pairs"))), ["data.train.format='pairs' is not one of", "paired"]),
        (dict(objective=dict(name="modpo", weights=(1.0, float("nan")))), ["objective.weights=(1.0, nan) is no finite number"]),
        (dict(objective=dict(name="dpo", beta=float("inf"))), ["objective.beta=inf is no finite number"]),
        (dict(objective=dict(name="simpo"), reference=dict(rule="soft", every_steps=2)), ["'simpo' reads no reference"]),
        (dict(objective=dict(name="sft"), reference=dict(rule="precomputed")), ["'sft' reads no reference"]),
        (
            dict(train=dict(total_steps=9, keep_best=1), reference=dict(rule="soft", every_steps=2), data=dict(HELD_OUT)),
            ["train.best_metric='loss' starts anew", "use 'initial/loss'"],
        ),
        (
            dict(
                train=dict(total_steps=9, keep_best=1, best_metric="-a/rewards/margins"),
                reference=dict(rule="hard", every_steps=2),
                data=dict(train=dict(path="x"), eval=dict(a=dict(path="y"), b=dict(path="z"))),
            ),
            ["use '-a/initial/rewards/margins'"],
        ),
        (
            dict(train=dict(total_steps=9, keep_best=1), data=dict(train=dict(path="x"), eval=dict(a=dict(path="y"), b=dict(path="z")))),
            ["train.best_metric='loss' is of no held-out set; begin it with one of a, b"],
        ),
        (
            dict(train=dict(total_steps=9, keep_best=1, best_metric="initial/loss"), data=dict(HELD_OUT)),
            ["train.best_metric='initial/loss' needs a reference that moves"],
        ),
        (dict(data=dict(train=dict(path="x"), sampling="priority")), ["data.sampling goes by the column 'advantage', which neither"]),
        (dict(objective=dict(name="ift"), reference=dict(rule="frozen"), forward=dict(mixing=2.0)), ["forward.mixing=2.0"]),
        (dict(objective=dict(name="ift"), forward=dict(mixing=0.0, mixing_noise=0.5)), ["forward.mixing_noise=0.5 has no effect"]),
        (
            dict(forward=dict(name="two_pass"), reference=dict(rule="precomputed")),
            ["reference.rule='precomputed'", "forward.name='two_pass'"],
        ),
        (dict(model=dict(checkpoint="a", value_head=1.0)), ["model.value_head=1.0: objective 'dpo' does not read it"]),
        (dict(objective=dict(name="value"), model=dict(checkpoint="a", value_head=0.0)), ["model.value_head=0.0"]),
        (dict(objective=dict(name="value"), model=dict(checkpoint="a", value_head=1.0)), ["set model.trainable='value_head'"]),
        (
            dict(objective=dict(name="value", rewards=()), model=dict(checkpoint="a", value_head=1.0, trainable="value_head")),
            ["objective 'value' got rewards=()"],
        ),
        (dict(model=dict(checkpoint="a", reward_head="linear")), ["model.reward_head='linear': objective 'dpo' does not read it"]),
        (dict(model=dict(checkpoint="a", reward_head="cubic")), ["model.reward_head='cubic'", "'linear'"]),
        (dict(objective=dict(name="reward")), ["set model.reward_head='linear'"]),
        (dict(objective=dict(name="reward", margin=-1.0), model=REWARDING), ["objective 'reward' got margin=-1.0"]),
        (dict(objective=dict(name="reward"), model=REWARDING, reference=dict(rule="frozen")), ["reference.rule='frozen'", "no log-probs"]),
        (dict(objective=dict(name="reward"), model=REWARDING, forward=dict(name="two_pass")), ["no tokens to mix"]),
        (
            dict(objective=dict(name="reward"), model=REWARDING | dict(reward_head="mlp"), train=dict(total_steps=1, export=True)),
            ["train.export=True: transformers has no class with such a model.reward_head"],
        ),
        (dict(model=dict(checkpoint="a", trainable="reward_head")), ["model.trainable='reward_head' but the model has none"]),
        (dict(model=dict(checkpoint="a", preset="tiny")), ["just one of model.checkpoint"]),
        (dict(model=dict(preset="tiny")), ["model.tokenizer is missing"]),
        (dict(model=dict(checkpoint="a", dtype="float16")), ["model.dtype='float16'", "'bfloat16'"]),
        (dict(mesh=dict(fsdp=-1, data=-1)), ["only one axis may be -1"]),
        (dict(mesh=dict(context=3), data=dict(train=dict(path="x"), row_tokens=64)), ["row_tokens=64 does not split over mesh.context=3"]),
        (dict(mesh=dict(offload=("optimiser",))), ["'optimiser' cannot rest on the host (did you mean optimizer?)"]),
        (dict(mesh=dict(offload=("reference",)), reference=dict(rule="precomputed")), ["rule='precomputed' holds no weights"]),
        (dict(mesh=dict(offload=("reference",)), model=dict(checkpoint="x", lora=dict(rank=2, alpha=4.0))), ["without its adapters"]),
        (dict(mesh=dict(offload=("optimizer",)), optimizer=dict(learning_rate=1e-3, name="adafactor")), ["moments of 'adafactor'"]),
        (dict(mesh=dict(offload=("optimizer",)), train=dict(total_steps=9, on_nan="skip")), ["train.on_nan='skip' keeps the state from"]),
        (dict(mesh=dict(context=2), eval=dict(generate=dict(prompts="x.jsonl"))), ["eval.generate: answers are drawn token by token"]),
        (dict(reference=dict(rule="none")), ["reference.rule='none'", "needs a reference"]),
        (dict(reference=dict(rule="frosen")), ["reference.rule='frosen'", "frozen"]),
        (dict(optimizer=dict(learning_rate=1e-4, name="sgd")), ["optimizer.name='sgd'", "adamw"]),
        (dict(data=dict(train="x.jsonl")), ["data.train='x.jsonl'"]),
        (dict(data=dict(train=dict(path="x", hf="y"))), ["data.train names path and hf"]),
        (dict(data=dict(train=dict(path="x", fromat="hh"))), ["data.train.fromat", "did you mean format?"]),
        (dict(data=dict(train=dict(path="x"), eval=dict(path="y"), eval_fraction=0.1)), ["data.eval and data.eval_fraction"]),
        (dict(data=dict(train=dict(path="x"), row_tokens=64, max_prompt_tokens=64)), ["data.max_prompt_tokens=64", "data.row_tokens=64"]),
        (dict(train=dict(total_steps=1, keep_best=1)), ["keep_best=1 needs an evaluation"]),
        (dict(wrong=1), ["wrong: unknown key"]),
    ],
)
def test_a_mistake_is_reported_with_its_value_and_the_way_out(sections, words):
    with pytest.raises(ConfigError) as error:
        resolve(good(**sections))
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("sections", "present", "value"),
    [
        (dict(batch=dict(rows=8, microbatches=2)), "batch.gradient_accumulation_steps", 2),
        (dict(optimizer=dict(learning_rate=1e-4, clip_norm=2.0)), "optimizer.max_grad_norm", 2.0),
        (dict(optimizer=dict(learning_rate=1e-4, final_fraction=0.1)), "optimizer.min_lr_ratio", 0.1),
        (dict(model=dict(checkpoint="a", train="all")), "model.trainable", "all"),
        (dict(data=dict(train=dict(path="x"), columns={})), "data.computed", {}),
        (dict(data=dict(train=dict(path="x", columns=dict(prompt="q")))), "data.train.rename", dict(prompt="q")),
        (dict(data=dict(train=(dict(path="x", response_columns=dict(cost="c")),))), "data.train[0].keep_columns", dict(cost="c")),
        (dict(data=dict(train=dict(path="x"), eval=dict(a=dict(path="y", columns={})))), "data.eval.a.rename", {}),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_former_name_still_works_and_a_line_names_the_present_one(sections, present, value, caplog):
    node = resolve(good(**sections)).to_dict()
    for key in present.replace("[0]", ".0").split("."):
        node = node[int(key) if key.isdigit() else key]
    assert node == value and f"is now called {present};" in caplog.text


def test_a_former_name_beside_its_present_one_is_refused():
    with pytest.raises(ConfigError, match="optimizer.clip_norm is called optimizer.max_grad_norm here"):
        resolve(good(optimizer=dict(learning_rate=1e-4, clip_norm=2.0, max_grad_norm=1.0)))


def test_all_mistakes_are_reported_at_once():
    with pytest.raises(ConfigError) as error:
        resolve(good(batch=dict(rows="many"), objective=dict(name="dpo", betta=1), train=dict(total_steps=1, keep=3), typo=1))
    assert "4 problems" in str(error.value)
    assert all(word in str(error.value) for word in ("batch.rows='many'", "objective.betta", "train.keep", "typo"))


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (dict(objetive=dict(name="dpo")), "objetive: unknown key (did you mean objective?)"),
        (dict(batch=dict(rwos=8)), "batch.rwos: unknown key (did you mean rows?)"),
        (dict(optimizer=dict(learning_rat=1e-4)), "optimizer.learning_rat: 'adamw' has no such option (did you mean learning_rate?)"),
        (dict(train=dict(total_step=10)), "train.total_step: unknown key (did you mean total_steps?)"),
        (dict(data=dict(train=dict(pth="x"))), "data.train.pth: unknown key (did you mean path?)"),
        (dict(data={}), "data.train is missing: "),
        (dict(data=3), "data=3 is not a section"),
        (dict(data=dict(train=())), "data.train=() is an empty mixture"),
        (dict(objective=dict(name="dop")), "objective.name='dop' is no file of jaxalign/objectives (did you mean dpop?)"),
        (dict(objective=dict(name=("dpo",))), "objective.name=('dpo',) is tuple, not str"),
        (dict(objective=dict(name="dpo", bta=1.0)), "objective.bta: 'dpo' has no such option (did you mean beta?)"),
        (dict(reference=dict(rule="frosen")), "reference.rule='frosen' is not one of"),
        (dict(optimizer=dict(learning_rate=1e-4, name="adam")), "(did you mean adamw?)"),
        (dict(forward=dict(name="next_tokn")), "(did you mean next_token?)"),
        (dict(model=dict(checkpoint="a", dtype="bfloat")), "model.dtype='bfloat' is not one of 'auto', 'float32', 'bfloat16' (did"),
        (dict(batch=dict(rows=float("nan"))), "batch.rows=nan is float, not int"),
        (dict(optimizer=dict(learning_rate=float("nan"))), "optimizer.learning_rate=nan is no finite number"),
        (dict(train=dict(total_steps=float("inf"))), "train.total_steps=inf is not a finite number"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_one_mistake_is_one_problem_with_what_was_meant_and_no_internals(sections, words):
    with pytest.raises(ConfigError) as error:
        resolve(good(**sections))
    assert words in str(error.value) and "has 1 problem:" in str(error.value) and "object at 0x" not in str(error.value)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (dict(name="bandt"), "(did you mean bandit?)"),
        (dict(name="bandit", step=3), "experiment.step: 'bandit' has no such option (did you mean steps?)"),
        (dict(name="front"), "experiment.methods is missing"),
    ],
)
def test_mistakes_in_an_experiment_are_met_with_what_was_meant(section, words):
    with pytest.raises(ConfigError) as error:
        resolve(ConfigDict(dict(experiment=section)))
    assert words in str(error.value) and "object at 0x" not in str(error.value)


def test_stages_are_whole_configurations_and_refer_to_earlier_ones():
    stages = resolve_stages(ConfigDict(dict(stages=("a", "b"), a=good(), b=good(model=dict(checkpoint="stage:a")))))
    assert list(stages) == ["a", "b"]
    with pytest.raises(ConfigError, match="does not name an earlier stage"):
        resolve_stages(ConfigDict(dict(stages=("a", "b"), a=good(model=dict(checkpoint="stage:b")), b=good())))
    with pytest.raises(ConfigError, match="'c' is named but not given"):
        resolve_stages(ConfigDict(dict(stages=("a", "c"), a=good())))


def test_only_settings_that_change_nothing_may_change_when_a_run_is_continued():
    before = resolve(good()).to_dict()
    others = good(mesh=dict(data=2), train=dict(total_steps=10, log_every_steps=1, extend_steps=5, extend_learning_rate=1e-5))
    check_same_run(before, resolve(others).to_dict(), "run")
    fitted = {**before, "data": {**before["data"], "row_tokens": 192}}
    check_same_run(fitted, before, "run")  # row_tokens=None was fitted to the rows
    with pytest.raises(ValueError, match=r"objective.beta: 0.1 -> 0.2.*new --workdir"):
        check_same_run(before, resolve(good(objective=dict(name="dpo", beta=0.2))).to_dict(), "run")
    with pytest.raises(ValueError, match="total_steps: 10 -> 20.*set train.extend_steps"):
        check_same_run(before, resolve(good(train=dict(total_steps=20))).to_dict(), "run")
    with pytest.raises(ValueError, match="extend_learning_rate: None -> 1e-05"):
        check_same_run(resolve(good(train=dict(total_steps=10, extend_steps=2))).to_dict(), resolve(others).to_dict(), "run")


def test_every_objective_says_what_it_requires():
    for name in objectives.names():
        function, module = objectives.named(name)
        columns = ("columns.", "token_columns.")
        assert function.__name__ == name and all(key in objectives.READS or key.startswith(columns) for key in module.REQUIRES)
        assert all(default is not REQUIRED for default in hparams_of(function).values())


def test_an_option_of_an_experiment_has_its_type():
    with pytest.raises(ConfigError, match="experiment.steps='abc' is str, not int"):
        resolve(ConfigDict(dict(experiment=dict(name="bandit", steps="abc"))))


def test_reading_a_configuration_starts_no_devices():
    code = (
        "from jax._src import xla_bridge; from jaxalign.config.command_line import from_command_line; "
        "from_command_line(['--config', 'configs/every_method.py:tr_dpo_soft'], 'test'); "
        "assert not xla_bridge.backends_are_initialized()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True)

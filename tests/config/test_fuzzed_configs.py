"""Mutated configurations and config files: each is taken or refused with a ConfigError, never with another error."""

import copy
import random

from ml_collections import ConfigDict
import pytest
import tiny

from jaxalign.config import files
from jaxalign.config.resolve import ConfigError
from jaxalign.config.stages import resolve_stages

VALUES = (None, "", "x", "none", 0, -1, 1.5, 1e400, float("nan"), True, (), ("a",), [1, 2], {}, {"a": 1}, {"path": "x"}, b"bytes")
COUNT = 120  # of each kind; all take about ten seconds


def sections(config, path=()):
    """(path, section) of every dict in a plain configuration, itself first."""
    yield path, config
    for key, value in config.items():
        if isinstance(value, dict):
            yield from sections(value, (*path, key))


def mutated(config, draw):
    """A copy with one to three mutations: a key deleted, misspelt, doubled with another unit, or of another value."""
    made = copy.deepcopy(config)
    for _ in range(draw.randint(1, 3)):
        _, section = draw.choice([item for item in sections(made) if item[1]] or [((), made)])
        key = draw.choice(sorted(section)) if section else "x"
        match draw.randrange(4):
            case 0:
                section.pop(key, None)
            case 1:
                at = draw.randrange(len(key) + 1)
                section[key[:at] + draw.choice("abcxyz_") + key[at:]] = section.get(key)
            case 2:
                section[draw.choice(["total_epochs", "every_steps", "warmup_steps", "value_head", "rule", "trainable", "computed"])] = 2
            case 3:
                section[key] = draw.choice(VALUES)
    return made


def start(kind):
    plain = tiny.get_config("dpo").to_dict()
    plain["reference"] = dict(rule="soft", every_steps=2)
    if kind == "stages":
        other = copy.deepcopy(plain)
        other["model"]["checkpoint"] = "stage:a"
        other["data"]["computed"] = dict(margin=dict(kind="implicit_reward", model="stage:a", reference="stage:a"))
        return dict(stages=("a", "b"), a=plain, b=other)
    return dict(experiment=dict(name="bandit", steps=3)) if kind == "experiment" else plain


@pytest.mark.parametrize("kind", ["run", "stages", "experiment"])
def test_a_mutated_configuration_is_taken_or_refused_by_name(kind):
    draw, refused = random.Random(f"jaxalign {kind}"), 0
    for number in range(COUNT // (4 if kind == "experiment" else 2)):
        config = mutated(start(kind), draw)
        try:
            resolve_stages(ConfigDict(config))
        except ConfigError as error:
            refused += 1
            assert str(error).count("\n") >= 1, (number, config)
        except Exception as error:
            raise AssertionError(f"number {number}: {config} raises {type(error).__name__}: {error}") from error
    assert refused > 10


@pytest.mark.parametrize("seed", range(4))
def test_a_mutated_config_file_is_read_or_refused_by_name(tmp_path, seed):
    """Bytes of a config file changed, dropped or doubled; what is still Python may raise anything inside."""
    draw = random.Random(seed)
    source = open(tiny.__file__, "rb").read()
    for number in range(COUNT // 4):
        text = bytearray(source)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(text))
            match draw.randrange(3):
                case 0:
                    text[at] = draw.randrange(256)
                case 1:
                    del text[at : at + draw.randint(1, 30)]
                case 2:
                    text[at:at] = text[at : at + draw.randint(1, 30)]
        path = tmp_path / f"mutated_{number}.py"
        path.write_bytes(bytes(text))
        try:
            assert isinstance(files.load_file(str(path)), ConfigDict)
        except ConfigError as error:
            assert path.name in str(error)

"""What is said of a stage that is named where it is not, and of a key that stands beside the stages."""

from ml_collections import ConfigDict
import pytest
import tiny

from jaxalign.config.resolve import ConfigError
from jaxalign.config.stages import resolve_stages


def plain(**model):
    cfg = tiny.get_config()
    cfg.model.update(model)
    return cfg


def staged(**beside):
    return ConfigDict(dict(stages=("sft", "dpo"), sft=plain(), dpo=plain(checkpoint="stage:sft"), **beside))


def with_column():
    cfg = plain()
    cfg.objective.name = "alol"
    cfg.data.computed = dict(advantage=dict(kind="advantage", model="stage:value"))
    return cfg


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        (plain(checkpoint="stage:sft"), r"\nmodel.checkpoint='stage:sft' does not name an earlier stage; earlier ones: none\."),
        (with_column(), "\ndata.computed.advantage.model='stage:value' does not name an earlier stage; earlier ones: none"),
        (ConfigDict(dict(stages=("a", "b"), a=plain(), b=plain(checkpoint="stage:c"))), "b.model.checkpoint='stage:c' .* earlier ones: a"),
        (staged(objective=dict(beta=0.3)), r"objective: unknown key beside stages=.*did you mean sft.objective, dpo.objective\?"),
        (staged(kto=plain()), r"kto: unknown key beside stages=\('sft', 'dpo'\).*it is no stage of these"),
    ],
)
def test_a_name_that_is_no_stage_is_refused_with_those_there_are(cfg, words):
    with pytest.raises(ConfigError, match=words):
        resolve_stages(cfg)

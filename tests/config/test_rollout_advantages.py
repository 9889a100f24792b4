"""data.rollout and policy gradients: options whose gradient would be another than the one that is asked for are refused."""

import pytest
from test_rollout_section import changed, config

from jaxalign.config.resolve import ConfigError, resolve

GROUPS, GAE = dict(feedback="group_advantage"), dict(feedback="gae")
LEFT_OUT = dict(baseline="leave_one_out", scale="none")
CRITIC = dict(checkpoint="package:stories260k", critic="linear")


@pytest.mark.parametrize(
    ("objective", "rollout", "words"),
    [
        (dict(name="una"), GROUPS, "feedback='group_advantage' computes advantage, and objective 'una' reads none of them"),
        (dict(name="una"), GAE, "feedback='gae' computes token_advantage"),
        (dict(name="una"), dict(feedback="scores", score_transform="raw"), "objective 'una' takes scores from 0 to 1"),
        (dict(name="rloo"), GROUPS, "baseline='mean': objective 'rloo' is defined by baseline='leave_one_out'"),
        (dict(name="rloo"), GROUPS | dict(baseline="leave_one_out"), "scale='std': objective 'rloo' is defined by scale='none'"),
        (dict(name="sft"), dict(feedback="samples", reward=None, missing_eos_most=0.0), "missing_eos_most=0.0 lowers a reward"),
    ],
)
def test_what_would_be_another_objective_is_refused(objective, rollout, words):
    with pytest.raises(ConfigError) as error:
        resolve(config(changed(**rollout), objective=objective, model=CRITIC))
    assert words in str(error.value), str(error.value)


@pytest.mark.parametrize(
    ("objective", "rollout"),
    [
        (dict(name="una", loss="raw"), dict(feedback="scores", score_transform="raw")),
        (dict(name="una"), dict(feedback="scores", score_transform="none")),
        (dict(name="rloo"), GROUPS | LEFT_OUT),
        (dict(name="ppo", target_kl=4.0, kl_rate=1.0), GAE),
    ],
)
def test_what_is_meant_is_taken(objective, rollout):
    sections = dict(model=CRITIC) if objective["name"] == "ppo" else {}
    assert resolve(config(changed(**rollout), objective=objective, **sections))

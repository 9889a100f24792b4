"""data.rollout and policy gradients: options whose gradient would be another than the one that is asked for are refused."""

import pytest
from test_rollout_section import changed, config

from jaxalign.config.resolve import ConfigError, resolve

GROUPS, GAE = dict(feedback="group_advantage"), dict(feedback="gae")
LEFT_OUT = dict(baseline="leave_one_out", scale="none")
RAW, LINEAR = dict(feedback="scores", score_transform="raw"), dict(feedback="scores", score_transform="linear", score_range=(0.0, 9.0))
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
        (dict(name="kto"), GROUPS, "objective 'kto' reads none of them; set feedback='labels'."),
        (dict(name="sft"), dict(feedback="scores"), "'scores' grades samples, and objective 'sft' trains on good and bad ones alike"),
        (dict(name="sft"), dict(feedback="labels"), "trains on good and bad ones alike; set feedback='best'."),
        (dict(name="sft"), dict(feedback="pairs"), "objective 'sft' trains on every response; set feedback='best'."),
        (dict(name="distill"), dict(feedback="scores"), "trains on good and bad ones alike; set feedback='samples'."),
        (dict(name="kto"), dict(feedback="samples"), "gives every response the reward 1, and objective 'kto' tells responses apart by"),
        (dict(name="bco"), dict(feedback="best"), "tells responses apart by their rewards; set feedback='labels'."),
        (dict(name="una"), dict(feedback="samples"), "tells responses apart by their rewards; set feedback='scores'."),
        (dict(name="una_online"), RAW, "data.rollout.score_transform='raw' has no effect: objective 'una_online' reads rewards as"),
        (dict(name="una_online"), LINEAR, "data.rollout.score_range=(0.0, 9.0) has no effect: objective 'una_online' reads rewards as"),
    ],
)
def test_what_would_be_another_objective_is_refused(objective, rollout, words):
    reference = dict(checkpoint="package:stories260k") if objective["name"] == "distill" else {}
    with pytest.raises(ConfigError) as error:
        resolve(config(changed(**rollout), objective=objective, model=CRITIC, reference=reference))
    assert words in str(error.value), str(error.value)


@pytest.mark.parametrize(
    ("objective", "rollout"),
    [
        (dict(name="una", loss="raw"), dict(feedback="scores", score_transform="raw")),
        (dict(name="una"), dict(feedback="scores", score_transform="none")),
        (dict(name="rloo"), GROUPS | LEFT_OUT),
        (dict(name="sft"), dict(feedback="best")),
        (dict(name="kto"), dict(feedback="scores")),
        (dict(name="kto"), dict(feedback="samples", share=0.5)),  # with rows of data.train that are labelled
        (dict(name="ppo", target_kl=4.0, kl_rate=1.0), GAE),
    ],
)
def test_what_is_meant_is_taken(objective, rollout):
    sections = dict(model=CRITIC) if objective["name"] == "ppo" else {}
    sections |= dict(data=dict(train=dict(path="thumbs.jsonl"), row_tokens=1024)) if "share" in rollout else {}
    assert resolve(config(changed(**rollout), objective=objective, **sections))

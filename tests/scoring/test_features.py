"""A head on features as a reward of new texts: features from columns and from rewards, and what has none."""

import jax
import numpy as np
import pytest
import toys

from jaxalign.models import model as models
from jaxalign.models.features import FeatureHeadConfig
from jaxalign.scoring import features, rewards
from jaxalign.training.sources import Source

HEAD = FeatureHeadConfig.of({"features": {"helpful": {"range": (0, 5)}, "length": {"range": (0, 10), "of": "length"}}, "hidden": [3]})
COMPLETIONS = ["four", "eleven more", "four"]


@pytest.fixture
def reward(monkeypatch):
    with jax.set_mesh(toys.mesh()):
        model = models.build(toys.CONFIG, reward_head=HEAD)
        params = models.init_heads(model, jax.random.key(0))
        monkeypatch.setattr(Source, "reward_head", HEAD)
        monkeypatch.setattr(Source, "restore", lambda source: (model, params, {}))
        yield rewards.make("model:runs/features"), model, params


def test_features_come_from_columns_and_rewards(reward):
    scored, model, params = reward
    rows = [{"helpful": 4}, {"helpful": 1.5}, {"helpful": 0}]
    values = np.array([[[4, 4], [1.5, 11], [0, 4]]], np.float32)
    expected = models.feature_rewards(model, params, values)[0][0]
    np.testing.assert_allclose(scored(["p"] * 3, COMPLETIONS, rows), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="reads the column 'helpful'"):
        scored.check([{"helpfull": 4}])


def test_a_missing_feature_is_counted_and_named(reward):
    scored = reward[0]
    found = scored(["p"] * 3, COMPLETIONS, [{"helpful": 4}, {"helpful": None}, {}])
    assert np.isnan(found).tolist() == [False, True, True]
    assert "2 of 3 samples left out by feature; first is the prompt 'p': it has no number for the feature 'helpful'." in scored.lines()[0]


def test_a_run_that_scores_features_does_not_score_text(reward):
    with pytest.raises(ValueError, match="'model:runs/features', where rows have these columns"):
        Source("runs/features").reward_model()


def test_only_numbers_are_features():
    assert [features._number(x) for x in (1, 2.5)] == [1.0, 2.5]
    assert np.isnan([features._number(x) for x in (True, "3", None, float("inf"))]).all()

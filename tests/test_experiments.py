"""The small experiments: their forwards against plain computations, their fixed points, and that seeds do not see each other."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import experiments, objectives
from jaxalign.experiments import arithmetic, bandit, enumerable, frozen_lake, reward_folds, tree_mdp
from jaxalign.experiments.parts import many_seeds, results
from jaxalign.experiments.parts.grids import GRIDS

OPTIMIZED = True
FIXED = json.loads((Path(__file__).parent / "golden" / "vectors-una-dpo-kto.json").read_text())["fixed_points"]
FILES = {"table.md", "results.json", "plot.png"}


@pytest.fixture(autouse=True)
def one_device():
    with many_seeds.one_device():
        yield


def test_experiments_are_found_by_their_file():
    names = experiments.names()
    assert {"bandit", "enumerable", "front"} < set(names) and names == sorted(names) and not {"many_seeds", "results"} & set(names)
    assert experiments.named("bandit") is bandit.run
    with pytest.raises(ValueError, match=f"experiment.name='many_seeds'.*{', '.join(names)}"):
        experiments.named("many_seeds")


def marked(values, slow):
    return [pytest.param(value, marks=pytest.mark.slow) if value in slow else value for value in values]


CELLS = [name for name in experiments.names() if name not in ("front", "gold", "reward_folds", "teacher_hacking")]


@pytest.mark.usefixtures("few_optimizations")
@pytest.mark.parametrize("name", marked(CELLS, ("arithmetic", "tree_mdp")))
def test_an_experiment_that_is_asked_to_stop_ends_before_its_next_cell(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(arithmetic, "train", lambda model, params, *_, **__: (params, {"loss": 0.0}))
    monkeypatch.setattr(arithmetic, "_spoken", lambda *_, **__: None)
    monkeypatch.setattr(arithmetic, "COUNTS", dict.fromkeys(arithmetic.COUNTS, 4))
    assert not experiments.Experiment(name).run(tmp_path, SimpleNamespace(requested=lambda: True))
    assert "started again with the same --workdir" in capsys.readouterr().out and not (tmp_path / "results.json").exists()


def test_results_of_other_options_are_no_results_of_these(tmp_path, monkeypatch, capsys):
    calls, never = [], SimpleNamespace(requested=lambda: False)

    def run(workdir, stop, **options):
        calls.append(options)
        results.write(workdir, title="Mine", tables={}, results=options)

    monkeypatch.setattr(bandit, "run", run)
    run.__module__ = bandit.__name__
    for _ in range(2):
        assert experiments.Experiment("bandit", seeds=3, arms=("a", "b")).run(tmp_path, never)
    assert len(calls) == 1 and "done before" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"holds bandit with other options \(seeds: 3 -> 5\); choose a new --workdir"):
        experiments.Experiment("bandit", seeds=5, arms=("a", "b")).run(tmp_path, never)
    monkeypatch.setattr(bandit, "KEEPS_PARTS", True, raising=False)
    assert experiments.Experiment("bandit", seeds=5, arms=("a", "b")).run(tmp_path, never) and calls[-1]["seeds"] == 5
    assert experiments.Experiment("bandit", seeds=5, arms=("a", "b")).run(tmp_path, never) and len(calls) == 2


def test_results_are_there_when_the_plot_is(tmp_path):
    def fails(axes):
        raise OSError("no space left on the disk")

    with pytest.raises(OSError, match="no space left"):
        results.write(tmp_path, title="Mine", tables={}, results={}, panels=[("a", "x", "y", fails)])
    assert not (tmp_path / "results.json").exists()


def test_texts_that_do_not_split_into_groups_are_refused(tmp_path):
    with pytest.raises(ValueError, match="experiment.texts=100 does not split into groups of 8"):
        enumerable.run(tmp_path, texts=100)


def test_optimal_actions_of_the_standard_map():
    grid = GRIDS["standard"]
    best = grid.optimal_policy()
    np.testing.assert_array_equal(grid.inner(), [0, 1, 2, 3, 4, 6, 8, 9, 10, 13, 14])
    np.testing.assert_array_equal(best[[0, 9]], [[0, 0.5, 0.5, 0]] * 2)  # down or right
    assert (best.sum(1)[grid.inner()] == 1).all() and best.sum() == 11
    assert grid.path(grid.optimal) == ([0, 4, 8, 9, 13, 14], [1, 1, 2, 1, 2, 2])
    assert grid.path(grid.other)[0] == [0, 1, 2, 6, 10, 9, 13, 14]


@pytest.mark.parametrize("name", GRIDS)
def test_both_ways_of_a_map_end_at_its_goal_and_the_optimal_one_is_optimal(name):
    grid = GRIDS[name]
    states, actions = grid.path(grid.optimal)
    assert (grid.optimal_policy()[states, actions] > 0).all()
    assert len(grid.path(grid.other)[0]) > len(states)
    with pytest.raises(ValueError, match="not at the goal"):
        grid.path("L")


@pytest.mark.usefixtures("few_optimizations")
@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [many_seeds.rmsprop, many_seeds.adam, many_seeds.gradient_descent])
def test_a_seed_trained_among_others_ends_where_it_ends_alone(optimizer):
    pairs, params = tree_mdp.PAIRS["C: B and one more pair"], tree_mdp.start(3, first_seed=0)

    def end(params, seeds):
        data, rule = many_seeds.batch(pairs, seeds=seeds, paired=True), optimizer(seeds, learning_rate=1e-2)
        objective = objectives.bind("dpo")
        return many_seeds.train(
            tree_mdp.forward, params, data, objective, rule, measure=lambda x: tree_mdp.probabilities(x, seeds), at=[5],
            rule="hard", every_steps=2,
        )[5]  # fmt: skip

    alone = end(jax.tree.map(lambda x: x[1:2], params), 1)
    np.testing.assert_allclose(end(params, 3)[1:2], alone, rtol=1e-4)


def test_the_lake_mixes_each_state_with_where_the_greedy_action_led():
    grid, params = GRIDS["standard"], frozen_lake.start(2, 16, first_seed=0)
    states, actions = grid.path(grid.optimal)
    batch = many_seeds.batch([[actions]], seeds=2, paired=False)
    ours = frozen_lake.forward(params, batch, 0, states=np.array(states), next_states=grid.next_states(), mixing=0.2)
    for s in range(2):
        first, bias, second, last = (np.asarray(params[name][s]) for name in ("first", "first_bias", "second", "second_bias"))

        def logits(x, first=first, bias=bias, second=second, last=last):
            return np.tanh(x @ first + bias) @ second + last

        for i, (state, action) in enumerate(zip(states, actions, strict=True)):
            x = np.eye(16)[state]
            if i:
                led = grid.next_states()[states[i - 1], logits(np.eye(16)[states[i - 1]]).argmax()]
                x = 0.8 * x + 0.2 * np.eye(16)[led]
            np.testing.assert_allclose(ours.logps[s, i], jax.nn.log_softmax(logits(x))[action], rtol=1e-5)
            assert ours.greedy[s, i] == logits(np.eye(16)[state]).argmax()


@pytest.mark.slow
def test_the_lake_writes_its_table_and_sft_nears_the_optimal_policy(tmp_path, monkeypatch):
    monkeypatch.setattr(frozen_lake, "STARTS", {"standard map": ("standard", False)})
    monkeypatch.setattr(frozen_lake, "METHODS", {name: frozen_lake.METHODS[name] for name in ("SFT", "IFT", "ORPO", "DPO")})
    monkeypatch.setattr(frozen_lake, "FIT", {"steps": 300, "learning_rate": 1e-2})
    found = frozen_lake.run(tmp_path, seeds=10, steps=30)["standard map"]
    scores = {name: [values["scores"][step] for step in (0, 30)] for name, values in found.items()}
    assert scores["SFT"][1] < scores["SFT"][0] < scores["DPO"][1]
    assert scores["IFT"][1] < scores["ORPO"][1]
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert json.loads((tmp_path / "results.json").read_text())["standard map"]["SFT"]["difference"] == 0


@pytest.mark.usefixtures("few_optimizations")
@pytest.mark.slow
def test_texts_of_the_tree_have_probability_one_together_and_are_those_of_a_plain_network():
    params = tree_mdp.start(2, first_seed=1)
    p = tree_mdp.probabilities(params, 2)
    np.testing.assert_allclose(p.sum(1), 1.0, rtol=1e-5)
    embed, inputs, recurrent, output = (np.asarray(params[name][1], np.float64) for name in ("embed", "input", "recurrent", "output"))
    hidden, wanted = np.zeros(16), 1.0
    for before, letter in zip((3, 2, 0), (2, 0, 1), strict=True):
        hidden = np.tanh(embed[before] @ inputs + hidden @ recurrent)
        logits = hidden @ output
        wanted *= np.exp(logits[letter]) / np.exp(logits).sum()
    np.testing.assert_allclose(p[1, tree_mdp.TEXTS.index((2, 0, 1))], wanted, rtol=1e-5)


@pytest.mark.slow
def test_the_tree_writes_its_table_and_a_moving_reference_goes_further(tmp_path, monkeypatch):
    monkeypatch.setattr(tree_mdp, "PAIRS", dict(list(tree_mdp.PAIRS.items())[:1]))
    (found,) = tree_mdp.run(tmp_path, seeds=2, steps=300).values()
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert found["soft 0.6, every step"]["chosen"] > found["hard, every 64"]["chosen"] > found["frozen"]["chosen"] > 0.1
    for values in found.values():
        np.testing.assert_allclose(values["chosen"] + values["rejected"] + values["out_of_data"], 1.0, rtol=1e-5)


METHODS = {
    "on-policy, raw, offset 0": "onpolicy_raw_c0",
    "on-policy, raw, offset -3": "onpolicy_raw_c_minus3",
    "fixed answers, raw, offset 0": "offline_raw_c0",
    "fixed answers, raw, learned offset": "offline_raw_learned_c",
    "fixed answers, squashed, offset 0": "offline_sigmoid_c0",
    "fixed answers, squashed, learned offset": "offline_sigmoid_learned_c",
}


@pytest.mark.parametrize("name", marked(bandit.METHODS, list(bandit.METHODS)[1:-1]))
def test_una_ends_at_the_fixed_point(name):
    expected = FIXED["results"][METHODS[name]]
    policy, offset = bandit._una(4000, *bandit.METHODS[name])
    np.testing.assert_allclose(policy, expected["policy"], atol=3e-6)
    np.testing.assert_allclose(offset, expected["c"], atol=1e-5)


def test_the_optimum_in_closed_form():
    optimum, log_normalizer = bandit.closed_form()
    np.testing.assert_allclose(optimum, FIXED["target_policy"], rtol=1e-9)
    np.testing.assert_allclose(log_normalizer, FIXED["beta_log_Z"], rtol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_the_gradient_of_on_policy_raw_una_is_minus_two_beta_times_that_of_rlhf(seed):
    assert bandit.gradient_deviation(seed) < 1e-5


@pytest.mark.parametrize("tau", marked(bandit.IPO_TAU, bandit.IPO_TAU[1:]))
def test_ipo_ends_at_the_sigmoid_of_one_over_two_tau(tau):
    np.testing.assert_allclose(bandit._ipo(tau, bandit.IPO_STEPS), jax.nn.sigmoid(jnp.asarray(1 / (2 * tau))), rtol=1e-5)


def test_the_bandit_writes_its_table(tmp_path, monkeypatch):
    monkeypatch.setattr(bandit, "METHODS", dict(list(bandit.METHODS.items())[:1]))
    found = bandit.run(tmp_path, steps=20, points=1)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert found["on-policy, raw, offset 0"]["kl"] > 0


def test_problems_of_arithmetic_are_right_and_wrong_from_one_step_on():
    prompts, right, wrong = arithmetic.problems(300, 0)
    for prompt, good, bad in zip(prompts.tolist(), right.tolist(), wrong.tolist(), strict=True):
        sides = [prompt[1]] * 2
        errors = 0
        for i in range(arithmetic.STEPS):
            operator, digit = prompt[2 + 2 * i : 4 + 2 * i]
            of = {arithmetic.PLUS: int.__add__, arithmetic.MINUS: int.__sub__, arithmetic.TIMES: int.__mul__}[operator]
            sides = [of(side, digit) % 10 for side in sides]
            assert good[i] == sides[0]
            errors += bad[i] != sides[1]
            sides[1] = bad[i]
        assert errors == 1
        assert good[-1] == bad[-1] == arithmetic.END


def test_rows_of_arithmetic_end_where_an_answer_ends():
    prompts, right, _ = arithmetic.problems(2, 1)
    answers = np.stack([right, np.full_like(right, arithmetic.END), np.where(right == arithmetic.END, 3, right)], axis=1)
    groups = arithmetic.rows(prompts, answers, name="test").groups
    np.testing.assert_array_equal(groups.lengths(), [[arithmetic.PROMPT, arithmetic.ANSWER, 1, arithmetic.ANSWER]] * 2)
    np.testing.assert_array_equal(groups.piece(1, 1)[0], right[1])


@pytest.mark.parametrize(("arms", "named"), [(("contrastive",), "'contrastive'"), ((), "'nothing'")])
def test_a_reward_model_of_arithmetic_that_is_none_is_named(tmp_path, arms, named):
    with pytest.raises(ValueError, match=f"experiment.arms: {named} is no reward model; there are Bradley-Terry alone, "):
        arithmetic.run(tmp_path, arms=arms)


@pytest.mark.usefixtures("few_optimizations")
@pytest.mark.slow
def test_arithmetic_writes_its_table_and_the_areas_are_shares(tmp_path, monkeypatch):
    monkeypatch.setattr(arithmetic, "COUNTS", {"solutions": 256, "pairs": 128, "held_out": 40, "questions": 4})
    monkeypatch.setattr(arithmetic, "READ_ROWS", 40)
    monkeypatch.setattr(arithmetic, "SAMPLES", 3)
    arms = "Bradley-Terry alone", "contrastive, all pairs"
    found = arithmetic.run(tmp_path, seeds=1, language_steps=3, reward_steps=3, arms=arms)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    for arm in arms:
        one = found["0"][arm]
        assert len(one["auroc"]) == len(one["cosine_auroc"]) == arithmetic.ANSWER
        assert all(0 <= x <= 1 for x in [*one["auroc"], one["accuracy"], *one["votes"].values()])
    above = found["differences"][arms[1]]["final"]["mean"]
    np.testing.assert_allclose(above, found["0"][arms[1]]["auroc"][-1] - found["0"][arms[0]]["auroc"][-1])


def test_prefixes_and_probabilities_of_enumerable_texts_are_those_of_a_plain_walk():
    world = enumerable.worlds()["64 texts"]
    numbers = {(): 0} | {text[:n]: 0 for n in (1, 2) for text in map(tuple, world.texts())}
    numbers = {prefix: number for number, prefix in enumerate(sorted(numbers, key=lambda prefix: (len(prefix), prefix)))}
    texts = world.texts()
    walked = [[numbers[tuple(text[:t])] for t in range(3)] for text in texts]
    np.testing.assert_array_equal(world.prefixes(jnp.asarray(texts)), walked)
    chances = np.exp(world.distribution(jnp.asarray(world.reference)[None])[0])
    soft = np.exp(world.reference) / np.exp(world.reference).sum(1, keepdims=True)
    expected = [np.prod(soft[prefixes, text]) for prefixes, text in zip(walked, texts, strict=True)]
    np.testing.assert_allclose(chances, expected, rtol=1e-5)


@pytest.mark.parametrize(("beta", "value", "reward", "kl"), [(0.1, 1.245099, 1.649914, 4.048150), (1.0, 0.210722, 0.510142, 0.299420)])
def test_the_best_value_of_the_texts_is_the_known_one(beta, value, reward, kl):
    world = dataclasses.replace(enumerable.worlds()["64 texts"], beta=beta)
    best, found = world.optimum()
    start = np.asarray(world.distribution(jnp.asarray(world.reference)[None])[0], np.float64)
    assert found == pytest.approx(value, abs=2e-6)
    assert ((best * world.reward).sum(), (best * np.log(best / np.exp(start))).sum()) == pytest.approx((reward, kl), abs=5e-6)
    assert world.value(jnp.asarray(world.reference)[None])[0][0] == pytest.approx(-0.151043, abs=2e-6)
    assert enumerable.worlds()["a bandit of 4 actions"].optimum()[1] == pytest.approx(FIXED["beta_log_Z"])


def test_a_pair_is_swapped_where_the_judge_prefers_the_second_text():
    world = enumerable.worlds()["64 texts"]
    params = {"logits": jnp.zeros((2, 21, 4)), "values": jnp.zeros((2, 21))}
    method = dataclasses.replace(enumerable.METHODS["online DPO"], scaled=())
    batch = enumerable.rollout(world, method, params, params, jax.random.key(0), seeds=2, texts=64)
    numbers = (batch.tokens.reshape(2, 64, 3) * np.array([16, 4, 1])).sum(2)
    chosen = np.asarray(batch.slots[:, ::3] % 2 == 0)
    rewards = world.reward[np.asarray(numbers)]
    assert chosen.reshape(2, 32, 2).sum(2).tolist() == [[1] * 32] * 2 and batch.paired.all()
    assert 10 < chosen[:, ::2].sum() < 54 and rewards[chosen].mean() > rewards[~chosen].mean() + 0.2


@pytest.mark.slow
def test_a_method_nears_the_known_optimum(tmp_path, monkeypatch):
    monkeypatch.setattr(enumerable, "METHODS", {name: enumerable.METHODS[name] for name in ("PPO", "RLOO, KL in the reward")})
    found = enumerable.run(tmp_path, seeds=2, rollouts=60)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    for name in enumerable.METHODS:
        assert min(found["a bandit of 4 actions"][name]["share"]) > 0.95  # 0.964 or more after a third of these rollouts
        assert min(found["64 texts"][name]["share"]) > 0.7  # 0.632 or more after a third of them


def test_answers_judged_one_by_one_stand_together_where_their_prompts_are_equal(tmp_path):
    rows = [
        {"prompt": "2+2?", "completion": "4", "label": True},
        {"prompt": "3+3?", "completion": "6", "label": True},
        {"prompt": "2+2?", "completion": "5", "label": False},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"prompt": "2+2?", "chosen": "4", "rejected": "22"}) + "\n")
    how = dict(tokenizer="package:stories260k", template="plain", row_tokens=64, out_root=tmp_path / "cache", processes=1, quiet=True)
    sources = [dict(path=str(tmp_path / name)) for name in ("rows.jsonl", "pairs.jsonl")]
    judged = reward_folds.judged_answers(sources, how)
    assert [one.rewards for one in judged] == [[1.0, 0.0], [1.0], [1.0, 0.0]]
    assert judged[0].prompt == judged[2].prompt != judged[1].prompt


@pytest.mark.usefixtures("few_optimizations")
@pytest.mark.slow
def test_reward_folds_writes_what_two_reward_models_make_of_held_out_pairs(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXALIGN_CACHE", str(tmp_path / "cache"))
    source = dict(path="package:sf_dialogue/test.jsonl.gz", format="paired", limit=24)
    sizes = dict(row_tokens=192, max_prompt_tokens=32, max_response_tokens=64, response_truncation="keep_start")
    found = reward_folds.run(tmp_path / "out", sources=(source,), seeds=2, language_steps=1, epochs=1, rows=4, **sizes)
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    for arm in reward_folds.ARMS:
        assert found[arm]["answers"] == 2 * found[arm]["prompts compared"] > 40 and found[arm]["votes"] == {}
        assert all(0 <= one["low"] <= one["value"] <= one["high"] <= 1 for one in (found[arm]["accuracy"], *found[arm]["auroc"]))
    with pytest.raises(ValueError, match="experiment.seeds=1 must be at least 2"):
        reward_folds.run(tmp_path, sources=(source,), seeds=1)

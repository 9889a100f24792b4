"""The gold bench: golds of known texts, a rater of known noise, forms of feedback that tell the same, and claims from cells."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxalign.experiments import gold
from jaxalign.experiments.goldbench import cells, claims, feedback, fronts, golds, methods, online, report, world
from jaxalign.experiments.goldbench.world import Answers
from jaxalign.experiments.parts import many_seeds
from jaxalign.models import model as models
from jaxalign.rollout.computed import REWARD
from jaxalign.rollout.feedback import FEEDBACK
from jaxalign.training.sources import Source
from jaxalign.training.step import ROLLOUT_LOGPS


@pytest.mark.parametrize(
    ("name", "better", "worse"),
    [
        ("sentiment", "She was happy and they had fun.", "She was sad and lost her friend."),
        ("plain", "He saw a tree and a bird in it.", "He was happy and they had great fun."),
        ("brevity", "He ran to the tree. He saw a big bird.", "He ran to the tree and then he saw a big bird that sat on it."),
        ("structure", '"Hi," he said. Then Tom went home.', "Then he went home."),
    ],
)
def test_golds_prefer_what_they_are_for(name, better, worse):
    scores = golds.scored(name, ["One day Tom went out."], [[better, worse]])[0]
    assert 0 <= scores[1] < scores[0] <= 1


def test_sentiment_of_one_good_word_in_ten_is_known():
    text = "happy " + "tree " * 9
    assert golds.sentiment("", text) == pytest.approx(1 / (1 + np.exp(-0.5)))  # 15 / 10 - 1


def test_a_structure_without_an_end_counts_as_much():
    prompt, text = "Then Lily sat down.", '"Hello," she said. So Lily slept'
    assert golds.structure(prompt, text) == golds.structure(prompt, text + ".") == 1


@pytest.fixture(scope="module")
def answers():
    draw = np.random.default_rng(0)
    words = ["happy", "sad", "tree", "bird", "fun", "dark", "house", "river"]
    texts = [[" ".join(draw.choice(words, draw.integers(6, 12))) for _ in range(4)] for _ in range(300)]
    ids = [[draw.integers(3, 500, draw.integers(4, 20)).astype(np.int32) for _ in range(4)] for _ in range(300)]
    prompts = [np.array([1, 5 + i, 7], np.int32) for i in range(300)]
    logps = [[-np.ones(len(x), np.float32) for x in own] for own in ids]
    return Answers(prompts, ids, logps, texts, np.ones((300, 4), bool))


@pytest.fixture(scope="module")
def truth(answers):
    return golds.scored("sentiment", [""] * 300, answers.texts)


@pytest.mark.parametrize("agreement", [0.65, 0.78, 0.95])
def test_labels_agree_with_the_gold_as_often_as_asked(answers, truth, agreement):
    shares = []
    for seed in range(20):
        judge = feedback.judged(truth, agreement=agreement, seed=seed)
        pairs = feedback.pair_members(answers, truth)
        signs = [np.sign(x[pairs[:, 0], pairs[:, 1]] - x[pairs[:, 0], pairs[:, 2]]) for x in (judge.utility, truth)]
        shares.append((signs[0] == signs[1]).mean())
    assert np.mean(shares) == pytest.approx(agreement, abs=4 * 0.5 / (20 * len(pairs)) ** 0.5)


def test_forms_of_feedback_hold_the_same_responses_and_the_same_judgement(answers, truth):
    judge = feedback.judged(truth, agreement=0.78, seed=0)
    pairs, scores = (feedback.prepared(form, judge, answers, mismatched=False) for form in ("pairs", "scores"))
    assert np.array_equal(pairs.plan, scores.plan)
    for group in range(len(pairs.groups)):
        sides = sorted(zip(scores.groups.reward[group], (scores.groups.piece(group, k)[0].tobytes() for k in (1, 2)), strict=True))
        assert [pairs.groups.piece(group, k)[0].tobytes() for k in (2, 1)] == [tokens for _, tokens in sides]


def test_advantages_of_a_prompt_add_up_to_nothing(truth):
    judge = feedback.judged(truth, agreement=0.78, seed=0)
    np.testing.assert_allclose(judge.advantages.sum(1), 0, atol=1e-12)
    assert (judge.advantages[np.arange(300), judge.scores.argmax(1)] > 0).all()


def test_a_proxy_of_more_pairs_is_nearer_to_the_gold(answers, truth):
    judge = feedback.judged(truth, agreement=0.78, seed=0)
    near = [
        np.corrcoef(feedback.proxy(judge, answers, pairs=pairs, seed=0).scored(answers.texts).ravel(), truth.ravel())[0, 1]
        for pairs in (20, 400)
    ]
    assert near[0] < near[1] and near[1] > 0.8


def test_newton_ends_where_the_gradient_is_nought():
    x = np.random.default_rng(0).normal(size=(30, 5))
    w = feedback._newton(x)
    np.testing.assert_allclose(x.T @ (1 / (1 + np.exp(x @ w))), feedback.PROXY_RIDGE * w, atol=1e-9)


def test_pairs_tied_in_one_of_two_golds_are_kept(answers, truth):
    second = golds.scored("brevity", [""] * 300, answers.texts)
    kept = [{tuple(pair) for pair in feedback.pair_members(answers, *own).tolist()} for own in ((truth,), (second,), (truth, second))]
    assert kept[2] == kept[0] | kept[1] and kept[2] > kept[0]
    judge, other = (feedback.judged(gold, agreement=0.78, seed=0) for gold in (truth, second))
    assert len(feedback.prepared("pairs", judge, answers, mismatched=False, other=other).groups) == len(kept[2])


def bent(kl):
    """A gold that is concave in the root of the KL."""
    return 0.4 + 0.15 * kl**0.5 - 0.02 * kl


def test_methods_on_one_curve_are_equal_wherever_their_cells_lie():
    coarse, fine = ([(kl, bent(kl)) for kl in kls] for kls in ((0.5, 8.0), (0.9, 1.5, 2.2, 5.0)))
    for kl in (1.0, 2.0, 4.0):
        assert claims.at_kl(0.4, coarse, kl) == pytest.approx(bent(kl)) == claims.at_kl(0.4, fine, kl)


@pytest.mark.parametrize("kl", [1.0, 4.1])
def test_no_gold_is_known_where_cells_lie_on_one_side_alone(kl):
    assert np.isnan(claims.at_kl(0.4, [(4.0, 0.8), (1.2, 0.7)], kl))


def test_the_spread_between_seeds_counts_each_cell_once_and_not_what_all_methods_share():
    draw = np.random.default_rng(0)
    squares = []
    for _ in range(400):
        shared = draw.normal(0, 5, 3)
        levels = {method: dict(enumerate(shared + draw.normal(0, 1, 3))) for method in "abcd"}
        deviation, freedom = claims.pooled(levels, common=True)
        assert freedom == (4 - 1) * (3 - 1)
        squares.append(deviation**2)
    assert np.mean(squares) == pytest.approx(1, abs=4 * (2 / 6 / 400) ** 0.5)
    assert claims.pooled({"a": {0: 1.0}}, common=True)[1] == 0


def test_seeds_with_the_same_prompts_leave_their_error_in_the_interval():
    made = [x for seed in range(2) for name in ("dpo", "ipo") for x in cell(name, seed, 0.1)]
    assert claims.prompt_errors(made)["sentiment-78", "dpo"] == pytest.approx(0.01)
    bases = [{"seed": seed, "gold/sentiment": (0.4 + 0.002 * seed, 0.01)} for seed in range(2)]
    (shared,) = (one.half for one in claims.claims(made, bases, claims.KLS) if one.claim == "DPO above IPO")
    assert shared >= 1.96 * 0.01 * 2**0.5
    own = [{**one, "part": one["seed"]} for one in made]
    assert claims.prompt_errors(own)["sentiment-78", "dpo"] == 0
    assert next(one.half for one in claims.claims(own, bases, claims.KLS) if one.claim == "DPO above IPO") < shared


@pytest.mark.parametrize(("half", "alone", "appears"), [(0.01, 0.02, True), (0.01, 0.2, False), (0.2, 0.01, False)])
def test_a_claim_needs_the_pooled_interval_and_that_of_its_own_seeds(half, alone, appears):
    assert claims.Claim("", "", (2.0,), 0.1, half, alone, 3).verdict == (claims.APPEARS if appears else claims.UNKNOWN)


def test_a_claim_without_cells_on_both_sides_cannot_be_told():
    found = [x for seed in range(3) for name, gain in (("dpo", 0.2), ("ipo", 0.1)) for x in cell(name, seed, gain)]
    found = [one for one in found if one["method"] == "dpo" or one["kl"][0] > 4]
    (claim,) = (one for one in claims.claims(found, starts(3), claims.KLS) if one.claim == "DPO above IPO")
    assert claim.kls == () and claim.verdict == claims.UNKNOWN
    assert all(one.kls == () for one in claims.claims(found, starts(3), claims.FAR))
    assert ["sentiment-78", claim.claim, "-", "-", "-", "3", claims.UNKNOWN] in next(
        iter(report.tables(found, [{**one, "distinct_2": 0.6} for one in starts(3)], {}).values())
    )[1]


def cell(method, seed, gain, feedback="sentiment-78"):
    cells = [(kl, 0.4 + gain * kl**0.5 + 0.002 * seed) for kl in (1.0, 4.5)]
    common = {"win": (0.5, 0.1), "length": (30.0, 1.0), "ended": (0.9, 0.1), "distinct_2": 0.5, "seed": seed, "seconds": {"train": 9.0}}
    made = {"feedback": feedback, "method": method, **common}
    return [{**made, "learning_rate": kl, "kl": (kl, 0.1), "gold/sentiment": (gold, 0.01)} for kl, gold in cells]


def starts(count):
    return [{"seed": seed, "gold/sentiment": (0.4 + 0.002 * seed, 0.01)} for seed in range(count)]


@pytest.mark.parametrize(("gains", "verdict"), [((0.15, 0.1), claims.APPEARS), ((0.1, 0.15), claims.NOT), ((0.1, 0.1), claims.UNKNOWN)])
def test_a_claim_appears_only_where_its_interval_says_so(gains, verdict):
    found = [x for seed in range(3) for name, gain in zip(("dpo", "ipo"), gains, strict=True) for x in cell(name, seed, gain)]
    assert [claim.verdict for claim in claims.claims(found, starts(3), claims.KLS) if claim.claim == "DPO above IPO"] == [verdict]
    bases = [{**one, "distinct_2": 0.6} for one in starts(3)]
    headings = report.tables(found, bases, {"4": {"kl": 0.64, "gold/sentiment": 0.65}})
    assert headings["gold at equal KL"][1][-1][2] == "0.650 at KL 0.64 at most"  # ties make it less
    at_one, at_four = headings["diversity (distinct-2) at equal KL"][1][0][2::3][:2]
    assert at_one.startswith("0.500") and at_four.startswith("0.4")  # the cells have 0.5 at KL 1 and 4.5
    assert len(headings["cells, means over seeds"][1]) == 4


def test_a_method_whose_seeds_differ_more_has_a_wider_interval():
    gains = {"dpo": (0.1, 0.1, 0.1), "ipo": (0.1, 0.1, 0.1), "kto": (0.1, 0.15, 0.2)}
    found = [{**x, "part": seed} for seed in range(3) for name, own in gains.items() for x in cell(name, seed, own[seed])]
    shown = report.tables(found, [{**one, "distinct_2": 0.6} for one in starts(3)], {})["gold at equal KL"][1]
    halves = {row[1]: float(row[3].partition("±")[2]) for row in shown if row[1] in ("dpo", "ipo", "kto")}  # at KL 2
    own = claims.student([0.4 + 0.002 * seed + (0.1 + 0.05 * seed) * 2**0.5 for seed in range(3)])[1]
    assert halves["kto"] == pytest.approx(own, abs=1e-3) and halves["kto"] > halves["dpo"] == halves["ipo"]


def test_a_difference_that_changes_its_sign_with_the_kl_is_judged_in_each_band():
    def bent(method, golds):
        kls = (0.9, 2.1, 2.9, 4.5)
        made = [{"feedback": "sentiment-78", "method": method, "seed": seed, "learning_rate": kl} for seed in range(3) for kl in kls]
        values = [gold + 0.001 * one["seed"] for one, gold in zip(made, golds * 3, strict=True)]
        return [{**one, "kl": (one["learning_rate"], 0.1), "gold/sentiment": (gold, 0.001)} for one, gold in zip(made, values, strict=True)]

    found = bent("dpo", (0.50, 0.54, 0.55, 0.56)) + bent("ipo", (0.45, 0.50, 0.60, 0.66))
    told = [one for one in claims.claims(found, starts(3), *claims.BANDS) if one.claim == "DPO above IPO"]
    assert [(one.kls, one.verdict) for one in told] == [((1.0, 2.0), claims.APPEARS), ((3.0, 4.0), claims.NOT)]
    (whole,) = (one for one in claims.claims(found, starts(3), claims.KLS) if one.claim == "DPO above IPO")
    assert abs(whole.difference) < 0.02


def test_one_seed_is_no_evidence():
    found = [x for name, gain in (("dpo", 0.2), ("ipo", 0.1)) for x in cell(name, 0, gain)]
    found += [x for seed in range(1, 3) for name in ("kto", "alol") for x in cell(name, seed, 0.1)]  # others have seeds
    (claim,) = (one for one in claims.claims(found, starts(3), claims.KLS) if one.claim == "DPO above IPO")
    assert claim.difference > 0 and claim.verdict == claims.UNKNOWN


def test_a_mixture_of_raters_takes_each_pair_from_one_of_them(truth):
    first, second = (feedback.judged(truth, agreement=0.78, seed=0, stream=stream) for stream in (0, 1))
    utility = feedback.mixed(first, second, share=0.75, seed=0).utility
    taken = utility == first.utility
    assert np.array_equal(taken[:, ::2], taken[:, 1::2]) and (taken | (utility == second.utility)).all()
    assert taken.mean() == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / 600) ** 0.5)


def test_the_front_of_what_is_better_in_both_golds_is_larger():
    found, bases = [], [{"seed": seed, "gold/sentiment": (0.4, 0.01), "gold/plain": (0.5, 0.01)} for seed in range(3)]
    for seed in range(3):
        for family, lead in (("modpo", 0.01 + 0.001 * seed), ("mixed", 0.0)):
            for weight in methods.WEIGHTS:
                golds_at = {"gold/sentiment": (0.4 + weight / 500 + lead, 0.01), "gold/plain": (0.6 - weight / 500 + lead, 0.01)}
                made = {"feedback": "sentiment-78", "method": f"{family}_{weight}", "seed": seed, "temperatures": (0.1, 0.2)}
                found += [{**made, **golds_at, "learning_rate": kl, "kl": (kl, 0.1)} for kl in (1.5, 2.5)]
    rows = fronts.rows(found, bases)
    assert [row[:2] for row in rows if row[0] == "2"] == [["2", "mean weighted sum"], ["2", "area of the front"]]
    assert all(float(row[2]) > float(row[3]) for row in rows)
    assert fronts.shares_of(0.5, (0.1, 0.2)) == pytest.approx((2 / 3, 1 / 3))  # a gold whose rater is surer counts for more
    assert not fronts.rows([one for one in found if one["method"] != "mixed_50"], bases)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sentimental-78 dpo", "neither GOLD-PERCENT"),
        ("sentiment-78 dpoo", "no method 'dpoo'"),
        ("sentiment-78 dpo:tau=1", "no option 'tau'"),
        ("sentiment-78 dpo fast", "no number"),
        ("sentiment-78", "no method ''"),
        ("proxy0 dpo", "neither GOLD-PERCENT"),
        ("proxy60 modpo_50", "has two golds, of which the second is 'plain'"),
        ("plain-78 mixed_50", "has two golds, of which the second is 'plain'"),
    ],
)
def test_a_cell_that_names_nothing_is_refused(tmp_path, text, words):
    with pytest.raises(ValueError, match=words):
        gold.run(tmp_path, cells=(text,))


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_method_reads_what_its_feedback_has(name):
    method = methods.METHODS[name]
    reads, columns = method.bound().reads, {"advantage"} if method.form == "advantages" else set()
    columns |= {"margin"} if method.other and method.share == 1 else set()
    if method.online:
        kind = FEEDBACK[method.online]
        columns = {REWARD, ROLLOUT_LOGPS, *kind.columns, *kind.token_columns}
        assert set(method.rollout) <= set(kind.options)
    assert method.form == "pairs" or "paired" not in reads
    assert {key.partition(".")[2] for key in reads if "columns." in key} <= columns


def test_cells_of_a_seed_come_before_those_of_the_next():
    wanted = gold._wanted(("sentiment-78 dpo 1e-4 2e-4", "proxy60 kto 1e-4"), range(2))
    assert [one.seed for one in wanted] == [0, 0, 0, 1, 1, 1]
    assert wanted[0] == cells.Cell("sentiment-78", "dpo", 1e-4, 0)


def test_sections_are_a_sentence_and_the_whole_sentences_after_it():
    tokenizer = Source("package:stories260k").renderer("plain").tokenizer
    story = "Tom saw a big dog in the park. It ran to him. They had fun and played with a red ball.\nThen they went home. And the"
    found = world.sections(np.array(tokenizer.encode(story)), tokenizer)
    texts = [(tokenizer.decode(prompt[1:]).strip(), tokenizer.decode(response[:-1]).strip()) for prompt, response in found]
    assert texts[0][0] == "Tom saw a big dog in the park."
    assert texts[0][1].startswith("It ran to him. They had fun") and not any("And the" in text for pair in texts for text in pair)
    assert all(prompt[0] == tokenizer.bos_id and response[-1] == tokenizer.eos_id for prompt, response in found)


@pytest.mark.parametrize("kind", ["pairs", "scores", "group_advantage"])
@pytest.mark.parametrize("mismatched", [False, True])
def test_a_batch_of_rollouts_has_as_many_samples_as_one_of_rows_and_holds_the_longest(kind, mismatched):
    samples = 4 if kind == "group_advantage" else 2
    plan = online.layout(kind, samples=samples, mismatched=mismatched)
    assert plan.prompts * samples == 64
    longest = world.MOST_PROMPT_TOKENS + (plan.responses + mismatched) * (1 + world.LONGEST)  # BOS, and all but the last token once
    assert plan.row_tokens >= longest * plan.groups


def test_a_rater_online_judges_as_offline(truth):
    judge = feedback.judged(truth, agreement=0.78, seed=0)
    texts = [f"text {i}" for i in range(300)]
    asked = online.utilities(judge, lambda prompts, texts: truth[:, 0], seed=0)
    once, again = (asked(["p"] * 300, texts) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    tied = truth[::2, 0] == truth[1::2, 0]  # two samples of a prompt: not judged, as no tied pair is offline
    assert tied.any() and np.array_equal(np.isnan(once), tied.repeat(2))
    reward = online.rewarded(asked)
    given = reward(["p"] * 300, texts, [{}] * 300)
    assert np.array_equal(np.isnan(given), tied.repeat(2)) and reward.faults.counts == {"tied": 2 * tied.sum()}
    back = once * judge.utility.std() / feedback.SQUASH + np.median(judge.utility) - truth[:, 0] / judge.temperature
    assert np.nanmean(back) == pytest.approx(np.euler_gamma, abs=4 * np.pi / 6**0.5 / (~tied).sum() ** 0.5)  # of a standard Gumbel number


def test_a_win_is_of_the_cells_own_gold_and_each_seed_has_prompts_of_its_own(monkeypatch):
    prompts = [f"Tom {i} went out." for i in range(13)]
    made = world.World(None, SimpleNamespace(tokenizer=None), {}, prompts, None, {"held_out": prompts}, "")
    bench, asked = cells.Bench(made, steps=1), []
    monkeypatch.setattr(cells.Bench, "_sampler", lambda self, lanes: None)
    monkeypatch.setattr(cells.Bench, "_kl", lambda self, params, own: (1.0, 0.1))

    def drawn(draw, tokenizer, params, own, *, samples, seed):
        asked.append(tuple(own))
        text = "She was sad." if params else "He was happy and they had great fun and played with all the friends."
        texts = [[text] * samples for _ in own]
        return Answers(own, [[[1, 2]] * samples for _ in own], [], texts, np.ones((len(own), samples), bool))

    monkeypatch.setattr(world, "answers", drawn)
    wins = [bench.measured({"moved": 1}, seed=0, gold=f"gold/{gold}")["win"][0] for gold in ("brevity", "sentiment")]
    assert wins == [1, 0]
    parts = [bench.measured(made.params, seed=seed)["part"] for seed in range(cells.PARTS)]
    assert parts == [*range(cells.PARTS)] and sorted(sum(asked[-cells.PARTS :], ())) == sorted(prompts)


def test_thumbs_online_are_about_the_median_of_all_samples_as_offline():
    kind = FEEDBACK[methods.METHODS["online_kto"].online]
    judge = kind.bound(kind.options | dict(methods.METHODS["online_kto"].rollout))[0]
    np.testing.assert_array_equal(judge(np.array([[0.2, 0.9], [-0.9, -0.2]], np.float32)).reward, [[1, 1], [0, 0]])


def test_what_was_measured_otherwise_is_not_mixed_in(tmp_path):
    file, depends = tmp_path / "cell.json", {"version": 2, "steps": 30, "base": "a"}
    assert gold._kept(file, depends, lambda: {"gold": 1}) == gold._kept(file, depends, lambda: {"gold": 2}) == {"gold": 1}
    with pytest.raises(ValueError, match=r"cell.json was measured with other settings \(steps, base\); remove it"):
        gold._kept(file, depends | {"steps": 60, "base": "b"}, lambda: {"gold": 2})
    file.write_text('{"gold": 1}')  # as cells were kept before they had this
    with pytest.raises(ValueError, match="other settings .version"):
        gold.check_kept(file, depends)


def test_what_cells_depend_on_changes_with_steps_base_and_options():
    made = world.World(None, None, {}, [], None, {}, "a")
    some = [
        cells.Bench.depends(SimpleNamespace(world=made, steps=steps), name)
        for steps, name in ((30, "dpo"), (60, "dpo"), (30, "dpo:beta=1"))
    ]
    assert len({str(one) for one in some}) == 3 and all(one["base"] == "a" for one in some)


def test_a_base_of_other_settings_is_refused(tmp_path):
    np.savez(tmp_path / "world.npz", settings="another")
    with pytest.raises(ValueError, match="world.npz: this base policy was made with other settings"):
        world.make(tmp_path)


@pytest.mark.slow
def test_a_cell_is_measured_and_kept(tmp_path, monkeypatch, answers):
    source = Source(world.MODEL)
    model, prompts = models.build(source.config()), {name: [f"Tom {i}" for i in range(300)] for name in ("train", "held_out")}
    with many_seeds.one_device():
        params = source.load(model)
    made = world.World(
        model, source.renderer("plain"), params, answers.prompts[:12], answers, prompts | {"held_out": prompts["train"][:12]}, ""
    )
    monkeypatch.setattr(world, "make", lambda folder: made)
    monkeypatch.setattr(gold, "BEST_OF", (2,))
    monkeypatch.setattr(world, "LONGEST", 12)  # tokens that are drawn
    names = ("sft_best", "online_una", "sft_then_dpo")
    options = {"cells": tuple(f"sentiment-78 {name} 1e-9" for name in names), "seeds": 1, "steps": 2}
    found = gold.run(tmp_path, **options)
    kept = tmp_path / "cells" / "sentiment-78_sft_best_1e-09_0.json"
    (one, other, after), (base,) = found["cells"], found["bases"]
    assert other["gold/sentiment"] == pytest.approx(one["gold/sentiment"], abs=0.05)
    assert one["kl"][0] == pytest.approx(0, abs=1e-4)  # a policy that has not moved says what the base says
    assert one["gold/sentiment"] == pytest.approx(base["gold/sentiment"], abs=0.05)
    assert one["part"] == base["part"] == 0
    assert after["kl"][0] > 1e-4 and after["loss"] == pytest.approx(np.log(2), abs=1e-6)  # SFT has moved it, and is the reference
    kept.write_text(kept.read_text().replace('"win"', '"kept": 1, "win"'))
    assert gold.run(tmp_path, **options)["cells"][0]["kept"] == 1
    assert (tmp_path / "plot.png").exists() and "sft_then_dpo" in (tmp_path / "table.md").read_text()

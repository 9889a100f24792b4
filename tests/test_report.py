"""The page about runs: what it answers, that users' texts stay texts, and what it does where something is missing or damaged."""

import datetime
import json
import os
import re

import pytest
from report_runs import HOSTILE, PROMPTS, Elements, evaluate, write

from jaxalign import report
from jaxalign.config import speech
from jaxalign.reports.html import charts, contents, document, measures, questions
from jaxalign.reports.html.markup import escaped, tag

LENGTH = {"rewards": {"judge": "length"}}  # how answers are judged, as an evaluation writes it
FOLLOWED = {"prompt": "p", "responses": [{"what": "chosen", "text": "yes", "before": -2.0, "after": -1.5}]}


def page(tmp_path, *arguments):
    out = tmp_path / "page.html"
    assert report.main([*map(str, arguments), "--out", str(out)]) == 0
    return Elements(out.read_text(encoding="utf-8"))


def lines(accuracy, steps=(0, 9), **metrics):
    return [{"step": step, "accuracy": 0.5 if step == 0 else accuracy, "loss": 0.6, "kl": step / 10, **metrics} for step in steps]


def seeds(tmp_path, name, values, **options):
    folders = [tmp_path / f"{name}_{seed}" for seed in range(len(values))]
    for seed, (folder, value) in enumerate(zip(folders, values, strict=True)):
        write(folder, lines=lines(value), seed=seed, **options)
    return folders


def test_the_better_configuration_is_named_with_its_lead_and_its_interval(tmp_path):
    runs = [*seeds(tmp_path, "good", (0.8, 0.81, 0.79)), *seeds(tmp_path, "bad", (0.5, 0.51, 0.49), objective="ipo")]
    text = page(tmp_path, *runs).text
    assert re.search(r"good is better in held-out accuracy: it beats bad by 0\.300 \(0\.2\d+ to 0\.3\d+\)\.", text)
    assert "0.800 (" in text and "3 seeds, 40 prompts" in text and "cannot be told" not in text


def test_a_lead_within_its_interval_cannot_be_told(tmp_path):
    runs = [*seeds(tmp_path, "one", (0.62, 0.66)), *seeds(tmp_path, "other", (0.6, 0.64), objective="ipo")]
    text = page(tmp_path, *runs).text
    assert re.search(r"Which has the best held-out accuracy cannot be told: one leads other by 0\.02\d? \(−", text)
    assert "is better" not in text.replace("Which is better", "")


def test_of_three_the_best_is_told_from_the_worst_only(tmp_path):
    values = {"a": 0.8, "b": 0.78, "c": 0.5}
    for name, value in values.items():
        write(tmp_path / name, lines=lines(value), objective=name)
    text = page(tmp_path, *(tmp_path / name for name in values)).text
    assert re.search(r"a is better in held-out accuracy: it beats c by 0\.3\d* \([^)]*\)\. Whether it is better than b \(it leads", text)
    assert "All intervals hold together in 95 of 100 cases." in text


def test_the_more_is_compared_the_larger_a_lead_must_be(tmp_path):
    for name, value in {"a": 0.7, "b": 0.605, "c": 0.65}.items():  # 0.095 is 2.2 errors of the difference, and 2.4 make one of three
        write(tmp_path / name, lines=lines(value), objective=name)
    assert "a is better in held-out accuracy" in page(tmp_path, tmp_path / "a", tmp_path / "b").text
    assert "a is better" not in page(tmp_path, *(tmp_path / name for name in "abc")).text


@pytest.mark.parametrize(("value", "expected"), [(0.8, "is better than at its start"), (0.51, "cannot be told"), (0.2, "is worse than at")])
def test_a_run_alone_is_measured_against_its_start(tmp_path, value, expected):
    write(tmp_path / "run", lines=lines(value))
    assert expected in page(tmp_path, tmp_path / "run").text


def test_answers_to_two_prompts_decide_nothing(tmp_path):
    for name, value in (("a", 1.0), ("b", 0.0)):
        write(tmp_path / name, lines=[], objective=name)
        evaluate(tmp_path / name, [value] * 2, se=0.0, exact_match=value, against=("other", [0.5] * 2))
    text = page(tmp_path, tmp_path / "a", tmp_path / "b").text
    assert text.count("cannot be told") == 4 and not re.search("is (better|worse)( in|:)", text)


def test_a_seed_that_stopped_early_hides_no_start(tmp_path):
    write(tmp_path / "dpo_0", lines=lines(0.8))
    write(tmp_path / "dpo_1", lines=[{"step": 0, "accuracy": 0.3}, {"step": 3, "accuracy": 0.8}], seed=1)
    assert "dpo is better than at its start: held-out accuracy went from 0.5 to 0.8" in page(tmp_path, *sorted(tmp_path.glob("dpo_?"))).text


def test_rewards_of_the_same_prompts_are_compared_prompt_by_prompt(tmp_path):
    hard = [(i * 7919 % 100) / 10 for i in range(PROMPTS)]
    for name, gain in (("a", 0.2), ("b", 0.0)):
        write(tmp_path / name, lines=lines(0.6), objective=name)
        evaluate(tmp_path / name, [value + gain + i % 2 / 100 * (name == "a") for i, value in enumerate(hard)])
    entries, _ = contents.read([tmp_path / "a", tmp_path / "b"])
    paired = questions.paired_rewards(*entries, "generate/reward")
    assert paired.value == pytest.approx(0.205) and paired.se == pytest.approx(0.005 / (PROMPTS - 1) ** 0.5)
    assert "a is better in reward of generated answers" in page(tmp_path, tmp_path / "a", tmp_path / "b").text
    evaluate(tmp_path / "b", hard, prompts=[f"other {i}" for i in range(PROMPTS)])
    entries, _ = contents.read([tmp_path / "a", tmp_path / "b"])
    assert questions.paired_rewards(*entries, "generate/reward") is None


def test_rewards_of_different_kinds_or_prompts_are_not_compared(tmp_path):
    of_runs = {"a": ("one", None), "b": ("other", None), "c": ("one", [f"else {i}" for i in range(PROMPTS)]), "d": ("one", None)}
    for name, (kind, prompts) in of_runs.items():
        write(tmp_path / name, lines=lines(0.6), objective=name)
        evaluate(tmp_path / name, [0.5] * PROMPTS, name=kind, prompts=prompts)
    entries, _ = contents.read([tmp_path / name for name in of_runs])
    asked = [one for one in questions.questions(entries) if one.metric.startswith("generate/reward")]
    assert sorted([side.entry.name for side in one.sides] for one in asked) == [["a", "d"], ["b"], ["c"]]
    whats = {one.sides[0].entry.name: one.what for one in asked}
    assert whats["a"] == "reward of generated answers, 40 prompts, by one"
    assert whats["c"].endswith(", 40 prompts, set 2, by one") and whats["b"].endswith(", by other") and len(set(whats.values())) == 3
    text = page(tmp_path, *(tmp_path / name for name in of_runs)).text
    assert "Answers that were drawn or judged in different ways are not compared in generate/reward (" in text


def test_where_one_run_left_a_prompt_out_the_others_are_compared_and_counted(tmp_path):
    for name, count, gain in (("a", PROMPTS, 1.0), ("b", PROMPTS - 2, 0.0)):
        write(tmp_path / name, lines=lines(0.6), objective=name)
        evaluate(tmp_path / name, [i + gain + i % 2 / 10 * gain for i in range(count)], settings=LENGTH | {"temperature": 1.0})
    text = page(tmp_path, tmp_path / "a", tmp_path / "b").text
    found = re.search(rf"it beats b by 1\.0500? \(1\.03\d* to 1\.06\d*, on the {PROMPTS - 2} prompts that have both\)\.", text)
    assert found, text


def test_answers_that_were_drawn_otherwise_are_not_compared_and_told_with_their_opponents(tmp_path):
    for name, tokens, other in (("a", 24, "reference"), ("b", 8, f"{tmp_path}/a")):
        write(tmp_path / name, lines=[], objective=name)
        how = {"max_new_tokens": tokens, "temperature": 1.0, **LENGTH, "limit": tokens}
        evaluate(tmp_path / name, [tokens + i % 3 for i in range(20)], against=(other, [9.5] * 20), settings=how)
    found = page(tmp_path, tmp_path / "a", tmp_path / "b")
    assert "not compared in generate/reward (a: max_new_tokens 24; b: max_new_tokens 8); evaluate all with the same flags" in found.text
    assert "beats" not in found.text and "it leads" not in found.text
    assert "Settings: max_new_tokens 8, temperature 1.0, rewards.judge length." in found.text
    assert "They were drawn otherwise: a with max_new_tokens 24; b with max_new_tokens 8." in found.text
    assert "won against its start" in found.cards[0] and "lost against a" in found.cards[1]
    evaluate(tmp_path / "b", [1.0] * 20, settings={"max_new_tokens": 24, "temperature": 1.0, "samples": 4, "rewards": {"named": "length"}})
    text = page(tmp_path, tmp_path / "a", tmp_path / "b").text
    assert "otherwise" not in text and "different ways" not in text and "a is better in reward of generated answers: it beats b by" in text


def test_a_later_evaluation_replaces_what_training_logged_with_the_same_settings_and_stands_apart_with_others(tmp_path):
    how = {"max_new_tokens": 8, **LENGTH}
    write(tmp_path / "run", lines=lines(0.6, **{"generate/reward": 1.0, "generate/kl": 0.1}), answers=how)
    (tmp_path / "run/samples").mkdir()
    said = [{"id": i, "prompt": f"prompt {i}", "text": "t", "rewards": {"judge": 1.0}} for i in range(4)]
    (tmp_path / "run/samples/step-9.jsonl").write_text("".join(json.dumps(line) + "\n" for line in said))
    evaluate(tmp_path / "run", [2.0, 4.0, 2.0, 4.0], settings=how, start={"reward": 1.5})
    evaluate(tmp_path / "run", [9.0] * 4, settings=how | {"max_new_tokens": 9}, file="step-9-0a1b", start={"reward": 7.0})
    (entry,), _ = contents.read([tmp_path / "run"])
    first, last = (dict(entry.runs[0].held_out)[step] for step in (0, 9))
    same, other = (f"generate/reward · max_new_tokens {limit}" for limit in (8, 9))
    assert [(part[same].value, part[other].value) for part in (first, last)] == [(1.5, 7.0), (3.0, 9.0)]
    assert last["generate/kl"].value == 0.1 and [one.name for one in entry.runs[0].evaluations] == ["step-9", "step-9-0a1b"]


@pytest.mark.parametrize("wrote_time", [True, False])
def test_of_two_evaluations_of_a_step_the_newest_counts_everywhere(tmp_path, wrote_time):
    write(tmp_path / "run", lines=lines(0.6))
    for file, hour, won in (("step-9-a", 12, 1.0), ("step-9-b", 11, 0.0), ("step-9-c", 10, 0.5)):
        time = f"2026-01-02T{hour}:00:00+00:00"
        evaluate(tmp_path / "run", [won] * 4, against=("other", [0.5] * 4), file=file, text=file, time=time if wrote_time else None)
        seconds = datetime.datetime.fromisoformat(time).timestamp()
        os.utime(tmp_path / f"run/evaluations/{file}.json", (seconds, seconds) if not wrote_time else None)
    entries, _ = contents.read([tmp_path / "run"])
    (duel,), (question, *_) = questions.duels(entries), questions.questions(entries)
    assert duel.rate.value == question.sides[0].mean == dict(entries[0].runs[0].held_out)[9]["generate/win_rate"].value == 1.0
    assert "step-9-a" in page(tmp_path, tmp_path / "run").cards[0]


def test_an_answer_without_a_score_takes_the_others_no_change_and_their_number_is_told(tmp_path):
    write(tmp_path / "run", lines=lines(0.6))
    change = {"reward": {"value": 2.0, "se": 0.1, "n": PROMPTS - 1}}
    evaluate(tmp_path / "run", [5.0] * PROMPTS, start={"reward": 2.9}, change=change)
    entries, _ = contents.read([tmp_path / "run"])
    question = questions.questions(entries)[0]
    _, found = questions.since_start(question, question.sides[0])
    assert (found.value, found.prompts) == (2.0, PROMPTS - 1) and found.high - found.low < 0.5
    text = page(tmp_path, tmp_path / "run").text
    assert f"went from 2.9 to 5, by 2.00 (1.80 to 2.20, on the {PROMPTS - 1} prompts that have both)" in text


def test_accuracies_that_mean_something_else_are_not_ranked_and_other_starts_are_told(tmp_path):
    for name, reference, model in (("sft", "none", "base; llama"), ("dpo", "frozen, x", "base; llama"), ("ipo", "frozen", "other; llama")):
        write(tmp_path / name, lines=lines(0.9 if name == "dpo" else 0.6), objective=name, reference=reference, model=model)
    text = page(tmp_path, tmp_path / "sft", tmp_path / "dpo").text
    assert "held-out accuracy, without a reference went from" in text and "beats" not in text and "not measured" not in text
    text = page(tmp_path, tmp_path / "dpo", tmp_path / "ipo").text
    assert "it beats ipo" in text and "They started from different models, base and other, so that" in text


def test_samples_of_another_reward_lend_no_error(tmp_path):
    for name, value in (("a", 0.7), ("b", 0.5)):
        write(tmp_path / name, lines=lines(0.6, **{"generate/reward": value}), objective=name)
        evaluate(tmp_path / name, [value * 10] * PROMPTS)  # in the loop another reward was measured, with an error
    entries, _ = contents.read([tmp_path / "a", tmp_path / "b"])
    question = next(one for one in questions.questions(entries) if one.what.endswith(", prompts not known"))
    lead = questions.gap(question, *question.sides, level=0.95)
    assert lead.value == pytest.approx(0.2) and lead.high - lead.low > 0.1


def test_several_held_out_sets_are_one_curve_and_one_answer(tmp_path):
    sets = [{f"{name}/{key}": value for name in ("x", "y") for key, value in line.items() if key != "step"} for line in lines(0.9)]
    write(tmp_path / "run", lines=[{"step": 9 * i, **line} for i, line in enumerate(sets)])
    found = page(tmp_path, tmp_path / "run")
    assert "run is better than at its start: held-out accuracy went from 0.5 to 0.9" in found.text
    assert len([label for label in found.having("aria-label") if label.startswith("Held-out accuracy: share of pairs over step")]) == 1


@pytest.mark.parametrize(
    ("won", "expected"), [(36, "a is better than b"), (20, "Whether a is better than b cannot be told"), (4, "a is worse than b")]
)
def test_a_direct_comparison_comes_first_with_wilsons_interval(tmp_path, won, expected):
    write(tmp_path / "a", lines=lines(0.6))
    evaluate(tmp_path / "a", [1.0] * won + [0.0] * (PROMPTS - won), against=("b", [0.0] * won + [1.0] * (PROMPTS - won)))
    text = page(tmp_path, tmp_path / "a").text
    answer = text[text.index("Which is better", text.index("How it was made")) :]
    assert answer.removeprefix("Which is better").startswith(expected)
    assert f"it wins {won / PROMPTS:.1%}".replace("%", "\N{NO-BREAK SPACE}%") in answer


def test_the_opponent_is_called_by_its_name_in_this_report_and_ties_are_counted(tmp_path):
    write(tmp_path / "sft", lines=lines(0.6), objective="sft")
    for seed in range(2):
        write(tmp_path / f"dpo_{seed}", lines=lines(0.6), seed=seed)
        rewards = [1.0] * 30 + [0.0] * 10
        evaluate(tmp_path / f"dpo_{seed}", rewards, against=(f"{tmp_path}/sft@best", [0.0] * 40), win_rate_length_controlled=0.8)
    duel = questions.duels(contents.read([tmp_path / "sft", tmp_path / "dpo_0", tmp_path / "dpo_1"])[0])
    assert [(one.opponent, one.rate.value, one.rate.seeds, one.ties, one.at_equal_length) for one in duel] == [
        ("sft@best", 0.875, 2, 0.25, 0.8)
    ]


def test_of_each_seed_the_last_comparison_with_an_opponent_counts_and_those_of_the_log_as_well(tmp_path):
    write(tmp_path / "run", lines=lines(0.6, **{"generate/win_rate": 0.75}))
    (tmp_path / "run/samples").mkdir()
    line = {"id": 0, "prompt": "p", "text": "t", "rewards": {}, "against": {"text": "u", "from": "reference"}, "verdict": 1.0}
    (tmp_path / "run/samples/step-9.jsonl").write_text(json.dumps(line))
    read = lambda: [(one.opponent, one.rate.value, one.rate.seeds) for one in questions.duels(contents.read([tmp_path / "run"])[0])]  # noqa: E731
    assert read() == [("reference", 0.75, 1)]
    for step, won in ((3, 1.0), (6, 0.0)):
        evaluate(tmp_path / "run", [won] * 4, step=step, against=("other", [0.5] * 4))
    assert read() == [("other", 0.0, 1), ("reference", 0.75, 1)]


def test_comparisons_with_different_settings_are_told_apart(tmp_path):
    write(tmp_path / "run", lines=lines(0.6))
    for tokens, other, won in ((8, "other", 1.0), (9, "other", 0.0), (9, "third", 0.5)):
        how = {"against": other, "max_new_tokens": tokens, **LENGTH}
        evaluate(tmp_path / "run", [won] * 4, against=(other, [0.5] * 4), settings=how, file=f"step-9-{tokens}-{other}")
    found = questions.duels(contents.read([tmp_path / "run"])[0])
    expected = [("other", "max_new_tokens 8", 1.0), ("other", "max_new_tokens 9", 0.0), ("third", "max_new_tokens 9", 0.5)]
    assert sorted((one.opponent, one.label, one.rate.value) for one in found) == expected
    text = page(tmp_path, tmp_path / "run").text
    assert "run against other (max_new_tokens 8) 1.00" in text and "run against other (max_new_tokens 9) 0.00" in text


def test_every_setting_of_the_section_has_its_place():
    places = (measures.DRAWN, measures.JUDGED, measures.OF_PROMPTS, measures.INDIFFERENT)
    assert sorted(key for keys in places for key in keys) == sorted(speech.GENERATE)


def summed(weight):
    """How answers were drawn and judged that a sum judges, one of whose rewards weighs this much."""
    judge = {"says": "be kind, temperature 2", "of": {"a": ["length", weight]}}
    return {"against": "other", "max_new_tokens": 8, "rewards": {"judge": judge}, "stop": ["x", "y, temperature 2"], "temperature": 1.0}


def test_the_weights_of_a_sum_belong_to_its_reward_and_not_to_how_answers_were_drawn(tmp_path):
    one, other = (measures.how(summed(weight), []) for weight in (1.0, 2.0))
    drawn = "max_new_tokens 8", "stop ('x', 'y, temperature 2')", "temperature 1.0"
    assert one.drawn == other.drawn and tuple(part.words for part in one.drawn) == drawn
    assert one.rewards == {"judge": "says be kind, temperature 2 of.a ('length', 1.0)"} and one.rewards != other.rewards
    write(tmp_path / "run", lines=lines(0.6))
    evaluate(tmp_path / "run", [1.0] * 4, against=("other", [0.5] * 4), settings=summed(1.0))
    (duel,) = questions.duels(contents.read([tmp_path / "run"])[0])
    rewards = "rewards.judge.says be kind, temperature 2, rewards.judge.of.a ('length', 1.0)"
    assert duel.settings == ", ".join([drawn[0], rewards, *drawn[1:]])


def test_the_only_reward_beside_an_endpoint_that_decides_is_not_by_the_endpoint():
    one = measures.how({"rewards": {"short": "length"}, "judge": "model@http://host:1"}, [])
    assert [part.words for part in one.of(measures.REWARD)] == ["by length"]
    assert one.of(measures.WIN_RATE)[-1].words == "by model@http://host:1"


def test_a_text_among_the_settings_is_no_setting(tmp_path):
    for name, stop in (("a", ["x, temperature 2"]), ("b", ["x"])):
        write(tmp_path / name, lines=[], objective=name)
        evaluate(tmp_path / name, [1.0] * 4, settings={**LENGTH, "max_new_tokens": 8, "stop": stop, "temperature": 1.0})
    text = page(tmp_path, tmp_path / "a", tmp_path / "b").text
    assert "generate/reward (b: stop ('x',); a: stop ('x, temperature 2',)); evaluate all with the same flags" in text
    assert "They were drawn otherwise: a with stop ('x, temperature 2',); b with stop ('x',)." in text


@pytest.mark.parametrize(
    ("prompts", "source"),
    [
        ({"path": "data/some.jsonl", "weight": 1.0}, "some.jsonl"),
        ({"path": ["data/some.jsonl", "my data/others.csv"]}, "some.jsonl, others.csv"),
        ({"hf": "org/set", "split": "test"}, "set"),
        ("data/some.jsonl", "some.jsonl"),
        (None, "the held-out rows"),
    ],
)
def test_the_source_of_prompts_is_named(prompts, source):
    assert measures.how({**LENGTH} | ({"prompts": prompts} if prompts else {}), []).source == source


def test_settings_that_an_older_version_wrote_as_a_text_are_shown_and_not_known(tmp_path):
    written = "max_new_tokens 8, rewards.judge length, temperature 1.0"
    for name, how in (("old", written), ("new", {"max_new_tokens": 8, **LENGTH, "temperature": 1.0})):
        write(tmp_path / name, lines=lines(0.6), objective=name, answers=how)
        evaluate(tmp_path / name, [1.0] * 4, against=("other", [0.5] * 4), settings=how)
    found = page(tmp_path, tmp_path / "old", tmp_path / "new").text
    known = "max_new_tokens 8, temperature 1.0, by length"
    assert f"not compared in generate/reward (new: {known}; old: settings not known, by judge)" in found
    assert f"oldstep-9{written}newstep-9{written}" in found and f"answers{written}" in found  # of the evaluations, and what is the same
    assert "damaged" not in found and "drawn otherwise" not in found


def test_what_started_from_different_models_stands_in_different_panels(tmp_path):
    for name, start in (("sft", "base"), ("dpo", "sft/export"), ("ipo", "sft/export")):
        write(tmp_path / name, lines=lines(0.6), objective=name, model=f"{start}; llama, 1,000 parameters")
    found = page(tmp_path, *(tmp_path / name for name in ("sft", "dpo", "ipo")))
    panels = [label for label in found.having("aria-label") if label.startswith("Held-out accuracy, from")]
    assert [label.rpartition("of ")[2] for label in panels] == ["sft", "dpo, ipo"]


def test_every_section_is_there_and_leads_to_its_data(tmp_path):
    for name, gain in (("sft", 0.0), ("dpo", 0.5)):
        write(tmp_path / name, lines=lines(0.6), objective=name, samples=[FOLLOWED])
        evaluate(tmp_path / name, [gain] * PROMPTS, kl=gain, against=("reference", [0.1] * PROMPTS), text=f"{name} speaks")
    found = page(tmp_path, tmp_path / "sft", tmp_path / "dpo")
    assert found.having("href") == [f"#{name}" for name in ("answer", "kl", "curves", "texts", "settings", "data", "cost", "made")]
    assert set(found.having("href")) == {f"#{name}" for name in found.having("id")}
    sentences = ("sft speaks", "dpo speaks", "47 of 50 (94.0%)", "dropped 3 by plain", "−2.0 → −1.5 (+0.5)", "Held-out loss of dpo", "won")
    assert not [sentence for sentence in sentences if sentence not in found.text]
    assert not re.search(r"\bnan\b|\bNone\b", found.text)


def test_what_differs_stands_apart_from_what_does_not(tmp_path):
    write(tmp_path / "a", lines=lines(0.6), reference="soft, alpha 0.6")
    write(tmp_path / "b", lines=lines(0.6), reference="soft, alpha 0.8")
    text = page(tmp_path, tmp_path / "a", tmp_path / "b").text
    differs, same = text[text.index("differs in") :].split("What is the same")
    assert "alpha 0.6" in differs and "alpha 0.8" in differs and "beta 0.1" not in differs
    assert "referencesoft" in same and "dpo, beta 0.1" in same


def test_no_text_of_a_user_becomes_an_element(tmp_path):
    run = tmp_path / "<b>run"
    sample = {"prompt": HOSTILE, "responses": [{"what": HOSTILE, "text": HOSTILE, "before": None, "after": None}]}
    write(run, lines=lines(0.6, **{f"odd/{HOSTILE}": 0.1}), text=HOSTILE, objective=HOSTILE, samples=[sample])
    evaluate(run, [0.5] * 3, text=HOSTILE, prompts=[HOSTILE, "2", "3"], against=(HOSTILE, [0.0] * 3), **{f"reward/{HOSTILE}": 0.5})
    found = page(tmp_path, run)
    assert not {name for name, _ in found.elements} & {"script", "img", "b>run"}
    assert not [name for _, attributes in found.elements for name in attributes if name.startswith("on")]
    assert "<script>document.title='x'</script><img" in found.text and "\x00" not in found.text and "\x1b" not in found.text


def test_the_page_loads_nothing_and_needs_no_script(tmp_path):
    write(tmp_path / "run", lines=lines(0.6))
    found = page(tmp_path, tmp_path / "run")
    names = {name for name, _ in found.elements}
    assert not names & {"script", "link", "iframe", "object", "embed", "img", "base", "form"} and not found.having("src")
    assert any("default-src 'none'" in content for content in found.having("content"))
    text = (tmp_path / "page.html").read_text()
    assert not [word for word in ("url(", "@import", "http:", "https:") if word in text]


def test_damaged_files_are_named_and_passed_over(tmp_path, capsys):
    write(tmp_path / "run", lines=lines(0.9))
    evaluate(tmp_path / "run", [1.0] * 5)
    samples, numbers = tmp_path / "run/evaluations/step-9.samples.jsonl", tmp_path / "run/evaluations/step-3.json"
    with samples.open("a") as file:
        file.write('{"id": 1, "text": 3}\nnonsense\n{"id": 9')
    numbers.write_text('{"start": 3}')
    (tmp_path / "run/summary.json").write_bytes(b"\xff")
    with (tmp_path / "run/metrics.jsonl").open("a") as file:
        file.write("broken\n")
    found = page(tmp_path, tmp_path / "run")
    for path, what in ((samples, "3 of 8 lines are damaged"), (numbers, "is damaged"), (tmp_path / "run/metrics.jsonl", "1 of 13 lines")):
        assert re.search(f"{re.escape(str(path))}[^/]*{what}", found.text)
    assert f"{tmp_path / 'run/summary.json'} is damaged" in found.text
    assert capsys.readouterr().err.count("passed over") == 4
    assert "run is better than at its start" in found.text and "#settings" not in found.having("href")


def places(value, path=()):
    """The path to everything in a value of JSON."""
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*path, key))


def replaced(value, path, new):
    """The value with something else at a path."""
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@pytest.mark.parametrize("name", ["summary.json", "metrics.jsonl", "evaluations/step-9.json", "evaluations/step-9.samples.jsonl"])
def test_whatever_stands_in_a_file_the_page_is_made(tmp_path, name):
    settings = {**summed(1.0), "prompts": {"path": "some.jsonl"}, "judge": "judge"}
    write(tmp_path / "run", lines=lines(0.6), samples=[FOLLOWED])
    evaluate(tmp_path / "run", [0.5, 0.7], kl=1.0, against=("reference", [0.1, 0.7]), settings=settings)
    file = tmp_path / "run" / name
    *before, last = file.read_text().splitlines() if name.endswith("l") else [file.read_text()]
    for path in places(json.loads(last)):
        for new in (None, "x", [1], 1e400, 10**400, 5):
            file.write_text("\n".join([*before, json.dumps(replaced(json.loads(last), path, new)), ""]))
            assert document.page(*contents.read([tmp_path / "run"])).endswith("</html>\n"), (path, new)


def test_a_run_that_was_never_evaluated_has_a_page(tmp_path):
    write(tmp_path / "run", lines=[])
    found = page(tmp_path, tmp_path / "run")
    assert "Nothing was measured that ranks these runs, so which is better cannot be told." in found.text
    assert "run was never evaluated on held-out prompts." in found.text
    assert "Training loss of dpo, beta 0.1" in found.text and "#kl" not in found.having("href")


def test_chosen_answers_that_became_less_likely_raise_the_alarm(tmp_path):
    for seed, last in enumerate((-30.0, -9.9, -40.0)):
        of_seed = [{**line, "logps/chosen": value} for line, value in zip(lines(0.6), (-10.0, last), strict=True)]
        write(tmp_path / f"dpo_{seed}", lines=of_seed, seed=seed)
    assert "dpo (2 of 3 seeds): ALARM: the chosen answers are less likely" in page(tmp_path, *sorted(tmp_path.glob("dpo_?"))).text


def test_answers_of_opponents_stand_beside_those_of_the_configurations_once(tmp_path):
    for name, text in (("sft", "first"), ("dpo", "second"), ("ipo", "third")):
        write(tmp_path / name, lines=lines(0.6), objective=name)
        evaluate(tmp_path / name, [0.5], text=text, against=("reference", [0.0]))
        file = tmp_path / name / "evaluations/step-9.samples.jsonl"
        sample = json.loads(file.read_text())
        sample["against"]["text"] = "before" if name == "sft" else "first"
        file.write_text(json.dumps(sample))
    cards = page(tmp_path, *(tmp_path / name for name in ("sft", "dpo", "ipo"))).cards
    assert [card.split("judge")[0] for card in cards] == ["sft", "dpo", "ipo", "start of sft"]


def test_stages_of_runs_are_configurations_and_are_chosen(tmp_path):
    for seed in range(2):
        for stage in ("sft", "dpo"):
            write(tmp_path / f"run_{seed}" / stage, lines=lines(0.6), seed=seed, objective=stage)
    found = page(tmp_path, tmp_path / "run_0", tmp_path / "run_1", "--stages", "sft")
    assert "1 configuration" not in found.text and "2 runs, 2026-01-02" in found.text and "Held-out loss of sft" in found.text
    assert "Held-out loss of dpo" not in found.text
    assert "2 configurations, 4 runs" in page(tmp_path, tmp_path / "run_0", tmp_path / "run_1").text


def test_samples_of_the_last_step_stand_in_for_those_of_an_evaluation(tmp_path):
    write(tmp_path / "run", lines=lines(0.6))
    (tmp_path / "run/samples").mkdir()
    for step, text in ((2, "early"), (10, "late")):
        line = {"id": "a", "sample": 0, "prompt": [{"role": "user", "content": "hello"}], "text": text, "rewards": {"judge": None}}
        (tmp_path / f"run/samples/step-{step}.jsonl").write_text(json.dumps(line) + "\n")
    text = page(tmp_path, tmp_path / "run").text
    assert "user: hello" in text and "late" in text and "early" not in text


def test_an_evaluation_adds_no_held_out_metrics_of_other_rows(tmp_path):
    write(tmp_path / "run", lines=lines(0.6))
    other = {"accuracy": {"value": 0.9, "se": 0.0, "n": 7}, "generate/kl": {"value": 2.0, "se": None, "n": 1}}
    (tmp_path / "run/evaluations").mkdir()
    (tmp_path / "run/evaluations/step-9-0a1b2c3d.json").write_text(json.dumps({"checkpoint": other}))
    (entry,), _ = contents.read([tmp_path / "run"])
    metrics = dict(entry.runs[0].held_out)[9]
    assert metrics["accuracy"].value == 0.6 and metrics["generate/kl"].value == 2.0


@pytest.mark.parametrize(("out", "message"), [("", "is no run"), ("folder", "is a folder; name a file for the page")])
def test_what_cannot_be_is_refused(tmp_path, capsys, out, message):
    (tmp_path / "folder").mkdir()
    assert report.main([str(tmp_path / "folder"), "--out", str(tmp_path / (out or "page.html"))]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-0.3, 0.9, [-0.2, 0, 0.2, 0.4, 0.6, 0.8]), (0, 72, [0, 20, 40, 60]), (3, 3, [3])],
)
def test_ticks_are_round_numbers(low, high, expected):
    assert charts.ticks(low, high) == pytest.approx(expected)


def test_a_panel_places_its_points_where_their_values_are():
    curve = charts.Curve("a", 0, [(0, 0.0), (10, 1.0)], low=[0.0, 0.5], high=[0.0, 1.5])
    found = Elements(charts.lines("t", "x", "y", [curve]))
    (left, low), (right, up) = ((float(c["cx"]), float(c["cy"])) for name, c in found.elements if name == "circle")
    assert left < right and low > up
    band = next(c["points"] for name, c in found.elements if name == "polygon").split()
    assert band[0] == band[-1] == f"{left:.1f},{low:.1f}" and len(band) == 4


def test_long_curves_keep_their_ends_and_long_lists_their_count(tmp_path):
    for i in range(8):
        write(tmp_path / f"run{i}", lines=lines(0.6, steps=range(1000) if i == 0 else (0, 999)), objective=str(i))
    found = page(tmp_path, *(tmp_path / f"run{i}" for i in range(8)))
    assert "run0, run1, run2, run3, run4 and 3 more" in found.text
    longest = max((attributes["points"].split() for name, attributes in found.elements if name == "polyline"), key=len)
    assert 100 < len(longest) <= 122


def test_markup_is_escaped_once():
    assert tag("p", "<&>", tag("b", "'"), title='"') == '<p title="&quot;">&lt;&amp;&gt;<b>&#x27;</b></p>'
    assert escaped("\ud800") == "?"

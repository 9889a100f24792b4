"""Every group gets a response of another prompt: marked, never valid, cut only where none fits, and in no objective's way."""

import dataclasses
import json

import numpy as np
import prepare_runs
import pytest
from tiny_data import make_groups, random_groups

from jaxalign import inspect, objectives
from jaxalign.data.rows import loader, mismatch, pack, store

ROOM = 200


def with_prompts(groups, prompts):
    """The groups with prompt g filled with the token prompts[g]; prompts have one length."""
    tokens = groups.tokens.copy()
    for g, prompt in enumerate(prompts):
        start = groups.offsets[g * (groups.responses + 1)]
        tokens[start : start + groups.lengths()[g, 0]] = prompt
    return dataclasses.replace(groups, tokens=tokens)


def with_donors(groups, *, row_tokens=ROOM, share_prompt=True, seed=0):
    donors = mismatch.choose(groups, row_tokens=row_tokens, share_prompt=share_prompt, seed=seed)
    return dataclasses.replace(groups, donors=donors)


@pytest.mark.parametrize("prompts", [[1] * 10 + [2] * 10, [1, 2] * 10, [1] * 19 + [2], [1] * 18 + [2, 3], list(range(20))])
@pytest.mark.parametrize("seed", range(5))
def test_the_prompt_of_a_donor_is_never_the_groups_own(prompts, seed):
    groups = with_prompts(make_groups([3] * 20, [[2, 4]] * 20), prompts)
    donors = with_donors(groups, seed=seed).donors
    assert all(prompts[group] != prompts[donor] for group, donor in enumerate(donors[:, 0]))
    assert set(donors[:, 1]) <= {0, 1} and len(donors) == 20


def test_donors_are_drawn_from_the_whole_set_and_not_from_the_neighbour():
    donors = with_donors(random_groups(200)).donors
    steps = (donors[:, 0] - np.arange(200)) % 200
    assert np.unique(steps).size > 100 and 40 < steps.mean() < 160
    assert 60 < donors[:, 1].sum() < 140
    assert len(np.unique(donors[:, :2], axis=0)) > 190  # a permutation: hardly any response twice


def test_the_same_seed_gives_the_same_donors_and_another_seed_others():
    groups = random_groups()
    assert np.array_equal(with_donors(groups).donors, with_donors(groups).donors)
    assert not np.array_equal(with_donors(groups).donors, with_donors(groups, seed=1).donors)


def test_responses_that_are_not_there_are_never_donors():
    groups = random_groups(40, responses=4)
    donors = with_donors(groups).donors
    assert groups.valid[donors[:, 0], donors[:, 1]].all()


@pytest.mark.parametrize("share_prompt", [True, False])
def test_a_donor_that_fits_the_row_is_preferred_to_one_that_is_cut(share_prompt):
    groups = make_groups([3] * 20, [[2, 9]] * 10 + [[2, 3]] * 10)
    taken = int(pack.group_tokens(groups, share_prompt=share_prompt).max()) + (1 if share_prompt else 3)
    whole = with_donors(groups, row_tokens=taken + 3, share_prompt=share_prompt)
    lengths = groups.lengths()[whole.donors[:, 0], 1 + whole.donors[:, 1]]
    np.testing.assert_array_equal(whole.donors[:, 2], lengths)
    assert pack.group_tokens(whole, share_prompt=share_prompt).max() <= taken + 3
    cut = with_donors(groups, row_tokens=taken + 1, share_prompt=share_prompt)
    assert (cut.donors[:10, 2] == 1).all()
    assert pack.group_tokens(cut, share_prompt=share_prompt).max() == taken + 1


@pytest.mark.parametrize("share_prompt", [True, False])
def test_a_group_without_room_is_refused_naming_row_tokens(share_prompt):
    groups = make_groups([3, 3], [[2, 2], [2, 9]])
    taken = int(pack.group_tokens(groups, share_prompt=share_prompt).max())
    with pytest.raises(ValueError, match=f"group 1 has {taken} tokens.*no room in row_tokens={taken}; raise data.row_tokens"):
        with_donors(groups, row_tokens=taken, share_prompt=share_prompt)


def test_rows_of_one_prompt_stay_one_prompt_where_their_cuts_differ(tmp_path):
    folder = prepare_runs.make_folder(tmp_path)
    one = "".join(chr(97 + i % 26) for i in range(90))  # cut to the room that each answer leaves
    rows = [{"prompt": one, "completion": "x" * (5 + i), "label": True} for i in range(8)]
    rows += [{"prompt": f"other {i}", "completion": "y" * 9, "label": False} for i in range(4)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepared = store.read(prepare_runs.run(folder, mismatched=True))
    cut = {prepared.groups.piece(g, 0)[0].tobytes() for g in range(8)}
    assert len(cut) > 1 and prepared.source_rows.tolist() == list(range(12))
    assert (prepared.groups.donors[:8, 0] >= 8).all()
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:8]))
    with pytest.raises(ValueError, match="all 8 groups have the same prompt"):
        prepare_runs.run(folder, mismatched=True)


def test_a_set_of_one_prompt_is_refused():
    groups = with_prompts(make_groups([3] * 4, [[2, 2]] * 4), [7] * 4)
    with pytest.raises(ValueError, match="all 4 groups have the same prompt.*more than one prompt"):
        with_donors(groups)


@pytest.mark.parametrize("share_prompt", [True, False])
@pytest.mark.parametrize("responses", [1, 2, 4])
def test_a_donor_is_laid_after_the_groups_prompt_and_leaves_the_rest_alone(share_prompt, responses):
    plain = random_groups(20, responses=responses)
    groups = with_donors(plain, share_prompt=share_prompt)
    plan = np.arange(20)[:, None]
    arrays, before = (pack.assemble(g, plan, row_tokens=ROOM, share_prompt=share_prompt) for g in (groups, plain))
    own = plain.responses
    assert groups.responses == own + 1 and before["columns"] == {}
    assert np.count_nonzero(arrays["segments"], axis=1).tolist() == pack.group_tokens(groups, share_prompt=share_prompt).tolist()
    np.testing.assert_array_equal(arrays["valid"], np.pad(before["valid"], [(0, 0), (0, 1)]))
    np.testing.assert_array_equal(arrays["reward"], np.pad(before["reward"], [(0, 0), (0, 1)]))
    np.testing.assert_array_equal(arrays["paired"], before["paired"])
    marked = np.zeros((20, own + 1), np.float32)
    marked[:, own] = 1
    np.testing.assert_array_equal(arrays["columns"]["mismatched"], marked)
    for g, (donor, response, taken) in enumerate(groups.donors.tolist()):
        tokens, mask = (part[:taken] for part in plain.piece(donor, 1 + response))
        at = np.flatnonzero(arrays["slots"][g] == own)
        assert arrays["tokens"][g, at].tolist() == tokens[mask == 1].tolist()
        prompt = plain.piece(g, 0)[0]
        assert arrays["positions"][g, at].tolist() == (len(prompt) + np.flatnonzero(mask)).tolist()
        last = arrays["segments"][g, at[-1]], arrays["prefixes"][g, at[-1]]
        seen = np.isin(arrays["segments"][g], [s for s in last if s]) & (np.arange(ROOM) <= at[-1])
        assert arrays["tokens"][g, seen].tolist()[: len(prompt)] == prompt.tolist()
        for k in range(own):  # what the other responses score is what they scored without it
            np.testing.assert_array_equal(
                arrays["tokens"][g, arrays["slots"][g] == k], before["tokens"][g, before["slots"][g] == k]
            )


def test_prepared_rows_hold_room_for_the_response_of_another_prompt(tmp_path):
    folder = prepare_runs.make_folder(tmp_path)
    long = {"prompt": "q" * 100, "chosen": "c" * 12, "rejected": "r" * 12}
    with open(folder / "pairs.jsonl", "a") as file:
        file.write(json.dumps(long) + "\n")
    made = prepare_runs.run(folder, mismatched=True)
    prepared, without = store.read(made), store.read(prepare_runs.run(folder))
    assert made.parent != without.folder.parent and made == prepare_runs.run(folder, mismatched=True)
    assert len(prepared.groups) == 301 and without.groups.donors is None
    sizes = pack.group_tokens(prepared.groups, share_prompt=True)
    assert sizes.max() <= 64 and prepared.meta["row_real_tokens"] == sizes.sum()
    prompts = [prepared.groups.piece(g, 0)[0].tobytes() for g in range(301)]
    assert all(prompts[g] != prompts[donor] for g, donor in enumerate(prepared.groups.donors[:, 0]))
    assert (prepared.groups.donors[:, 2] == prepared.groups.lengths()[prepared.groups.donors[:, 0], 1 + prepared.groups.donors[:, 1]]).all()
    batch = loader.eval_batches(prepared, rows=4)[0]
    assert batch["columns"]["mismatched"].shape == batch["valid"].shape == (4 * prepared.plan.shape[1], 3)


def test_inspect_marks_the_response_of_another_prompt(tmp_path, capsys):
    folder = prepare_runs.make_folder(tmp_path)
    assert inspect.main(["--prepared", str(prepare_runs.run(folder, mismatched=True)), "--rows", "1"]) == 0
    assert "response 2, of another prompt, " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "options", "needed"),
    [("dpo", {}, False), ("kto", {}, True), ("una", {"offset": "kl_batch"}, True), ("una", {"offset": "zero"}, False)],
)
def test_an_objective_reads_mismatched_responses_where_its_options_need_them(name, options, needed):
    assert ("mismatched" in objectives.bind(name, **options).reads) is needed

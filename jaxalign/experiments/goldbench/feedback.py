"""What a noisy rater says of four responses to each prompt, as pairs, thumbs, scores, advantages or the best one, from one draw of noise.

The rater's utility of a response is gold / T + a standard Gumbel number, drawn once per response, so that "the larger utility is preferred"
is exactly the Bradley-Terry model of the gold. T is such that labels agree with the gold on a given share of pairs that are not tied.
"""

import dataclasses
from pathlib import Path

import numpy as np

from jaxalign.data.rows import mismatch, pack, store
from jaxalign.experiments.goldbench import golds
from jaxalign.experiments.goldbench.world import Answers
from jaxalign.training import reference

ROW_TOKENS, MISMATCHED_ROW_TOKENS = 208, 288  # of a row that holds two pairs, the second with a response of another prompt each
PAIRS_PER_ROW = 2
SQUASH = 1.5  # a score is sigmoid(SQUASH (u - median) / sd)
FORMS = ("pairs", "labels", "scores", "advantages", "best")
PROXY_FEATURES = 5  # a word that fewer responses have is no feature of a proxy
PROXY_RIDGE = 1.0


@dataclasses.dataclass(frozen=True)
class Judged:
    """One rater's view of the four responses to every prompt."""

    gold: np.ndarray  # float64[n, 4]; what the rater goes by
    utility: np.ndarray  # float64[n, 4]
    temperature: float

    @property
    def thumbs(self) -> np.ndarray:
        """bool[n, 4]: utility above the median."""
        return self.utility > np.median(self.utility)

    @property
    def scores(self) -> np.ndarray:
        """float64[n, 4] in (0, 1)."""
        return 1 / (1 + np.exp(-SQUASH * (self.utility - np.median(self.utility)) / self.utility.std()))

    @property
    def advantages(self) -> np.ndarray:
        """float64[n, 4]: the score less the mean score of the prompt's other responses."""
        count = self.scores.shape[1]
        return (self.scores - self.scores.mean(1, keepdims=True)) * count / (count - 1)


def judged(gold: np.ndarray, *, agreement: float, seed: int, stream: int = 0) -> Judged:
    """The rater of a gold float64[n, 4] whose pair labels agree with it in this share of pairs that are not tied.

    Noise is of the seed, and raters of different streams share none.
    """
    temperature = temperature_for(gold, agreement)
    noise = np.random.default_rng((seed, 1, stream)).gumbel(size=gold.shape)
    return Judged(gold, gold / temperature + noise, temperature)


def mixed(first: Judged, second: Judged, *, share: float, seed: int) -> Judged:
    """The first rater with this chance for each pair, else the second: what a mixture of their two losses has in expectation."""
    coins = np.random.default_rng((seed, 4)).random((len(first.gold), first.gold.shape[1] // 2)) < share
    return dataclasses.replace(first, utility=np.where(coins.repeat(2, axis=1), first.utility, second.utility))


def temperature_for(gold: np.ndarray, agreement: float) -> float:
    """T at which labels of the pairs (0, 1) and (2, 3) are expected to agree with the gold this often, ties left out; by bisection.

    Raises:
      ValueError: the agreement is not between 1/2 and 1.
    """
    if not 0.5 < agreement < 1:
        raise ValueError(f"agreement {agreement} is no share of labels between 1/2 (a coin) and 1 (no noise).")
    gaps = np.abs(gold[:, ::2] - gold[:, 1::2])
    gaps = gaps[gaps > 0]
    low, high = 1e-4, 1e4
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if (1 / (1 + np.exp(-gaps / middle))).mean() > agreement else (low, middle)
    return low


def pair_members(answers: Answers, *truths: np.ndarray) -> np.ndarray:
    """int64[m, 3], (prompt, response, response): pairs (0, 1) and (2, 3) of each prompt that differ in text and in one of the golds."""
    found = []
    for prompt, own in enumerate(answers.texts):
        for first in range(0, len(own), 2):
            differ = any(gold[prompt, first] != gold[prompt, first + 1] for gold in truths)
            if differ and own[first] != own[first + 1]:
                found.append((prompt, first, first + 1))
    return np.array(found, np.int64)


def prepared(
    form: str, judge: Judged, answers: Answers, *, mismatched: bool, margin: np.ndarray | None = None, other: Judged | None = None
) -> store.Prepared:
    """The feedback as a set in memory; every form but "best" holds the same responses, two of a prompt in a group, in the same rows.

    Args:
      form: one of FORMS. "pairs": the preferred response first; "labels" 1 or 0; "scores"; "advantages": scores with a column "advantage";
        "best": the best of four alone.
      mismatched: every group also gets a response of another prompt.
      margin: float64[n, 4], a reward of another gold, as the column "margin".
      other: the rater of a second gold: pairs are left out only where they are tied in both.

    Raises:
      ValueError: no such form.
    """
    if form not in FORMS:
        raise ValueError(f"feedback has no form {form!r}; there are {', '.join(FORMS)}.")
    if form == "best":
        members = np.array([(p, k) for p, k in enumerate(judge.utility.argmax(1))])
    else:
        members = pair_members(answers, judge.gold, *([other.gold] if other else []))
    if form == "pairs":
        turned = judge.utility[members[:, 0], members[:, 1]] < judge.utility[members[:, 0], members[:, 2]]
        members = np.where(turned[:, None], members[:, [0, 2, 1]], members)
    at = members[:, :1], members[:, 1:]
    reward = {"pairs": np.array([[1.0, 0.0]]), "labels": judge.thumbs, "best": np.ones((1, 1))}.get(form, judge.scores)
    columns = {"advantage": judge.advantages} if form == "advantages" else {}
    columns |= {} if margin is None else {"margin": margin}
    return rows(
        answers,
        members,
        reward=reward[at] if reward.shape == judge.utility.shape else np.broadcast_to(reward, members[:, 1:].shape),
        paired=form == "pairs",
        columns={name: column[at].astype(np.float32) for name, column in columns.items()},
        mismatched=mismatched,
        name=form,
    )


def rows(answers: Answers, members: np.ndarray, *, reward, paired: bool, columns, mismatched: bool, name: str) -> store.Prepared:
    """The set of these responses, int64[m, 1 + K]: (prompt, response, ...), with the base's log-probs where nothing is mismatched.

    A response of another prompt would need log-probs of its own there, so such a set goes with a reference in memory.
    """
    pieces, logps = [], []
    for prompt, *responses in members.tolist():
        pieces += [answers.prompts[prompt], *(answers.ids[prompt][k] for k in responses)]
        logps += [np.zeros(len(answers.prompts[prompt])), *(answers.logps[prompt][k] for k in responses)]
    each = members.shape[1]
    scored = np.concatenate([np.full(len(piece), i % each > 0, np.uint8) for i, piece in enumerate(pieces)])
    groups = pack.Groups(
        np.concatenate(pieces).astype(np.int32),
        scored,
        np.cumsum([0, *map(len, pieces)]),
        np.asarray(reward, np.float32),
        np.full(len(members), paired),
        np.ones((len(members), each - 1), bool),
        columns=columns if mismatched else columns | {reference.COLUMN: np.concatenate(logps).astype(np.float32)},
    )
    layout = {"row_tokens": MISMATCHED_ROW_TOKENS if mismatched else ROW_TOKENS, "share_prompt": True}
    if mismatched:
        groups = dataclasses.replace(groups, donors=mismatch.choose(groups, **layout, seed=0))
    sizes = pack.group_tokens(groups, share_prompt=True)
    most = PAIRS_PER_ROW if each > 2 else 2 * PAIRS_PER_ROW
    plan = pack.plan_rows(sizes, row_tokens=layout["row_tokens"], pack=True, max_groups=most)
    return store.Prepared(Path(name, "rows"), {**layout, "tokenizer": "gold"}, groups, plan, members[:, 0])


@dataclasses.dataclass(frozen=True)
class Proxy:
    """A Bradley-Terry model whose reward is linear in the counts of words: it knows what its pairs showed, and nothing of the rest."""

    features: dict[str, int]  # word -> its place
    weights: np.ndarray  # float64[words]

    def scored(self, responses) -> np.ndarray:
        """Its reward of every response, float64[n, K]."""
        return np.array([[float(_counts(text, self.features) @ self.weights) for text in own] for own in responses])


def proxy(judge: Judged, answers: Answers, *, pairs: int, seed: int) -> Proxy:
    """The proxy that this many of the rater's pairs, drawn with the seed, fit best under a ridge; by Newton's method."""
    members = pair_members(answers, judge.gold)
    members = members[np.random.default_rng((seed, 2)).permutation(len(members))[:pairs]]
    seen: dict[str, int] = {}
    for own in answers.texts:
        for text in own:
            for word in set(golds.words(text)):
                seen[word] = seen.get(word, 0) + 1
    features = {word: i for i, word in enumerate(sorted(word for word, count in seen.items() if count >= PROXY_FEATURES))}
    sides = [np.stack([_counts(answers.texts[m[0]][m[k]], features) for m in members]) for k in (1, 2)]
    first = judge.utility[members[:, 0], members[:, 1]] > judge.utility[members[:, 0], members[:, 2]]
    x = np.where(first[:, None], sides[0] - sides[1], sides[1] - sides[0])
    return Proxy(features, _newton(x))


def _newton(x: np.ndarray, steps: int = 20) -> np.ndarray:
    """argmin over w of sum softplus(-x w) + ridge |w|^2 / 2, in the space of the pairs, which are fewer than words: w = x' a."""
    gram, a = x @ x.T, np.zeros(len(x))
    for _ in range(steps):
        p = 1 / (1 + np.exp(gram @ a))  # of the wrong side
        # a = p / ridge at the optimum: solve for the step of a - p(a) / ridge = 0
        slope = np.eye(len(x)) + (p * (1 - p))[:, None] * gram / PROXY_RIDGE
        a = a - np.linalg.solve(slope, a - p / PROXY_RIDGE)
    return x.T @ a


def _counts(text: str, features: dict[str, int]) -> np.ndarray:
    counts = np.zeros(len(features))
    own = golds.words(text)
    for word in own:
        if word in features:
            counts[features[word]] += 1
    return counts / max(len(own), golds.FEWEST) * golds.FEWEST

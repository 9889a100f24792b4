"""KL divergence of a policy from a reference over whole answers, measured on the policy's own samples."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jaxalign import objectives
from jaxalign.data.rows import memory
from jaxalign.evaluators import held_out
from jaxalign.training import metrics, step
from jaxalign.types import Terms

Ids = Sequence[int]
BUCKET = 64  # rows have a multiple of so many tokens, so that few lengths are compiled
TOKENS_PER_GROUP = 16  # of a row: with fewer groups than it holds, rows are filled less


class Divergence:
    """KL(policy || reference) in nats per answer, an expectation over prompts and the policy's own answers.

    An answer's summand is the sum over its tokens of the KL of the two next-token distributions: its mean is the mean of
    log pi(y | x) - log pi_ref(y | x), and its variance is smaller (arXiv 2504.10637, the Rao-Blackwellised estimator). The answers must be
    drawn at temperature 1 from the whole vocabulary.

    With a teacher in the place of the policy and its student in that of the reference it is the proxy of teacher hacking, KL(teacher ||
    student) of whole texts; the same answers of the teacher at every measurement take most of the noise out of differences.
    """

    def __init__(self, look, *, rows: int, look_of_reference=None):
        """Compiles nothing yet.

        Args:
          look: (params, batch, step) -> Outputs, see `training.forward`.
          rows: of a batch.
          look_of_reference: the same of the reference, where it is a model of another size; None: `look`.
        """
        self._rows = rows
        self._eval_step = step.make_eval_step(look, objectives.plain(_nothing), metrics.kl, teacher=look_of_reference)

    def measure(self, state, prompts: Sequence[Ids], answers: Sequence[Sequence[Ids]], *, longest: int) -> tuple[np.ndarray, np.ndarray]:
        """(sums of KL over the answers of every prompt, numbers of answers), float64[n] twice, as `estimates.estimate` takes them.

        Args:
          state: a TrainState with the weights of the reference.
          prompts, answers: token ids, the same number of answers for all prompts.
          longest: most tokens of an answer, whatever these have.
        """
        tokens = -(-(max(map(len, prompts)) + longest) // BUCKET) * BUCKET
        groups = [(prompt, [ids]) for prompt, own in zip(prompts, answers, strict=True) for ids in own]
        data = memory.prepared(groups, row_tokens=tokens, max_groups=max(1, tokens // TOKENS_PER_GROUP), name="own samples")
        sums, _ = held_out.measure(self._eval_step, state.replace(initial=None, statistics={}), data, rows=self._rows)["kl"]
        places = data.plan.ravel()
        by_answer = np.zeros(len(groups))
        by_answer[places[places >= 0]] = sums[: len(places)][places >= 0]
        return by_answer.reshape(len(prompts), -1).sum(1), np.full(len(prompts), float(len(answers[0])))


def _nothing(policy, reference, batch):
    """The objective that measures nothing: "kl" stands beside it."""
    zeros = jnp.zeros_like(batch.reward)
    return Terms(zeros, zeros, {})

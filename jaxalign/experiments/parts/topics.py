"""A language whose next-token distribution is known exactly: a mixture of bigram topics, of which a reader infers the topic as it reads.

It is the oracle of `teacher_hacking`, so that no neural network has to stand for the truth.
"""

import dataclasses

import numpy as np

Rng = np.random.Generator


@dataclasses.dataclass(frozen=True)
class Language:
    """Prompts are independent draws from a topic's unigrams, responses a chain of its bigrams that begins at the prompt's last token."""

    unigrams: np.ndarray  # float64[K, V]
    bigrams: np.ndarray  # float64[K, V, V]; the token before, the token
    prompt: int  # tokens
    response: int  # tokens; every response is so long

    @classmethod
    def draw(cls, seed: int, *, vocabulary: int = 16, topics: int = 6, prompt: int = 6, response: int = 12):
        """A random language; smoothed, so that every token is always possible."""
        rng = np.random.default_rng(seed)
        unigrams = 0.9 * rng.dirichlet(np.full(vocabulary, 0.3), topics) + 0.1 / vocabulary
        bigrams = 0.98 * rng.dirichlet(np.full(vocabulary, 0.15), (topics, vocabulary)) + 0.02 / vocabulary
        return cls(unigrams, bigrams, prompt, response)

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return self.unigrams.shape[1]

    def prompts(self, count: int, rng: Rng) -> np.ndarray:
        """int32[count, prompt]; topics are equally likely."""
        topics = rng.integers(0, len(self.unigrams), count)
        return _draws(np.repeat(self.unigrams[topics][:, None], self.prompt, axis=1), rng)

    def responses(self, prompts: np.ndarray, rng: Rng) -> np.ndarray:
        """One response to each prompt, drawn from the language: int32[n, response]."""
        belief, before, tokens = self._belief(prompts), prompts[:, -1], []
        for _ in range(self.response):
            tokens.append(_draws(self._next(belief, before), rng))
            belief, before = self._after(belief, before, tokens[-1]), tokens[-1]
        return np.stack(tokens, axis=1)

    def log_probs(self, prompts: np.ndarray, responses: np.ndarray) -> np.ndarray:
        """The log of the whole distribution of every token of given responses: float64[n, response, V]."""
        belief, before, found = self._belief(prompts), prompts[:, -1], []
        for token in responses.T:
            found.append(np.log(self._next(belief, before)))
            belief, before = self._after(belief, before, token), token
        return np.stack(found, axis=1)

    def _belief(self, prompts):
        """log of the weight of every topic after reading the prompts, normalised: [n, K]."""
        return _normalised(np.log(self.unigrams)[:, prompts].sum(-1).T)

    def _after(self, belief, before, token):
        return _normalised(belief + np.log(self.bigrams)[:, before, token].T)

    def _next(self, belief, before):
        # p(y_t | x, y_<t) = sum_z w_t(z) A[z, y_{t-1}, y_t]
        return np.einsum("nk,knv->nv", np.exp(belief), self.bigrams[:, before])


def _normalised(logs):
    return logs - np.logaddexp.reduce(logs, axis=-1, keepdims=True)


def _draws(probabilities, rng):
    ends = probabilities.cumsum(-1)
    return (rng.random((*probabilities.shape[:-1], 1)) * ends[..., -1:] >= ends).sum(-1).clip(max=ends.shape[-1] - 1).astype(np.int32)

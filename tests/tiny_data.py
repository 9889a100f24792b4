"""Small groups of tokens with known content, and a chat template that ends turns with a line break after the stop token."""

import numpy as np

from jaxalign.data import pack

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_groups(prompts, responses, *, paired=True):
    """Groups of the given lengths; every token of the set is a different number. responses: a list of lengths for each group."""
    width = max(len(lengths) for lengths in responses)
    lengths = np.array([[p, *r, *[0] * (width - len(r))] for p, r in zip(prompts, responses, strict=True)])
    offsets = np.concatenate([[0], lengths.ravel().cumsum()])
    scored = np.zeros(offsets[-1], np.uint8)
    for g in range(len(prompts)):
        for k in range(width):
            start, stop = offsets[g * (width + 1) + 1 + k], offsets[g * (width + 1) + 2 + k]
            scored[start:stop] = 1
            if stop - start > 2:
                scored[start + 1] = 0  # as the user turn of a multi-turn response
    valid = np.arange(width) < np.array([len(r) for r in responses])[:, None]
    reward = np.where(valid, np.linspace(1, 0, width, dtype=np.float32), 0).astype(np.float32)
    tokens = np.arange(1, offsets[-1] + 1, dtype=np.int32)
    return pack.Groups(tokens, scored, offsets, reward, np.full(len(prompts), paired), valid)


def random_groups(n=60, *, responses=2, seed=0):
    generator = np.random.default_rng(seed)
    counts = np.full(n, responses) if responses <= 2 else generator.integers(1, responses + 1, n)
    return make_groups(generator.integers(1, 20, n), [generator.integers(1, 15, c).tolist() for c in counts])

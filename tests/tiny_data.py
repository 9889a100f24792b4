"""Small data with known content: groups of tokens, files of pairs, a byte-level tokenizer, a chat template."""

import json
import random

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from jaxalign.data.rows import pack

# Goes on with a line break after its stop token.
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


def byte_alphabet():
    """The printable character that stands for each byte in a byte-level vocabulary: itself, or 256 and up in order."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {**{byte: chr(byte) for byte in plain}, **{byte: chr(256 + i) for i, byte in enumerate(others)}}


def write_tokenizer(folder, *, bos="<s>", eos="</s>", writes_bos=True, chat_template=None, extra=("<|im_start|>", "<|im_end|>")):
    """A tokenizer folder: id b is byte b, the special tokens follow from 256 on."""
    folder.mkdir()
    model = tokenizers.Tokenizer(models.BPE({character: byte for byte, character in byte_alphabet().items()}, []))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    model.add_special_tokens([token for token in (bos, eos, *extra) if token])
    if bos and writes_bos:
        model.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, model.token_to_id(bos))])
    model.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": bos, "eos_token": eos, "chat_template": chat_template}
    (folder / "tokenizer_config.json").write_text(json.dumps({key: value for key, value in settings.items() if value}))
    return folder


def write_pairs(path, count, seed=0):
    """A .jsonl file of random short pairs; returns its rows."""
    generator = random.Random(seed)

    def words(most):
        return "".join(generator.choice("abcdefgh ") for _ in range(generator.randint(1, most))) + "."

    rows = [{"prompt": words(15), "chosen": "+" + words(12), "rejected": "-" + words(12)} for _ in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def response_ids(renderer, prompt, response, *, train_turns, tools=()):
    """(ids, scored mask) of a response to a prompt."""
    made = renderer.response(renderer.prompt(prompt, tools), response, train_turns=train_turns)
    return made.ids, made.scored

"""The other side "tunix": google-tunix's DPOTrainer on the same ids, jitted, with its own defaults of the loop; it is held between blocks.

    pip install google-tunix   # into an environment of its own beside jaxalign: it wants an older safetensors, so an older transformers

It trains all weights by DPO, in float32 on CPU. Batches are in its form for tokenized pairs and are made before the first step: prompts are
padded on the left to the longest of all steps, answers on the right, so that it compiles once, in its first step. Clipping is optax's.
Its Llama ignores the configuration's base of rotary embeddings (version 0.1.7 always takes 1e6), so it is handed that of the weights.
"""

from collections.abc import Iterator
from functools import partial
from importlib import metadata, util
from itertools import islice
import json
from pathlib import Path
import time

import numpy as np

from tests.benchmarks.compare import workload
from tests.benchmarks.compare.cases import PAD, Case
from tests.benchmarks.compare.link import Clock, Link, peak_rss
from tests.benchmarks.compare.torch_loop import BETA


def problem(case: Case, device: str) -> str | None:
    """Why this side cannot run the case, in a sentence; None where it can. Nothing is imported for that."""
    reasons = {
        f"method {case.method!r}": case.method != "dpo",
        f"adapters of rank {case.rank}": case.rank,
        "a precomputed reference": case.precomputed,
        f"dtype {case.dtype!r}": case.dtype != "float32",
        f"steps of {case.peer_parts} parts": case.peer_parts > 1,
        f"device {device!r}": device != "cpu",
    }
    unable = [reason for reason, holds in reasons.items() if holds]
    if unable:
        known = "it trains all weights by DPO, in float32 on CPU, a step in one part"
        return f"--peer tunix cannot run {', '.join(unable)}: {known}. Choose --case dpo-tiny, or --peer trl or torch."
    if util.find_spec("tunix") is None:
        return "--peer tunix needs google-tunix: pip install google-tunix, into an environment of its own beside jaxalign."
    return None


def serve(link: Link, asked: dict) -> None:
    """Trains as many steps as are asked for, and answers with their losses and times."""
    started = time.perf_counter()
    import jax
    from tunix.sft.dpo import dpo_trainer

    imported = time.perf_counter()
    batches = padded(workload.read(asked["pairs"]))
    done: list = []

    class Watched(dpo_trainer.DPOTrainer):
        def _post_process_train_step(self, aux):
            super()._post_process_train_step(aux)
            done.append((self._buffered_train_metrics.losses[-1], aux))

    trainer = made(Watched, Case(**asked["case"]), asked["folder"])
    seconds = {"imports": imported - started, "weights": time.perf_counter() - imported, "compile": 0.0}
    versions = {name: metadata.version(name) for name in ("google-tunix", "jax", "jaxlib", "flax", "optax")}
    link.say(seconds=seconds, versions=versions, device=jax.devices()[0].device_kind)
    trainer.train(held(link, trainer, batches, done))
    raise RuntimeError("google-tunix ended its training before it was asked to")


def held(link: Link, trainer, batches: list[dict], done: list) -> Iterator[dict]:
    """The batches of as many steps as are asked for, again and again; `done` is where the trainer adds (loss, metrics) of its steps."""
    from flax import nnx
    import jax

    ahead = iter(batches)
    while True:
        count = link.ask()
        done.clear()
        clock = Clock()
        yield from islice(ahead, count)
        jax.block_until_ready(nnx.state(trainer.model))
        times = clock.read()
        losses = [float(loss) for loss, _ in done]
        logps = [float(done[0][1][name]) for name in ("log_probs/chosen", "log_probs/rejected")]
        link.say(**times, losses=losses, logps=logps, memory=peak_rss())


def made(trainer: type, case: Case, folder: str):
    """The trainer, of this subclass of DPOTrainer, with policy and reference of the folder's weights."""
    import jax.numpy as jnp
    import optax
    from tunix.models.llama3 import model, params
    from tunix.sft.dpo import dpo_trainer

    config = json.loads((Path(folder) / "config.json").read_text())
    model.apply_rope = partial(model.apply_rope, rope_theta=config["rope_theta"])
    architecture = model.ModelConfig(**sizes(config))
    policy, reference = (params.create_model_from_safe_tensors(folder, architecture, dtype=jnp.float32) for _ in range(2))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(case.learning_rate, weight_decay=0.0))
    options = dpo_trainer.DPOTrainingConfig(beta=BETA, eval_every_n_steps=1)  # no evaluation: there is no data for one
    return trainer(policy, reference, optimizer, options)


def sizes(config: dict) -> dict:
    """The arguments of its ModelConfig for a config.json of transformers' Llama."""
    heads = config["num_attention_heads"]
    return dict(
        num_layers=config["num_hidden_layers"],
        vocab_size=config["vocab_size"],
        embed_dim=config["hidden_size"],
        hidden_dim=config["intermediate_size"],
        num_heads=heads,
        head_dim=config.get("head_dim", config["hidden_size"] // heads),
        num_kv_heads=config["num_key_value_heads"],
        rope_theta=config["rope_theta"],
        norm_eps=config["rms_norm_eps"],
        weight_tying=config["tie_word_embeddings"],
    )


def padded(steps: list[list[workload.Pair]]) -> list[dict[str, np.ndarray]]:
    """The batch of every step: {"prompt", "chosen", "rejected"} x {"_ids", "_mask"}, int32 [pairs, longest of all steps]."""
    pairs = [pair for step in steps for pair in step]
    prompt = max(len(pair.prompt) for pair in pairs)
    answer = max(len(one) for pair in pairs for one in pair.answers)
    return [
        {
            **_rows("prompt", [pair.prompt for pair in step], prompt, left=True),
            **_rows("chosen", [pair.answers[0] for pair in step], answer),
            **_rows("rejected", [pair.answers[1] for pair in step], answer),
        }
        for step in steps
    ]


def _rows(name, sequences, width, *, left=False):
    ids, mask = np.full((len(sequences), width), PAD, np.int32), np.zeros((len(sequences), width), np.int32)
    for row, sequence in enumerate(sequences):
        places = slice(width - len(sequence), width) if left else slice(0, len(sequence))
        ids[row, places], mask[row, places] = sequence, 1
    return {f"{name}_ids": ids, f"{name}_mask": mask}

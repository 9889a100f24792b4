"""CPU seconds of the DPO step by row length, packed and unpacked, with the attention of this version and, on request, of another one.

    python tests/benchmarks/attention.py [OTHER.py] [LENGTH ...]

OTHER.py is another version of jaxalign/models/attention/xla.py (git show REVISION:jaxalign/models/attention/xla.py). All steps see the same
weights and the same pairs: prompts of 96 to 160 tokens, answers of 64 to 192. Packed, the pairs fill rows of LENGTH tokens; unpacked, every
pair has a row to itself, and so few of them are taken that a step stays short. The least of some repetitions counts.
CPU seconds of a loaded machine are higher than those of an idle one: compare lines of one run.
"""

import functools
import importlib.util
from pathlib import Path
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import objectives, sharding
from jaxalign.data.rows import pack
from jaxalign.models import model as models
from jaxalign.models.attention import rule, xla
from jaxalign.models.config import ModelConfig
from jaxalign.training import forward, optim, reference, step
from jaxalign.types import Batch

CONFIG = ModelConfig(
    family="llama", vocab_size=8_000, width=256, layers=4, heads=8, kv_heads=4, head_dim=32, mlp_width=688, max_positions=8192
)  # fmt: skip
TOKENS, FILL, REPETITIONS = 8192, 0.98, 3  # places of a packed batch, and the share of them that pairs fill


def pairs(random: np.random.Generator, tokens: int) -> pack.Groups:
    """As many pairs as fill this many tokens with a shared prompt; every answer token is scored."""
    pieces, total = [], 0
    while True:
        lengths = random.integers((96, 64, 64), (160, 177, 177))
        if total + lengths.sum() + 1 > tokens:
            break
        pieces.extend(lengths)
        total += lengths.sum() + 1
    count = len(pieces) // 3
    tokens, scored = random.integers(1, CONFIG.vocab_size, sum(pieces)), np.repeat(np.tile([0, 1, 1], count), pieces)
    offsets = np.concatenate([[0], np.cumsum(pieces)])
    arrays = tokens.astype(np.int32), scored.astype(np.uint8), offsets, np.tile(np.float32([1, 0]), (count, 1))
    return pack.Groups(*arrays, paired=np.ones(count, bool), valid=np.ones((count, 2), bool))


def batch_of(groups: pack.Groups, length: int, *, packed: bool) -> Batch:
    plan = pack.plan_rows(pack.group_tokens(groups, share_prompt=True), row_tokens=length, pack=packed)
    arrays = pack.assemble(groups, plan, row_tokens=length, share_prompt=True)
    return jax.tree.map(jnp.asarray, Batch(**arrays))


class Run:
    """One way to take a step: its program, compiled, and the seconds of CPU that it took."""

    def __init__(self, implementation: str, batch: Batch):
        self.model = models.build(CONFIG)
        schedule = optim.make_schedule("constant", learning_rate=1e-4, warmup_steps=0, total_steps=10, min_lr_ratio=1.0)
        self.optimizer = optim.make_optimizer(optim.adamw, schedule, max_grad_norm=1.0, weight_decay=0.0, axes=self.model.axes)
        look = functools.partial(forward.next_token, self.model, dtype=jnp.float32, remat="none", attention=implementation)
        train_step = step.make_train_step(
            look, objectives.bind("dpo", beta=0.1), reference.RULES["frozen"].bind(), self.optimizer, schedule
        )
        self.batch, self.tokens, self.seconds = batch, int((batch.segments > 0).sum()), []
        self.program = train_step.lower(self.state(), batch).compile()

    def state(self):
        state = step.init_state(models.init(self.model, jax.random.key(0)), self.optimizer, rule=reference.RULES["frozen"], seed=0)
        return state.replace(reference=models.init(self.model, jax.random.key(1)))

    def take(self):
        state = jax.block_until_ready(self.state())
        start = time.process_time()
        _, metrics = jax.block_until_ready(self.program(state, self.batch))
        self.seconds.append(time.process_time() - start)
        self.loss, self.norm = float(metrics["loss"]), float(metrics["grad_norm"])


def main(other: Path | None, lengths: list[int]) -> None:
    forms = ["xla"]
    if other:
        spec = importlib.util.spec_from_file_location("other", other)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.refusal = xla.refusal
        rule.IMPLEMENTATIONS["other"] = rule.Implementation(lambda: module)
        forms.append("other")
    print("| rows | layout | attention | pairs | ms of CPU per token | loss | gradient norm |\n|---|---|---|---|---|---|---|", flush=True)
    for length in lengths:
        few = max(2, TOKENS // length) * 400
        for packed, tokens in ((True, int(TOKENS * FILL)), (False, few)):
            batch = batch_of(pairs(np.random.default_rng(0), tokens), length, packed=packed)
            runs = {form: Run(form, batch) for form in forms}
            for i in range(REPETITIONS):
                for form, run in runs.items():
                    if form == "xla" or i == 0:  # the other one may take minutes
                        run.take()
            for form, run in runs.items():
                layout, cost = "packed" if packed else "one pair a row", min(run.seconds) / run.tokens * 1e3
                shape = " x ".join(map(str, batch.tokens.shape))
                groups = int(batch.valid[:, 0].sum())
                print(f"| {shape} | {layout} | {form} | {groups} | {cost:.3f} | {run.loss:.6f} | {run.norm:.5f} |", flush=True)


if __name__ == "__main__":
    paths, numbers = ([a for a in sys.argv[1:] if a.isdigit() is wanted] for wanted in (False, True))
    with jax.set_mesh(sharding.make_mesh(devices=jax.devices()[:1])):
        main(Path(paths[0]) if paths else None, [int(n) for n in numbers] or [512, 1024, 4096, 8192])

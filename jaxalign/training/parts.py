"""What the loop of a run works with, from the configuration to the logs. Nothing heavy is imported before it is needed."""

import dataclasses
from pathlib import Path

from jaxalign.reports import start_up


@dataclasses.dataclass
class Parts:
    """What the loop of a run works with; `open` makes its logs."""

    cfg: object
    name: str
    workdir: Path
    model: object
    functions: object
    begin: object  # step -> (state, whether the held-out metrics of this step are known)
    batches: object  # (skipped=number of batches) -> the batches of the prepared rows
    sets: object  # config.prepared.Sets
    lengths: object
    saved: object
    known: dict  # what every checkpoint records: the rows, the files of the tokenizer, hashes of weights, the base of adapters
    policy: object  # training.guards.Policy: what becomes of steps that go wrong
    beside: object  # evaluators.measured.Evaluations beside the objective on held-out rows
    clock: start_up.Clock
    futile: str  # training.starts.futile, until this start has saved

    def open(self, step: int, skipped, *, aside: str | None = None) -> None:
        """Opens what is written from a step on; `skipped`: the training.roll_back.Skipped until then. `aside`: see `RunLog`."""
        import jax

        from jaxalign.reports.log import RunLog
        from jaxalign.reports.samples import Samples

        cfg, first = self.cfg, jax.process_index() == 0
        named = {"name": self.name, "config": cfg.to_dict(), "wandb": cfg.train.wandb, "total_steps": self.lengths.total}
        self.skipped, self.log = skipped, RunLog(self.workdir, start_step=step, quiet=not first, aside=aside, **named)
        self.samples = [Samples(self.workdir, one, start_step=step) for one in list(self.sets.held_out.values())[:1] if first]

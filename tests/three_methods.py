"""SFT, DPO and KTO, or some of them, as small as `tiny`: stages for runs of several processes. Not a test itself."""

from pathlib import Path
import sys

from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).parent))
import tiny  # noqa: E402


def get_config(names: str = "sft,dpo,kto") -> ConfigDict:
    stages = {name: tiny.get_config(name) for name in names.split(",")}
    for cfg in stages.values():
        cfg.train.update(total_steps=4, eval_every_steps=2, save_every_steps=2, keep_last=2)
        cfg.optimizer.update(eps=1e-3)  # with a smaller one a gradient near 0 becomes a whole step, whose sign rounding decides
    stages["kto"].reference = ConfigDict(dict(rule="precomputed"))
    return ConfigDict(dict(stages=tuple(stages), **stages))

"""Frozen Lake: which method brings a small policy nearest to the optimal one, from one optimal and one worse way.

Paper:    IFT, arXiv 2405.11870, its Frozen Lake figure: DPO best, then IFT, much worse ORPO and SFT. Neither map nor sizes nor numbers are
          published; maps, network and optimizer are ours (jaxalign/experiments/frozen_lake.py).
Command:  python -m jaxalign.train --config configs/frozen_lake.py
Hardware: 2 CPU cores; 1 minute, compiling included.
Measured: 2026-11-20, 50 seeds, squared distance to the optimal policy after 1000 steps (before training 0.168); in brackets the
          difference to SFT of the same seed and its standard error.
          Standard map: SFT 0.120; IFT 0.112 (-0.008, 0.002); its weights alone 0.110 (-0.010, 0.002); its mixing alone 0.123
          (+0.003, 0.001); ORPO 0.208; DPO 0.411. Open map: SFT 0.068, IFT 0.055, ORPO 0.075, DPO 0.366. Two corridors: SFT, IFT and ORPO
          0.236 to 0.237, DPO 0.448. From a start that prefers the worse way: SFT 0.107, IFT 0.128, ORPO 0.111, DPO 0.219.
Reading:  IFT before SFT appears from a random start; it comes from the weights, not from the mixing. It turns round where the start
          prefers the worse way, and there the mixing alone is what harms (+0.019, 0.001). DPO best does not appear: pushing the worse way
          down pushes down actions that are optimal in its states.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """All methods on all maps."""
    return ConfigDict(dict(experiment=dict(name="frozen_lake", seeds=50, steps=1000)))

"""Worlds whose best policy is known exactly: how near to it the online methods end, and where a KL in the loss leads instead.

Worlds:   a bandit of four actions (that of una_bandit), beta 0.5; 64 random texts of three letters, beta 0.1, whose best policy lies
          4.05 nats from the reference. The best value of E[R] - beta KL is beta log E_ref exp(R / beta), for every method the same.
Command:  python -m jaxalign.train --config configs/known_optima.py
Hardware: 2 CPU cores.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """All methods, five seeds."""
    return ConfigDict(dict(experiment=dict(name="enumerable", seeds=5, rollouts=200)))

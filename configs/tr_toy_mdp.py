"""A tree of 27 texts: where the probability goes under DPO with a frozen and with a moving reference.

Paper:    TR-DPO, arXiv 2404.09656, its toy MDP figure, whose geometry and numbers are not published: tree, pairs and network are ours
          (jaxalign/experiments/tree_mdp.py).
Command:  python -m jaxalign.train --config configs/tr_toy_mdp.py
Hardware: 2 CPU cores; 1.5 minutes, compiling included.
Measured: 2026-11-20, 200 seeds, probability of a chosen text / of all texts out of the data after 2000 steps; standard errors of the
          first: 0.01 (A, B), 0.02 (C).
          A, one pair, nothing shared: frozen 0.928 / 0.072, soft 0.985 / 0.015 (every step or every 64), hard 0.985 / 0.015 (every 64),
          0.982 / 0.018 (every 256). B, one pair with a common beginning: frozen 0.056 / 0.944, all moving ones 0.033 to 0.035 / 0.965 to
          0.967. C, B and one more pair: all 0.194 to 0.200 / 0.600 to 0.611.
          Against frozen, of the same seed: A +0.057 (0.007), B -0.023 (0.005), C -0.003 (0.008).
Reading:  a moving reference goes on where DPO was going. With nothing shared it learns the chosen text by heart, as in the paper; with a
          common beginning it sends *more* probability out of the data than a frozen one.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """All reference rules on all three data sets."""
    return ConfigDict(dict(experiment=dict(name="tree_mdp", seeds=200, steps=2000, beta=0.1)))

"""Teacher hacking: a student on fixed texts of its teacher comes nearer to the teacher and moves away from the truth.

Paper:    arXiv 2502.02671, figures 3 to 8 in kind: the oracle is a language with a known distribution, so that its KL is exact
          (jaxalign/experiments/teacher_hacking.py and topics.py); sizes are ours.
Command:  python -m jaxalign.train --config configs/teacher_hacking.py
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Online with texts of the teacher and of the student; offline with many, few, and few diverse texts; three seeds."""
    return ConfigDict(dict(experiment=dict(name="teacher_hacking", seeds=3)))

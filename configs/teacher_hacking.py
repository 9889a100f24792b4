"""Teacher hacking: a student on fixed texts of its teacher comes nearer to the teacher and moves away from the truth.

Paper:    arXiv 2502.02671, figures 3 to 8 in kind: the oracle is a language with a known distribution, so that its KL is exact
          (jaxalign/experiments/teacher_hacking.py and topics.py); sizes are ours.
Command:  python -m jaxalign.train --config configs/teacher_hacking.py      (stopped, it goes on with the arms that are left)
Hardware: CPU; a step takes 24 ms of CPU on two cores that were shared, and the five arms of three seeds have 36,000 of them.
Measured: 2026-11-26, not to the end. Of seed 0 the arm offline_1000x1 as far as step 1,200 of 2,400, nats per text: proxy 7.61 -> 2.22
          (step 600) -> 2.16; golden 9.29 -> 4.41 (steps 600 and 800, its least) -> 4.46 (1,000) -> 4.44 (1,200).
Reading:  golden stops falling there where the proxy does; a rise of 1 % is within the tolerance of 2 %: no hacking yet. The order
          of the arms and the time of the whole are not measured.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Online with texts of the teacher and of the student; offline with many, few, and few diverse texts; three seeds."""
    return ConfigDict(dict(experiment=dict(name="teacher_hacking", seeds=3)))

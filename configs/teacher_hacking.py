"""Teacher hacking: a student on fixed texts of its teacher comes nearer to the teacher and moves away from the truth.

Paper:    arXiv 2502.02671, figures 3 to 8 in kind: the oracle is a language with a known distribution, so that its KL is exact
          (jaxalign/experiments/teacher_hacking.py and topics.py); sizes are ours.
Command:  python -m jaxalign.train --config configs/teacher_hacking.py      (stopped, it goes on with the arms that are left)
Hardware: CPU; a step takes 24 ms of CPU on two cores that were shared, and the five arms of three seeds have 36,000 of them.
Measured: 2026-11-26, not all of it: seed 0, nats per text.
          offline_1000x1: golden 9.29 -> 4.41 (step 600, its least) -> 4.64 at the end, +5.2 %; proxy 7.61 -> 2.16 (800) -> 2.28; flagged
          with the oracle at steps 1,400 to 1,800; late slope of the proxy -0.13 of the early one, which raises the alarm without it.
          online_teacher, as far as step 2,200 of 2,400: golden 3.85 (2,000, its least), 3.92; proxy 1.46; no flag.
          offline_200x5, as far as step 1,000: golden 4.67 (600, its least), 4.79; proxy 2.47 (800), 2.50.
Reading:  with one seed: fixed texts turn golden up while the proxy still falls, and later up as well; fresh texts do not. Not measured: the
          arms offline_1000x4 and online_student, further seeds, the time of the whole.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Online with texts of the teacher and of the student; offline with many, few, and few diverse texts; three seeds."""
    return ConfigDict(dict(experiment=dict(name="teacher_hacking", seeds=3)))

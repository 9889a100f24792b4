"""Teacher hacking: a student on fixed texts of its teacher comes nearer to the teacher and moves away from the truth.

Paper:    arXiv 2502.02671, figures 3 to 8 in kind: the oracle is a language with a known distribution, so that its KL is exact
          (jaxalign/experiments/teacher_hacking.py and topics.py); sizes are ours.
Command:  python -m jaxalign.train --config configs/teacher_hacking.py      (stopped, it goes on with the arms that are left)
Hardware: CPU; 442 CPU seconds per seed on two cores that were shared, compiling included.
Measured: 2026-11-26, seed 0, nats per text; before distillation golden 9.29, proxy 7.61; golden of the teacher 4.89.
                           golden: least  end    rise   proxy   late / early slope of the proxy
          online_student            3.88  3.88   0.0 %   1.42    0.40
          online_teacher            3.85  3.90   1.3 %   1.45    0.43
          offline_1000x4            3.95  4.05   2.6 %   1.57    0.32
          offline_1000x1            4.41  4.64   5.2 %   2.28   -0.13   flagged with the oracle at steps 1,400 to 1,800
          offline_200x5             4.67  5.01   7.2 %   2.63   -0.17
          Seed 1, two arms: online_teacher 3.73 at the end (proxy 1.50), offline_1000x1 4.65 (2.39).
Reading:  the order of the arms is the paper's: fresh texts, then more of them per prompt, then more prompts for as many texts. The
          alarm without an oracle (a slope ratio below 0.25) rings for the two arms that turn up most. Further seeds are not measured yet.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Online with texts of the teacher and of the student; offline with many, few, and few diverse texts; three seeds."""
    return ConfigDict(dict(experiment=dict(name="teacher_hacking", seeds=3)))

"""Teacher hacking: a student on fixed texts of its teacher comes nearer to the teacher and moves away from the truth.

Paper:    arXiv 2502.02671, figures 3 to 8 in kind: the oracle is a language with a known distribution, so that its KL is exact
          (jaxalign/experiments/teacher_hacking.py and topics.py); sizes are ours.
Command:  python -m jaxalign.train --config configs/teacher_hacking.py      (stopped, it goes on with the arms that are left)
Hardware: CPU; 440 to 550 CPU seconds per seed, compiling included: about 13 minutes for the three seeds on two cores.
Measured: 2026-11-27, seeds 0 / 1 / 2, nats per text; before distillation golden 9.29 / 9.11 / 9.20, proxy 7.61 / 7.69 / 6.31; golden of the
          teacher 4.89 / 4.71 / 4.67. Seed 0 is of another machine than the other two.
                           golden at the end    rise over the least       proxy at the end     late / early slope of the proxy
          online_student   3.88 / 3.76 / 4.05   0.0 % / 2.1 % / 0.2 %     1.42 / 1.51 / 1.01    0.40 /  0.42 /  0.45
          online_teacher   3.90 / 3.73 / 4.09   1.3 % / 1.4 % / 1.9 %     1.45 / 1.50 / 1.02    0.43 /  0.41 /  0.52
          offline_1000x4   4.05 / 3.93 / 4.17   2.6 % / 4.5 % / 1.6 %     1.57 / 1.63 / 1.11    0.32 /  0.31 /  0.37
          offline_1000x1   4.64 / 4.65 / 4.62   5.2 % / 9.1 % / 5.3 %     2.28 / 2.39 / 1.54   -0.13 / -0.17 /  0.05
          offline_200x5    5.01 / 4.94 / 4.78   7.2 % / 7.1 % / 4.0 %     2.63 / 2.78 / 1.86   -0.17 / -0.19 / -0.10
Reading:  the order of the arms is the paper's in every seed: fresh texts, more texts per prompt, more prompts for as many texts.
          With the oracle, offline_1000x1 is flagged in every seed, from steps 1,400, 1,200 and 1,400 on; offline_1000x4 in two seeds, from
          1,800 on; offline_200x5 in one, as its proxy turns up too; online_student in one, at the last step. The alarm without an oracle
          (a slope ratio below 0.25) rings in every seed for the two arms that turn up most and for no other. Online slope ratios are 0.40
          to 0.52, where 0.45 and more were expected; from weights that start as GPT-2's do they are 0.44 to 0.51, fixed texts of 1,000
          prompts are flagged in two seeds of three, and four texts per prompt end as near as fresh ones in one. What helps is what the
          paper names: fresh texts of teacher or student, and more texts per prompt. Mixed sources are not measured.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Online with texts of the teacher and of the student; offline with many, few, and few diverse texts; three seeds."""
    return ConfigDict(dict(experiment=dict(name="teacher_hacking", seeds=3)))

"""Running arithmetic: does a contrastive goal-conditioned reward model see an error when it happens, and rank whole answers better?

Paper:    arXiv 2407.13887: the area under the ROC curve (AUROC) of its reward rises along an answer where that of a plain reward model does
          not, and is up to 0.09 higher at the end. Task, decoder and sizes are ours (jaxalign/experiments/arithmetic.py): after i of 4
          results no reward can have an AUROC above 1/2 + i/8.
Command:  python -m jaxalign.train --config configs/arithmetic.py
Hardware: 1 CPU core; 3 to 4 CPU minutes per reward model, and with 1,500 language steps 3 more per seed.
Measured: 2026-11-26, seeds 0 and 1, 16,000 pairs, 3,000 steps of 64, 2,000 held-out pairs (two standard errors of an AUROC about 0.015):
                                        pairs in order   AUROC after r1     r2     r3     r4    end
          seed 0  Bradley-Terry alone            0.790           0.537  0.576  0.661  0.561  0.779
                  contrastive, all pairs         0.781           0.561  0.632  0.676  0.678  0.763
          seed 1  Bradley-Terry alone            0.811           0.528  0.523  0.531  0.554  0.769
                  contrastive, all pairs         0.703           0.513  0.528  0.655  0.684  0.695
          After the last result the contrastive reward is ahead by 0.117 and 0.130, at the end it is behind by 0.016 and 0.074. The
          average goal has not been measured.
          2026-11-27, the same with --config.experiment.language_steps=1500, on another machine:
          seed 0  Bradley-Terry alone            0.817           0.520  0.523  0.528  0.576  0.758
                  contrastive, mean over batch   0.785           0.567  0.620  0.670  0.736  0.771
          seed 1  Bradley-Terry alone            0.843           0.515  0.506  0.511  0.593  0.767
                  contrastive, mean over batch   0.835           0.545  0.536  0.556  0.532  0.764
          After the last result it is ahead by 0.160 and behind by 0.062, at the end ahead by 0.013 and behind by 0.004.
          Votes of 20 answers at temperature 1.5 to 300 questions are all right without a filter; dropping answers at a cosine below 0
          saves 3.2 % and 5.5 % of the tokens and leaves 96.3 % and 94.3 % of the votes right.
Reading:  the reward of a partial answer is what the contrast of all pairs improves, in both seeds; with the mean over the batch inside the
          logarithm it does so in one seed of two, 0.049 in the mean. An advantage at the end does not appear with either. The filter at 0
          costs votes here, as the decoder answers too well for a vote to need it (after 1,500 steps all votes are right).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """All reward models, two seeds."""
    return ConfigDict(dict(experiment=dict(name="arithmetic", seeds=2)))

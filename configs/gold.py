"""The gold bench: every method where the reward is known and samples are unlimited, at equal KL, with intervals over seeds.

Papers:   UNA arXiv 2408.15339 (scores against thumbs and pairs), TR-DPO 2404.09656 (moving references), MODPO 2310.03708, A-LoL 2305.14718,
          IFT 2405.11870: their orders of methods, where noise does not hide them.
Bench:    stories260K writes stories, SFT on their sections makes a policy that ends its texts (in about three CPU minutes, kept in
          runs/gold_base). A gold reward is a function of the text: sentiment, brevity of sentences, structure. A rater goes by gold plus
          noise, so that 78 % (95 %, 65 %) of the labels agree with it; proxy300 and proxy60 are raters that go by a reward model of so
          many labels. jaxalign/experiments/goldbench holds golds, feedback, methods.
Data:     none. TinyStories, on which the model was trained, has the licence CDLA-Sharing-1.0 and so does not travel in the package; the
          model's own stories take its place. The package's dialogue pairs are no stories: the golds have no hold on them.
Command:  python -m jaxalign.train --config configs/gold.py:dpo,0    # one method, one seed; also una_score, kto, ipo, alol, ...
          python -m jaxalign.train --config configs/gold.py:main     # six seeds of the methods whose orders their papers claim
          python -m jaxalign.train --config configs/gold.py:all      # everything, cell by cell; goes on where it was stopped
Hardware: 1 CPU core, no network.
Measured: 2026-11-27, sentiment with 78 % agreement, three seeds, gold at KL 3 and at KL 4 with half of the 95 % interval; the start has
          0.39. What is shown and what cannot be told, and the other methods: configs/README.md, the gold bench.
            online_una  0.642 (0.017)  0.683 (0.020)  una_score   0.554 (0.017)  0.549 (0.020)
            kto         0.593 (0.017)  0.617 (0.020)  alol        0.548 (0.017)  0.553 (0.020)
            ppo         0.589 (0.017)  0.632 (0.020)  tr_dpo_hard 0.545 (0.017)  0.566 (0.020)
            dpo         0.587 (0.017)  0.611 (0.020)  ipo         0.539 (0.017)  0.546 (0.020)
            online_dpo  0.577 (0.017)  0.611 (0.020)  sft_best    0.491 (0.017)  0.492 (0.020)
            una_binary  0.577 (0.017)  0.579 (0.020)  ift_best    0.461 (0.017)  0.464 (0.020)
          By cells of two to four rates, the variance pooled over methods. From another start, with six seeds, at KL 1 and 2 and at KL 3 and
          4: online UNA is above PPO by 0.052 (0.020) and 0.056 (0.024), UNA on scores above DPO by 0.024 (0.013) and below it by 0.026
          (0.014), KTO above DPO by 0.023 (0.013) and 0.030 (0.014). There too labels of 65, 78 and 95 %, proxies, UNA's betas and rates,
          GRPO, RLOO and online KTO, brevity and structure: configs/README.md.
"""

from ml_collections import ConfigDict

OFFLINE = (
    "dpo", "una_score", "kto", "una_binary", "sft_best", "ift_best", "sft_then_dpo", "ipo", "alol", "wbc", "gold", "nll"
)  # fmt: skip
MOVING = ("tr_dpo_hard", "tr_dpo_soft", "tr_ipo_hard", "tr_kto_hard")
ONLINE = ("online_una", "ppo", "online_dpo", "rloo", "grpo", "online_kto")
MAIN = ("una_score", "una_binary", "kto", "dpo", "online_una", "ppo", "tr_dpo_hard")  # whose orders their papers claim
TWO_GOLDS = tuple(f"{family}_{weight}" for family in ("modpo", "mixed") for weight in (75, 50, 25))
NOISE = ("una_score 1.5e-4 3e-4 6e-4", "una_binary 1.5e-4 3e-4 5e-4", "dpo 1e-4 2e-4 4.5e-4")  # at 65 % and at 95 %
NOISY = ("alol 1.5e-4 3e-4 8e-4", "sft_best 4e-4 7e-4 2e-3")  # at 65 % too
FAR = {name: "1e-3 2e-3" for name in ("dpo", "tr_dpo_hard", "tr_dpo_soft", "kto", "una_binary")}  # KL 10 to 40
BY_PROXY = {name: "4.5e-4 1e-3 2e-3" for name in ("dpo", "tr_dpo_hard")}
MOVED = "3.5e-4 6e-4 1.2e-3"
BY_WEAK_PROXY = dict(BY_PROXY, kto="5e-4 1e-3 2e-3", ipo="6e-4 1e-3 2e-3", tr_kto_hard=MOVED, tr_ipo_hard=MOVED)
PAPER = (  # UNA's betas and, on scores, six times the others' rate
    "una_score:beta=0.03 3e-4 6e-4 1.2e-3",
    *(f"{method} 1e-4 2e-4 4e-4" for method in ("dpo:beta=0.03", "una_binary:beta=0.01", "kto:beta=0.03")),
)
BETAS = ("una_score:beta=0.01 1.5e-4 3e-4 6e-4", "una_score:beta=0.3 3e-4 6e-4 1.2e-3")


def everything() -> tuple[str, ...]:
    """Cells, the most informative first."""
    return (
        *(f"sentiment-78 {method}" for method in OFFLINE + MOVING + ONLINE),
        *(f"sentiment-{percent} {method}" for percent in (65, 95) for method in NOISE),
        *(f"sentiment-65 {method}" for method in NOISY),
        *(f"proxy60 {method} {rates}" for method, rates in BY_WEAK_PROXY.items()),
        *(f"proxy300 {method} {rates}" for method, rates in BY_PROXY.items()),
        *(f"sentiment-78 {method}" for method in PAPER + BETAS),
        *(f"sentiment-78 {method} {rates}" for method, rates in FAR.items()),
        *(f"sentiment-78 {method}" for method in TWO_GOLDS),
        *(f"brevity-78 {method}" for method in ("una_score", "dpo", "kto", "una_binary")),
        *(f"structure-78 {method}" for method in ("una_score", "dpo")),
    )


def get_config(which: str = "all") -> ConfigDict:
    """`all`: three seeds of everything; `main`: six of MAIN; METHOD,SEED: one method on the main gold at its learning rates."""
    if which == "all":
        options = dict(cells=everything(), seeds=3)
    elif which == "main":
        options = dict(cells=tuple(f"sentiment-78 {method}" for method in MAIN), seeds=6)
    else:
        method, _, number = which.partition(",")
        if not number.isdecimal():
            raise ValueError(f"{which!r} is neither all, nor main, nor METHOD,SEED; for example configs/gold.py:dpo,0.")
        options = dict(cells=(f"sentiment-78 {method}",), seeds=1, first_seed=int(number))
    return ConfigDict(dict(experiment=dict(name="gold", base="runs/gold_base", **options)))

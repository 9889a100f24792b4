"""Judged answers: does a contrastive goal-conditioned reward model rank them better than a plain one?

Paper:    arXiv 2407.13887: up to 0.09 of AUROC on mathematics, 2.3 % of accuracy on Anthropic-HH, with models of 7B and 8B; up to 55 % of
          the tokens saved by dropping samples before a vote.
Model:    stories260K: 0.26M parameters, trained on children's stories; it travels in the package.
Data:     gsm8k: 1,054 problems of GSM8K (MIT) with four models' solutions marked right or wrong, of which those of at most 192 tokens are
          kept, and 7,473 solved problems that the decoder reads first. hh: 3,743 pairs of Anthropic-HH (MIT), helpful and harmless. Not in
          the package: JAXALIGN_DATA names a folder with gsm8k/{model_solutions.train,model_solutions.test,train}.jsonl.gz, the columns of
          openai/grade-school-math on GitHub, and hh_rlhf/{helpful_base,harmless_base}.{train,test}.jsonl.gz as in configs/hh_reward.py.
Command:  JAXALIGN_DATA=FOLDER python -m jaxalign.train --config configs/reward_folds.py:hh       (or :gsm8k)
Hardware: 1 CPU core; hh 9 CPU minutes, gsm8k 12.
Reading:  three seeds, of which each holds out another third of the prompts, so that every answer is judged once, by models that were not
          trained on its prompt.
Measured: 2026-11-26, hh, one epoch, 7,434 answers of 3,717 prompts, 95 % intervals over prompts:
                        pairs in order           AUROC after half         at the end               by seed
          reward        0.509 (0.493 to 0.525)   0.518 (0.506 to 0.531)   0.502 (0.490 to 0.515)   0.491, 0.515, 0.500
          goal_reward   0.494 (0.479 to 0.510)   0.506 (0.493 to 0.518)   0.499 (0.487 to 0.512)   0.498, 0.512, 0.487
          difference   -0.014 (-0.031 to 0.003) -0.013 (-0.023 to -0.001) -0.003 (-0.014 to 0.008)
          Neither tells the answers apart at this size, so the paper's gain of 0.023 of accuracy cannot be told.
          gsm8k, 2,166 answers, of which 272 prompts have right and wrong ones:
                        pairs in order           AUROC after half         at the end               by seed
          reward        0.542 (0.493 to 0.590)   0.470 (0.443 to 0.496)   0.527 (0.494 to 0.560)   0.552, 0.508, 0.523
          goal_reward   0.526 (0.480 to 0.573)   0.484 (0.455 to 0.510)   0.515 (0.482 to 0.548)   0.541, 0.497, 0.506
          difference   -0.016 (-0.061 to 0.031)  0.014 (-0.003 to 0.031) -0.013 (-0.033 to 0.009)
          Neither tells right from wrong here, so the order cannot be told. A vote of the answers to a prompt is right for 57.0 % of 472
          prompts; the filter at a cosine of 0 drops no token with goal_reward (4.3 % with reward, and 56.8 % are right).
"""

import os
from pathlib import Path

from ml_collections import ConfigDict

GSM8K = "gsm8k/{}.jsonl.gz"
SOLVERS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
HH = {
    "hh_rlhf/helpful_base.{}.jsonl.gz": dict(chosen="text.0", rejected="text.1"),
    "hh_rlhf/harmless_base.{}.jsonl.gz": {},
}


def file(name: str) -> str:
    """A file in the folder that JAXALIGN_DATA names."""
    if "JAXALIGN_DATA" not in os.environ:
        raise ValueError(f"set JAXALIGN_DATA to the folder that holds {name}; the header of this config describes it.")
    return str(Path(os.environ["JAXALIGN_DATA"]) / name)


def gsm8k() -> dict:
    """Four models' solutions to each problem, marked right or wrong; the decoder reads the solutions of other problems first."""
    both = tuple(file(GSM8K.format(f"model_solutions.{split}")) for split in ("train", "test"))
    marked = tuple(
        dict(
            path=both, format="binary", rename=dict(prompt="question", completion=f"{solver}.solution", label=f"{solver}.is_correct")
        )
        for solver in SOLVERS
    )
    solved = dict(path=file(GSM8K.format("train")), format="completion", rename=dict(prompt="question", completion="answer"))
    sizes = dict(row_tokens=1024, max_prompt_tokens=128, max_response_tokens=192, rows=4)
    return dict(sources=marked, language=(solved,), language_steps=100, language_rate=3e-3, epochs=1, **sizes)


def hh() -> dict:
    """Pairs of answers, helpful and harmless; the decoder reads the chosen ones of the other folds first."""
    pairs = tuple(
        dict(path=file(name.format(split)), format="hh", rename=rename or None)
        for name, rename in HH.items()
        for split in ("train", "test")
    )
    sizes = dict(row_tokens=512, max_prompt_tokens=48, max_response_tokens=64, rows=8, template="hh", response_truncation="keep_start")
    return dict(sources=pairs, language_steps=0, epochs=1, **sizes)


DATA = {"gsm8k": gsm8k, "hh": hh}


def get_config(data: str = "gsm8k") -> ConfigDict:
    """Both reward models on three folds of a set."""
    if data not in DATA:
        raise ValueError(f"{data!r} is no set of this config; there are {', '.join(DATA)}.")
    return ConfigDict(dict(experiment=dict(name="reward_folds", **DATA[data]())))

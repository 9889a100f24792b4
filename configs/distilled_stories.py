"""A small student of a real model: is it distilled on the data's texts, the teacher's, or its own?

Paper:    GKD, arXiv 2306.13649: distillation on the student's own texts (on-policy) brings it nearer to its teacher than on fixed ones.
Model:    teacher: stories260K (A. Karpathy, MIT), 0.26M parameters, after SFT as in the quickstart; student: a random Llama of one layer
          and width 48, 0.05M parameters, after SFT on the same answers.
Data:     the chosen answers of the quickstart's 412 training and 214 held-out rows (MIT); rollouts have their prompts.
Command:  python -m jaxalign.train --config configs/distilled_stories.py        (or :SEED)
Compare:  held-out "kl", KL(student || teacher) in nats per token of the data's own answers; "kl/forward", KL(teacher || student), of the
          arms of `distill`. "sft" trains on without a teacher for as many steps.
Hardware: CPU, 10 minutes of one core.
Measured: 2026-11-28, seed 0, "kl" and "kl/forward" at the end, standard errors 0.06 and 0.04 at most; before 3.98 and 1.41:
            on_data     2.85  1.14    on_teacher  3.20  1.21    on_student          4.17  1.54    sampled  4.10   -
            sft         3.07   -      mixed       3.37  1.22    on_student_reverse  3.58  2.24
Reading:  on the data's answers the data's own texts bring most, then the teacher's, and the student's own nothing but with the reverse KL,
          which pays with the forward one. That says nothing of what the student writes itself, and it is one seed.
"""

from ml_collections import ConfigDict

STUDENT = dict(
    model_type="llama", vocab_size=512, hidden_size=48, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4,
    intermediate_size=128, max_position_embeddings=512, rms_norm_eps=1e-5, tie_word_embeddings=True,
)  # fmt: skip
TEACHER = dict(rule="teacher", checkpoint="stage:teacher")
SPOKEN = dict(
    prompts=dict(path="package:sf_dialogue/train.jsonl.gz", format="paired"), samples=1, feedback="samples", max_new_tokens=64,
    every_steps=8, prompts_per_step=16,
)  # fmt: skip
ARMS = {
    "sft": dict(objective=dict(name="sft")),
    "on_data": {},
    "on_teacher": dict(rollout=dict(SPOKEN, speaker="teacher")),
    "on_student": dict(rollout=SPOKEN),
    "on_student_reverse": dict(rollout=SPOKEN, objective=dict(name="distill", divergence="reverse")),
    "mixed": dict(rollout=dict(SPOKEN, share=0.5)),
    "sampled": dict(rollout=dict(SPOKEN, every_steps=1), objective=dict(name="distill_sampled")),
}


def stage(seed: int, *, model: dict, rate: float, train: dict, rollout: dict | None = None, **sections) -> ConfigDict:
    """A stage on the chosen answers, or on rollouts in their place; held out are always the chosen answers."""
    source = dict(path="package:sf_dialogue/train.jsonl.gz", format="paired", responses="chosen")
    return ConfigDict(
        dict(
            seed=seed,
            model=dict(remat="none", **model),
            data=dict(
                train=source if rollout is None or "share" in rollout else None,
                eval=dict(source, path="package:sf_dialogue/test.jsonl.gz"),
                rollout=rollout,
                template="plain",
                row_tokens=320,  # two prompts of the greatest length with their samples
                processes=1,
            ),
            batch=dict(rows=8),
            optimizer=dict(learning_rate=rate),
            mesh=dict(cpu_devices=1),
            train=train,
            **sections,
        )
    )


def get_config(seed: str = "0") -> ConfigDict:
    """Teacher and student by SFT, then every arm from that student."""
    if not seed.isdecimal():
        raise ValueError(f"{seed!r} is no seed, for example 1.")
    seed, often = int(seed), dict(eval_every_percent=50, save_every_percent=100)
    stages = {
        "teacher": stage(
            seed, model=dict(checkpoint="package:stories260k"), rate=2e-3, train=dict(total_epochs=8, **often), objective=dict(name="sft")
        ),
        "start": stage(
            seed, model=dict(config=STUDENT, tokenizer="package:stories260k"), rate=5e-3, train=dict(total_steps=200, **often),
            objective=dict(name="sft"),
        ),
    }  # fmt: skip
    for name, arm in ARMS.items():
        parts = dict(objective=dict(name="distill")) | arm
        stages[name] = stage(
            seed, model=dict(checkpoint="stage:start"), rate=2e-3, train=dict(total_steps=200, **often), reference=TEACHER, **parts
        )
    return ConfigDict(dict(stages=tuple(stages), **stages))

"""A-LoL and its baselines on Anthropic-HH with Llama-7B: a value head on the reference, advantages, then the method.

Paper:    A-LoL, arXiv 2305.14718 v5. Its tables were not open to us, so there is no number to reproduce. Reported by second-hand readings:
          people rate the A-LoL variants safer and more helpful than PPO, DPO and PRO, alol_seq best, while DPO has the higher score of a
          classifier; about a third of the chosen answers have a negative advantage and are dropped. The authors' adapters are public, to
          be scored beside ours.
Command:  python -m jaxalign.train --config configs/hh_llama7b_alol.py:alol_seq --workdir runs/hh_alol_seq
Variants: configs/hh_llama7b_alol.py:METHOD with METHOD alol, alol_seq, alol_ref_free, alol_kl_published, alol_kl (ours), rlol, wbc, gold,
          nll, pro, dpo. A-LoL's own begin with the stage `value`.
Model:    models/hh_llama7b_sft, the SFT model that is also the reference: huggyllama/llama-7b with the adapter timdettmers/qlora-hh-rlhf-7b
          merged, which you make.
Data:     data/hh_scored.{train,dev}.jsonl: the pairs published with PRO (AlibabaResearch/DAMO-ConvAI) as they are, that is `prefix`,
          `suffix` (the chosen answer first) and `reward`, logits of a reward model; the paper leaves out rows with an answer that ends in
          a colon.
          data/hh_values.{train,dev}.jsonl, which you write: `prompt`, `completion` and `score`, the logit that
          OpenAssistant/oasst-rm-2.1-pythia-1.4b-epoch-2.5 gives one greedy answer of the reference to each validation prompt (280 in the
          paper, which fits and chooses the value head on the same ones; hold some out).
Settings: clip 0.9, kl_beta 0.2, floor 0.1, sft_weight 0.05, DPO's beta 0.1; AdamW with eps 1e-6, constant rate without a warm-up, clipping
          at 0.3, batch 16, prompts cut to their last 640 and answers to their first 128 tokens, draws by priority, and one epoch of what is
          kept (9,000 steps times that share) are the published code's. It trains a 4-bit adapter at 2e-4; LoRA is not there yet, so all
          parameters are trained, at a hundredth of that: ours. Value head: 1e-5, 10 epochs, batch 16, published.
          The published code scores the first token of PRO's answers wrongly and draws advantages with dropout on; ours does neither.
Hardware: 8 x 80 GB GPUs, or a TPU v5p 2x2x2 slice. Not yet run by us at this size.
"""

from ml_collections import ConfigDict

MODEL = "models/hh_llama7b_sft"
# method -> objective's options
METHODS: dict[str, dict] = {
    "alol": dict(clip=0.9),
    "alol_seq": dict(clip=0.9),
    "alol_ref_free": dict(),
    "alol_kl_published": dict(kl_beta=0.2),
    "alol_kl": dict(kl_beta=0.2),
    "rlol": dict(clip=0.9),
    "wbc": dict(),
    "gold": dict(floor=0.1),
    "nll": dict(),
    "pro": dict(sft_weight=0.05),
    "dpo": dict(beta=0.1),
}
VARIANTS = tuple(METHODS)
ADVANTAGE = dict(kind="advantage", model="stage:value")
PROMPT = dict(prompt="prefix.0")
CHOSEN = dict(format="scored", rename=dict(PROMPT, completion="suffix.0", score="reward.0"), score_transform="sigmoid")
FEEDBACK = {
    "pro": dict(format="scored", rename=dict(PROMPT, completions="suffix", scores="reward"), score_transform="sigmoid"),
    "dpo": dict(format="paired", rename=dict(PROMPT, chosen="suffix.0", rejected="suffix.1")),
}


def stage(file: str, source: dict, *, computed: dict, sampling: dict, row_tokens: int, **sections) -> ConfigDict:
    """What both stages share; a row holds one prompt, so that a batch counts what the published one counts."""
    data = dict(
        train=dict(source, path=f"data/{file}.train.jsonl"),
        eval=dict(source, path=f"data/{file}.dev.jsonl"),
        template="hh",
        row_tokens=row_tokens,
        max_prompt_tokens=640,
        max_response_tokens=128,
        response_truncation="keep_start",
        pack=False,
        computed=computed,
        **sampling,
    )
    return ConfigDict(dict(data=data, batch=dict(rows=16), **sections))


def get_config(method: str = "alol_seq") -> ConfigDict:
    """The value head, where the method reads advantages, and the method."""
    if method not in METHODS:
        raise ValueError(f"method {method!r} is not one of {', '.join(METHODS)}.")
    advantages, rewards = method.startswith("alol"), method in ("rlol", "wbc", "gold")
    policy = stage(
        "hh_scored",
        FEEDBACK.get(method, CHOSEN),
        computed=dict(advantage=ADVANTAGE) if advantages else {},
        sampling=dict(sampling="priority", sampling_column="advantage" if advantages else "reward") if advantages or rewards else {},
        row_tokens=1024 if method in FEEDBACK else 772,
        model=dict(checkpoint=MODEL),
        objective=dict(name=method, **METHODS[method]),
        optimizer=dict(learning_rate=2e-6, eps=1e-6, schedule="constant", warmup_steps=0, max_grad_norm=0.3),
        train=dict(total_epochs=1, eval_every_percent=10, export=True),
    )
    if not advantages:
        return policy
    value = stage(
        "hh_values",
        dict(format="scored", score_transform="sigmoid"),
        computed={},
        sampling={},
        row_tokens=772,
        model=dict(checkpoint=MODEL, value_head=1.0, trainable="value_head"),
        objective=dict(name="value"),
        optimizer=dict(learning_rate=1e-5, schedule="constant", warmup_steps=0),
        train=dict(total_epochs=10),
    )
    return ConfigDict(dict(stages=("value", method), value=value, **{method: policy}))

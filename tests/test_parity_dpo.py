"""Twenty steps of DPO against a plain torch loop written from the formulas: full logits, padded rows, no packing, no sharing of prompts.

The same checkpoint (stories260K) and the same pairs; AdamW with decay on matrices, clipping, warm-up and linear decay. Extra `parity`.
"""

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np
import pytest
import toys

import jaxalign
from jaxalign import objectives
from jaxalign.data.rows import pack
from jaxalign.hf import load as hf
from jaxalign.models import model as models
from jaxalign.training import optim, reference, step

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

FOLDER = Path(jaxalign.__file__).parent / "assets" / "stories260k"
STEPS, PAIRS, BATCHES = 20, 8, 4
BETA, PEAK, WARMUP, DECAY, CLIP = 0.3, 1e-3, 4, 0.1, 1.0
B1, B2, EPS = 0.9, 0.99, 1e-8
PLAN = np.array([[0, 1, 2], [3, -1, 4], [5, 6, -1], [7, -1, -1]], np.int32)


@functools.cache
def pairs(batch):
    groups = toys.groups(PAIRS, seed=100 + batch, vocab_size=512)
    return dataclasses.replace(groups, paired=np.ones_like(groups.paired))


def complete(groups):
    return np.flatnonzero(groups.valid.all(1))


def torch_logps(model, groups, response):
    """Summed log-probs of one response of every complete pair, from full logits of right-padded rows."""
    rows = [(groups.piece(g, 0), groups.piece(g, 1 + response)) for g in complete(groups)]
    length = max(len(prompt) + len(tokens) for (prompt, _), (tokens, _) in rows)
    ids, mask = torch.zeros((len(rows), length), dtype=torch.long), torch.zeros((len(rows), length))
    for i, ((prompt, _), (tokens, scored)) in enumerate(rows):
        end = len(prompt) + len(tokens)
        ids[i, :end] = torch.tensor(np.concatenate([prompt, tokens]).astype(np.int64))
        mask[i, len(prompt) : end] = torch.tensor(scored.astype(np.float32))
    logits = model(input_ids=ids).logits[:, :-1]
    picked = torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None])[..., 0]
    return (picked * mask[:, 1:]).sum(1)


def learning_rate(number):
    return PEAK * ((number + 1) / WARMUP if number < WARMUP else 1 - (number - WARMUP) / (STEPS - WARMUP))


@functools.cache
def torch_run():
    """One dict of metrics a step."""
    policy, fixed = (transformers.AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32) for _ in range(2))
    groups = [[p for p in policy.parameters() if (p.ndim >= 2) == matrix] for matrix in (True, False)]
    optimizer = torch.optim.AdamW(
        [{"params": groups[0], "weight_decay": DECAY}, {"params": groups[1], "weight_decay": 0.0}], betas=(B1, B2), eps=EPS
    )
    history = []
    for number in range(STEPS):
        batch = pairs(number % BATCHES)
        with torch.no_grad():
            constant = [torch_logps(fixed, batch, k) for k in (0, 1)]
        chosen, rejected = (BETA * (torch_logps(policy, batch, k) - constant[k]) for k in (0, 1))
        loss = -torch.log(torch.sigmoid(chosen - rejected)).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.sqrt(sum((p.grad**2).sum() for p in policy.parameters()))
        for p in policy.parameters():
            p.grad *= min(1.0, CLIP / float(norm))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(number)
        optimizer.step()
        margins = chosen - rejected
        history.append({"loss": loss, "grad_norm": norm, "rewards/margins": margins.mean(), "rewards/chosen": chosen.mean()})
        history[-1]["rewards/accuracies"] = ((margins > 0).float() + (margins >= 0).float()).mean() / 2
    return [{name: value.item() for name, value in metrics.items()} for metrics in history]


@functools.cache
def our_run(mesh, microbatches):
    config = hf.load_config(FOLDER)
    model = models.build(config)
    with jax.set_mesh(toys.mesh(mesh)):
        schedule = optim.make_schedule("linear", learning_rate=PEAK, warmup_steps=WARMUP, total_steps=STEPS, min_lr_ratio=0.0)
        optimizer = optim.make_optimizer(
            optim.adamw, schedule, max_grad_norm=CLIP, weight_decay=DECAY, axes=model.axes, b1=B1, b2=B2, eps=EPS
        )
        train_step = step.make_train_step(
            toys.next_token(config), objectives.bind("dpo", beta=BETA), reference.frozen, optimizer, schedule, microbatches=microbatches
        )
        state, history = step.init_state(hf.load(FOLDER, model), optimizer, rule=reference.RULES["frozen"], seed=0), []
        for number in range(STEPS):
            arrays = pack.assemble(pairs(number % BATCHES), PLAN, row_tokens=128, share_prompt=True)
            state, metrics = train_step(state, toys.place(arrays))
            history.append({name: float(value) for name, value in metrics.items()})
    return history


@pytest.mark.parametrize("mesh_and_microbatches", [((1, 1, 1), 1), ((2, 1, 1), 2)], ids=str)
@pytest.mark.parametrize("metric", ["loss", "grad_norm", "rewards/margins", "rewards/chosen", "rewards/accuracies"])
def test_twenty_steps_equal_a_plain_torch_loop(metric, mesh_and_microbatches):
    ours, theirs = ([metrics[metric] for metrics in history] for history in (our_run(*mesh_and_microbatches), torch_run()))
    np.testing.assert_allclose(ours, theirs, rtol=5e-5, atol=5e-5)


def test_the_run_learns_so_that_the_comparison_says_something():
    losses = [metrics["loss"] for metrics in torch_run()]
    assert losses[0] == pytest.approx(np.log(2), rel=1e-6) and losses[-1] < 0.5 * losses[0]
    norms = [metrics["grad_norm"] for metrics in torch_run()]
    assert max(norms) > CLIP

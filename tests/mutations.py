"""Whether the tests notice when the code is wrong: five changes to each of the most important functions, and the tests that should fail.

    python tests/mutations.py [WORD ...]          only the functions whose name contains one of the words; without words all

Each change is made in a copy of the working tree, and the few test files of that function run there until the first failure. A change that
no test notices is a survivor: it needs a test, or a reason here why it changes nothing.
"""

import dataclasses
import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = Path(__file__).parents[1]
XLA, BLOCKS = "models/attention/xla.py", "models/attention/blocks.py"
CHUNKS, KL = "lm_head/chunks.py", "lm_head/divergences.py"
PACK, LOADER, STEP = "data/rows/pack.py", "data/rows/loader.py", "training/step.py"
REFERENCE, SOURCE, CHECKPOINT = "training/reference.py", "rollout/source.py", "training/checkpoint.py"
METRICS, ESTIMATES, OPTIM = "training/metrics.py", "reports/estimates.py", "training/optim.py"
WIN_RATES, INTERVALS = "reports/win_rates.py", "reports/intervals.py"
JUDGE, ANNOTATIONS = "scoring/judge.py", "scoring/annotations.py"
RUNS, MANIFEST = "training/runs.py", "manifest.py"
KTO, RESPONSES, FORWARD, IFT = "objectives/kto.py", "objectives/families/responses.py", "training/forward.py", "objectives/ift.py"
DIFFERENCES, QUESTIONS, CONTENTS = "reports/differences.py", "reports/html/questions.py", "reports/html/contents.py"
ADVANTAGES, SURROGATE, ADAPTIVE = "rollout/advantages.py", "objectives/families/surrogate.py", "objectives/families/adaptive_kl.py"
RENDER, RENDERER, NAMES = "data/text/render.py", "data/text/renderer.py", "hf/names.py"


@dataclasses.dataclass(frozen=True)
class Function:
    """A function, the arguments of pytest that should notice, and (file, right code, wrong code) of each change."""

    name: str
    tests: str
    changes: tuple[tuple[str, str, str], ...]


CLIP = "        optax.clip_by_global_norm(max_grad_norm) if max_grad_norm else optax.identity(),\n"
RULE = "        layer_by_layer(update) if by_layer else update,\n"
DECAY = "        optax.add_decayed_weights(weight_decay, mask=_matrices(axes)) if weight_decay else optax.identity(),\n"
RATE = "        _scaled(optax.scale_by_learning_rate(schedule), scales or {}),\n"
FUNCTIONS = (
    Function(
        "attention mask",
        "tests/models/test_attention.py",
        (
            (XLA, "(key_index <= index)", "(key_index < index)"),
            (XLA, "(position - key_position < window)", "(position - key_position <= window)"),
            (XLA, "((prefix != 0) & (key_segment == prefix))", "(key_segment == prefix)"),
            (XLA, "related & near & (segment != 0)", "related & near"),
            (BLOCKS, "(low <= last) & (first <= high)", "(low <= last) & (first < high)"),
        ),
    ),
    Function(
        "log-prob alignment",
        "tests/lm_head/test_logps.py",
        (
            (CHUNKS, "jnp.pad(x[:, 1:], ((0, 0), (0, 1)))", "x"),
            (CHUNKS, "[:, :-1], ((0, 0), (1, 0)))", "[:, 1:], ((0, 0), (0, 1)))"),
            (CHUNKS, "jnp.where(columns < options.vocab_size, values, -jnp.inf)", "values"),
            (CHUNKS, "(flat.sum() - done + rest - 1) // rest", "(flat.sum() - done) // rest"),
            (CHUNKS, 'jnp.log(jax.lax.psum(jnp.exp(log_sum_exp - largest), "tensor"))', "jnp.log(jnp.exp(log_sum_exp - largest))"),
        ),
    ),
    Function(
        "pack",
        "tests/data/rows/test_pack.py",
        (
            (PACK, "prompt[:-1], position=0, segment=segment)", "prompt, position=0, segment=segment)"),
            (PACK, "np.where(scored, g * responses + k, -1)", "g * responses + k"),
            (PACK, "tokens, position=len(prompt), segment=segment, prefix=prefix)", "tokens, position=len(prompt), segment=segment)"),
            (PACK, "np.where(count > 1, prompt - 1 + count, prompt)", "np.where(count > 1, prompt + count, prompt)"),
            (PACK, "start = len(prompt) - len(head)", "start = 0"),
        ),
    ),
    Function(
        "loader",
        "tests/data/rows/test_loader.py",
        (
            (LOADER, "skipped) * rows + process_index * here\n        return", "skipped) * rows\n        return"),
            (LOADER, "if row < len(prepared) else None", "if row < len(prepared) - 1 else None"),
            (LOADER, "seed(seed).shuffle().repeat()", "seed(seed).repeat()"),
            (LOADER, "math.ceil(len(prepared) / rows)", "(len(prepared) // rows)"),
            (LOADER, "seed=seed + number, sampling=sampling) for", "seed=seed, sampling=sampling) for"),
        ),
    ),
    Function(
        "step",
        "tests/training/test_step.py tests/training/test_eval_step.py tests/training/test_reference.py",
        (
            (STEP, 'g / jnp.where(sums["loss"][1] > 0, sums["loss"][1], 1.0)', "g / batch.paired.size"),
            (STEP, "reference_rule(state.reference, trainable, state", "reference_rule(state.reference, state.trainable, state"),
            (STEP, "jnp.where(weight > 0, value, 0.0) * weight, weight", "value * weight, weight"),
            (STEP, "against(state.initial, fresh)", "against(reference, fresh)"),
            (STEP, "_statistics(objective, state, microbatch.added_up(measure, parts) if state.statistics else {})", "None"),
        ),
    ),
    Function(
        "reference rules",
        "tests/training/test_reference.py tests/rollout",
        (
            (REFERENCE, "alpha * new + (1 - alpha) * old", "(1 - alpha) * new + alpha * old"),
            (REFERENCE, "jnp.where(due, new, old), trainable", "jnp.where(due, old, new), trainable"),
            (REFERENCE, "(1 - alpha) * old, old), trainable", "(1 - alpha) * old, new), trainable"),
            (SOURCE, "jnp.int32(step % self._every))\n        return", "jnp.int32(0))\n        return"),
            (REFERENCE, "if not 0 <= alpha <= 1:", "if not 0 < alpha < 1:"),
        ),
    ),
    Function(
        "checkpoint",
        "tests/training/test_keep_best.py tests/training/test_damaged_checkpoints.py",
        (
            (CHECKPOINT, "{*there[-self._keep_last :], ", "{*there[: self._keep_last], "),
            (RUNS, "if isinstance(value, int | float) and math.isfinite(value)", "if value is not None"),
            (RUNS, "key=lambda step: (-values[step], step)", "key=lambda step: (values[step], step)"),
            (MANIFEST, "if facts is None or facts != present.get(name)", "if name not in present"),
            (CHECKPOINT, "for step in self.steps() if step > start", "for step in self.steps() if step < start"),
        ),
    ),
    Function(
        "KTO's z0",
        "tests/objectives/test_kto.py",
        (
            (KTO, 'jnp.maximum(statistics["kl"], 0.0)', 'statistics["kl"]'),
            (KTO, "beta * (each.log_ratios - z0)", "beta * (each.log_ratios + z0)"),
            (RESPONSES, "(mismatched(batch) & trained)", "mismatched(batch)"),
            (RESPONSES, "policy.replace(logps=jax.lax.stop_gradient(policy.logps))\n    trained", "policy\n    trained"),
            (KTO, "desirable = batch.reward > threshold", "desirable = batch.reward >= threshold"),
        ),
    ),
    Function(
        "IFT's residual",
        "tests/training/test_forward.py tests/objectives/test_ift.py",
        (
            (FORWARD, "(1 - share) * x + share * embed(greedy)", "share * x + (1 - share) * embed(greedy)"),
            (FORWARD, "jnp.where(scored, greedy, tokens)", "greedy"),
            (FORWARD, "return x if train_embeddings else jax.lax.stop_gradient(x)", "return x"),
            (FORWARD, "mixing_start + (mixing - mixing_start) * ramp", "mixing_start + mixing * ramp"),
            (IFT, "future * nll, batch), future", "future, batch), future"),
        ),
    ),
    Function(
        "render",
        "tests/data/text/test_render.py tests/data/text/test_faithful.py tests/data/text/test_against_transformers.py",
        (
            (RENDER, "if len(ends) > 1 and ends[0] == ends[1] and", "if len(ends) > 2 and ends[0] == ends[1] and"),
            (RENDER, "tokenizer.eos_id if tokenizer.eos_id in common else common[0]", "common[0]"),
            (RENDER, "ids[1:2] == ids[:1]", "ids[2:3] == ids[:1]"),
            (RENDER, "if call in (None, stops.last, stops.middle)", "if call is not None"),
            (RENDER, "return tail if tail is None or not before else tail.rpartition(before)[0]", "return tail"),
        ),
    ),
    Function(
        "hf names",
        "tests/hf/test_stories260k.py tests/hf/test_vocabulary.py tests/hf/test_weights_folder.py tests/models/test_decoder_parity.py",
        (
            (NAMES, '"HE D", "HE", "layers.attention.q", "DHE", "HE"', '"D HE", "HE", "layers.attention.q", "DHE", "HE"'),
            (NAMES, "np.take(array, part, axis=", "np.take(array, 0, axis="),
            (NAMES, "array = array[: config.vocab_size] if ours.startswith(\"V\") else array", "pass"),
            (NAMES, "name=row.name.format(layer), layer=layer", "name=row.name.format(layer), layer=0"),
            (NAMES, 'config.padded_vocab - config.vocab_size if letter == "V" else 0', "0"),
        ),
    ),
    Function(
        "kl",
        "tests/lm_head/test_distributions.py tests/lm_head/test_divergences.py tests/training/test_eval_step.py",
        (
            ("training/metrics.py", "(policy.hidden, policy.unembed), (reference.hidden, reference.unembed)",
             "(reference.hidden, reference.unembed), (policy.hidden, policy.unembed)"),
            (STEP, "kl(policy, constant, batch), batch.slots >= 0", "kl(constant, policy, batch), batch.slots >= 0"),
            (KL, "expected(lt, lt - ls), expected(ls, ls - lt)", "expected(ls, ls - lt), expected(lt, lt - ls)"),
            (KL, "lt + math.log(kind.beta), ls + math.log1p(-kind.beta)", "ls + math.log(kind.beta), lt + math.log1p(-kind.beta)"),
            (KL, "jnp.exp(ls) - jnp.exp(lt)", "jnp.exp(lt) - jnp.exp(ls)"),
            (KL, "jnp.exp(ls) * (ls - lt - heads.at(inner, index)[:, None])", "jnp.exp(ls) * (ls - lt)"),
            (KL, "ends[0][:, None], t - ends[1]", "ends[1][:, None], t - ends[0]"),
        ),
    ),
    Function(
        "optimizer and held-out numbers",
        "tests/training/test_optim.py tests/training/test_metrics.py tests/evaluators tests/reports/test_estimates.py "
        "tests/training/test_eval_step.py::test_the_evaluated_kl_is_that_of_the_policy_from_the_reference",
        (
            (OPTIM, CLIP + RULE, RULE + CLIP),
            (OPTIM, DECAY + RATE, RATE + DECAY),
            (METRICS, "token_divergence(*sides, batch", "token_divergence(*sides[::-1], batch"),
            (ESTIMATES, "value = sums.sum() / weights.sum()", "value = (sums / weights).mean()"),
            (METRICS, "(batch.reward[:, :, None] > batch.reward[:, None])", "(batch.reward[:, :, None] >= batch.reward[:, None])"),
        ),
    ),
    Function(
        "evaluation by answers",
        "tests/evaluators tests/reports/test_alarms.py",
        (
            ("evaluators/divergence.py", "by_answer[places[places >= 0]] = ", "by_answer[: (places >= 0).sum()] = "),
            ("evaluators/generation.py", "verdicts(rewards[self.judging", "verdicts(others.rewards[self.judging"),
            ("evaluators/multiple_choice.py", "logps / column(batch, BYTES)", "logps * column(batch, BYTES)"),
            ("evaluators/multiple_choice.py", ".ids[:-1] for choice", ".ids for choice"),
            ("reports/alarms.py", "last[reward].value < -ERRORS", "last[reward].value < ERRORS"),
        ),
    ),
    Function(
        "a report's answer",
        "tests/reports/test_differences.py tests/reports/test_estimates.py tests/test_report.py",
        (
            (DIFFERENCES, "for error in errors) / len(ends), min(", "for error in errors) / len(ends) ** 2, min("),
            (DIFFERENCES, "2 * opposite / end.n if", "0.0 if"),
            (DIFFERENCES, "other.high - other.value)", "other.value - other.low)"),
            (QUESTIONS, "for run in side.entry.finished() if math", "for run in side.entry.runs if math"),
            (QUESTIONS, "any(one not in other for", "all(one not in other for"),
            (DIFFERENCES, "/ (n - 1) / n, n - 1)", "/ (n - 1), n - 1)"),
            (CONTENTS, "steps.get(step, {}) | of_answers", "of_answers | steps.get(step, {})"),
            (CONTENTS, "one.step, one.time)", "one.step, -one.time)"),
            ("reports/html/measures.py", "return (*self.drawn, self._by(name)) if", "return (self._by(name),) if"),
            (ESTIMATES, "(np.asarray(before[1]) > 0) & (", "(np.asarray(before[1]) > 0) | ("),
            ("reports/html/answer.py", "level=differences.simultaneous(comparisons)", "level=differences.LEVEL"),
            ("reports/html/markup.py", "return Markup(html.escape(", "return Markup(("),
        ),
    ),
    Function(
        "win rates and intervals",
        "tests/reports/test_win_rates.py tests/reports/test_intervals.py",
        (
            (WIN_RATES, "np.where(first == second, 0.5, first > second)", "first > second"),
            (WIN_RATES, "np.bincount(at, column) for column in scores.T", "column for column in scores.T"),
            (WIN_RATES, "- penalty * weights)", ")"),
            (INTERVALS, "share * (1 - share) + z2 / (4 * n)", "share * (1 - share)"),
            (INTERVALS, "lambda s, w, t, v: t / v - s / w", "lambda s, w, t, v: (t - s) / (v + w)"),
        ),
    ),
    Function(
        "rewards",
        "tests/scoring/test_rewards.py",
        (
            ("scoring/rewards.py", "if abs(scaled) <= LARGEST else", "if not abs(scaled) > LARGEST else"),
            ("scoring/rewards.py", "{int(number): name for number in np.flatnonzero(np.isnan(scores))}", "{}"),
            ("scoring/callables.py", "if self._connection.poll(seconds):", "if True:"),
            ("scoring/callables.py", "[given_up] * (count - number)", "[given_up] * (count - number - 1)"),
            ("scoring/worker.py", "if numbers.shape != expected:", "if numbers.size != expected[0]:"),
        ),
    ),
    Function(
        "judge",
        "tests/scoring/test_judge.py",
        (
            (JUDGE, "one if one + other == 1 else 0.5", "one"),
            (JUDGE, "((firsts[i], seconds[i]), (seconds[i], firsts[i]))", "((firsts[i], seconds[i]), (firsts[i], seconds[i]))"),
            (JUDGE, "keep=lambda reply: verdict_of(reply) is not None", "keep=lambda reply: True"),
            ("scoring/endpoint.py", "json.dumps([self.url, body], sort_keys=True)", "json.dumps([self.url, self.model])"),
            ("scoring/endpoint.py", 'text.replace(self._key, "***") if self._key else text', "text"),
        ),
    ),
    Function(
        "annotations",
        "tests/scoring/test_annotations.py",
        (
            (ANNOTATIONS, "((0, 1) if better == 1 else (1, 0))", "((0, 1) if better == 0 else (1, 0))"),
            (ANNOTATIONS, "own[best] - own[worst] <= margin", "own[best] - own[worst] < margin"),
            (ANNOTATIONS, "np.nanargmax(own)", "np.argmax(own)"),
            (ANNOTATIONS, "if column in row and not _about(column, row.peek(column), count)", "if column in row"),
            (ANNOTATIONS, "[*(prompt or ()), *response[:-1]]", "[*(prompt or ())]"),
        ),
    ),
    Function(
        "advantages",
        "tests/rollout/test_advantages.py",
        (
            (ADVANTAGES, "goes_on = slot == slot_next", "goes_on = slot_next >= 0"),
            (ADVANTAGES, "jnp.where(scored, new, old) for", "new for"),
            (ADVANTAGES, "advantages + values, 0.0)", "advantages, 0.0)"),
            (ADVANTAGES, "jnp.maximum(count - 1, 1) + VARIANCE_EPS", "jnp.maximum(count, 1) + VARIANCE_EPS"),
            (ADVANTAGES, "(total - rewards) / jnp.maximum(count - 1, 1)", "total / jnp.maximum(count, 1)"),
        ),
    ),
    Function(
        "policy gradients",
        "tests/objectives/test_policy_gradient.py",
        (
            (SURROGATE, "-jnp.minimum(plain, held)", "-held"),
            (SURROGATE, "0.5 * jnp.maximum(plain, held)", "0.5 * held"),
            (SURROGATE, "k3(-log_ratio", "k3(log_ratio"),
            ("objectives/families/kl_estimates.py", "jnp.exp(-difference", "jnp.exp(difference"),
            (ADAPTIVE, "previous[NAME] + current", "current"),
        ),
    ),
)  # fmt: skip


def main(words: list[str]) -> int:
    survivors = 0
    print("| function | change | tests |\n|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for part in ("jaxalign", "tests", "configs", "launch"):
            shutil.copytree(ROOT / part, Path(folder, part), ignore=shutil.ignore_patterns("__pycache__"))
        for file in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / file, folder)
        for function in FUNCTIONS:
            if words and not any(word in function.name for word in words):
                continue
            for file, right, wrong in function.changes:
                start = time.monotonic()
                noticed = _noticed(Path(folder), function, Path(folder, "jaxalign", file), right, wrong)
                survivors += noticed == "SURVIVED"
                change = " ".join(f"`{right}` -> `{wrong}`".split())
                print(f"| {function.name} | {change} | {noticed} in {time.monotonic() - start:.0f} s |", flush=True)
    print(f"{survivors} survived.")
    return survivors > 1


def _noticed(folder: Path, function: Function, file: Path, right: str, wrong: str) -> str:
    """ "caught by TEST", or SURVIVED."""
    code = file.read_text()
    if code.count(right) < 1:
        raise SystemExit(f"{file.name} has no {right!r} any more; bring the change of {function.name} up to date.")
    file.write_text(code.replace(right, wrong))
    try:
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "--no-header", *function.tests.split()],
            cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        file.write_text(code)
    if run.returncode == 0:
        return "SURVIVED"
    failed = [line for line in run.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return "caught by " + (failed[0].split(" - ")[0].split("::")[-1] if failed else "an error")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

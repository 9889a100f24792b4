"""Whole runs through the command line: what they write, and what they say when something is wrong."""

import dataclasses
import gzip
import json
import os
from pathlib import Path
import re
import shutil
import signal

import jax
import numpy as np
import pytest

from jaxalign import sharding, train
from jaxalign.config import build
from jaxalign.models import lora
from jaxalign.reports import log, start_up
from jaxalign.training import sources

OPTIMIZED = True
CONFIG = str(Path(__file__).parent / "tiny.py")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


def start(workdir, cache, *overrides, config=CONFIG):
    """Exit code of a run of the tiny configuration."""
    return train.main(["--config", config, "--workdir", str(workdir), f"--config.data.prepared_dir={cache}", *overrides])


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


PAIR = {"prompt": "Hi", "chosen": "Hello, how are you?", "rejected": "No."}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    workdir = tmp_path_factory.mktemp("sft")
    assert start(workdir, cache, "--config.train.export=True", config=f"{CONFIG}:sft") == 0
    return workdir


def test_a_run_leaves_metrics_summary_plots_tensorboard_and_an_export(finished):
    assert [line["step"] for line in log.read_metrics(finished, "train")] == list(range(10))
    assert [line["step"] for line in log.read_metrics(finished, "eval")] == [0, 5, 10]
    last = log.read_metrics(finished, "train")[-1]
    assert {"loss", "grad_norm", "learning_rate", "speed/tokens_per_s", "speed/mfu", "speed/peak_memory_gib"} <= last.keys()
    assert 0 < last["speed/mfu"] < 1
    of_start = {name: value for name, value in log.read_metrics(finished, "train")[0].items() if "start_up" in name}
    parts = ("imports", "checks", "data", "weights", "evaluation", "compile", "first_step")
    assert of_start.keys() == {start_up.TOTAL, *map(start_up.PART.format, parts)} and min(of_start.values()) >= 0
    assert of_start.pop(start_up.TOTAL) == pytest.approx(sum(of_start.values())) and of_start["speed/start_up/compile_s"] > 0.05
    assert start_up.TOTAL not in last
    page = (finished / "summary.md").read_text()
    assert "| `loss` | " in page and "jaxalign.train --config" in page and "| training | package:sf_dialogue/train.jsonl.gz" in page
    assert "log-prob before, nats" in page  # of the samples
    assert (finished / "plots" / "training.png").stat().st_size > 5000
    assert list((finished / "tensorboard").iterdir())
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in (finished / "export").iterdir()}


def test_sft_lowers_the_held_out_loss(finished):
    first, *_, last = log.read_metrics(finished, "eval")
    assert last["loss"] < first["loss"] - 0.05


@pytest.mark.slow
def test_dpo_starts_from_an_export_at_ln_2_and_kl_0(finished, tmp_path, cache):
    workdir = tmp_path / "dpo"
    assert start(workdir, cache, f"--config.model.checkpoint={finished / 'export'}", "--config.train.total_steps=2") == 0
    before = log.read_metrics(workdir, "eval")[0]
    assert before["loss"] == pytest.approx(0.693147, abs=1e-6)
    assert before["rewards/margins"] == 0 and before["kl"] == pytest.approx(0, abs=1e-6)
    assert before["accuracy"] == before["rewards/accuracies"] == 0.5  # every pair is a tie
    assert before["logps/chosen"] < -10 and before["lengths/chosen"] > 1


def two_stages(tmp_path, cache, *further):
    """Path of a config of two short stages, SFT and DPO on what it leaves, with further lines."""
    path = tmp_path / "two.py"
    path.write_text(
        "import importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('tiny', {CONFIG!r})\n"
        "tiny = importlib.util.module_from_spec(spec); spec.loader.exec_module(tiny)\n"
        "def get_config():\n"
        "    sft, dpo = tiny.get_config('sft'), tiny.get_config('dpo')\n"
        "    for stage in (sft, dpo):\n"
        f"        stage.train.total_steps = 2; stage.data.prepared_dir = {str(cache)!r}\n"
        "    dpo.model.checkpoint = 'stage:sft'\n"
        + "".join(f"    {line}\n" for line in further)
        + "    return dict(stages=('sft', 'dpo'), sft=sft, dpo=dpo)\n"
    )
    return path


@pytest.mark.slow
def test_a_stop_between_stages_ends_the_run_and_the_next_start_goes_on(tmp_path, cache, monkeypatch):
    from jaxalign.hf import save as hf_save

    path, save = two_stages(tmp_path, cache), hf_save.save

    def save_and_be_stopped(*positional, **named):
        save(*positional, **named)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(hf_save, "save", save_and_be_stopped)
    arguments = ["--config", str(path), "--workdir", str(tmp_path / "run")]
    assert train.main([*arguments, "--stopped-exit-code", "75"]) == 75
    assert not (tmp_path / "run" / "dpo").exists()
    assert train.main(arguments) == 0
    assert log.read_metrics(tmp_path / "run" / "dpo", "eval")[-1]["step"] == 2


def test_no_more_than_two_steps_wait_for_the_devices(tmp_path, cache, monkeypatch):
    sent, done = [], []
    functions, wait = build.functions, jax.block_until_ready

    def watched(*positional, **named):
        made = functions(*positional, **named)

        def step(state, batch):
            state, metrics = made.train_step(state, batch)
            if len(sent) > 1 + train.AHEAD:  # the first one is fetched for the log
                assert any(one is sent[-1 - train.AHEAD] for one in done)
            sent.append(metrics)
            return state, metrics

        return dataclasses.replace(made, train_step=step)

    monkeypatch.setattr(build, "functions", watched)
    monkeypatch.setattr(jax, "block_until_ready", lambda tree: done.append(tree) or wait(tree))
    rest = ("--config.train.total_steps=6", "--config.train.log_every_steps=6", "--config.train.eval_every_steps=0")
    assert start(tmp_path / "run", cache, *rest, config=f"{CONFIG}:sft") == 0
    assert len(sent) == 6 and done


@pytest.mark.slow
def test_stages_hand_their_adapters_on(tmp_path, cache):
    section = "model.lora = dict(rank=4, alpha=8.0, targets=('q',), start="
    path = two_stages(tmp_path, cache, f"sft.{section}'fresh')", f"dpo.{section}'checkpoint')")
    assert train.main(["--config", str(path), "--workdir", str(tmp_path / "run")]) == 0
    after_sft = log.read_metrics(tmp_path / "run" / "sft", "eval")[-1]["logps/responses"]
    before_dpo = log.read_metrics(tmp_path / "run" / "dpo", "eval")[0]
    assert before_dpo["loss"] == pytest.approx(0.693147, abs=1e-6)
    assert before_dpo["rewards/margins"] == before_dpo["kl"] == 0  # the reference has them too
    assert before_dpo["logps/chosen"] == pytest.approx(after_sft, rel=0.2)  # DPO holds out pairs whose rejected side fits too
    assert log.read_metrics(tmp_path / "run" / "dpo", "eval")[-1]["kl"] > 0
    assert not (tmp_path / "run" / "sft" / "export").exists()
    with jax.set_mesh(sharding.make_mesh(fsdp=1, devices=jax.devices()[:1])):
        _, before, of_sft = sources.restore_params(tmp_path / "run" / "sft")
        shutil.rmtree(tmp_path / "run" / "sft")  # what reads the second stage needs the base alone
        model, after, of_dpo = sources.restore_params(tmp_path / "run" / "dpo")
    assert of_dpo["base"] == of_sft["base"] and of_dpo["base"]["weights"] == of_sft["weights"] != of_dpo["weights"]
    assert of_dpo["base"]["checkpoint"] == "package:stories260k"
    jax.tree.map(np.testing.assert_array_equal, lora.off(after), lora.off(before))
    moved = jax.tree.map(lambda a, b: float(abs(a - b).max()), after[lora.LORA], before[lora.LORA])
    assert 0 < max(jax.tree.leaves(moved)) < 0.01  # two steps at a rate of 1e-3


@pytest.mark.slow
def test_the_best_checkpoint_survives_beside_the_last_also_over_a_restart(tmp_path, cache, monkeypatch):
    from jaxalign.evaluators import held_out
    from jaxalign.reports.estimates import Estimate
    from jaxalign.training.checkpoint import Checkpoints

    losses = {0: 5.0, 2: 1.0, 4: 3.0, 6: 2.0}  # step 2 is best
    steps = iter(losses)
    monkeypatch.setattr(held_out, "evaluate", lambda *_, **__: {"loss": Estimate(losses[next(steps)], 0.1, 20)})
    settings = ["--config.train.keep_last=1", "--config.train.keep_best=1", "--config.train.total_steps=6"]
    settings += ["--config.train.eval_every_steps=2", "--config.train.save_every_steps=1"]
    save = Checkpoints.save

    def save_and_stop(self, state, **named):
        save(self, state, **named)
        if named["step"] == 3:
            self.wait()
            raise RuntimeError("the host is gone")

    monkeypatch.setattr(Checkpoints, "save", save_and_stop)
    assert start(tmp_path, cache, *settings, config=f"{CONFIG}:sft") == 1
    monkeypatch.setattr(Checkpoints, "save", save)
    assert start(tmp_path, cache, *settings, config=f"{CONFIG}:sft") == 0
    saved = Checkpoints(tmp_path, keep_last=1, keep_best=1)
    assert saved.steps() == [2, 6]
    assert saved.read_run(2)["metrics"] == {"loss": 1.0} and saved.read_run(6)["metrics"] == {"loss": 2.0}


@pytest.mark.slow
def test_a_nan_loss_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path, cache, capsys):
    overrides = ["--config.optimizer.learning_rate=1e30", "--config.train.save_every_steps=1", "--config.optimizer.warmup_steps=2"]
    assert start(tmp_path, cache, *overrides, config=f"{CONFIG}:sft") == 1
    message = capsys.readouterr().err
    assert re.search(r"(loss|grad_norm) is (nan|inf) at step \d", message), message
    good = int(re.search(r"newest good checkpoint is step (\d+)", message)[1])
    bad = int(re.search(r"at step (\d+)", message)[1])
    assert 1 <= good <= bad and "optimizer.learning_rate" in message
    assert (tmp_path / "checkpoints" / str(good)).is_dir()


def bad_file(tmp_path, name):
    path = tmp_path / "rows.jsonl"
    match name:
        case "missing":
            return tmp_path / "row.jsonl"
        case "empty":
            path.write_text("")
        case "not_utf8":
            path.write_bytes(json.dumps(PAIR).encode() + b"\n\xff\xfe\n")
        case "bad_json":
            path.write_text(json.dumps(PAIR) + "\n{oops\n")
        case "truncated_gz":
            whole = gzip.compress(b"".join(json.dumps({**PAIR, "n": i}).encode() + b"\n" for i in range(2000)))
            path = tmp_path / "rows.jsonl.gz"
            path.write_bytes(whole[: len(whole) // 2])
        case "without_rejected":
            write_rows(path, [{"prompt": "Hi", "chosen": "Hello"}] * 9)
        case "equal":
            write_rows(path, [{**PAIR, "rejected": PAIR["chosen"]}] * 9)
        case "empty_response":
            write_rows(path, [{**PAIR, "chosen": ""}] * 9)
        case "long_prompt":
            write_rows(path, [{**PAIR, "prompt": "a long story " * 400}] * 9)
        case "few":
            write_rows(path, [PAIR])
    return path


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("missing", [], ["row.jsonl"]),
        ("empty", [], ["rows.jsonl", "no rows|empty"]),
        ("truncated_gz", [], ["rows.jsonl.gz", "truncated|cut|whole"]),
        ("not_utf8", [], ["rows.jsonl", "line 2|UTF-8"]),
        ("bad_json", [], ["rows.jsonl", "line 2"]),
        ("without_rejected", ["--config.data.train.format=paired"], ["rejected"]),
        ("equal", [], ["chosen", "equal|same|identical"]),
        ("empty_response", [], ["empty"]),
        ("long_prompt", ["--config.data.prompt_truncation=drop"], ["prompt", "192", "prompt_truncation|max_prompt_tokens|row_tokens"]),
        ("few", [], ["fewer than one batch|1 rows", "8 rows"]),
    ],
)
def test_bad_data_is_refused_before_anything_is_compiled(tmp_path, cache, capsys, name, overrides, words):
    path = bad_file(tmp_path, name)
    source = f"--config.data.train={dict(path=str(path))!r}"
    assert start(tmp_path / "run", cache, source, "--config.data.eval=None", *overrides) == 1
    message = capsys.readouterr().err
    for word in words:
        assert re.search(word, message), message
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_pairs_out_of_ranked_lists_are_refused_not_cut(tmp_path, cache, capsys):
    rows = [{"prompt": f"Question {i}", "responses": [f"Good {i}.", f"Fair {i}.", f"Poor {i}."]} for i in range(40)]
    source = f"--config.data.train={dict(path=str(write_rows(tmp_path / 'rows.jsonl', rows)), format='ranked')!r}"
    assert start(tmp_path / "run", cache, source, "--config.data.eval=None") == 1
    assert "up to 3 responses per prompt, of which it would use two" in capsys.readouterr().err


def test_a_second_start_in_the_same_folder_is_refused(tmp_path, cache, capsys):
    from jaxalign.training.checkpoint import only_run

    with only_run(tmp_path):
        assert start(tmp_path, cache) == 1
    assert "another process is training" in capsys.readouterr().err


@pytest.mark.slow
def test_changed_data_are_not_continued_on(tmp_path, cache, capsys):
    rows = [{**PAIR, "prompt": f"Hi {i}"} for i in range(200)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    settings = [f"--config.data.train={dict(path=str(path))!r}", "--config.data.eval=None", "--config.train.total_steps=1"]
    assert start(tmp_path / "run", cache, *settings) == 0
    write_rows(path, rows[::-1])
    assert start(tmp_path / "run", cache, *settings) == 1
    assert "holds a run on other rows" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["--config.mesh.data=3"], ["mesh data=3", "8 devices"]),
        (["--config.batch.rows=12"], ["batch.rows=12", "8 devices", "multiple of 8"]),
        (["--config.model.checkpoint=nowhere"], ["nowhere"]),
        (["--config.objective.betta=1"], ["objective.betta", "it takes beta"]),
        (["--config.data.template=auto"], ["chat template", "chatml"]),
        (["--config.data.train.responses=chosen"], ["'dpo' reads pairs"]),
        (["--config.train.total_steps=0"], ["train.total"]),
        (["--config.objective.beta=-1.0"], ["objective.beta=-1.0", "above 0"]),
        (["--config.train.best_metric=-acuracy"], ["train.best_metric='-acuracy' is no held-out metric", "did you mean accuracy?"]),
        (["--config.train.best_metric=kl", "--config.data.eval=None"], ["there are none, as no rows are held out"]),
        (["--config.objective.name=sft"], ["'sft' trains on every response", 'responses="chosen"']),
        (["--process=1", "--processes=2"], ["--coordinator HOST:PORT"]),
    ],
    ids=lambda x: x[0] if isinstance(x, list) else "",
)
def test_settings_that_do_not_fit_are_refused_before_anything_is_compiled(tmp_path, cache, capsys, overrides, words):
    assert start(tmp_path, cache, *overrides) == 1
    message = capsys.readouterr().err
    for word in words:
        assert word in message, message
    assert not (tmp_path / "metrics.jsonl").exists()

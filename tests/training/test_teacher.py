"""Runs with a teacher: another model of the same vocabulary, read from its own checkpoint whenever a run starts and saved in none of it."""

import json
from pathlib import Path
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from jaxalign import evaluate, train
from jaxalign.config import build, files, rollouts, stages, teacher
from jaxalign.config.resume import check_evaluated, check_same_teacher
from jaxalign.data.text.tokenizer import load
from jaxalign.models import model as models
from jaxalign.training import checkpoint, metrics, runs
from jaxalign.training.roll_back import Skipped
from jaxalign.types import Outputs

FILE = """
import importlib.util

spec = importlib.util.spec_from_file_location("tiny", {tiny!r})
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)


def get_config():
    cfg = tiny.get_config("sft")
    # half as wide as its teacher, with random weights
    cfg.model = dict(tokenizer="package:stories260k", config=dict(
        model_type="llama", vocab_size=512, hidden_size=32, num_hidden_layers=1, num_attention_heads=8, num_key_value_heads=8,
        intermediate_size=64, max_position_embeddings=512, rms_norm_eps=1e-5,
    ))
    cfg.objective.name = "distill"
    cfg.reference = dict(checkpoint="package:stories260k")
    cfg.train = dict(total_steps=4, save_every_steps=2, eval_every_steps=2)
    return cfg
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """(workdir, settings) -> the exit code of a run with the teacher."""
    folder = tmp_path_factory.mktemp("taught")
    (folder / "taught.py").write_text(FILE.format(tiny=str(Path(__file__).parents[1] / "tiny.py")))

    def run(workdir, *settings):
        given = [f"--config.data.prepared_dir={folder / 'prepared'}", *(f"--config.{setting}" for setting in settings)]
        return train.main(["--config", str(folder / "taught.py"), "--workdir", str(workdir), *given])

    run.config = str(folder / "taught.py")
    return run


@pytest.fixture(scope="module")
def taught(tmp_path_factory, start):
    workdir = tmp_path_factory.mktemp("runs") / "taught"
    assert start(workdir) == 0
    return workdir


def held_out(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == "eval"]


@pytest.mark.slow
def test_a_smaller_student_comes_nearer_to_its_teacher(taught):
    first, *_, last = held_out(taught)
    assert last["loss"] < first["loss"]
    np.testing.assert_allclose(last["kl/forward"], last["loss"], rtol=1e-5)
    np.testing.assert_allclose(last["kl"], last["kl/reverse"], rtol=1e-4)  # of the policy from its reference


@pytest.mark.slow
def test_the_teacher_is_in_no_checkpoint_and_its_hash_in_the_record(taught):
    record = runs.record(taught, 4)
    assert len(record["teacher"]) > 8 and record["config"]["reference"]["checkpoint"] == "package:stories260k"
    held = {path.name for path in (runs.checkpoints(taught) / "4").rglob("*")}
    assert not any("reference" in name for name in held)


@pytest.mark.slow
def test_a_run_that_is_continued_reads_its_teacher_again_and_ends_with_the_same_bits(taught, start, tmp_path):
    cut = Path(shutil.copytree(taught, tmp_path / "cut"))
    shutil.rmtree(runs.checkpoints(cut) / "4")
    assert start(cut) == 0
    for name in ("loss", "kl", "kl/forward"):
        assert held_out(cut)[-1][name] == held_out(taught)[-1][f"{name}"]


@pytest.mark.slow
def test_an_evaluation_of_a_run_reads_its_teacher(taught, tmp_path):
    assert evaluate.main(["--workdir", str(taught), "--out", str(tmp_path / "numbers.json")]) == 0
    assert "kl/forward" in (tmp_path / "numbers.json").read_text()


@pytest.mark.slow
def test_fresh_texts_of_the_teacher_are_a_source_of_batches(taught, start, tmp_path, capsys):
    rollout = {"prompts": "package:sf_dialogue/train.jsonl.gz", "limit": 20, "samples": 1, "feedback": "samples", "max_new_tokens": 8}
    settings = [f"data.rollout={rollout | {'speaker': 'teacher', 'every_steps': 2}!r}", "data.train=None", "data.row_tokens=None"]
    assert start(tmp_path, *settings, "train.total_steps=2") == 0, capsys.readouterr().err


@pytest.fixture
def resolved(start):
    return stages.resolve_stages(files.load_file(start.config))[""]


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (511, "has 512 tokens in its vocabulary and the student 511.*tokenizer"),
        (512, "another vocabulary: '<extra>' is token 512 of the student and None of the teacher"),
    ],
)
def test_a_teacher_of_another_vocabulary_is_refused_with_the_reason(resolved, size, words):
    resolved.model.config.vocab_size = size
    tokenizer = load(teacher.Source("package:stories260k").tokenizer())
    with pytest.raises(ValueError, match=words):
        teacher.check(resolved, models.build(build.model_config(resolved)), tokenizer.with_added(("<extra>",)))


@pytest.fixture
def student(resolved):
    return models.build(build.model_config(resolved))


@pytest.fixture
def folder(tmp_path, resolved):
    """The teacher in a folder of its own, named by the configuration."""
    resolved.reference.checkpoint = str(tmp_path / "teacher")
    return Path(shutil.copytree(teacher.Source("package:stories260k").folder, tmp_path / "teacher"))


def rewrite(file, **values):
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(known | values))


def checked(resolved, student):
    return teacher.settle(resolved, student, load(teacher.Source("package:stories260k").tokenizer()))


def test_a_table_padded_to_another_size_is_refused_as_what_it_is(resolved, student, folder):
    rewrite(folder / "config.json", vocab_size=640)
    with pytest.raises(ValueError, match=r"has the student's tokenizer and a table of 640 tokens, the student's has 512.*resize_token"):
        checked(resolved, student)


def test_a_tokenizer_that_cannot_be_read_is_an_error_and_none_at_all_is_told(resolved, student, folder, capsys):
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="tokenizer"):
        checked(resolved, student)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert checked(resolved, student) == teacher.Source("package:stories260k").identity()
    assert "has no tokenizer files: its 512 tokens are taken to be the student's" in capsys.readouterr().err


def test_a_top_k_of_the_whole_vocabulary_is_refused(resolved, student):
    resolved.objective.top_k = 512
    with pytest.raises(ValueError, match="objective.top_k=512 keeps all 512 tokens"):
        checked(resolved, student)


def test_a_speaking_teacher_stops_by_its_own_settings_too(resolved, folder):
    rewrite(folder / "generation_config.json", eos_token_id=[7, 9])
    own = rollouts._speaker(resolved, {"speaker": "policy"}).stop_ids
    assert set(rollouts._speaker(resolved, {"speaker": "teacher"}).stop_ids) == {*own, 7, 9}


def test_a_run_as_the_teacher_is_named_with_its_step_once_and_for_all(resolved, student, tmp_path, monkeypatch):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    newest = iter([4, 8])
    monkeypatch.setattr(runs, "chosen", lambda workdir, step: next(newest) if step is None else step)
    monkeypatch.setattr(teacher, "check", lambda *_: None)
    monkeypatch.setattr(teacher.Source, "identity", lambda source: f"hash of {source.step}")
    resolved.reference.checkpoint = str(tmp_path / "run")
    assert teacher.settle(resolved, student, None) == "hash of 4"
    assert resolved.reference.checkpoint == f"{tmp_path / 'run'}@4"


def test_a_save_records_the_teacher_that_the_run_has_read_and_not_what_lies_at_its_path_now(resolved, monkeypatch):
    records = []
    monkeypatch.setattr(checkpoint, "run_record", lambda *_, **contents: records.append(contents))
    resolved.reference.checkpoint = "/nope"
    nothing = SimpleNamespace(flush=lambda: None, save=lambda *_, **__: None, replace=lambda **_: None)
    known = {"cfg": resolved, "model": SimpleNamespace(lora=None), "known": {"teacher": "abc"}, "skipped": Skipped()}
    train._save(SimpleNamespace(log=nothing, saved=nothing, **known), nothing, 2, None)
    assert records[0]["teacher"] == "abc"


@pytest.mark.parametrize("taught", ["abc", None])
def test_a_run_with_another_teacher_is_not_continued(taught):
    before = {"teacher": taught, "config": {"reference": {"checkpoint": "runs/one"}}}
    check_same_teacher(before, taught, "runs/x", way="")
    with pytest.raises(ValueError, match="runs/x holds a run with another teacher: reference.checkpoint was 'runs/one' with content"):
        check_same_teacher(before, "def", "runs/x", way="")


def test_an_evaluation_with_other_weights_at_the_teachers_path_must_name_them(resolved, student, monkeypatch):
    monkeypatch.setattr(runs, "record", lambda *_: {"teacher": "abc", "config": {"reference": {"checkpoint": "runs/one"}}})
    with pytest.raises(ValueError, match="holds a run with another teacher.*--config.reference.checkpoint="):
        check_evaluated(resolved, student, (Path("runs/x"), 4), typed=[])
    check_evaluated(resolved, student, (Path("runs/x"), 4), typed=["reference.checkpoint"])
    resolved.model.config.vocab_size = 511
    with pytest.raises(ValueError, match="has 512 tokens in its vocabulary and the student 511"):
        check_evaluated(resolved, models.build(build.model_config(resolved)), None, typed=["reference.checkpoint"])


def test_a_reference_with_another_number_of_tokens_is_compared_with_nothing():
    policy, reference = (Outputs(np.zeros((1, 2)), vocab_size=size) for size in (5, 6))
    with pytest.raises(ValueError, match="the policy has 5 tokens and its reference 6"):
        metrics.kl(policy, reference, None)


def test_a_stage_that_is_evaluated_by_itself_says_which_teacher_it_lacks(resolved):
    resolved.reference.checkpoint = "stage:big"
    with pytest.raises(ValueError, match="reference.checkpoint of on_data is 'stage:big'.*--config.on_data.reference.checkpoint=FOLDER"):
        stages.check_placed(resolved, "on_data")
    resolved.reference.checkpoint = None
    resolved.eval.generate = dict(against=None, judge=None, rewards=dict(helpful="model:stage:judge"))
    with pytest.raises(ValueError, match="rewards.helpful of on_data.*--config.on_data.eval.generate.rewards.helpful=model:FOLDER"):
        stages.check_placed(resolved, "on_data")

"""`python -m jaxalign.plan` on a tiny configuration, and that its bytes are those of arrays."""

import importlib.util
import json
import os
from pathlib import Path
import subprocess
import sys

import jax
from matplotlib.figure import Figure
import pytest

from jaxalign import plan, sharding
from jaxalign.config import build, durations, functions, plan_search, planned, planning
from jaxalign.config.resolve import resolve
from jaxalign.planning import layout, memory, pictures, topology
from jaxalign.reports import figures
from tests.plans import config, job

TINY = str(Path(__file__).parents[1] / "tiny.py")


@pytest.fixture
def planned_run(monkeypatch, tmp_path, capsys):
    """(exit code, output, JSON) of the command."""

    def run(*arguments):
        for name in ("XLA_FLAGS", "JAX_PLATFORMS", *topology.LIBTPU):
            monkeypatch.setenv(name, "")
        code = plan.main([*arguments, "--json", str(tmp_path / "plan.json")])
        return code, capsys.readouterr(), json.loads((tmp_path / "plan.json").read_text())

    return run


@pytest.mark.parametrize("lora", [None, dict(rank=2, alpha=4.0)])
def test_bytes_of_the_state_are_those_of_live_arrays(lora):
    one = job(mesh=dict(data=1, fsdp=4, tensor=2), model=dict(preset="tiny", tokenizer="none", lora=lora))
    with jax.set_mesh(sharding.make_mesh(**planning.mesh_of(one), torus=(2, 4), devices=jax.devices()[:8])):
        made = build.functions(one.cfg, functions.objective(one.cfg), one.model, durations.Durations(20, 20, 2, 10, 5, 5))
        state = made.init_state(build.params(one.cfg, one.model))

    def live(tree):
        return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))

    traced, trained = planning.trace(one), live(state.trainable)
    assert traced.state == memory.State(trained + live(state.frozen), trained, live(state.opt_state), live(state.reference))
    table = (state.frozen or state.trainable)["embed"]["tokens"]
    scattered = max(c.sent_bytes for c in traced.work.collectives if c.kind == "reduce-scatter")
    assert (scattered < table.size) == bool(lora)  # a table that is not trained has no gradient


def test_what_rests_on_the_host_takes_no_memory_of_a_device():
    plain, offloaded = (planning.quick(job(mesh=dict(fsdp=8, offload=parts))) for parts in ((), ("reference", "optimizer")))
    freed = plain["total_gib"] - offloaded["total_gib"]
    assert offloaded["host_gib"] == pytest.approx(freed) and plain["host_gib"] == 0
    kept = {name: offloaded["memory_gib"][name] / plain["memory_gib"][name] for name in memory.CAUSES}
    assert max(kept["reference"], kept["optimizer"]) < 0.05 and kept["parameters"] == kept["gradients"] == 1  # norms and biases stay


@pytest.mark.slow
def test_the_command_compiles_for_simulated_devices(planned_run, monkeypatch, tmp_path):
    monkeypatch.setenv("JAXALIGN_CACHE", str(tmp_path))
    arguments = ["--config", TINY, "--topology", "local:4", "--price=2", f"--config.data.prepared_dir={tmp_path}"]
    code, shown, found = planned_run(*arguments)
    assert code == 0 and found["fits"] and "memory per device" in shown.out
    assert found["by"].startswith("the compiler's peak")
    assert set(found["memory_gib"]) == set(memory.CAUSES)
    assert sum(found["memory_gib"].values()) == pytest.approx(found["total_gib"])
    assert 1 <= found["flops"]["executed"] / found["flops"]["necessary"] < 4
    assert {one["axes"][0] for one in found["collectives"]} == {"fsdp"}
    assert found["chip_hours"] == pytest.approx(4 * found["steps"] * found["step_s"] / 3600) and found["cost"] == 2 * found["chip_hours"]
    assert planned_run(*arguments)[2] == found  # from what was kept


def test_what_does_not_fit_is_answered_with_what_does(planned_run, tmp_path):
    file = tmp_path / "large.py"
    file.write_text(f"from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({config().to_dict()!r})\n")
    arguments = [
        "--config",
        str(file),
        "--topology",
        "v5e:2x2",
        "--quick",
        "--config.data.row_tokens=8192",
        "--config.model.attention=xla",
        "--config.batch.rows=1024",
    ]
    code, shown, found = planned_run(*arguments, "--config.mesh.data=4")
    assert code == 2 and "DOES NOT FIT" in shown.out and "nearest that fits: with " in shown.out
    assert found["nearest"]["fits"] and found["nearest"]["total_gib"] <= 15.75 < found["total_gib"]


def test_what_the_compiler_alone_finds_too_large_is_answered_with_what_is_smaller():
    large = job(batch=dict(rows=512))
    estimated = planning.quick(large)
    beyond = 1.01 * estimated["capacity_gib"] / estimated["total_gib"]  # the compiler's total is just more than a device has
    _, smaller = plan_search.nearest(large, beyond=beyond)
    assert estimated["fits"] and smaller["total_gib"] * beyond <= smaller["capacity_gib"]


@pytest.mark.slow
def test_a_search_and_a_comparison(planned_run, tmp_path):
    file = tmp_path / "small.py"
    file.write_text(f"from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({config().to_dict()!r})\n")
    code, shown, found = planned_run("--config", str(file), "--topology", "gpu:h100:2", "--search")
    assert code == 0 and all(one["fits"] for one in found) and len({json.dumps(one["mesh"]) for one in found}) == len(found)
    assert [one["step_s"] for one in found] == sorted(one["step_s"] for one in found)
    _, shown, found = planned_run("--config", str(file), "--topology", "gpu:h100:2", "--compare", "fsdp=2", "tensor=2")
    assert [one["mesh"]["fsdp"] for one in found] == [2, 1] and "tensor 2" in shown.out
    picture = tmp_path / "growth.png"
    several = ["--topology", "v5e:2x2", "tpu7x:2x2x1", "--rows-per-chip", "2", "--plot", str(picture)]
    code, shown, found = planned_run("--config", str(file), "--quick", *several)
    assert code == 0 and [(one["chips"], one["batch_rows"]) for one in found] == [(4, 8), (4, 8)]
    heads, _, *rows = [line.strip("| ").split(" | ") for line in shown.out.splitlines() if line.startswith("|")]
    assert heads[4:11] == list(memory.CAUSES) and [row[0] for row in rows] == ["v5e:2x2", "tpu7x:2x2x1"]
    assert {len(row) for row in rows} == {len(heads)} and picture.read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    file = tmp_path_factory.mktemp("plan") / "small.py"
    file.write_text(f"from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({config().to_dict()!r})\n")
    return str(file)


@pytest.mark.parametrize(
    ("arguments", "failing", "words"),
    [
        (("--topology", "gpu:h100:2", "--compare", "fsdp=2", "fsdp=3"), "fsdp=3", "does not cover the 2 devices"),
        (("--topology", "gpu:h100:2", "gpu:h100:3"), "gpu:h100:3", "16"),
    ],
    ids=["meshes", "topologies"],
)
def test_one_of_several_that_cannot_be_planned_is_named_and_the_others_are_shown_with_their_cost(
    planned_run, small, arguments, failing, words
):
    code, shown, (good, bad) = planned_run("--config", small, *arguments, "--price", "2")
    assert code == 1 and good["cost"] > 0 and bad["name"] == failing and words in bad["problem"]
    (line,) = [line for line in shown.out.splitlines() if line.strip("| ").startswith(failing)]
    assert f"cannot be planned: {bad['problem']}" in line
    assert "cost" in shown.out and f"{good['cost']:.3g}" in shown.out


def test_several_that_all_fail_are_one_error(planned_run, small, capsys):
    arguments = ["--config", small, "--topology", "gpu:h100:2", "--compare"]
    for meshes, words in ((("fsdp=3",), "ValueError: mesh data=1 x fsdp=3"), (("fsdp=3", "fsdp=5"), "\nfsdp=5: mesh data=1 x fsdp=5")):
        assert plan.main([*arguments, *meshes]) == 1 and words in capsys.readouterr().err


def test_context_divides_the_tokens_that_a_device_keeps():
    model = dict(preset="tiny", tokenizer="none", remat="full")
    rows, split = (planning.quick(job(model=model, batch=dict(rows=8), mesh=dict(fsdp=8 // size, context=size))) for size in (1, 4))
    same = "activations", "parameters", "optimizer", "reference"
    assert {name: split["memory_gib"][name] for name in same} == pytest.approx({name: rows["memory_gib"][name] for name in same})
    assert any(one["axes"] == ["context"] and one["kind"] == "reduce-scatter" for one in split["collectives"])
    with pytest.raises(ValueError, match="data.row_tokens=64 does not split over mesh.context=3"):
        planning.quick(job("gpu:h100:3", mesh=dict(fsdp=1, context=3)))


def test_a_search_splits_the_tokens_of_few_rows():
    meshes = [planning.mesh_of(one) for one in plan_search.candidates(job(batch=dict(rows=2), mesh=dict(fsdp=2, context=4)))]
    assert {(one["data"], one["fsdp"], one["context"], one["tensor"]) for one in meshes} >= {(1, 2, 4, 1), (2, 1, 4, 1), (1, 2, 1, 4)}
    assert all(one["data"] * one["fsdp"] <= 2 for one in meshes)


def test_a_search_says_where_nothing_splits():
    with pytest.raises(ValueError, match="batch.rows=5 with rows of 64 tokens split over v5e:16x16 in no way that was tried"):
        plan_search.search(job("v5e:16x16", batch=dict(rows=5), mesh=dict(fsdp=-1)))


def test_weights_stay_within_a_slice():
    assert job("2xv5e:2x4", mesh=dict(data=2)).axes == {"data": 2, "fsdp": 2, "fsdp_inner": 4, "context": 1, "tensor": 1}
    with pytest.raises(ValueError, match="set mesh.data=2, or a multiple of it, and mesh.fsdp=-1"):
        planning.quick(job("2xv5e:2x4"))


@pytest.mark.parametrize(("arguments", "words"), [
    (("v5e:2x2", "v5e:4x4", "--search"), "about one topology"),
    (("v5e:2x2", "--plot=x.png"), "draws several topologies"),
    (("v5e:2x2", "--layout", "x.svg"), "the picture is a PNG"),
    (("v5e:2x2", "--rows-per-chip", "0"), "is below 1"),
    (("v5e:2x2", "--price", "inf"), "no amount from 0"),
    (("v5e:2x2", "--search", "--compare", "fsdp=4"), "give one of the two"),
    (("v5e:2x2", "--search", "--layout"), "shows one plan"),
    (("v5e:2x2", "--json", "/"), "is a folder"),
])  # fmt: skip
def test_flags_that_do_not_go_together_are_refused(monkeypatch, capsys, arguments, words):
    monkeypatch.setattr(topology, "set_environment", pytest.fail)
    assert plan.main(["--config", TINY, "--topology", *arguments]) == 1 and words in capsys.readouterr().err


def test_the_layout_shows_where_every_parameter_lies(tmp_path, monkeypatch):
    one = job(mesh=dict(data=1, fsdp=4, tensor=2))
    shown = layout.lines(planning.trace(one).step.state.trainable)
    assert len(shown) == 1 + len(jax.tree.leaves(one.model.shapes))
    (line,) = [line for line in shown if line.startswith("layers.mlp.up.kernel")]
    assert "2x64x128" in line and "2x16x64" in line and "fsdp 2 x fsdp_inner 2 x tensor 2" in line
    drawn = []
    monkeypatch.setattr(figures, "write", lambda path, panels: drawn.extend(panels))
    pictures.layout(tmp_path / "layout.png", planning.trace(one).step.state.trainable)
    (panel,) = [panel for panel in drawn if panel.title.startswith("layers.mlp.up.kernel")]
    assert (panel.y, panel.x) == ("64 over fsdp 2 x fsdp_inner 2", "128 over tensor 2") and panel.title.endswith("on a device, 2 of these")
    axes = Figure().add_subplot()
    panel.draw(axes)
    (own,) = axes.patches
    assert (own.get_height(), own.get_width(), len(axes.lines)) == (16, 64, 3 + 1)  # its part, and the lines between the parts


@pytest.mark.parametrize(
    ("checkpoint", "preset"),
    [
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama3-8b"), ("Qwen/Qwen2.5-7B", "qwen2.5-7b"),
        ("mistralai/Mistral-7B-v0.1", "mistral-7b"),
        ("EleutherAI/pythia-2.8b", "pythia-2.8b"), ("meta-llama/Llama-3.3-70B-Instruct", "llama3-70b"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_is_not_here_has_the_shape_of_its_preset(checkpoint, preset):
    cfg = resolve(config(model=dict(checkpoint=checkpoint)))
    assert preset in planned.shape_of_model(cfg, preset=None)
    assert (cfg.model.preset, cfg.model.checkpoint) == (preset, None)


def test_a_checkpoint_of_no_known_shape_asks_for_a_preset():
    with pytest.raises(ValueError, match="--preset with one of .*llama3-8b"):
        planned.shape_of_model(resolve(config(model=dict(checkpoint="somebody/large-model-13b"))), preset=None)


def test_the_weights_of_one_layer_are_gathered_ahead_on_tpus(monkeypatch):
    here = job(mesh=dict(fsdp=-1))
    temporary = planning.quick(here)["memory_gib"]["temporary"]
    monkeypatch.setattr(planning.compiler_options, "GATHERS_AHEAD", ())
    weights = sum(x.size for x in jax.tree.leaves(here.model.shapes["layers"])) / here.model.config.layers
    width = jax.numpy.dtype(build.dtype(here.cfg)).itemsize
    assert temporary - planning.quick(here)["memory_gib"]["temporary"] == pytest.approx(weights * width / 2**30)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install 'jaxalign[tpu]'")
def test_a_step_is_compiled_for_two_tpu_slices_and_only_parts_of_gradients_cross_them(tmp_path):
    command = [sys.executable, "-m", "jaxalign.plan", "--config", TINY, "--topology", "2xv5e:2x2", "--json", str(tmp_path / "plan.json")]
    command += ["--config.mesh.data=2"]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "JAXALIGN_CACHE": str(tmp_path), "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"},
        text=True,
        capture_output=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["fits"] and "cycles" in found["step_by"]
    crossing = [one for one in found["collectives"] if one["network_gib"]]
    assert {(one["kind"], *one["axes"]) for one in crossing} == {("all-reduce", "data")}
    parts = found["memory_gib"]["parameters"]  # float32, a device's own; the gradients of matrices cross as bfloat16
    assert 0.5 * parts < sum(one["network_gib"] for one in crossing) < 1.1 * parts
    assert found["bound_s"]["network"] > 0 and {"fsdp", "fsdp_inner"} <= {axis for one in found["collectives"] for axis in one["axes"]}

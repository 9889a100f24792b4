"""The rules of the source tree, read with ast: imports go down the levels, tools have their places, files and functions are short."""

import ast
import functools
import graphlib
import importlib
from pathlib import Path
import subprocess
import sys

import pytest

import jaxalign

ROOT = Path(jaxalign.__file__).parent
ROOMS = (  # from the ground up: a room imports from rooms that stand before it, and from no other
    "hparams",  # options of functions
    "suggest",  # what was meant by a name
    "paths",
    "hidden",  # tokens and passwords
    "hub",  # names on the Hugging Face hub
    "manifest",  # hashes of files and settings
    "hosts",  # what processes of a run tell each other
    "outputs",  # files of a name that a person gave
    "chips",  # what accelerators can do
    "sharding",  # the table of axes
    "collectives",  # of weights
    "types",  # batch, outputs, terms, state
    "offload",  # what rests in the memory of the host
    "lm_head",
    "models",
    "data",
    "objectives",
    "hf",
    "reports",
    "planning",  # what a step will need and take
    "training",
    "scoring",  # a model that gives numbers to rows
    "sampling",  # a model that speaks
    "rollout",  # where batches come from
    "evaluators",
    "experiments",
    "checking",  # a run's own step, compared with itself
    "config",  # the only reader of configurations beside the commands
)
COMMANDS = {  # they import rooms, and no other command
    "train",
    "prepare",
    "annotate",
    "inspect",
    "export",
    "generate",
    "compare",
    "report",
    "evaluate",
    "plan",
    "selfcheck",
}
JIT = {  # of hf: a tensor; of experiments: many steps of a tiny model in one call, and what draws and judges texts
    "experiments.enumerable",
    "experiments.teacher_hacking",
    "checking.steps",
    *("training.step", "training.compiler_options", "rollout.source", "scoring.scorer", "scoring.goal", "sampling.sampler"),
    *("hf.load", "hf.save", "models.draw", "models.merge", "models.quantized"),
}
FILE_LINES, OBJECTIVE_LINES, FUNCTION_LINES = 300, 80, 60

FILES = sorted(ROOT.rglob("*.py"))
MODULES = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").strip("."): file for file in FILES}
CODE = sorted(name for name, file in MODULES.items() if file.name != "__init__.py")
modules = pytest.mark.parametrize("name", CODE)


@functools.cache
def nodes(name):
    """All nodes of a module's tree, its root first."""
    return tuple(ast.walk(ast.parse(MODULES[name].read_text())))


@functools.cache
def imports(name):
    """{(module, name or None)} of every import, those inside functions too: `from a import b` gives (a, b), `import a` gives (a, None)."""
    found = set()
    for node in nodes(name):
        if isinstance(node, ast.Import):
            found.update((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import on line {node.lineno}; write the whole path."
            found.update((node.module, alias.name) for alias in node.names)
    return found


@functools.cache
def named(name):
    """Names of attributes and of what is imported."""
    return {node.attr for node in nodes(name) if isinstance(node, ast.Attribute)} | {member for _, member in imports(name)}


def own(name):
    """Modules of jaxalign that a module imports, without the leading "jaxalign."."""
    for module, member in imports(name):
        if module.split(".")[0] == "jaxalign":
            whole = ".".join(part for part in (module, member) if part).removeprefix("jaxalign").strip(".")
            yield whole if whole in MODULES else module.removeprefix("jaxalign").strip(".")


def third_party(name):
    return {module.split(".")[0] for module, _ in imports(name)} - {"jaxalign"}


@modules
def test_a_room_imports_from_the_rooms_before_it_only(name):
    room = name.split(".")[0]
    assert room in ROOMS or room in COMMANDS, f"{room} is no room; add it to ROOMS, or to COMMANDS."
    allowed = ROOMS[: ROOMS.index(room) + 1] if room in ROOMS else (*ROOMS, room)
    for other in filter(None, own(name)):
        assert other.split(".")[0] in allowed, f"{name} imports {other}, which is no room before {room}."


def test_every_room_and_command_is_there():
    assert {name.split(".")[0] for name in MODULES} - {""} == {*ROOMS, *COMMANDS}


def test_imports_have_no_cycle():
    order = graphlib.TopologicalSorter({name: {other for other in own(name) if other} for name in CODE}).static_order()
    assert set(CODE) <= set(order)  # static_order raises CycleError


@modules
def test_flax_nnx_is_used_under_models_only(name):
    uses = "nnx" in named(name) or any(module.split(".")[-1] == "nnx" for module, _ in imports(name))
    assert not uses or name.startswith("models.")


@pytest.mark.parametrize("name", [name for name in CODE if name.startswith("data.") and name != "data.rows.loader"])
def test_data_is_made_without_jax(name):
    assert not third_party(name) & {"jax", "jaxlib", "flax", "optax"}


@modules
def test_partitions_are_written_in_sharding_only(name):
    assert name == "sharding" or not named(name) & {"PartitionSpec", "P"}, f"{name} names PartitionSpec; use sharding.spec or gather."


@modules
def test_jit_is_called_where_the_design_says(name):
    assert name in JIT or not named(name) & {"jit", "pjit", "pmap"}


@modules
def test_no_module_names_torch_or_tensorflow(name):
    assert not third_party(name) & {"torch", "tensorflow"}


@modules
def test_transformers_reads_tokenizers_only(name):
    assert name == "data.text.tokenizer_files" or "transformers" not in third_party(name)


def test_importing_every_module_loads_neither_torch_nor_tensorflow():
    names = [".".join(part for part in ("jaxalign", name) if part) for name in MODULES]
    script = (
        f"import importlib, sys\nfor name in {names}: importlib.import_module(name)\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'tensorflow', 'transformers'}))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT.parent, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_importing_the_package_does_not_load_jax():
    script = "import sys, jaxalign\nprint(sorted({'jax', 'flax', 'datasets', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT.parent, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@modules
def test_files_are_short(name):
    lines = len(MODULES[name].read_text().splitlines())
    assert lines <= (OBJECTIVE_LINES if name.startswith("objectives.") and name.count(".") == 1 else FILE_LINES)


@modules
def test_functions_are_short(name):
    functions = [node for node in nodes(name) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {node.name: size for node in functions if (size := node.end_lineno - node.lineno + 1) > FUNCTION_LINES}
    assert not long


@modules
def test_every_file_says_what_it_is_for(name):
    assert ast.get_docstring(nodes(name)[0])


@pytest.mark.parametrize("name", ["checkpoint", "data.tokenizer"])
def test_short_names_lead_to_modules_and_are_for_scripts_alone(name):
    package, _, module = f"jaxalign.{name}".rpartition(".")
    assert getattr(importlib.import_module(package), module).__name__ in {f"jaxalign.{whole}" for whole in CODE}
    assert not any((package, module) in imports(other) for other in CODE), f"{package} import {module}: write the whole path"


def test_a_name_that_no_module_has_is_none_of_the_package():
    assert not hasattr(importlib.import_module("jaxalign.data"), "tokeniser")


def test_files_of_tests_have_names_of_their_own():
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert len(names) == len(set(names)), sorted({name for name in names if names.count(name) > 1})  # pytest takes them for one module

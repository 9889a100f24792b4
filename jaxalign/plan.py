"""Plans a run before it is paid for: memory, arithmetic, collectives, speed and cost on TPU slices or GPUs that need not be there.

    python -m jaxalign.plan --config configs/NAME.py --topology v5p:4x4x4 --quick

Nothing is trained and no weights are read. --quick traces the run's own train step on shapes, which takes seconds; without it the step is
compiled for the topology by its real compiler, which takes minutes for a large model and is kept.
"""

from collections.abc import Sequence
import json
import math
from pathlib import Path
import re
import sys

from jaxalign.config.command_line import from_command_line, local, run
from jaxalign.planning import topology as topologies

FLAGS = (
    ("--topology", {"nargs": "+", "default": ["local"], "help": f"chips: {topologies.FORMS} (local); several give a table, by --quick"}),
    ("--quick", {"action": "store_true", "help": "from a trace of the step alone, in seconds; nothing is compiled"}),
    ("--search", {"action": "store_true", "help": "try meshes, microbatches and remat by --quick, and show the best few"}),
    ("--compare", {"nargs": "+", "metavar": "MESH", "help": "a table over meshes, such as fsdp=64 fsdp=16,tensor=4, by --quick"}),
    ("--rows-per-chip", {"type": int, "metavar": "COUNT", "help": "set batch.rows to so many for each chip"}),
    ("--plot", {"metavar": "PNG", "type": local, "help": "of several topologies: memory, collectives and bounds over their chips"}),
    ("--json", {"metavar": "FILE", "type": local, "help": "write the plan, or all plans of several, as JSON"}),
    ("--layout", {"nargs": "?", "const": "", "metavar": "PNG", "help": "show how every parameter lies on the mesh, also as a picture"}),
    ("--price", {"type": float, "metavar": "AMOUNT", "help": "of one chip-hour, in any currency, for the cost of the run"}),
    ("--preset", {"help": "plan with the shape of this preset instead of the model's"}),
    ("--stage", {"help": "which stage of a configuration of several (the last that trains)"}),
)
SHOWN = 8  # plans of a search


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a plan; returns the exit code: 2 where it does not fit, 1 where one of several cannot be planned."""
    return run(_plan, argv)


def _plan(argv):
    asked = from_command_line(argv, __doc__.splitlines()[0], FLAGS, command="plan")
    options = asked.options
    given = [topologies.parse(one) for one in options.topology]
    _check(options, several=len(given) > 1)
    topologies.set_environment(given[0])
    from jaxalign.config import plan_search, planning
    from jaxalign.planning import layout, pictures, text

    if len(given) > 1:
        plans, failed = _all({one.name: lambda one=one: planning.quick(_job(asked, one)) for one in given})
        print("\n".join([f"{plans[0]['what']}; shape {plans[0]['shape']}", f"rows: {plans[0]['rows']}", ""]))
        print("\n".join(text.by_topology(plans, failed)))
        if options.plot:
            pictures.growth(Path(options.plot), plans)
        _write(options.json, [*plans, *failed])
        return 1 if failed else 0
    job, (topology,) = _job(asked, given[0]), given
    if options.search or options.compare:
        meshes = {one: job.changed(**_mesh(one)) for one in options.compare or ()}
        jobs = {name: lambda one=one: planning.quick(one) for name, one in meshes.items()}
        plans, failed = (plan_search.search(job, _progress), []) if options.search else _all(jobs)
        _progress("")
        if not plans:
            raise ValueError(f"nothing that was tried fits {topology.name}; choose more chips, fewer rows, or shorter ones.")
        print("\n".join([*text.lines(plans[0])[:3], "", *text.table(plans[:SHOWN] if options.search else plans, failed)]))
        _write(options.json, [*plans, *failed])
        return 1 if failed else 0
    plan = planning.quick(job)
    job = job.changed(remat=plan["remat"])
    estimated = plan["total_gib"]
    if not options.quick and topology.platform != "gpu":
        first = f"first estimate: {plan['total_gib']:.2f} GiB, {plan['step_s']:.3g} s per step; now the step is compiled"
        print(f"{first}, which takes minutes for a large model and is kept", file=sys.stderr)
        plan = planning.exact(job)
    elif not options.quick:
        plan["notes"].append("the compiler for GPUs needs a GPU; this is what --quick gives")
    print("\n".join(text.lines(plan)))
    if options.layout is not None:
        state = planning.trace(job).step.state
        held = state.trainable if state.frozen is None else {**state.frozen, **state.trainable}
        print("\n".join(["", *layout.lines(held)]))
        if options.layout:
            print(f"picture: {pictures.layout(Path(options.layout), held)}")
    if not plan["fits"]:
        found = plan_search.nearest(job, _progress, beyond=plan["total_gib"] / estimated)
        _progress("")
        print(f"nearest that fits: {_words(found)}")
        plan["nearest"] = found and {"change": found[0], **found[1]}
    _write(options.json, plan)
    return 0 if plan["fits"] else 2


def _all(quick) -> tuple[list[dict], list[dict]]:
    """(the plans that functions by name give, {"name", "problem"} of each that raises).

    Raises:
      ValueError: all do.
    """
    plans, failed = [], []
    for name, function in quick.items():
        try:
            plans.append(function())
        except ValueError as error:
            failed.append({"name": name, "problem": str(error)})
    if not plans:
        problems = dict.fromkeys(one["problem"] for one in failed)  # what is not about topology or mesh is the same for all
        raise ValueError("\n".join(problems if len(problems) == 1 else [f"{one['name']}: {one['problem']}" for one in failed]))
    return plans, failed


def _check(options, *, several: bool) -> None:
    if options.price is not None and not 0 <= options.price < math.inf:
        raise ValueError(f"--price {options.price} is no amount from 0; give the price of one chip-hour.")
    if options.rows_per_chip is not None and options.rows_per_chip < 1:
        raise ValueError(f"--rows-per-chip {options.rows_per_chip} is below 1; give the rows of a step for each chip.")
    if options.search and options.compare:
        raise ValueError("--search chooses the meshes itself, and --compare names them; give one of the two.")
    if options.layout is not None and (options.search or options.compare):
        raise ValueError("--layout shows one plan, and --search and --compare several; leave it out, and set mesh.* of the one to look at.")
    if several and (options.search or options.compare or options.layout is not None):
        raise ValueError("--search, --compare and --layout are about one topology; name one with --topology.")
    if options.plot and not several:
        raise ValueError("--plot draws several topologies; name them with --topology, as in --topology v5p:4x4x4 v5p:4x8x8.")
    for flag, path in (("--plot", options.plot), ("--layout", options.layout)):
        if path and not path.endswith(".png"):
            raise ValueError(f"{flag} {path}: the picture is a PNG; give its file a name that ends in .png.")
    for flag, path in (("--plot", options.plot), ("--layout", options.layout), ("--json", options.json)):
        if path and Path(path).is_dir():
            raise ValueError(f"{flag} {path} is a folder; give the file to write.")
        if path:  # before minutes of compiling
            Path(path).parent.mkdir(parents=True, exist_ok=True)


def _job(asked, topology):
    """The job of the command on a topology."""
    from jaxalign.config import planned, planning

    stage, cfg = planned.stage(asked.stages, asked.options.stage)
    if asked.options.rows_per_chip:
        cfg.batch.rows = asked.options.rows_per_chip * topology.chips
    name = f"{asked.name}, stage {stage}" if stage else asked.name
    return planning.job(cfg, topology, name=name, preset=asked.options.preset, price=asked.options.price)


def _mesh(text: str) -> dict[str, int]:
    """{axis: size} of "fsdp=16,tensor=4"; axes that are not named have one device."""
    sizes = dict.fromkeys(("data", "fsdp", "context", "tensor"), 1)
    for part in text.split(","):
        name, _, size = part.partition("=")
        if name not in sizes or not re.fullmatch(r"-?[0-9]+", size):
            raise ValueError(f"--compare {text!r} is no mesh; write it like fsdp=16,tensor=4, with axes of {', '.join(sizes)}.")
        sizes[name] = int(size)
    return sizes


def _words(found) -> str:
    if found is None:
        return "none was found; choose more chips, or fewer and shorter rows"
    change, plan = found
    return f"with {change}: {plan['total_gib']:.2f} GiB, {plan['step_s']:.3g} s per step"


def _progress(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)


def _write(path, contents) -> None:
    if path:
        Path(path).write_text(json.dumps(contents, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())

"""Plans a run before it is paid for: memory, arithmetic, collectives, speed and cost on TPU slices or GPUs that need not be there.

    python -m jaxalign.plan --config configs/NAME.py --topology v5p:4x4x4 --quick

Nothing is trained and no weights are read. --quick traces the run's own train step on shapes, which takes seconds; without it the step is
compiled for the topology by its real compiler, which takes minutes for a large model and is kept.
"""

from collections.abc import Sequence
import json
from pathlib import Path
import sys

from jaxalign.config.command_line import from_command_line, local, run
from jaxalign.planning import topology as topologies

FLAGS = (
    ("--topology", {"default": "local", "help": f"chips: {topologies.FORMS} (local)"}),
    ("--quick", {"action": "store_true", "help": "from a trace of the step alone, in seconds; nothing is compiled"}),
    ("--search", {"action": "store_true", "help": "try meshes, microbatches and remat by --quick, and show the best few"}),
    ("--compare", {"nargs": "+", "metavar": "MESH", "help": "a table over meshes, such as fsdp=64 fsdp=16,tensor=4, by --quick"}),
    ("--json", {"metavar": "FILE", "type": local, "help": "write the plan, or with --search and --compare all plans, as JSON"}),
    ("--layout", {"action": "store_true", "help": "show how every parameter lies on the mesh"}),
    ("--price", {"type": float, "metavar": "AMOUNT", "help": "of one chip-hour, in any currency, for the cost of the run"}),
    ("--preset", {"help": "plan with the shape of this preset instead of the model's"}),
    ("--stage", {"help": "which stage of a configuration of several (the last that trains)"}),
)
SHOWN = 8  # plans of a search


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a plan; returns the exit code, 2 where it does not fit."""
    return run(_plan, argv)


def _plan(argv):
    asked = from_command_line(argv, __doc__.splitlines()[0], FLAGS, command="plan")
    options = asked.options
    if options.price is not None and not options.price >= 0:
        raise ValueError(f"--price {options.price} is below 0; give the price of one chip-hour.")
    topology = topologies.parse(options.topology)
    topologies.set_environment(topology)
    from jaxalign.config import plan_search, planned, planning
    from jaxalign.planning import layout, text

    stage, cfg = planned.stage(asked.stages, options.stage)
    name = f"{asked.name}, stage {stage}" if stage else asked.name
    job = planning.job(cfg, topology, name=name, preset=options.preset, price=options.price)
    if options.search or options.compare:
        meshes = [job.changed(**_mesh(one)) for one in options.compare or ()]
        plans = plan_search.search(job, _progress) if options.search else [planning.quick(one) for one in meshes]
        _progress("")
        if not plans:
            raise ValueError(f"nothing that was tried fits {topology.name}; choose more chips, fewer rows, or shorter ones.")
        print("\n".join([*text.lines(plans[0])[:3], "", *text.table(plans[:SHOWN] if options.search else plans)]))
        _write(options.json, plans)
        return 0
    plan = planning.quick(job)
    if not options.quick and topology.platform != "gpu":
        first = f"first estimate: {plan['total_gib']:.2f} GiB, {plan['step_s']:.3g} s per step; now the step is compiled"
        print(f"{first}, which takes minutes for a large model and is kept", file=sys.stderr)
        plan = planning.exact(job)
    elif not options.quick:
        plan["notes"].append("the compiler for GPUs needs a GPU; this is what --quick gives")
    print("\n".join(text.lines(plan)))
    if options.layout:
        print("\n".join(["", *layout.lines(planning.trace(job).step.state.trainable)]))
    if not plan["fits"]:
        found = plan_search.nearest(job, _progress)
        _progress("")
        print(f"nearest that fits: {_words(found)}")
        plan["nearest"] = found and {"change": found[0], **found[1]}
    _write(options.json, plan)
    return 0 if plan["fits"] else 2


def _mesh(text: str) -> dict[str, int]:
    """{axis: size} of "fsdp=16,tensor=4"; axes that are not named have one device."""
    sizes = dict.fromkeys(("data", "fsdp", "tensor"), 1)
    for part in text.split(","):
        name, _, size = part.partition("=")
        if name not in sizes or not size.lstrip("-").isdigit():
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

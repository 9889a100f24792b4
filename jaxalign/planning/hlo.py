"""A compiled program read from its text: how often each computation runs, matrix products, collectives, the compiler's own cycles.

`cost_analysis` of a compiled program counts the body of a loop once, so everything here is multiplied by the trip counts of the loops. A
loop whose trips depend on data is given a number by the caller.
"""

from collections.abc import Iterator
import dataclasses
import math
import re

from jaxalign.planning import network
from jaxalign.planning.program import SENT

WIDTHS = {"pred": 1, "bf16": 2, "f16": 2, "f32": 4, "f64": 8, **{f"{sign}{bits}": bits / 8 for sign in "su" for bits in (4, 8, 16, 32, 64)}}
ARRAY = re.compile(r"\b(pred|bf16|f16|f32|f64|[su](?:4|8|16|32|64))\[([\d,]*)\]")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
CALLED = re.compile(r"(calls|to_apply|body|condition|branch_computations|called_computations)=(\{[^}]*\}|%?[\w.\-]+)")
CHAIN = re.compile(r'chain_id="(\d+)"')  # of a collective that fusions carry while they compute something else
NO_ESTIMATE = str(2**63 - 1)  # cycles of an instruction that the compiler cannot tell
OPERAND = re.compile(r"%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction of a computation."""

    name: str
    shape: str
    opcode: str
    rest: str  # operands and attributes


@dataclasses.dataclass(frozen=True)
class Sent:
    """A collective of the compiled program."""

    kind: str  # a key of program.SENT
    devices: int  # in a group
    group: tuple[int, ...]  # the first group's devices; () where the text does not list them
    sent_bytes: float
    times: float
    loop: str
    asynchronous: bool  # other work runs while it is under way
    between_slices: bool = False  # it is what chips of several TPU slices exchange, over the network


class Program:
    """A compiled program.

    Args:
      text: of an optimized module.
      trips: of loops whose number the program does not contain.
    """

    def __init__(self, text: str, *, trips: float):
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ""
        self._read(text)
        self.times: dict[str, float] = {}
        self.started: set[str] = set()  # computations that run beside others, on a core of their own
        self.loops: dict[str, tuple[float, ...]] = {}  # computation -> trips of the loops that it runs in, outermost first
        self._visit(self.entry, 1.0, (), trips)

    def _read(self, text):
        current: list[Instruction] = []
        for line in text.splitlines():
            if line and not line[0].isspace() and line.rstrip().endswith("{") and not line.startswith("HloModule"):
                words = line.split()
                name = words[1 if words[0] == "ENTRY" else 0].lstrip("%").split("(")[0]
                self.entry = name if words[0] == "ENTRY" else self.entry
                current = self.computations.setdefault(name, [])
            elif match := INSTRUCTION.match(line):
                current.append(Instruction(match.group(1), *_split(match.group(2))))

    def _visit(self, name, times, loops, trips):
        if name not in self.computations:
            return
        self.times[name] = self.times.get(name, 0.0) + times
        self.loops.setdefault(name, loops)
        for instruction in self.computations[name]:
            for kind, called in called_by(instruction):
                if instruction.opcode == "while":
                    if kind == "body":
                        count = self._trip_count(instruction) or trips
                        self._visit(called, times * count, (*loops, count), trips)
                elif kind != "to_apply" or instruction.opcode in ("call", "call-start"):
                    self.started |= {called} if instruction.opcode.endswith("-start") else set()
                    self._visit(called, times, loops, trips)

    def _trip_count(self, loop) -> int:
        """Trips of a loop that counts from 0 to a constant, 0 where it is another one."""
        if known := re.search(r'known_trip_count"?:?\{"n":"?(\d+)', loop.rest):
            return int(known.group(1))
        condition = dict(called_by(loop)).get("condition", "")
        instructions = {one.name: one for one in self.computations.get(condition, ())}
        for one in instructions.values():
            if one.opcode == "compare":
                for operand in OPERAND.findall(one.rest.split(")")[0]):
                    if operand in instructions and instructions[operand].opcode == "constant":
                        return int(re.sub(r"\D", "", instructions[operand].rest.split(")")[0]) or 0)
        return 0

    def running(self) -> Iterator[tuple[str, Instruction]]:
        """(computation, instruction) of all that runs."""
        for name, instructions in self.computations.items():
            if self.times.get(name):
                yield from ((name, instruction) for instruction in instructions)

    def flops(self) -> float:
        """FLOPs of all matrix products, which the compiler may have written as convolutions; without those inside of kernels."""
        shapes = {name: {one.name: one.shape for one in instructions} for name, instructions in self.computations.items()}
        total = 0.0
        for name, one in self.running():
            if one.opcode in ("dot", "convolution"):
                operands = [dimensions(shapes[name].get(operand, "")) for operand in OPERAND.findall(one.rest.split("), ")[0])]
                contracted = _contracted(one, operands) if one.opcode == "dot" else _taps(one, operands)
                total += self.times[name] * 2 * math.prod(dimensions(one.shape)) * contracted
        return total

    def cycles(self) -> float:
        """The compiler's estimate of cycles, loops counted; it has none of collectives, of kernels and, on tpu7x, of some copies."""
        fused = {called for _, one in self.running() if one.opcode == "fusion" for _, called in called_by(one)}
        total = 0.0
        for name, one in self.running():
            match = re.search(r'"estimated_cycles":"(\d+)"', one.rest)
            if match and name not in fused and match.group(1) != NO_ESTIMATE:
                total += int(match.group(1)) * self.times[name]
        return total

    def collectives(self, devices: int) -> list[Sent]:
        """All collectives that run, each once; `devices` is the size of groups that the text leaves out."""
        found: dict[str | int, Sent] = {}
        for name, one in self.running():
            kind, loop = one.opcode.removesuffix("-start"), " ".join(f"x{count:g}" for count in self.loops[name])
            if one.opcode == "send" and (transfer := network.transfer(one.rest)):
                found[len(found)] = _between_slices(one, *transfer, self.times[name], loop)
            if kind not in SENT:
                continue
            # a fusion that holds an all-reduce and keeps a slice of it is how a reduce-scatter is written for TPUs
            kind = "reduce-scatter" if kind == "all-reduce" and "scatter" in name else kind
            size, group = _group(one.rest, devices)
            if size == 1:
                continue
            whole = _result(one) * (size if one.opcode.startswith("reduce-scatter") else 1)
            chain = CHAIN.search(one.rest)
            asynchronous = bool(chain) or one.opcode.endswith("-start") or name in self.started
            sent = Sent(kind, size, group, whole * SENT[kind](size), self.times[name], loop, asynchronous)
            # the compiler repeats a collective in every fusion that carries a part of it; it counts once
            found[f"chain {chain.group(1)}" if chain else len(found)] = sent
        return list(found.values())

    def stacked_bytes(self, layers: int, known: set[tuple[str, tuple[int, ...]]]) -> float:
        """Bytes of the arrays with a leading axis of layers that a loop of so many trips carries, beside those of a known type and shape.

        That is what the forward pass keeps for the backward pass: the most of any one loop.
        """
        most = 0.0
        for _, one in self.running():
            if one.opcode == "while" and self._trip_count(one) == layers:
                arrays = [(dtype, _sizes(text)) for dtype, text in ARRAY.findall(one.shape)]
                kept = [array for array in arrays if array[1][:1] == (layers,) and array not in known]
                most = max(most, sum(WIDTHS[dtype] * math.prod(sizes) for dtype, sizes in kept))
        return most


def called_by(instruction: Instruction) -> list[tuple[str, str]]:
    """(attribute, computation) of everything that an instruction calls."""
    matches = CALLED.finditer(instruction.rest)
    return [(match.group(1), name.strip().lstrip("%")) for match in matches for name in match.group(2).strip("{}").split(",")]


def dimensions(shape: str) -> tuple[int, ...]:
    """Sizes of the first array of a shape's text; () where there is none."""
    match = ARRAY.search(shape)
    return _sizes(match.group(2)) if match else ()


def array_bytes(shape: str) -> list[float]:
    """Bytes of each array of a shape's text."""
    return [WIDTHS[dtype] * math.prod(_sizes(sizes)) for dtype, sizes in ARRAY.findall(shape)]


def _sizes(text):
    return tuple(int(size) for size in text.split(",") if size)


def _split(right: str) -> tuple[str, str, str]:
    """(shape, opcode, rest) of the right side of an instruction."""
    depth, end = 0, right.find(" ")
    for place, letter in enumerate(right if right.startswith("(") else "", 1):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            end = place
            break
    opcode, _, rest = right[end:].strip().partition("(")
    return right[:end], opcode, rest


def _contracted(one, operands) -> int:
    axes = _sizes(re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.rest).group(1))
    return math.prod(operands[0][axis] for axis in axes)


def _taps(one, operands) -> int:
    """What each result of a convolution sums over.

    A batch dimension of a matrix product becomes a window that meets one element for each result (it is dilated or padded).
    """
    right = re.search(r"dim_labels=\w+_(\w+)->", one.rest).group(1)
    taps = operands[1][right.index("i")]
    window = re.search(r"window=\{([^}]*)\}", one.rest)
    spatial = [letter for letter in right if letter.isdigit()]
    if not window or not spatial:
        return taps
    fields = dict(part.split("=", 1) for part in window.group(1).split())
    dilated = fields.get("lhs_dilate", "x".join(["1"] * len(spatial))).split("x")
    padded = fields.get("pad", "x".join(["0_0"] * len(spatial))).split("x")
    for size, dilation, padding in zip(fields["size"].split("x"), dilated, padded, strict=True):
        taps *= int(size) if dilation == "1" and padding == "0_0" else 1
    return taps


def _result(one) -> float:
    """Bytes of what a collective gives; one that starts also shows its operands."""
    sizes = array_bytes(one.shape)
    if not one.opcode.endswith("-start") or not one.shape.startswith("("):
        return sum(sizes)
    return max(sizes) if len(sizes) <= 2 else sum(sizes) / 2


def _between_slices(one, kind, slices, times, loop) -> Sent:
    """A collective between slices, whose send shows what one device gives to it."""
    whole = array_bytes(one.shape)[0] * (slices if kind == "all-gather" else 1)
    return Sent(kind, slices, (), whole * SENT[kind](slices), times, loop, True, True)


def _group(rest: str, devices: int) -> tuple[int, tuple[int, ...]]:
    """(size, devices of the first group) of a collective."""
    if match := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(_sizes(match.group(1))), _sizes(match.group(1))
    if match := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
        shape, order = _sizes(match.group(3)), _sizes(match.group(4) or "")
        return int(match.group(2)), _first_group(int(match.group(2)), shape, order or tuple(range(len(shape))))
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\([^{]*\))? ?\{([^}]*)\}", rest):
        sizes = {name: int(size) for name, size in re.findall(r"'?(\w+)'?=(\d+)", match.group(1))}
        parts = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", match.group(2))
        return math.prod(int(part) if part else sizes[name] for name, part in parts), ()
    return devices, ()


def _first_group(size, shape, order) -> tuple[int, ...]:
    """The first `size` devices of iota(shape) with its axes in this order."""
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    group = []
    for place in range(size):
        device = 0
        for axis in reversed(order):
            place, index = divmod(place, shape[axis])
            device += index * strides[axis]
        group.append(device)
    return tuple(group)

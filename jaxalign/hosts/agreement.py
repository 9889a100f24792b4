"""Whether all processes of a run are alike: facts are compared by hash, and the odd process is named with what differs."""

from collections import Counter
from collections.abc import Mapping
import json

from jaxalign.hosts import watch
from jaxalign.hosts.channel import Channel
from jaxalign.manifest import content_hash

SHOWN = 3  # differences of a process


def check(name: str, facts: Mapping[str, str], *, channel: Channel, way_out: str) -> None:
    """Compares the facts of all processes, name -> text; every process must call it, with facts of its own.

    Raises:
      ValueError: in every process, where one has other facts than most, or, among as many, than the first.
    """
    channel.put(f"facts/{name}/{channel.number}", json.dumps(dict(facts), sort_keys=True))
    channel.put(f"hash/{name}/{channel.number}", content_hash(facts))
    watch.barrier(f"{name} compared")
    hashes = {int(number): text for number, text in channel.below(f"hash/{name}").items()}
    if len(set(hashes.values())) > 1:
        usual, odd = sides(hashes)
        measure = json.loads(channel.get(f"facts/{name}/{usual}"))
        lines = [difference(number, json.loads(channel.get(f"facts/{name}/{number}")), usual, measure) for number in odd[:SHOWN]]
        more = f"; {len(odd) - SHOWN} more processes differ" if len(odd) > SHOWN else ""
        raise ValueError(f"the processes of this run are not alike: {'; '.join(lines)}{more}. {way_out}")


def sides(hashes: Mapping[int, str]) -> tuple[int, list[int]]:
    """(the first process that has what most have, the processes that have something else), from the hash of each."""
    counts, numbers = Counter(hashes.values()), sorted(hashes)
    usual = max(numbers, key=lambda number: (counts[hashes[number]], -number))
    return usual, [number for number in numbers if hashes[number] != hashes[usual]]


def difference(number: int, facts: Mapping[str, str], other: int, measure: Mapping[str, str]) -> str:
    """What a process has otherwise than another one, as a part of a sentence."""
    names = [name for name in sorted(facts.keys() | measure.keys()) if facts.get(name) != measure.get(name)]
    said = [f"{name} {facts.get(name, 'nothing')} (process {other}: {measure.get(name, 'nothing')})" for name in names[:SHOWN]]
    return f"process {number} has {', '.join(said)}" + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")

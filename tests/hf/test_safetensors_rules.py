"""Our reader of safetensors headers is as strict as the library: what that refuses, ours refuses."""

import json
import random
import struct

import numpy as np
import pytest
import safetensors

from jaxalign.hf import tensors

FEW, MANY = range(40), range(40, 1500)
ENTRIES = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
}
DATA = bytes(range(32))


def content(header, data=DATA):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def with_entry(name="b", **values):
    return {**ENTRIES, name: {**ENTRIES.get(name, {}), **values}}


BAD = {
    "overlapping spans": with_entry(data_offsets=[16, 24]),
    "a gap between spans": with_entry(shape=[2], data_offsets=[28, 32]),
    "a span that ends before it begins": with_entry(data_offsets=[32, 24]),
    "a negative offset": with_entry("a", data_offsets=[-8, 16]),
    "a span that is too short for its shape": with_entry("a", shape=[3, 3]),
    "another dtype of another width": with_entry("a", dtype="F64"),
    "an unknown dtype": with_entry("a", dtype="F8X"),
    "a negative size": with_entry("a", shape=[-2, -3]),
    "a size that is no whole number": with_entry("a", shape=[2.0, 3]),
    "sizes that overflow": with_entry("a", shape=[2**40, 2**40]),
    "no shape": {**ENTRIES, "a": {"dtype": "F32", "data_offsets": [0, 24]}},
    "three offsets": with_entry("a", data_offsets=[0, 24, 32]),
    "a list": [ENTRIES],
    "metadata that is no string": {**ENTRIES, "__metadata__": {"format": 1}},
    "bytes that no tensor owns": {key: entry for key, entry in ENTRIES.items() if key != "b"},
    "NaN": json.dumps(ENTRIES).replace("[4]", "[NaN]").encode(),
    "half a character": json.dumps(ENTRIES).replace('"b"', '"\\ud800"').encode(),
    "UTF-16": json.dumps(ENTRIES).encode("utf-16"),
    "a deep nest": b"[" * 100_000,
}


def library_refuses(file):
    try:
        with safetensors.safe_open(file, "np") as opened:
            list(opened.keys())
    except (safetensors.SafetensorError, OSError):
        return True
    return False


@pytest.mark.parametrize("case", BAD)
def test_a_header_that_does_not_describe_its_file_is_refused(tmp_path, case):
    file = tmp_path / "model.safetensors"
    file.write_bytes(content(BAD[case]))
    assert library_refuses(file)
    with pytest.raises(ValueError, match=r"model.safetensors.*(download|copy) it again"):
        tensors.scan(file)


def test_a_name_that_stands_twice_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(content(json.dumps(ENTRIES).replace('"a"', '"b"').encode()))
    with pytest.raises(ValueError, match="names 'b' twice"):
        tensors.scan(tmp_path / "model.safetensors")


def mutated(seed):
    """The bytes of the small file with a bit, a byte, a piece or a length changed."""
    draw, whole = random.Random(seed), bytearray(content(ENTRIES))
    header = len(whole) - len(DATA)
    kind = draw.randrange(5)
    if kind == 0:
        whole[draw.randrange(header)] ^= 1 << draw.randrange(8)
    elif kind == 1:
        whole[draw.randrange(8, header)] = draw.choice(b'0123456789-.,:[]{}" eEaFU')
    elif kind == 2:
        return bytes(whole[: draw.randrange(len(whole))])
    elif kind == 3:
        at = draw.randrange(8, header)
        del whole[at : at + draw.randint(1, 6)]
        whole[:8] = struct.pack("<Q", len(whole) - 8 - len(DATA))
    else:
        return bytes(whole) + bytes(draw.randint(1, 9))
    return bytes(whole)


def check_mutation(tmp_path, seed):
    file = tmp_path / "model.safetensors"
    file.write_bytes(mutated(seed))
    refused = library_refuses(file)
    try:
        found = tensors.scan(file)
    except ValueError as error:
        assert str(file) in str(error)
    else:
        assert not refused, mutated(seed)
        with safetensors.safe_open(file, "np") as opened:
            assert {name: stored.shape for name, stored in found.items()} == {
                name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()  # noqa: SIM118 (no dictionary)
            }


@pytest.mark.parametrize("seed", FEW)
def test_what_the_library_refuses_is_refused(tmp_path, seed):
    check_mutation(tmp_path, seed)


@pytest.mark.slow
def test_what_the_library_refuses_is_refused_in_many_mutations(tmp_path):
    for seed in MANY:
        check_mutation(tmp_path, seed)


def test_the_small_file_itself_is_read(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(content(ENTRIES))
    found = tensors.scan(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(found["a"].read(), np.frombuffer(DATA[:24], np.float32).reshape(2, 3))


def test_whole_numbers_are_no_weights(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(content(with_entry("a", dtype="I32")))
    with pytest.raises(ValueError, match="dtype I32 is not supported"):
        tensors.scan(tmp_path / "model.safetensors")["a"].read()

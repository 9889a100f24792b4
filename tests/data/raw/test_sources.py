"""Raw rows from every kind of source, and messages that name the file, the line and the way out."""

import gzip
import json
import sys
import types

import pytest

from jaxalign.data.raw import sources

ROWS = [{"prompt": f"p{i}", "chosen": f"c{i}", "rejected": f"r{i}"} for i in range(10)]


def write_source(folder, kind):
    path = folder / f"rows.{kind}"
    if kind.startswith("parquet"):
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
        return str(path)
    text = json.dumps(ROWS) if kind.startswith("json.") or kind == "json" else "".join(json.dumps(row) + "\n" for row in ROWS)
    path.write_bytes(gzip.compress(text.encode()) if kind.endswith(".gz") else text.encode())
    return str(path)


@pytest.mark.parametrize("kind", ["json", "jsonl", "json.gz", "jsonl.gz", "parquet"])
def test_every_file_kind_gives_the_same_rows(tmp_path, kind):
    rows = sources.read({"path": write_source(tmp_path, kind)})
    assert [rows[i] for i in range(len(rows))] == ROWS


def test_a_gzipped_parquet_file_is_read(tmp_path):
    plain = write_source(tmp_path, "parquet")
    zipped = tmp_path / "rows.parquet.gz"
    zipped.write_bytes(gzip.compress(open(plain, "rb").read()))
    assert sources.read({"path": str(zipped)})[3] == ROWS[3]


@pytest.mark.parametrize("splits", [False, True])
def test_a_folder_saved_by_datasets_is_read(tmp_path, splits):
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(ROWS)
    data = datasets.DatasetDict({"train": data}) if splits else data
    data.save_to_disk(str(tmp_path / "saved"))
    rows = sources.read({"path": str(tmp_path / "saved"), "split": "train[2:4]"})
    assert [rows[i] for i in range(len(rows))] == ROWS[2:4]


def test_a_split_that_a_saved_folder_lacks_is_refused_with_those_it_has(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(ValueError, match="splits train, not 'test'"):
        sources.read({"path": str(tmp_path / "saved"), "split": "test"})


def test_a_tfds_set_is_read_by_random_access_without_tensorflow(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("array_record")
    package = tmp_path / "tiny_pairs"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "tiny_pairs_dataset_builder.py").write_text(
        "import tensorflow_datasets as tfds\n"
        "class Builder(tfds.core.GeneratorBasedBuilder):\n"
        "    VERSION = tfds.core.Version('1.0.0')\n"
        "    def _info(self):\n"
        "        names = ('prompt', 'chosen', 'rejected')\n"
        "        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict({n: tfds.features.Text() for n in names}))\n"
        "    def _split_generators(self, manager):\n"
        "        return {'train': self._generate_examples()}\n"
        "    def _generate_examples(self):\n"
        "        for i in range(10):\n"
        "            yield i, {'prompt': f'p{i}', 'chosen': f'c{i}', 'rejected': f'r{i}'}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import tiny_pairs.tiny_pairs_dataset_builder  # noqa: F401  (registers the name)

    rows = sources.read({"tfds": "tiny_pairs", "split": "train", "data_dir": str(tmp_path / "tfds")})
    assert sorted(rows[i]["prompt"] for i in range(len(rows))) == sorted(row["prompt"] for row in ROWS)
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", range(10)),
        (None, range(10)),
        ("train[:90%]", range(9)),
        ("train[90%:]", range(9, 10)),
        ("[2:5]", range(2, 5)),
        ("train[-3:]", range(7, 10)),
        ("train[20%:-10%]", range(2, 9)),
    ],
)
def test_a_split_slices_local_rows(write_jsonl, split, expected):
    rows = sources.read({"path": write_jsonl(ROWS), "split": split})
    assert [rows[i] for i in range(len(rows))] == [ROWS[i] for i in expected]


def test_a_limit_keeps_the_first_rows_and_a_split_that_is_no_split_is_refused(write_jsonl):
    assert len(sources.read({"path": write_jsonl(ROWS), "split": "train[5:]", "limit": 3})) == 3
    with pytest.raises(ValueError, match=r"train\[90%\].*name\[:90%\]"):
        sources.read({"path": write_jsonl(ROWS), "split": "train[90%]"})


def test_columns_rename_and_reach_into_lists_and_objects(write_jsonl):
    path = write_jsonl([{"text": ["a", "b"], "metadata": {"score": 3}}])
    row = sources.read({"path": path, "rename": {"chosen": "text.0", "rejected": "text.1", "score": "metadata.score"}})[0]
    assert (row["chosen"], row["rejected"], row["score"]) == ("a", "b", 3)
    with pytest.raises(ValueError, match="row 0 has no column 'title', only metadata, text"):
        sources.read({"path": path, "rename": {"prompt": "title"}})[0]


def test_the_identity_follows_the_content(write_jsonl):
    first = sources.read({"path": write_jsonl(ROWS)}).identity
    assert sources.read({"path": write_jsonl(ROWS, "elsewhere.jsonl")}).identity == first
    assert sources.read({"path": write_jsonl(ROWS[1:])}).identity != first


def _missing(folder):
    (folder / "trian.jsonl").write_text("{}\n")
    return folder / "train.jsonl"


def _empty(folder):
    (folder / "a.jsonl").write_text("")
    return folder / "a.jsonl"


def _only_blank_lines(folder):
    (folder / "a.jsonl").write_text("\n\n")
    return folder / "a.jsonl"


def _truncated_gz(folder):
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n' * 1000)[:40])
    return folder / "a.jsonl.gz"


def _bad_json(folder):
    (folder / "a.jsonl").write_text('{"a": 1}\n{"a": \n')
    return folder / "a.jsonl"


def _bad_json_list(folder):
    (folder / "a.json").write_text('[{"a": 1},\n{"a" 2}]')
    return folder / "a.json"


def _latin1(folder):
    (folder / "a.jsonl").write_bytes(b'{"a": "b"}\n' * 2 + '{"a": "caf\xe9"}\n'.encode("latin1"))
    return folder / "a.jsonl"


def _unknown_suffix(folder):
    (folder / "a.xlsx").write_text("a,b\n")
    return folder / "a.xlsx"


def _damaged_parquet(folder):
    (folder / "a.parquet").write_bytes(b"PAR1 nothing PAR1")
    return folder / "a.parquet"


def _plain_folder(folder):
    (folder / "stuff").mkdir()
    return folder / "stuff"


def _no_rows_in_objects(folder):
    (folder / "a.jsonl").write_text("[1, 2]\n")
    return folder / "a.jsonl"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_missing, ["no data at", "train.jsonl", "trian.jsonl", "check the path"]),
        (_empty, ["a.jsonl is empty", "0 bytes"]),
        (_only_blank_lines, ["a.jsonl has no rows", "empty"]),
        (_truncated_gz, ["a.jsonl.gz", "damaged or cut short", "Get the file again"]),
        (_bad_json, ["a.jsonl, line 2", "not valid JSON", "Mend or remove"]),
        (_bad_json_list, ["a.json, line 2", "not valid JSON"]),
        (_latin1, ["a.jsonl, line 3", "byte 0xe9", "not UTF-8", "iconv"]),
        (_unknown_suffix, ["a.xlsx", ".csv", ".jsonl", ".parquet", ".gz"]),
        (_damaged_parquet, ["a.parquet", "damaged"]),
        (_plain_folder, ["stuff", "dataset_info.json", "save_to_disk"]),
        (_no_rows_in_objects, ["row 0", "object with named columns"]),
    ],
)
def test_bad_files_are_refused_with_the_place_and_the_way_out(tmp_path, make, words):
    path = make(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        rows = sources.read({"path": str(path)})
        [rows[i] for i in range(len(rows))]
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"path": ()}, "names no file"),
        ({"path": ("nowhere/*.jsonl",)}, r"no data at 'nowhere/\*.jsonl'"),
        ({"hf": "nobody/nothing-here"}, "'nobody/nothing-here' could not be had from the Hugging Face hub.*save_to_disk"),
    ],
)
def test_a_source_that_names_nothing_is_refused(source, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        sources.read(source)


class _Unreachable(types.ModuleType):
    def builder(self, *arguments, **options):
        raise ConnectionError("no route to host")


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (None, "'tiny_pairs' needs a package: pip install tensorflow-datasets"),
        (_Unreachable("tensorflow_datasets"), "'tiny_pairs' could not be had: ConnectionError: no route to host.*TFDS_DATA_DIR"),
    ],
)
def test_a_tfds_set_without_its_package_or_a_network_is_refused_with_the_way_out(monkeypatch, module, words):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", module)
    with pytest.raises(ValueError, match=words):
        sources.read({"tfds": "tiny_pairs"})

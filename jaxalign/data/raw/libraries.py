"""Rows that libraries read: folders saved by `datasets`, data sets of the Hugging Face hub, and TFDS sets.

Every function returns (rows with random access, identity), and takes the source and the name of its split.
"""

from collections.abc import Mapping, Sequence
import hashlib
import itertools
import json
from pathlib import Path

from jaxalign.data.raw import arrow


def saved_folder(path: Path, split: str) -> tuple[Sequence, str]:
    """The rows of a save_to_disk folder.

    Raises:
      ValueError: it is none, or has no such split.
    """
    if not (path / "dataset_info.json").is_file() and not (path / "dataset_dict.json").is_file():
        raise ValueError(
            f"{path} is a folder without dataset_info.json or dataset_dict.json; give a file, a glob like {str(path / '*.jsonl')!r}, or a "
            "save_to_disk folder."
        )
    import datasets  # slow to import, needed for this kind only

    return _with_split(datasets.load_from_disk(str(path)), path, split)


def hub(source: Mapping, split: str, *, whole: bool) -> tuple[Sequence, str]:
    """The rows of a data set of the hub. With a `limit` and without a slice of the split (`whole`) only the first rows are downloaded.

    Raises:
      ValueError: it cannot be had, or has no such split.
    """
    import datasets  # slow to import, needed for this kind only

    name, streaming = source["hf"], source.get("limit") is not None and whole
    options = {"split": split} if split else {}
    try:
        if not streaming:
            return _with_split(datasets.load_dataset(name, source.get("config"), **options), name, split)
        stream = datasets.load_dataset(name, source.get("config"), streaming=True, **options)
        if isinstance(stream, Mapping):
            raise ValueError(f"{name} has the splits {', '.join(stream)}; set split to one of them")
        rows = [arrow.unfilled(row) for row in itertools.islice(stream, source["limit"])]
    except (OSError, ValueError, datasets.exceptions.DatasetsError, datasets.exceptions.DatasetGenerationError) as error:
        raise ValueError(
            f"the data set {name!r} could not be had from the Hugging Face hub: {type(error).__name__}: {error}. Check name, config and "
            "split, log in for gated data, or save it elsewhere with save_to_disk and give {'path': folder}."
        ) from error
    return rows, f"sha256:{hashlib.sha256(json.dumps(rows, default=str).encode()).hexdigest()}"


def tfds(source: Mapping, split: str) -> tuple[Sequence, str]:
    """The rows of a TFDS set, prepared as array_record.

    Raises:
      ValueError: it cannot be had, or not be read without tensorflow.
    """
    name = source["tfds"]
    try:
        import tensorflow_datasets  # slow to import, needed for this kind only
    except ImportError as error:
        raise ValueError(f"the TFDS set {name!r} needs a package: pip install tensorflow-datasets array-record ({error}).") from error
    try:
        builder = tensorflow_datasets.builder(name, data_dir=source.get("data_dir"), file_format="array_record")
        builder.download_and_prepare(file_format="array_record")
        items = builder.as_data_source(split=split or "train")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"the TFDS set {name!r} cannot be read without tensorflow: {error}. Prepare it as array_record with "
            "builder.download_and_prepare(file_format='array_record')."
        ) from error
    except OSError as error:  # ConnectionError is one of them
        raise ValueError(
            f"the TFDS set {name!r} could not be had: {type(error).__name__}: {error}. Check the name and the network, or prepare it on "
            "a machine with a network and set $TFDS_DATA_DIR to its folder."
        ) from error
    return items, f"tfds:{builder.info.full_name}:{split or 'train'}:{len(items)}"


def _with_split(data, name, split):
    if isinstance(data, Mapping):
        if split not in data:
            raise ValueError(f"{name} has the splits {', '.join(data)}, not {split or 'none'!r}; set split to one of them.")
        data = data[split]
    return arrow.Filled(data), f"fingerprint:{data._fingerprint}"

"""TFDS datasets prepared as ArrayRecord, read without TensorFlow.

TFDS itself is imported only to decode records, not to read a dataset from the cache.
"""

import difflib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxmodels.data import cache, decode
from jaxmodels.data.sources import RecordSource, Source
from jaxmodels.errors import UserError

MAX_DECODED_BYTES = 2 * 1024**3
"""Larger splits are not decoded at once; their records are read by threads."""
MAX_PIXEL_VALUES = {"binarized_mnist": 1}
"""The pixel value that means 1.0, where it is not the largest of the image's dtype."""


@dataclass(frozen=True)
class PreparedDataset:
    """A dataset on disk: its folder, and the contents of its JSON files."""

    name: str
    path: Path
    splits: Mapping[str, int]
    num_classes: int | None
    class_names: tuple[str, ...] | None

    @property
    def key(self) -> str:
        """Name of the dataset and its version, for the cache."""
        return f"{self.name.split(':')[0].replace('/', '.')}-{self.path.name}"


def max_pixel_value(name: str) -> int | None:
    """The pixel value that means 1.0 in this dataset; None for the largest of the image's dtype."""
    return MAX_PIXEL_VALUES.get(name.split("/")[0].split(":")[0])


def tfds_dir(data_dir: str | Path | None) -> Path:
    """TFDS's folder: the argument, else `TFDS_DATA_DIR`, else `~/tensorflow_datasets`."""
    default = os.environ.get("TFDS_DATA_DIR") or Path.home() / "tensorflow_datasets"
    return Path(data_dir or default).expanduser()


def is_prepared(name: str, data_dir: Path) -> bool:
    """Whether the dataset is prepared in this folder."""
    return bool(_versions(name, data_dir))


def find_prepared(name: str, data_dir: Path) -> PreparedDataset:
    """Find `name`, `name/config` or either with `:version`, by default the newest version.

    Raises `UserError` for a dataset that is not prepared, or not as ArrayRecord.
    """
    versions = _versions(name, data_dir)
    if versions:
        newest = max(versions, key=lambda v: tuple(int(part) for part in re.findall(r"\d+", v)))
        return _describe(name, versions[newest])
    raise UserError(_not_found(name, data_dir))


def _versions(name: str, data_dir: Path) -> dict[str, Path]:
    plain, _, version = name.partition(":")
    if not plain or plain.startswith("."):
        return {}
    paths = (data_dir / plain).glob(version or "*.*.*")
    return {path.name: path for path in paths if _is_prepared(path)}


def open_split(dataset: PreparedDataset, split: str) -> Source:
    """Open a split: decoded once and memory-mapped if it is small, else read record by record."""
    name = f"{dataset.name}/{split}"
    files = sorted(path for path in dataset.path.iterdir() if path.is_file())
    entry = cache.CacheEntry(name, f"{dataset.key}-{cache.fingerprint(files)}", split)
    decoded = cache.read_cached(entry)
    if decoded is not None:
        return decoded
    # Imported here: it takes over a second.
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(dataset.path))
    # Its decorator hides the arguments from pyright.
    records = RecordSource(name, builder.as_data_source(split))  # pyright: ignore[reportCallIssue]
    written = sum(path.stat().st_size for path in files if f"-{split}." in path.name)
    fields = decode.field_specs(builder.info.features)
    if (
        fields is None
        or max(written, decode.example_bytes(fields) * len(records)) > MAX_DECODED_BYTES
    ):
        return records
    decoded = decode.decode_all(records, fields)
    # Not cached with broken examples: the cause may be a transient fault of the disk.
    return decoded if decoded.broken else cache.write_cached(entry, decoded)


def _is_prepared(path: Path) -> bool:
    return (path / "dataset_info.json").is_file()


def _describe(name: str, path: Path) -> PreparedDataset:
    info = json.loads((path / "dataset_info.json").read_text())
    if info.get("fileFormat") != "array_record":
        raise UserError(
            f"{path} is prepared as {info.get('fileFormat', 'tfrecord')}, which only TensorFlow "
            f"reads. Prepare it as ArrayRecord, in another folder: {_command(name)} --data-dir ..."
        )
    splits = {s["name"]: sum(map(int, s.get("shardLengths", ()))) for s in info["splits"]}
    features = json.loads((path / "features.json").read_text())
    label = features.get("featuresDict", {}).get("features", {}).get("label", {})
    classes = label.get("classLabel", {}).get("numClasses")
    names = path / "label.labels.txt"
    return PreparedDataset(
        name,
        path,
        splits,
        None if classes is None else int(classes),
        tuple(names.read_text().splitlines()) if names.is_file() else None,
    )


def _not_found(name: str, data_dir: Path) -> str:
    plain = name.partition(":")[0]
    prepared = _prepared_names(data_dir)
    configs = [other for other in prepared if other.startswith(f"{plain}/")]
    listing = f"Prepared in {data_dir}: {', '.join(prepared) or 'nothing'}. Embedded: digits."
    if configs:
        return f"{plain} has configurations; choose one that is prepared: {', '.join(configs)}."
    # Imported here: only this message needs it.
    import tensorflow_datasets as tfds

    known = tfds.list_builders(with_community_datasets=False)
    if plain.split("/")[0] in known or plain in prepared:
        return (
            f"The dataset {name!r} is not prepared in {data_dir}. To download and prepare it:\n"
            f"    {_command(name)} --data-dir {data_dir}\n"
            f"or train on the embedded stand-in: --dataset digits\n{listing}"
        )
    close = difflib.get_close_matches(plain, sorted({*prepared, *known, "digits"}))
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    return f"There is no dataset {name!r}.{hint}\n{listing}"


def _prepared_names(data_dir: Path) -> list[str]:
    infos = [*data_dir.glob("*/*/dataset_info.json"), *data_dir.glob("*/*/*/dataset_info.json")]
    return sorted({path.parent.parent.relative_to(data_dir).as_posix() for path in infos})


def _command(name: str) -> str:
    return f"uv run --extra prepare scripts/prepare_data.py {name}"

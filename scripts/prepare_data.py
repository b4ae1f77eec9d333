"""Download a dataset with TFDS and prepare it as ArrayRecord, so that `data.load` can read it.

    uv run --extra prepare scripts/prepare_data.py mnist

This needs TensorFlow (the extra `prepare`); reading what was prepared does not.
"""

import difflib
import importlib.util
import sys
from pathlib import Path
from typing import Annotated

import tyro


def prepare(
    name: Annotated[str, tyro.conf.Positional],
    data_dir: Path | None = None,
    manual_dir: Path | None = None,
) -> None:
    """Download a dataset with TFDS and prepare it as ArrayRecord.

    Args:
        name: TFDS's name, such as mnist, cifar10, glue/sst2, mnist:3.0.1.
        data_dir: The folder to put it in; by default TFDS_DATA_DIR, else ~/tensorflow_datasets.
        manual_dir: A folder with the original files, where they need not be downloaded.
    """
    check_plain(name)
    # Imported here, so that --help is quick.
    import tensorflow_datasets as tfds

    check_name(name, tfds.list_builders(with_community_datasets=False))
    check_tensorflow(name)
    builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    config = tfds.download.DownloadConfig(manual_dir=manual_dir)
    builder.download_and_prepare(download_config=config)
    print(f"Prepared in {builder.data_path}. Train on it with: --dataset {name}")


def check_name(name: str, known: list[str]) -> None:
    """End the program, with the names that look alike, where TFDS does not know the dataset."""
    plain = name.partition(":")[0].partition("/")[0]
    if plain not in known:
        close = difflib.get_close_matches(plain, known)
        fail(f"TFDS has no dataset {plain!r}. Similar names: {', '.join(close) or 'none'}.")


def check_plain(name: str) -> None:
    """End the program, saying where its files come from, where TFDS does not prepare the corpus."""
    # Imported here, so that --help is quick.
    from jaxmodels.data.text.files import DOWNLOAD_HINTS

    if name in DOWNLOAD_HINTS:
        fail(
            f"{name} is read from plain files, and needs no preparation. {DOWNLOAD_HINTS[name]}\n"
            f"Then tell the experiment the folder: --data-dir or JAXMODELS_TEXT_DIR."
        )


def check_tensorflow(name: str) -> None:
    """End the program where TensorFlow is missing, before anything is downloaded in vain."""
    if importlib.util.find_spec("tensorflow") is None:
        fail(
            "Preparing a dataset needs TensorFlow, which is not installed. Run it as:\n"
            f"    uv run --extra prepare scripts/prepare_data.py {name}"
        )


def fail(message: str) -> None:
    """Print the message, and end with the exit code of a user's mistake."""
    print(message, file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    tyro.cli(prepare)

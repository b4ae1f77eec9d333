"""Language-model corpora: Tiny Shakespeare, Penn Treebank, the standard library, own files."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from jaxmodels.data import placeholders, tfds
from jaxmodels.data.dataset import MissingSplitError
from jaxmodels.data.text.files import find_text_files, read_text, text_folder
from jaxmodels.data.text.stdlib import stdlib
from jaxmodels.errors import UserError

PTB_FILES = {
    "train": "ptb.train.txt",
    "validation": "ptb.valid.txt",
    "test": "ptb.test.txt",
}
SPLITS = tuple(PTB_FILES)
T = TypeVar("T")


@dataclass(frozen=True)
class Corpus(Mapping[str, str]):
    """A text corpus: a mapping from split names, `train`, `validation`, `test`, to texts."""

    name: str
    splits: Mapping[str, str]

    def __post_init__(self) -> None:
        for split, text in self.splits.items():
            if not text:
                raise UserError(f"The split {split!r} of {self.name} is an empty text.")

    def __getitem__(self, split: str) -> str:
        """The split's text; raises `MissingSplitError`."""
        return get_split(self.splits, split, self.name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.splits)

    def __len__(self) -> int:
        return len(self.splits)


def load(name: str | Path, data_dir: str | Path | None = None) -> Corpus:
    """Load a text corpus by name, or from the path of a text file or a folder of one's own.

    - `tiny_shakespeare`: Karpathy, 2015, 1.1 million characters, prepared by TFDS (`data_dir` as
      for `data.load`);
    - `ptb`: the Penn Treebank with 10,000 words, Mikolov et al., 2010, from plain files in
      `data_dir`, `JAXMODELS_TEXT_DIR` or TFDS's folder; lines end with the word `<eos>`;
    - `stdlib`: modules of Python's standard library, without a download;
    - the path of a UTF-8 text file: its first 90 % of characters are `train`, the next 5 %
      `validation`, the rest `test`, cut at line ends where one is near (2 %);
    - the path of a folder with `train.txt`, `validation.txt` and `test.txt`.

    Raises `UserError` for an unknown name, and for missing data.
    """
    name = str(name)
    loaders = {"tiny_shakespeare": _tiny_shakespeare, "ptb": _ptb, "stdlib": lambda _: stdlib()}
    if name in loaders:
        return Corpus(name, loaders[name](data_dir))
    path = Path(name).expanduser()
    if path.is_dir():
        return Corpus(name, {split: read_text(path / f"{split}.txt") for split in SPLITS})
    if path.exists():
        return Corpus(name, _split_text(read_text(path)))
    raise UserError(
        f"{unknown_name('corpus', name, loaders)} Nor is it the path of a text file or a folder."
    )


def _split_text(text: str) -> dict[str, str]:
    """90, 5 and 5 % of a text, each cut after a line end that is at most 2 % before."""

    def cut(place: int) -> int:
        line_end = text.rfind("\n", place - len(text) // 50, place)
        return place if line_end < 0 else line_end + 1

    first, second = cut(len(text) * 90 // 100), cut(len(text) * 95 // 100)
    return dict(zip(SPLITS, (text[:first], text[first:second], text[second:]), strict=True))


def get_split(splits: Mapping[str, T], split: str, name: str) -> T:
    """A split by name; raises `MissingSplitError`."""
    if split not in splits:
        raise MissingSplitError(f"{name} has no split {split!r}; it has: {', '.join(splits)}.")
    return splits[split]


def unknown_name(kind: str, name: str, known: Mapping[str, object]) -> str:
    """The error message for an unknown name, with similar and known names."""
    close = difflib.get_close_matches(name, known)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    return f"There is no {kind} {name!r}.{hint} There are: {', '.join(known)}."


def _tiny_shakespeare(data_dir: str | Path | None) -> dict[str, str]:
    name, folder = "tiny_shakespeare", tfds.tfds_dir(data_dir)
    if placeholders.placeholders_enabled() and not tfds.is_prepared(name, folder):
        return dict.fromkeys(SPLITS, placeholders.character_text(65))
    if not (folder / name).is_dir():
        raise UserError(
            f"The corpus {name!r} is not prepared in {folder}. To download and prepare it:\n"
            f"    uv run --extra prepare scripts/prepare_data.py {name} --data-dir {folder}\n"
            f"(another folder: --data-dir or TFDS_DATA_DIR); or train on the embedded stand-in: "
            f"--dataset stdlib"
        )
    dataset = tfds.find_prepared(name, folder)
    return {split: bytes(tfds.open_split(dataset, split)[0]["text"]).decode() for split in SPLITS}


def _ptb(data_dir: str | Path | None) -> dict[str, str]:
    files = list(PTB_FILES.values())
    if placeholders.placeholders_enabled() and text_folder("ptb", files, data_dir) is None:
        return dict.fromkeys(SPLITS, placeholders.word_text(10_000, 10, ("<unk>", "<eos>")))
    folder = find_text_files("ptb", files, data_dir, "stdlib")
    # As in Zaremba et al., 2014, the end of a line is a word.
    return {
        split: read_text(folder / file).replace("\n", " <eos> ")
        for split, file in PTB_FILES.items()
    }

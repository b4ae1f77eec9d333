"""Synthetic sequence tasks: addition of numbers, the adding problem, copy memory.

Example i is a function of (seed, i) alone.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jaxmodels.data.dataset import Dataset
from jaxmodels.data.sources import NumpyBatch
from jaxmodels.data.split import Split
from jaxmodels.errors import UserError

ADDITION = " 0123456789+=."
"""The characters of `addition`; a token is an index in it, 0 is padding."""
BLANK, RECALL = 0, 9
COPIED_DIGITS = 10
"""Tokens of `copy_memory` besides the digits 1..8, and the number of digits to copy."""


@dataclass(frozen=True, eq=False)
class GeneratedSource:
    """A source of `size` examples, each computed by `make` from `words` random 64-bit words."""

    name: str
    size: int
    words: int
    make: Callable[[np.ndarray], NumpyBatch]
    seed: int
    in_memory: ClassVar[bool] = True

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> NumpyBatch:
        return {key: value[0] for key, value in self.read(np.array([index])).items()}

    def read(self, indices: np.ndarray) -> NumpyBatch:
        return self.make(random_uint64(self.seed, np.asarray(indices), self.words))


def addition(digits: int = 3, train: int = 1_000_000, test: int = 10_000, seed: int = 0) -> Dataset:
    """Character-level addition: `12+345=357.`, two uniform numbers of at most `digits` digits.

    `tokens`, `targets` (B, T): indices in `ADDITION`, targets shifted by one; `valid` (B, T): True
    for targets after the `=`. The task of google/flax's example seq2seq. A tenth of all pairs of
    numbers are in `test` only: for each first number, one last digit of the second, by a hash.
    """
    if not 1 <= digits <= 9:
        raise UserError(f"addition takes 1 to 9 digits, got {digits}.")

    def make(held_out: bool, words: np.ndarray) -> NumpyBatch:
        a, tens = words[:, 0] % np.uint64(10**digits), words[:, 1] % np.uint64(10 ** (digits - 1))
        other = np.uint64(0) if held_out else 1 + words[:, 2] % np.uint64(9)
        b = 10 * tens + (_mix(a) + other) % np.uint64(10)
        terms = zip(a.tolist(), b.tolist(), strict=True)
        texts = [f"{a}+{b}={a + b}.".ljust(3 * digits + 4) for a, b in terms]
        codes = np.frombuffer("".join(texts).encode(), np.uint8).reshape(len(texts), -1)
        ids = _character_ids(ADDITION)[codes]
        after_equals = np.cumsum(ids == ADDITION.index("="), axis=1)[:, :-1] > 0
        targets = ids[:, 1:]
        return {"tokens": ids[:, :-1], "targets": targets, "valid": after_equals & (targets > 0)}

    makes = {split: functools.partial(make, split == "test") for split in ("train", "test")}
    return _dataset("addition", {"train": train, "test": test}, 3, makes, seed)


def adding_problem(
    length: int = 600, train: int = 50_000, test: int = 1_000, seed: int = 0
) -> Dataset:
    """The adding problem: `x` (B, T, 2), numbers in [0, 1) and two marks; `y` (B,), their sum.

    Hochreiter and Schmidhuber 1997, "Long short-term memory", experiment 4, as in Bai et al. 2018,
    "An empirical evaluation of generic convolutional and recurrent networks for sequence
    modeling": any two different positions are marked. Always answering the mean, 1, has a mean
    squared error of 1 / 6.
    """
    if length < 2:
        raise UserError(f"The adding problem needs at least two steps, got {length}.")

    def make(words: np.ndarray) -> NumpyBatch:
        numbers = (words[:, :length] >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
        one = (words[:, length] % np.uint64(length)).astype(np.int64)
        # 1 to length - 1 further on: never the same position.
        gap = 1 + (words[:, length + 1] % np.uint64(length - 1)).astype(np.int64)
        two = (one + gap) % length
        rows = np.arange(len(words))
        marks = np.zeros_like(numbers)
        marks[rows, one] = marks[rows, two] = 1
        x = np.stack([numbers, marks], axis=-1)
        return {"x": x, "y": numbers[rows, one] + numbers[rows, two]}

    makes = {"train": make, "test": make}
    return _dataset("adding", {"train": train, "test": test}, length + 2, makes, seed)


def copy_memory(
    blanks: int = 1000, train: int = 10_000, test: int = 1_000, seed: int = 0
) -> Dataset:
    """The copy memory task: repeat ten digits of 1..8 after `blanks` steps; T = blanks + 20.

    `tokens` (B, T): the digits, blanks (0), and 9 from one step before the answer on; `targets`
    (B, T): blanks, then the digits in the last ten steps. All targets count, as in Bai et al. 2018,
    whose length is our `blanks`. Without memory the best loss is 10 ln(8) / T nats.
    """
    if blanks < 1:
        raise UserError(f"copy_memory needs at least one blank, got {blanks}.")
    T = blanks + 2 * COPIED_DIGITS

    def make(words: np.ndarray) -> NumpyBatch:
        digits = (1 + words % np.uint64(8)).astype(np.int32)
        tokens = np.full((len(words), T), BLANK, np.int32)
        targets = np.full((len(words), T), BLANK, np.int32)
        tokens[:, :COPIED_DIGITS] = targets[:, -COPIED_DIGITS:] = digits
        tokens[:, -COPIED_DIGITS - 1 :] = RECALL
        return {"tokens": tokens, "targets": targets}

    makes = {"train": make, "test": make}
    return _dataset("copy_memory", {"train": train, "test": test}, COPIED_DIGITS, makes, seed)


def random_uint64(seed: int, indices: np.ndarray, count: int) -> np.ndarray:
    """Uniform random uint64, (B, count): row b is a function of (seed, indices[b]) alone.

    SplitMix64 (Steele et al. 2014, "Fast splittable pseudorandom number generators"), started at a
    hash of both. A numpy generator for each example would take ten times as long.
    """
    start = _mix(_mix(np.array([seed], np.uint64)) + indices.astype(np.uint64))
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return _mix(start[:, None] + steps[None])


def _mix(z: np.ndarray) -> np.ndarray:
    """SplitMix64's hash; products of numpy arrays wrap around."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _character_ids(characters: str) -> np.ndarray:
    table = np.zeros(128, np.int32)
    table[[ord(c) for c in characters]] = np.arange(len(characters))
    return table


def _dataset(
    name: str,
    sizes: dict[str, int],
    words: int,
    makes: Mapping[str, Callable[[np.ndarray], NumpyBatch]],
    seed: int,
) -> Dataset:
    """A dataset whose splits have different seeds, and draw examples independently."""

    def opener(split: str) -> Split:
        own = 2 * seed + list(sizes).index(split)
        return Split(
            GeneratedSource(f"{name}/{split}", sizes[split], words, makes[split], own),
            functions=(),
        )

    return Dataset(name, {split: functools.partial(opener, split) for split in sizes})

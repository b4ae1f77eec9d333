"""Placeholder data for planning: zeros and made-up words of a dataset's declared shapes.

A plan (`--plan`) needs shapes, not data. Within `with_placeholders()`, and only there, a dataset
that is not prepared is replaced by placeholders.
"""

import contextlib
import contextvars
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxmodels.data.decode import Fields
from jaxmodels.errors import UserError

LENGTH = 65_536
"""Number of examples in a split; no shape depends on it."""

_enabled: contextvars.ContextVar[bool] = contextvars.ContextVar("placeholders", default=False)


@contextlib.contextmanager
def with_placeholders() -> Iterator[None]:
    """Context in which datasets that are not prepared are replaced by placeholders."""
    token = _enabled.set(True)
    try:
        yield
    finally:
        _enabled.reset(token)


def placeholders_enabled() -> bool:
    """Whether `with_placeholders` is active."""
    return _enabled.get()


class ZeroExamples:
    """A source whose examples are all zero."""

    def __init__(self, shapes: Fields) -> None:
        self._example = {
            key: np.zeros(shape, dtype)
            for key, (shape, dtype) in shapes.items()
            if dtype.kind in "biuf"
        }

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self._example


def image_examples(
    name: str, image_shape: tuple[int, int, int] | None
) -> tuple[ZeroExamples, int | None]:
    """Zero examples of the shapes that TFDS declares, and the number of classes.

    Raises `UserError` for images of several sizes, unless `image_shape` gives one.
    """
    # Imported here: it takes over a second.
    import tensorflow_datasets as tfds

    features: Any = tfds.builder(name).info.features
    declared = dict(features.items())
    label = declared.get("label")
    shapes = {
        key: ((image_shape or feature.shape) if key == "image" else feature.shape, feature.np_dtype)
        for key, feature in declared.items()
        if not isinstance(feature.shape, dict)
    }
    if any(None in shape for shape, _ in shapes.values()):
        raise UserError(
            f"{name} has images of several sizes ({declared['image'].shape}); a plan needs one: "
            "`data.load(..., image_shape=(H, W, C))`"
        )
    return ZeroExamples({k: (s, np.dtype(t)) for k, (s, t) in shapes.items()}), getattr(
        label, "num_classes", None
    )


def character_text(count: int, length: int = LENGTH) -> str:
    """A text of `length` characters, `count` of them different."""
    alphabet = (chr(n) for n in itertools.count(33) if chr(n).isprintable())
    return ("".join(itertools.islice(alphabet, count)) * (length // count + 1))[:length]


def word_text(count: int, repeated: int, special: tuple[str, ...] = ()) -> str:
    """A text of `count` different words, each `repeated` times."""
    vocabulary = [*special, *(f"w{n}" for n in range(count - len(special)))]
    return " ".join(vocabulary * repeated)


def sentences(count: int, longest: int) -> list[str]:
    """Sentences of at most `longest` words; each of `count` different words occurs twice."""
    stock = iter([f"w{n}" for n in range(count)] * 2)
    lengths = itertools.cycle(range(longest, longest // 4, -1))
    return list(iter(lambda: " ".join(itertools.islice(stock, next(lengths))), ""))

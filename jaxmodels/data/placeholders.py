"""What is declared of data that are not here: shapes, types and vocabularies, for planning.

A plan needs shapes, not data. Within `instead_of_data()` a set that is not prepared is replaced by
zeros, or by made-up words, of the shapes that the real one has; nothing else does that.
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
"""Examples of a split; no shape depends on it."""

_allowed: contextvars.ContextVar[bool] = contextvars.ContextVar("instead_of_data", default=False)


@contextlib.contextmanager
def instead_of_data() -> Iterator[None]:
    """Within this, sets that are not prepared have their declared shapes, and no content."""
    token = _allowed.set(True)
    try:
        yield
    finally:
        _allowed.reset(token)


def allowed() -> bool:
    """Whether declared shapes will do."""
    return _allowed.get()


class Zeros:
    """Examples of declared shapes, all zero."""

    def __init__(self, shapes: Fields) -> None:
        """Take shape and type of each field; texts are left out."""
        self._example = {
            key: np.zeros(shape, dtype)
            for key, (shape, dtype) in shapes.items()
            if dtype.kind in "biuf"
        }

    def __len__(self) -> int:
        """As many as any batch needs."""
        return LENGTH

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        """The one example there is."""
        return self._example


def images(name: str, image_shape: tuple[int, int, int] | None) -> tuple[Zeros, int | None]:
    """Examples as TFDS declares them, and the number of classes.

    Raises `UserError` for images of many sizes, unless `image_shape` says what they are fitted to.
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
            f"{name} declares images of many sizes ({declared['image'].shape}); a plan needs one: "
            "`data.load(..., image_shape=(H, W, C))`"
        )
    return Zeros({k: (s, np.dtype(t)) for k, (s, t) in shapes.items()}), getattr(
        label, "num_classes", None
    )


def characters(count: int, length: int = LENGTH) -> str:
    """A text of so many different characters."""
    alphabet = (chr(n) for n in itertools.count(33) if chr(n).isprintable())
    return ("".join(itertools.islice(alphabet, count)) * (length // count + 1))[:length]


def words(count: int, repeated: int, special: tuple[str, ...] = ()) -> str:
    """A text of so many different words, each there `repeated` times."""
    made = [*special, *(f"w{n}" for n in range(count - len(special)))]
    return " ".join(made * repeated)


def sentences(count: int, longest: int) -> list[str]:
    """Sentences of up to `longest` of so many different words, each of which comes twice."""
    made = iter([f"w{n}" for n in range(count)] * 2)
    lengths = itertools.cycle(range(longest, longest // 4, -1))
    return list(iter(lambda: " ".join(itertools.islice(made, next(lengths))), ""))

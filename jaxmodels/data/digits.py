"""The 1,797 handwritten digits that come with scikit-learn: real images without a download."""

import importlib.util
from pathlib import Path

import numpy as np

from jaxmodels.errors import UserError


def digits() -> dict[str, dict[str, np.ndarray]]:
    """`train` (1,437) and `test` (360) of 8x8 grey images, bytes, and their labels.

    Alpaydin and Kaynak, 1998, "Optical recognition of handwritten digits" (UCI), the test part.
    A pixel counts inked dots, v in 0..16, here round(v * 255 / 16), from which v is recovered by
    round(p * 16 / 255). The test part is fixed and stratified: of the examples sorted by class
    (and in the file's order within one), every fifth, from the first on.
    """
    table = np.loadtxt(_file(), delimiter=",", dtype=np.uint8)
    ink, labels = table[:, :-1].reshape(-1, 8, 8, 1), table[:, -1].astype(np.int32)
    images = np.round(ink * (255 / 16)).astype(np.uint8)
    held_out = np.zeros(len(labels), bool)
    held_out[np.argsort(labels, kind="stable")[::5]] = True
    return {
        "train": {"image": images[~held_out], "label": labels[~held_out]},
        "test": {"image": images[held_out], "label": labels[held_out]},
    }


def _file() -> Path:
    # `sklearn.datasets.load_digits` reads this very file, but importing it takes two seconds.
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise UserError("The digits come with scikit-learn, which is not installed.")
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if not path.exists():
        raise UserError(f"This scikit-learn has no {path}; install version 1.9 or older.")
    return path

"""scikit-learn's handwritten digits: 1,797 images of 8x8, without a download."""

import importlib.util
from pathlib import Path

import numpy as np

from jaxmodels.errors import UserError


def digits() -> dict[str, dict[str, np.ndarray]]:
    """`train` (1,437) and `test` (360) examples: uint8 images of 8x8x1, and labels.

    Alpaydin and Kaynak, 1998, "Optical recognition of handwritten digits" (UCI), the test part.
    Pixels are counts v of ink in 0..16, stored as round(v * 255 / 16); round(p * 16 / 255) recovers
    v. The test split is fixed and stratified: every fifth example, sorted by class.
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

"""Datasets, preprocessing, augmentation and batches; batch n is a pure function of (seed, n).

    cifar = data.load("cifar10")
    train = cifar["train"].batches(128, transform=image.compose(image.random_crop(4), ...))
    train[1_000]                 # the thousandth batch, today, after a restart, on any host

The pipeline has no state: nothing to save, to seek, or to lose when a run stops.
"""

from jaxmodels.data import image, synthetic, text
from jaxmodels.data.batches import Batches, Padded
from jaxmodels.data.check import CheckReport, check
from jaxmodels.data.dataset import Dataset, from_arrays, load, split
from jaxmodels.data.sources import DataError
from jaxmodels.data.split import Split

__all__ = [
    "Batches",
    "CheckReport",
    "DataError",
    "Dataset",
    "Padded",
    "Split",
    "check",
    "from_arrays",
    "image",
    "load",
    "split",
    "synthetic",
    "text",
]

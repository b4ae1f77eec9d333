"""Predictions, confusion matrix and first-layer filters of a trained classifier."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxmodels.inspect.on_mesh import gather, map_split
from jaxmodels.losses import target_classes
from jaxmodels.report import Section, confusion, filters
from jaxmodels.report.filters import as_images
from jaxmodels.report.predictions import Scores, chosen_predictions
from jaxmodels.typing import Model, batch_field, batch_fields, field_names


@dataclasses.dataclass(frozen=True)
class Classification:
    """See `classification`."""

    model: Model
    split: Any
    inputs: tuple[str, ...]
    target: str
    batch_size: int

    def __call__(self, variables: Any, metrics: Mapping[str, Any], mesh: Mesh) -> list[Section]:
        del metrics
        split, names = self.split, self.split.class_names
        names = names or list(map(str, range(split.num_classes)))
        scores = Scores(*map_split(self._scores, split, variables, mesh, self.batch_size))
        matrix = np.zeros((len(names), len(names)), np.int64)
        np.add.at(matrix, (scores.true, scores.predicted), 1)

        def read(indices: np.ndarray) -> np.ndarray:
            return split.read(indices)[self.inputs[0]]

        if read(np.array([0])).ndim != 4:  # no images
            return [confusion(matrix, names)]
        sections = [chosen_predictions(read, scores, names), confusion(matrix, names)]
        kernel = first_kernel(variables["params"], mesh)
        return sections if kernel is None else [*sections, filters(kernel)]

    def _scores(self, variables: Any, batch: Any) -> tuple[Any, ...]:
        logits = self.model.apply(variables, *batch_fields(batch, self.inputs))
        log_p = jax.nn.log_softmax(logits.astype(jnp.float32))  # (B, K)
        label = target_classes(logits, batch_field(batch, self.target))
        best = logits.argmax(axis=1)
        rows = jnp.arange(len(logits))
        return label, best, -log_p[rows, label], jnp.exp(log_p[rows, best])


def classification(
    model: Model,
    split: Any,
    inputs: str | Sequence[str] = ("image",),
    target: str = "label",
    batch_size: int = 500,
) -> Classification:
    """Show how a trained classifier does on a split.

    Sections: the confusion matrix; if the first of `inputs` is images (B, H, W, C), also right
    predictions and the worst mistakes, and, where the first kernel forms images, the filters.
    """
    return Classification(model, split, field_names(inputs), target, batch_size)


def first_kernel(params: Any, mesh: Mesh) -> np.ndarray | None:
    """The kernel that reads the images, if it forms images that can be looked at.

    The order of a network's layers is not in its params. Convolutions come before dense layers, a
    `stem` before all, and what is left goes by name.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    kernels = [
        (-leaf.ndim, "stem" not in (name := jax.tree_util.keystr(path)), name, leaf)
        for path, leaf in leaves
        if path[-1] == jax.tree_util.DictKey("kernel")
    ]
    if not kernels:
        return None
    kernel = np.asarray(gather(min(kernels, key=lambda entry: entry[:3])[3], mesh))
    try:
        as_images(kernel)
    except ValueError:
        return None
    return kernel

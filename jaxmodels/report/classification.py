"""The sections of a trained classifier of images."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxmodels.report.confusion import confusion
from jaxmodels.report.filters import as_images, filters
from jaxmodels.report.page import Section
from jaxmodels.report.predictions import Scores, chosen_predictions

Sections = Callable[[Any, Mapping[str, Any]], list[Section]]


def classification(model: Any, split: Any, batch_size: int = 500) -> Sections:
    """Make the function that looks at a trained classifier: `(variables, measured) -> sections`.

    The model is run over the whole split, whose examples have an `image` and a `label`. The
    sections are the confusion matrix, the predictions and, where the first kernel forms images,
    the filters.
    """

    def sections(variables: Any, measured: Mapping[str, Any]) -> list[Section]:
        scores = _scores(model, split, variables, batch_size)
        names = split.class_names or list(map(str, range(split.num_classes)))
        matrix = np.zeros((len(names), len(names)), np.int64)
        np.add.at(matrix, (scores.true, scores.predicted), 1)

        def read(indices: np.ndarray) -> np.ndarray:
            return split.read(indices)["image"]

        found = [chosen_predictions(read, scores, names), confusion(matrix, names)]
        kernel = first_kernel(variables["params"])
        return found if kernel is None else [*found, filters(kernel)]

    return sections


def _scores(model: Any, split: Any, variables: Any, batch_size: int) -> Scores:
    import jax
    import jax.numpy as jnp

    @jax.jit
    def score(variables: Any, batch: Any) -> tuple[Any, ...]:
        batch = split.preprocess(batch)
        logits = model.apply(variables, batch["image"]).astype(jnp.float32)
        log_probabilities = jax.nn.log_softmax(logits)  # (B, K)
        rows, label, best = jnp.arange(len(logits)), batch["label"], logits.argmax(axis=1)
        loss, probability = -log_probabilities[rows, label], jnp.exp(log_probabilities[rows, best])
        return label, best, loss, probability

    parts = []
    for batch in split.padded(batch_size):
        columns = jax.device_get(score(variables, batch))
        parts.append([column[batch["mask"]] for column in columns])
    return Scores(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def first_kernel(params: Any) -> np.ndarray | None:
    """The kernel that reads the images, if it forms images that can be looked at.

    The order of a network's layers is not in its params. Convolutions come before dense layers, a
    `stem` before all, and what is left goes by name.
    """
    import jax

    leaves = jax.tree_util.tree_leaves_with_path(params)
    kernels = [
        (-leaf.ndim, "stem" not in (name := jax.tree_util.keystr(path)), name, leaf)
        for path, leaf in leaves
        if path[-1] == jax.tree_util.DictKey("kernel")
    ]
    if not kernels:
        return None
    kernel = np.asarray(jax.device_get(min(kernels, key=lambda entry: entry[:3])[3]))
    try:
        as_images(kernel)
    except ValueError:
        return None
    return kernel

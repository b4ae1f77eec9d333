"""Predictions of a classifier: correct examples and the worst mistakes."""

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from jaxmodels.report.images import displayable, png
from jaxmodels.report.page import Section


@dataclass(frozen=True)
class Scores:
    """What is known of each of B examples: classes, loss in nats, the prediction's probability."""

    true: np.ndarray
    predicted: np.ndarray
    loss: np.ndarray
    probability: np.ndarray


def predictions(
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str] | None = None,
) -> Section:
    """Show predictions for images (B, H, W, C) with labels (B,) and probabilities (B, K)."""
    every = np.arange(len(labels))
    best = probabilities.argmax(axis=1)
    loss = -np.log(np.maximum(probabilities[every, labels], np.finfo(np.float32).tiny))
    scores = Scores(labels, best, loss, probabilities[every, best])
    names = class_names or list(map(str, range(probabilities.shape[1])))
    return chosen_predictions(lambda indices: images[indices], scores, names)


def chosen_predictions(
    read: Callable[[np.ndarray], np.ndarray],
    scores: Scores,
    class_names: Sequence[str],
    each: int = 24,
) -> Section:
    """As `predictions`; `read(indices)` gives the images, of which only those shown are read."""
    wrong = np.flatnonzero(scores.true != scores.predicted)
    right = np.flatnonzero(scores.true == scores.predicted)
    worst = wrong[np.argsort(-scores.loss[wrong], kind="stable")][:each]
    some = np.random.default_rng(0).permutation(right)[:each]
    text = _heading("Worst mistakes", len(worst), len(wrong), "wrong, greatest loss first")
    text += _sheet(read, scores, class_names, worst)
    text += _heading("Right at random", len(some), len(right), "right")
    text += _sheet(read, scores, class_names, some)
    return Section("Predictions", text)


def _heading(title: str, shown: int, total: int, what: str) -> str:
    return f'<h3>{title} <span class="quiet">{shown:,} of {total:,} {what}</span></h3>'


def _sheet(
    read: Callable[[np.ndarray], np.ndarray],
    scores: Scores,
    names: Sequence[str],
    indices: np.ndarray,
) -> str:
    if not len(indices):
        return '<p class="note">None.</p>'
    pictures = displayable(np.asarray(read(indices)))
    cards = (_card(png(p), scores, names, int(n)) for p, n in zip(pictures, indices, strict=True))
    return f'<div class="sheet">{"".join(cards)}</div>'


def _card(source: str, scores: Scores, names: Sequence[str], n: int) -> str:
    true = html.escape(str(names[scores.true[n]]))
    predicted = html.escape(str(names[scores.predicted[n]]))
    share = f"{100 * scores.probability[n]:.0f}&nbsp;%"
    if true == predicted:
        words = f"<b>{true}</b> {share}"
    else:
        words = f'<b>{true}</b> as <b class="mistake">{predicted}</b> {share}'
        words += f"<br>{scores.loss[n]:.1f} nats"
    title = f"example {n}"
    image = f'<img class="pixels" src="{source}" alt="{title}">'
    return f'<figure title="{title}">{image}<figcaption>{words}</figcaption></figure>'

"""The adding problem over 600 steps: add two marked numbers out of 600.

Bai et al. 2018, "An empirical evaluation of generic convolutional and recurrent networks for
sequence modeling", table 1, about 70,000 parameters each: a loss (mean squared error) of 5.3e-5
for the GRU, 0.164 for the LSTM and 0.177 for the plain network; always to say 1 gives 0.167.
"""

from typing import Literal

import optax

from jaxmodels import data, metrics, objectives
from jaxmodels.experiment import Experiment, Published, run
from jaxmodels.layers.cells import GRU, LSTM, Elman
from jaxmodels.layers.recurrent import RNN
from jaxmodels.models.rnn import RNNClassifier

CELLS = {"gru": (GRU(), 150, 5.3e-5), "lstm": (LSTM(), 130, 0.164), "elman": (Elman(), 262, 0.177)}
"""Cell, width, published loss."""


def gru_adding_problem(
    cell: Literal["gru", "lstm", "elman"] = "gru",
    length: int = 600,
    steps: int = 15_000,
    batch_size: int = 32,
    peak_lr: float = 2e-3,
) -> Experiment:
    """One recurrent layer and a linear output, trained with Adam on a cosine schedule.

    Args:
        cell: of the recurrent layer, whose width it decides.
        length: of the sequences.
        steps: number of updates; 1,563 are one epoch.
        batch_size: sequences per update.
        peak_lr: learning rate after a warm-up of a tenth of the steps.
    """
    sequences = data.synthetic.adding_problem(length)
    kind, width, published = CELLS[cell]
    model = RNNClassifier(1, RNN(width, kind))
    schedule = optax.warmup_cosine_decay_schedule(0.0, peak_lr, steps // 10, steps)
    return Experiment(
        objective=objectives.regression(model),
        optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule)),
        train=sequences["train"].batches(batch_size),
        evaluate={"test": metrics.regression(model, sequences["test"])},
        steps=steps,
        published=Published({"test/mse": published}, "adding", setting={"cell": cell}),
    )


if __name__ == "__main__":
    run(gru_adding_problem)

"""Copy memory over 1,000 steps: repeat ten digits long after they were read.

Bai et al. 2018, "An empirical evaluation of generic convolutional and recurrent networks for
sequence modeling", table 1, about 16,000 parameters each: a loss (cross-entropy in nats, mean over
all 1,020 places) of 0.0197 for the GRU, 0.0204 for the LSTM and 0.0202 for the plain network. Not
to know the digits costs 10 ln(8) / 1,020 = 0.0204: recurrent networks hardly learn this.
"""

from typing import Literal

import optax

from jaxmodels import data, metrics, objectives
from jaxmodels.experiment import Experiment, Published, run
from jaxmodels.layers.cells import GRU, LSTM, Elman
from jaxmodels.layers.recurrent import RNN
from jaxmodels.models.rnn import RNNLanguageModel

CELLS = {"gru": (GRU(), 66, 0.0197), "lstm": (LSTM(), 57, 0.0204), "elman": (Elman(), 116, 0.0202)}
"""Cell, width, published loss."""


def copy_memory(
    cell: Literal["gru", "lstm", "elman"] = "gru",
    blanks: int = 1000,
    steps: int = 3_130,
    batch_size: int = 32,
    peak_lr: float = 2e-3,
) -> Experiment:
    """One recurrent layer with an output at each step, trained with Adam on a cosine schedule.

    Args:
        cell: of the recurrent layer, whose width it decides.
        blanks: steps between the digits and the sign to repeat them.
        steps: number of updates; 313 are one epoch.
        batch_size: sequences per update.
        peak_lr: learning rate after a warm-up of a tenth of the steps.
    """
    sequences = data.synthetic.copy_memory(blanks)
    kind, width, published = CELLS[cell]
    model = RNNLanguageModel(10, RNN(width, kind), embedding=10)
    schedule = optax.warmup_cosine_decay_schedule(0.0, peak_lr, steps // 10, steps)
    return Experiment(
        objective=objectives.next_token(model),
        optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule)),
        train=sequences["train"].batches(batch_size),
        evaluate={"test": metrics.next_token(model, sequences["test"], batch_size=100)},
        steps=steps,
        published=Published(
            {"test/cross_entropy": published}, "copy_memory", setting={"cell": cell}
        ),
    )


if __name__ == "__main__":
    run(copy_memory)

"""Transfer learning on MNIST: convolutions learnt on the digits 0 to 4 recognise 5 to 9.

Keras's example mnist_transfer_cnn: a ConvNet learns the first five digits; then its convolutions
are frozen, and the dense layers learn the other five: 99.2 % test accuracy after five epochs.

    uv run experiments/transfer_mnist.py --first-digit 0 --out runs/transfer-0
    uv run experiments/transfer_mnist.py --start runs/transfer-0
"""

import optax

from jaxmodels import data, inspect, metrics, objectives
from jaxmodels.experiment import Experiment, Published, run
from jaxmodels.models.cnn import ConvNet


def transfer_mnist(
    dataset: str = "mnist",
    data_dir: str | None = None,
    first_digit: int = 5,
    steps: int = 1_150,
    batch_size: int = 128,
    peak_lr: float = 2e-3,
    dropout: tuple[float, float] = (0.25, 0.5),
) -> Experiment:
    """A ConvNet of five classes; on the digits from 5 on only its dense layers are trained.

    Args:
        dataset: any data set of ten classes of images; digits needs no download.
        data_dir: folder of prepared data sets; by default TFDS_DATA_DIR.
        first_digit: of five: 0 to learn all layers, 5 to transfer the convolutions (--start).
        steps: number of updates; 1,150 are 5 epochs.
        batch_size: examples per update.
        peak_lr: learning rate after a warm-up of a tenth of the steps; it falls as a cosine.
        dropout: dropout rate before each of the two dense layers.
    """
    images = data.load(dataset, data_dir).only_classes(range(first_digit, first_digit + 5))
    model = ConvNet(images.num_classes, dropout=dropout)
    schedule = optax.warmup_cosine_decay_schedule(0.0, peak_lr, steps // 10, steps)
    return Experiment(
        objective=objectives.classification(model),
        optimizer=optax.adam(schedule),
        trainable=None if first_digit == 0 else "^(hidden|output)/",
        train=images["train"].batches(batch_size),
        evaluate={"test": metrics.classification(model, images["test"])},
        steps=steps,
        published=Published({"test/accuracy": 0.992}, "mnist"),
        report=inspect.classification(model, images["test"]),
    )


if __name__ == "__main__":
    run(transfer_mnist)

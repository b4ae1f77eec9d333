"""A small ConvNet on the 1,797 handwritten digits that scikit-learn carries.

No download. For comparison: Alpaydin and Kaynak, 1998, "Optical recognition of handwritten
digits", UCI machine learning repository: 98.00 % accuracy by nearest neighbours on another split
of the same digits. Target of this ConvNet on our held-out fifth: at least 98.5 % accuracy.
"""

import optax

from jaxmodels import data, inspect, metrics, objectives, optimizers, tree
from jaxmodels.data import image
from jaxmodels.experiment import Experiment, Published, run
from jaxmodels.models.cnn import ConvNet


def cnn_digits(
    dataset: str = "digits",
    data_dir: str | None = None,
    steps: int = 2_400,
    batch_size: int = 64,
    peak_lr: float = 2e-3,
    weight_decay: float = 0.1,
    dropout: float = 0.3,
) -> Experiment:
    """The ConvNet, trained with AdamW on a cosine schedule.

    Args:
        dataset: any data set of small images.
        data_dir: folder of prepared data sets; by default TFDS_DATA_DIR.
        steps: number of updates.
        batch_size: examples per update.
        peak_lr: learning rate after a warm-up of a tenth of the steps.
        weight_decay: decoupled weight decay; not of biases and norms.
        dropout: dropout rate before the output layer.
    """
    images = data.load(dataset, data_dir)
    model = ConvNet(images.num_classes, dropout=(0.0, dropout))
    schedule = optax.warmup_cosine_decay_schedule(0.0, peak_lr, steps // 10, steps)
    return Experiment(
        objective=objectives.classification(model),
        optimizer=optax.chain(
            optax.adamw(schedule, weight_decay=weight_decay, mask=tree.decay_mask),
            optimizers.ema(0.99),
        ),
        eval_params=optimizers.averaged,
        train=images["train"].batches(batch_size, transform=image.random_crop(1)),
        evaluate={"test": metrics.classification(model, images["test"])},
        steps=steps,
        published=Published({"test/error": 0.015}, "digits", label="target"),
        report=inspect.classification(model, images["test"]),
    )


if __name__ == "__main__":
    run(cnn_digits)

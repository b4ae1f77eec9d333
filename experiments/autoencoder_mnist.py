"""An autoencoder, 784-128-784, on MNIST.

There is no published result for this network. The target is our own, set after the first runs: at
most 52 nats of binary cross-entropy per test image, most of it the entropy of its greys.
"""

import optax

from jaxmodels import data, inspect, metrics, objectives
from jaxmodels.experiment import Experiment, Published, run
from jaxmodels.models.autoencoder import shallow_autoencoder


def autoencoder_mnist(
    dataset: str = "mnist",
    data_dir: str | None = None,
    steps: int = 9_375,
    batch_size: int = 128,
    peak_lr: float = 2e-3,
    hidden: int = 128,
    masking: float = 0.0,
) -> Experiment:
    """The autoencoder, trained with Adam on a cosine schedule.

    Args:
        dataset: any data set of images; digits needs no download.
        data_dir: folder of prepared data sets; by default TFDS_DATA_DIR.
        steps: number of updates; 9,375 are 20 epochs.
        batch_size: images per update.
        peak_lr: learning rate after a warm-up of a tenth of the steps.
        hidden: width of the code.
        masking: share of the pixels that are hidden in training, for a denoising autoencoder.
    """
    images = data.load(dataset, data_dir)
    model = shallow_autoencoder(images["train"].example(1)["image"].shape[1:], hidden)
    schedule = optax.warmup_cosine_decay_schedule(0.0, peak_lr, steps // 10, steps)
    return Experiment(
        objective=objectives.reconstruction(model, noise=objectives.masking_noise(masking)),
        optimizer=optax.adam(schedule),
        train=images["train"].batches(batch_size),
        evaluate={"test": metrics.reconstruction(model, images["test"])},
        steps=steps,
        published=Published({"test/cross_entropy": 52.0}, "mnist", label="target"),
        report=inspect.reconstruction(model, images["test"]),
    )


if __name__ == "__main__":
    run(autoencoder_mnist)

"""LeNet-5 on MNIST.

LeCun et al., 1998, "Gradient-based learning applied to document recognition", figure 9: 0.95 %
test error after 20 epochs, without distortions.
"""

import optax

from jaxmodels import data, inspect, metrics, objectives, tree
from jaxmodels.experiment import Experiment, Published, run
from jaxmodels.models.cnn import LeNet


def lenet_mnist(
    dataset: str = "mnist",
    data_dir: str | None = None,
    steps: int = 9_400,
    batch_size: int = 128,
    peak_lr: float = 2e-3,
    weight_decay: float = 1e-2,
) -> Experiment:
    """LeNet-5, trained with AdamW on a cosine schedule.

    Args:
        dataset: any data set of images; digits needs no download.
        data_dir: folder of prepared data sets; by default TFDS_DATA_DIR.
        steps: number of updates; 9,400 are 20 epochs.
        batch_size: examples per update.
        peak_lr: learning rate after a warm-up of a tenth of the steps.
        weight_decay: decoupled weight decay; not of biases and norms.
    """
    images = data.load(dataset, data_dir, image_shape=(28, 28, 1))
    model = LeNet(images.num_classes)
    schedule = optax.warmup_cosine_decay_schedule(0.0, peak_lr, steps // 10, steps)
    return Experiment(
        objective=objectives.classification(model),
        optimizer=optax.adamw(schedule, weight_decay=weight_decay, mask=tree.decay_mask),
        train=images["train"].batches(batch_size),
        evaluate={"test": metrics.classification(model, images["test"])},
        steps=steps,
        published=Published({"test/error": 0.0095}, "mnist"),
        report=inspect.classification(model, images["test"]),
    )


if __name__ == "__main__":
    run(lenet_mnist)

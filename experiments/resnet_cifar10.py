"""ResNet-20 on CIFAR-10.

He et al., 2015, "Deep residual learning for image recognition", section 4.2 and table 6: 8.75 %
test error after 64,000 steps of batch 128 with momentum 0.9, weight decay 1e-4, and the learning
rate 0.1 divided by 10 after 32,000 and 48,000 steps. (The paper trains on 45,000 of the 50,000.)
"""

import optax

from jaxmodels import data, inspect, metrics, objectives
from jaxmodels.data import image
from jaxmodels.experiment import Experiment, Published, run
from jaxmodels.models.resnet import cifar_resnet

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Of the channels of CIFAR-10's training images."""


def resnet_cifar10(
    dataset: str = "cifar10",
    data_dir: str | None = None,
    steps: int = 64_000,
    batch_size: int = 128,
    peak_lr: float = 0.1,
    weight_decay: float = 1e-4,
    depth: int = 20,
) -> Experiment:
    """A ResNet, trained with SGD and momentum, with random crops and flips.

    Args:
        dataset: any data set of images; digits needs no download.
        data_dir: folder of prepared data sets; by default TFDS_DATA_DIR.
        steps: number of updates; the learning rate falls after 1/2 and 3/4 of them.
        batch_size: examples per update.
        peak_lr: learning rate until the first fall.
        weight_decay: of weights only, as a penalty.
        depth: 20, 32, 44, 56, 110 or another 6n + 2.
    """
    images = data.load(dataset, data_dir, image_shape=(32, 32, 3)).map(image.normalize(MEAN, STD))
    model = cifar_resnet(depth, images.num_classes)
    falls = {steps // 2: 0.1, steps * 3 // 4: 0.1}
    augment = image.compose(image.random_crop(4), image.random_flip)
    return Experiment(
        objective=objectives.penalized(
            objectives.classification(model), objectives.l2(weight_decay)
        ),
        optimizer=optax.sgd(optax.piecewise_constant_schedule(peak_lr, falls), momentum=0.9),
        train=images["train"].batches(batch_size, transform=augment),
        evaluate={"test": metrics.classification(model, images["test"])},
        steps=steps,
        published=Published({"test/error": 0.0875}, "cifar10"),
        report=inspect.classification(model, images["test"]),
    )


if __name__ == "__main__":
    run(resnet_cifar10)

"""A variational autoencoder, 784-500-20-500-784, on binarised MNIST.

The setting of Flax's example examples/vae (Adam, batch 128, fixed binarisation), after Kingma and
Welling, 2014, "Auto-encoding variational Bayes": about 104 nats per test image after 10 epochs.
"""

import optax

from jaxmodels import data, inspect, metrics, objectives
from jaxmodels.data import binarize
from jaxmodels.experiment import Experiment, Published, run
from jaxmodels.models.vae import mlp_vae


def vae_mnist(
    dataset: str = "binarized_mnist",
    data_dir: str | None = None,
    steps: int = 3_900,
    batch_size: int = 128,
    lr: float = 1e-3,
    hidden: int = 500,
    latents: int = 20,
    beta: float = 1.0,
) -> Experiment:
    """The variational autoencoder, trained with Adam.

    Args:
        dataset: any data set of images; digits needs no download.
        data_dir: folder of prepared data sets; by default TFDS_DATA_DIR.
        steps: number of updates; 3,900 are 10 epochs.
        batch_size: images per update.
        lr: learning rate, constant.
        hidden: width of the hidden layers.
        latents: how many there are.
        beta: weight of the KL divergence in the loss.
    """
    images = data.load(dataset, data_dir).map(binarize.threshold)
    model = mlp_vae(images["train"].example(1)["image"].shape[1:], (hidden,), latents)
    return Experiment(
        objective=objectives.elbo(model, beta),
        optimizer=optax.adam(lr),
        train=images["train"].batches(batch_size),
        evaluate={"test": metrics.elbo(model, images["test"])},
        steps=steps,
        published=Published({"test/nll": 104.0}, "binarized_mnist"),
        report=inspect.latents(model, images["test"]),
    )


if __name__ == "__main__":
    run(vae_mnist)

"""An importance-weighted autoencoder, 784-200-200-50, on MNIST binarised at random in each step.

Burda et al., 2016, "Importance weighted autoencoders", table 1: 84.78 nats per test image for one
stochastic layer and 50 samples, estimated from 5,000; 82.90 for two layers. Training images are
drawn anew in each step, as the paper's code does, and test images once: results on a
fixed binarisation of both are not comparable.
"""

import optax

from jaxmodels import data, inspect, metrics, objectives
from jaxmodels.data import binarize
from jaxmodels.experiment import Experiment, Published, run
from jaxmodels.models.hierarchical_vae import burda_vae

PUBLISHED = {
    (1, (50,)): 86.76,
    (5, (50,)): 85.54,
    (50, (50,)): 84.78,
    (1, (100, 50)): 85.33,
    (5, (100, 50)): 83.89,
    (50, (100, 50)): 82.90,
}
"""Table 1's nats per test image, by the samples trained on and the latents."""


def iwae_mnist(
    dataset: str = "mnist",
    data_dir: str | None = None,
    steps: int = 9_840_000,
    batch_size: int = 20,
    lr: float = 1e-3,
    samples: int = 50,
    eval_samples: int = 5_000,
    latents: tuple[int, ...] = (50,),
) -> Experiment:
    """The autoencoder, trained with Adam: 3^i epochs at a rate of 10^(-i/7) lr, i = 0, ..., 7.

    Args:
        dataset: any data set of grey images; digits needs no download.
        data_dir: folder of prepared data sets; by default TFDS_DATA_DIR.
        steps: number of updates; 9,840,000 are all 3,280 epochs, 363,000 the first 121 (i up to 4).
        batch_size: images per update.
        lr: learning rate of the first epoch.
        samples: k, of the bound that is trained on; the paper has 1, 5 and 50.
        eval_samples: samples of the estimate on test images, a multiple of 50.
        latents: of each stochastic layer; the paper's other network has 100 50.
    """
    images = data.load(dataset, data_dir)
    test = images["test"].map(binarize.fixed(0))
    train = images["train"].batches(batch_size, transform=binarize.stochastic)
    shape = images["train"].example(1)["image"].shape[1:]
    widths = ((200, 200), (100, 100))[: len(latents)]
    model = burda_vae(shape, latents, widths)
    ends = [round(train.steps_per_epoch * (3**i - 1) / 2) for i in range(1, 8)]
    schedule = optax.piecewise_constant_schedule(lr, dict.fromkeys(ends, 10 ** (-1 / 7)))
    nats, setting = PUBLISHED.get((samples, latents)), {"samples": samples, "latents": latents}
    published = Published({"test/nll": nats}, "mnist", setting=setting) if nats else None
    return Experiment(
        objective=objectives.iwae(model, samples),
        optimizer=optax.adam(schedule, b1=0.9, b2=0.999, eps=1e-4),
        train=train,
        evaluate={
            "test": metrics.iwae(model, test, eval_samples),
            "bound": metrics.elbo(model, test),
        },
        steps=steps,
        published=published,
        best="test/nll",
        report=inspect.latents(model, test),
    )


if __name__ == "__main__":
    run(iwae_mnist)

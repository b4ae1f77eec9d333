"""A variational autoencoder with two latents on the 1,797 digits that scikit-learn carries.

No download, and no published result. The target is our own, set after the first runs: at most
20.5 nats per held-out image, binarised at one half.
"""

import optax

from jaxmodels import data, inspect, metrics, objectives, optimizers
from jaxmodels.data import binarize
from jaxmodels.experiment import Experiment, Published, run
from jaxmodels.models.vae import mlp_vae


def vae_digits(
    dataset: str = "digits",
    data_dir: str | None = None,
    steps: int = 4_000,
    batch_size: int = 64,
    peak_lr: float = 2e-3,
    hidden: int = 200,
    latents: int = 2,
) -> Experiment:
    """The variational autoencoder, trained with Adam on a cosine schedule.

    Args:
        dataset: any data set of small grey images.
        data_dir: folder of prepared data sets; by default TFDS_DATA_DIR.
        steps: number of updates.
        batch_size: images per update.
        peak_lr: learning rate after a warm-up of a tenth of the steps.
        hidden: width of the hidden layers.
        latents: how many there are; two make a plane that can be looked at.
    """
    images = data.load(dataset, data_dir).map(binarize.threshold)
    model = mlp_vae(images["train"].example(1)["image"].shape[1:], (hidden,), latents)
    schedule = optax.warmup_cosine_decay_schedule(0.0, peak_lr, steps // 10, steps)
    return Experiment(
        objective=objectives.elbo(model),
        optimizer=optax.chain(optax.adam(schedule), optimizers.ema(0.99)),
        eval_params=optimizers.averaged,
        train=images["train"].batches(batch_size),
        evaluate={"test": metrics.elbo(model, images["test"])},
        steps=steps,
        published=Published({"test/nll": 20.5}, "digits", label="target"),
        report=inspect.latents(model, images["test"]),
    )


if __name__ == "__main__":
    run(vae_digits)

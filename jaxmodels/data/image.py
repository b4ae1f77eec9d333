"""Image preprocessing and augmentation, run on the device inside the jitted step.

Deterministic functions, batch -> batch, are for `split.map`: `to_float`, `rescale`, `normalize`,
`resize`. Random ones, (key, batch) -> batch, are for `batches(transform=...)`: `random_crop`,
`random_flip`, `cutout`, and `compose` of these. They fill with zeros, which are the mean colour if
`normalize` came before.

Example i's randomness depends on (key, i) alone, so sharding the batch changes nothing.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.errors import UserError
from jaxmodels.typing import Array, Batch, Key

Transform = Callable[[Key, Batch], Batch]


def to_float(batch: Batch) -> Batch:
    """Convert `image` from uint8 or uint16 to float32 in [0, 1]; other dtypes are not changed.

    It is divided by the largest value of its dtype, 255 or 65,535, as torchvision and TensorFlow
    do. For images with fewer bits, such as 12 in uint16, use `rescale`.
    """
    if _is_integer_image(batch):
        return rescale(jnp.iinfo(batch["image"].dtype).max)(batch)
    return batch


def rescale(max_value: int) -> Callable[[Batch], Batch]:
    """Convert `image` from uint8 or uint16 to float32, divided by `max_value`.

    Images of other dtypes are not changed.
    """

    def apply(batch: Batch) -> Batch:
        if not _is_integer_image(batch):
            return batch
        return _with_image(batch, jnp.asarray(batch["image"], jnp.float32) / max_value)

    return apply


def normalize(mean: Sequence[float], std: Sequence[float]) -> Callable[[Batch], Batch]:
    """Standardize: (image - mean) / std for each channel, of images in [0, 1]."""
    # numpy: a jax array would start the devices, perhaps before the hosts have met.
    shift, spread = np.asarray(mean, np.float32), np.asarray(std, np.float32)

    def apply(batch: Batch) -> Batch:
        image = batch["image"]
        if shift.size not in (1, image.shape[-1]) or spread.size not in (1, image.shape[-1]):
            raise UserError(
                f"normalize has {shift.size} means and {spread.size} deviations; the images have "
                f"{image.shape[-1]} channels."
            )
        return _with_image(
            batch, (image - shift.reshape(1, 1, 1, -1)) / spread.reshape(1, 1, 1, -1)
        )

    return apply


def resize(shape: tuple[int, int, int]) -> Callable[[Batch], Batch]:
    """Resize images to `shape`, (H, W, C), bilinearly; one channel is repeated to C channels.

    Raises `UserError` for colours into grey: there are several weightings, and the user chooses.
    """
    H, W, C = shape

    def apply(batch: Batch) -> Batch:
        image = batch["image"]
        channels = image.shape[-1]
        if channels not in (1, C):
            raise UserError(
                f"Images with {channels} channels cannot be resized to {shape}: only grey images "
                f"(1 channel) are repeated. To convert colours to grey, use `split.map`."
            )
        resized = jax.image.resize(image, (len(image), H, W, channels), "linear")
        return _with_image(batch, jnp.broadcast_to(resized, (len(image), H, W, C)))

    return apply


def random_crop(padding: int) -> Transform:
    """Random crop: pad with zeros on all four sides, then crop the original size.

    He et al., 2015, "Deep residual learning for image recognition", section 4.2, with padding 4.
    """
    P = padding

    def apply(key: Key, batch: Batch) -> Batch:
        image = batch["image"]
        B, H, W, C = image.shape
        corners = jax.random.randint(key, (B, 2), 0, 2 * P + 1)
        padded = jnp.pad(image, ((0, 0), (P, P), (P, P), (0, 0)))

        def cut(one: Array, corner: Array) -> Array:
            return jax.lax.dynamic_slice(one, (corner[0], corner[1], 0), (H, W, C))

        # 128 x 32x32x3 on two cores: 0.24 ms; gathers 0.32, one-hot products 1.2, numpy 0.56.
        return _with_image(batch, jax.vmap(cut)(padded, corners))

    return apply


def random_flip(key: Key, batch: Batch) -> Batch:
    """Random horizontal flip, with probability 1/2."""
    image = batch["image"]
    flip = jax.random.bernoulli(key, shape=(len(image), 1, 1, 1))
    return _with_image(batch, jnp.where(flip, image[:, :, ::-1], image))


def cutout(size: int) -> Transform:
    """Cutout (random erasing): set a square of side `size` around a random pixel to zero.

    DeVries and Taylor, 2017, "Improved regularization of convolutional neural networks with
    cutout", section 3; 16 for CIFAR-10.
    """

    def apply(key: Key, batch: Batch) -> Batch:
        image = batch["image"]
        B, H, W, _ = image.shape
        centre = jax.random.randint(key, (B, 2), 0, np.array([[H, W]]))
        first = centre - size // 2

        def inside(length: int, start: Array) -> Array:
            offset = jnp.arange(length)[None, :] - start[:, None]
            return (offset >= 0) & (offset < size)  # (B, length)

        hole = inside(H, first[:, 0])[:, :, None] & inside(W, first[:, 1])[:, None, :]
        return _with_image(batch, jnp.where(hole[..., None], 0, image))

    return apply


def compose(*transforms: Transform) -> Transform:
    """Compose random transforms; each gets its own key."""

    def apply(key: Key, batch: Batch) -> Batch:
        for n, transform in enumerate(transforms):
            batch = transform(jax.random.fold_in(key, n), batch)
        return batch

    return apply


def _is_integer_image(batch: Batch) -> bool:
    return "image" in batch and batch["image"].dtype in (jnp.uint8, jnp.uint16)


def _with_image(batch: Batch, image: Array) -> Batch:
    return {**batch, "image": image}

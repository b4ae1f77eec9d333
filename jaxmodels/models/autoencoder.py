"""Autoencoders: dense and convolutional encoders and decoders, which VAEs use too."""

import math
from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Integer

from jaxmodels.errors import UserError
from jaxmodels.layers.conv import Conv
from jaxmodels.layers.dense import Dense, OutputDense
from jaxmodels.layers.shapes import (
    check_fan_in,
    check_floats,
    check_images,
    check_sizes,
    freeze_sequences,
)
from jaxmodels.models.mlp import MLP
from jaxmodels.typing import Array

Activation = Callable[[Array], Array]
Shape = tuple[int, int, int]

# Glorot and Bengio 2010: keeps the variances of activations and gradients; for tanh and the heads.
_glorot = nn.initializers.glorot_uniform()

CODER_DIMS = {
    r"(hidden\d*[13579]|coder/hidden|body/hidden)/(kernel|bias)": -1,
    r"(hidden\d*[02468]|mean|log_variance|output)/kernel": -2,
}
"""Dimensions of encoders' and decoders' dense layers that may be split: columns, rows in turn."""


class MLPTrunk(nn.Module):
    """Dense layers with an activation after each; flattens its input."""

    widths: Sequence[int]
    activation: Activation = nn.relu

    def __post_init__(self) -> None:
        freeze_sequences(self, "widths")
        check_sizes(widths=self.widths)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Float[Array, "B *shape"]) -> Float[Array, "B D"]:
        """Compute features."""
        check_floats(self, x)
        x = x.reshape(x.shape[0], -1)
        check_fan_in(self, "hidden1", x)
        for n, width in enumerate(self.widths, start=1):
            x = self.activation(Dense(width, kernel_init=_glorot, name=f"hidden{n}")(x))
        return x


class DenseDecoder(nn.Module):
    """Hidden layers, and one more that computes an image of `image_shape` (H, W, C)."""

    widths: Sequence[int]
    image_shape: Shape = (28, 28, 1)
    activation: Activation = nn.relu

    def __post_init__(self) -> None:
        freeze_sequences(self, "widths", "image_shape")
        check_sizes(image_shape=self.image_shape)
        super().__post_init__()

    @nn.compact
    def __call__(self, z: Float[Array, "B Z"]) -> Float[Array, "B H W C"]:
        """Compute logits, or other parameters of the pixels, in float32 at least."""
        x = MLPTrunk(self.widths, self.activation, name="hidden")(z)
        x = OutputDense(math.prod(self.image_shape), kernel_init=_glorot, name="output")(x)
        return x.reshape(-1, *self.image_shape)


class ConvEncoder(nn.Module):
    """3x3 convolutions of stride 2, then a dense layer of width `features`, all with ReLU."""

    channels: Sequence[int] = (32, 64)
    features: int = 16

    def __post_init__(self) -> None:
        freeze_sequences(self, "channels")
        check_sizes(channels=self.channels, features=self.features)
        super().__post_init__()

    @nn.compact
    def __call__(self, image: Float[Array, "B *image"]) -> Float[Array, "B D"]:
        """Compute features of images whose height and width the strides divide."""
        check_images(self, image)
        _check_divisible(image.shape[1:3], len(self.channels))
        x = image
        check_fan_in(self, "conv1", x)
        for n, channels in enumerate(self.channels, start=1):
            x = nn.relu(Conv(channels, (3, 3), strides=(2, 2), name=f"conv{n}")(x))
        x = x.reshape(x.shape[0], -1)
        check_fan_in(self, "hidden", x)
        return nn.relu(Dense(self.features, kernel_init=_glorot, name="hidden")(x))


class ConvDecoder(nn.Module):
    """A dense layer, then 3x3 convolutions of ReLU, each after doubling height and width.

    A stride-2 transposed convolution has as many parameters, but covers its outputs unevenly
    (Odena et al. 2016, "Deconvolution and checkerboard artifacts").
    """

    channels: Sequence[int] = (64, 32)
    image_shape: Shape = (28, 28, 1)

    def __post_init__(self) -> None:
        freeze_sequences(self, "channels", "image_shape")
        check_sizes(layers=len(self.channels), channels=self.channels, image_shape=self.image_shape)
        super().__post_init__()

    @nn.compact
    def __call__(self, z: Float[Array, "B Z"]) -> Float[Array, "B H W C"]:
        """Compute logits, or other parameters of the pixels, in float32 at least."""
        H, W, C = self.image_shape
        _check_divisible((H, W), len(self.channels))
        shrunk = 2 ** len(self.channels)
        small = (H // shrunk, W // shrunk, self.channels[0])
        x = nn.relu(Dense(math.prod(small), kernel_init=_glorot, name="hidden")(z))
        x = x.reshape(-1, *small)
        for n, channels in enumerate(self.channels, start=1):
            x = nn.relu(Conv(channels, (3, 3), name=f"conv{n}")(_doubled(x)))
        # The kernel's products with bfloat16 are exact in float32: only the sums differ.
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return Conv(C, (3, 3), name="output")(x)


class Conditioned(nn.Module):
    """A network conditioned on a label: one that flattens its input, such as `MLPTrunk`.

    The label's indicator, all zeros for a label outside 0..num_classes-1, is appended to the input
    (Sohn et al. 2015, "Learning structured output representation using deep conditional generative
    models"; Kingma et al. 2014, model M2).
    """

    network: nn.Module
    num_classes: int

    def __post_init__(self) -> None:
        check_sizes(num_classes=self.num_classes)
        super().__post_init__()

    def __call__(self, x: Float[Array, "B *shape"], label: Integer[Array, " B"]) -> Array:
        """Apply the network to (B, D + K)."""
        x = x.reshape(x.shape[0], -1)
        indicator = jax.nn.one_hot(label, self.num_classes, dtype=x.dtype)
        return self.network(jnp.concatenate([x, indicator], axis=-1))  # pyright: ignore[reportCallIssue]

    @property
    def image_shape(self) -> Shape:
        """Shape of the images that the network decodes to."""
        return self.network.image_shape  # pyright: ignore[reportAttributeAccessIssue]


class Autoencoder(nn.Module):
    """An encoder from images to codes (B, Z), and a decoder from codes to logits.

    Denoising is a matter of the objective: `objectives.reconstruction(model, noise=...)`.
    """

    encoder: nn.Module
    decoder: nn.Module

    def __call__(
        self, image: Float[Array, "B *image"], train: bool = False
    ) -> Float[Array, "B H W C"]:
        """Compute the logits of images in [0, 1]."""
        check_image_shape(self, self.decoder, image)
        codes = self.encoder(image)  # pyright: ignore[reportCallIssue]
        return self.decoder(codes.astype(image.dtype))  # pyright: ignore[reportCallIssue]

    @property
    def tensor_dims(self) -> Mapping[str, int]:
        """Dimensions of params that `sharding.tensor` may split, by pattern."""
        return CODER_DIMS

    def encode(self, image: Float[Array, "B *image"]) -> Float[Array, "B Z"]:
        """Compute the codes."""
        return self.encoder(image)  # pyright: ignore[reportCallIssue]

    def decode(self, z: Float[Array, "B Z"]) -> Float[Array, "B H W C"]:
        """Compute images in 0..1."""
        return nn.sigmoid(self.decoder(z))  # pyright: ignore[reportCallIssue]


def check_image_shape(
    module: nn.Module, decoder: nn.Module, image: Array, parameters: int = 1
) -> None:
    """Raise `UserError` unless the decoder has `parameters` outputs for each value of an image."""
    check_floats(module, image)
    H, W, C = decoder.image_shape  # pyright: ignore[reportAttributeAccessIssue]
    if (*image.shape[1:3], image.shape[-1] * parameters) == (H, W, C) and image.ndim == 4:
        return
    raise UserError(
        f"{type(module).__name__} decodes to images of shape {(H, W, C // parameters)}, got an "
        f"array of shape {image.shape}, where (B, H, W, C) was expected. Build the model for the "
        "images' shape, or load them in the model's (`data.load(..., image_shape=...)`)."
    )


def _check_divisible(size: Sequence[int], halvings: int) -> None:
    if any(n % 2**halvings for n in size):
        raise UserError(
            f"{halvings} strides of 2 need a height and a width divisible by {2**halvings}, got "
            f"{size[0]}x{size[1]}. Take fewer channels, or load the images in such a shape: "
            "`data.load(..., image_shape=...)`."
        )


def _doubled(x: Float[Array, "B H W C"]) -> Array:
    B, H, W, C = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (B, H, 2, W, 2, C))
    return x.reshape(B, 2 * H, 2 * W, C)


def shallow_autoencoder(image_shape: Shape = (28, 28, 1), hidden: int = 128) -> Autoencoder:
    """784-128-784 with ReLU: 201,616 parameters on 28x28 images."""
    return Autoencoder(MLPTrunk((hidden,)), DenseDecoder((), image_shape))


def deep_autoencoder(
    image_shape: Shape = (28, 28, 1), widths: Sequence[int] = (512, 256, 128), codes: int = 32
) -> Autoencoder:
    """784-512-256-128-32-128-256-512-784, ReLU, linear codes: 1,141,296 parameters."""
    return Autoencoder(MLP((*widths, codes)), DenseDecoder(tuple(widths)[::-1], image_shape))


def conv_autoencoder(image_shape: Shape = (28, 28, 1), codes: int = 16) -> Autoencoder:
    """Strided convolutions of 32 and 64 channels, codes, and the way back: 178,001 parameters."""
    return Autoencoder(ConvEncoder((32, 64), codes), ConvDecoder((64, 32), image_shape))

"""Convolutional networks for small images: LeNet-5, and a ConvNet of two layers."""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from jaxmodels.errors import UserError
from jaxmodels.kernels.pool import max_pool
from jaxmodels.layers.conv import Conv
from jaxmodels.layers.dense import Dense, OutputDense
from jaxmodels.layers.dropout import Dropout
from jaxmodels.layers.shapes import check_fan_in, check_images, check_sizes, freeze_sequences
from jaxmodels.typing import Array


class LeNet(nn.Module):
    """LeNet-5 (LeCun et al., 1998, "Gradient-based learning applied to document recognition").

    61,706 parameters for 10 classes and one channel, with the paper's widths and layer names.
    It differs from the paper as is usual today: C3 sees all six maps of S2 (the paper: a table of
    connections), subsampling has no coefficients of its own, the outputs are logits (the paper:
    distances to drawn figures), and the defaults are ReLU and max-pooling (the paper: a scaled
    tanh and averages; `LeNet(activation=nn.tanh, pool=avg_pool)` comes near).
    """

    num_classes: int = 10
    activation: Callable[[Array], Array] = nn.relu
    pool: Callable[[Array], Array] = max_pool

    def __post_init__(self) -> None:
        check_sizes(num_classes=self.num_classes)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Float[Array, "B *image"], train: bool = False) -> Float[Array, "B K"]:
        """Compute logits of (B, 32, 32, C), or of (B, 28, 28, C), padded with zeros to 32x32."""
        x = self._fit(x)
        check_fan_in(self, "c1", x)
        x = self.activation(Conv(6, (5, 5), padding="VALID", name="c1")(x))
        x = self.pool(x)
        x = self.activation(Conv(16, (5, 5), padding="VALID", name="c3")(x))
        x = self.pool(x)
        x = x.reshape(x.shape[0], -1)
        x = self.activation(Dense(120, name="c5")(x))
        x = self.activation(Dense(84, name="f6")(x))
        return OutputDense(self.num_classes, name="output")(x)

    @property
    def tensor_dims(self) -> Mapping[str, int]:
        """Dimensions of params that `sharding.tensor` may split: of the dense layers."""
        return {"c5/": -1, "f6/kernel": -2}

    def _fit(self, x: Array) -> Array:
        check_images(self, x)
        if x.shape[1:3] == (28, 28):
            return jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
        if x.shape[1:3] != (32, 32):
            raise UserError(
                f"LeNet takes images of 28x28 or 32x32, got {x.shape[1]}x{x.shape[2]}. "
                "Load them in such a shape: `data.load(..., image_shape=(28, 28, 1))`."
            )
        return x


class ConvNet(nn.Module):
    """Two 3x3 convolutions, each followed by 2x2 max-pooling, and two dense layers.

    421,642 parameters on 28x28 images of one channel. Takes any number of channels and any size
    from 4x4 up, the one that it was initialised with; pooling drops an odd row or column.

    Attributes:
        num_classes: the number of logits.
        channels: of the two convolutions.
        hidden: width of the first dense layer.
        dropout: rates before the first and the second dense layer (Keras's `mnist_cnn` has 0.25
            and 0.5).
    """

    num_classes: int = 10
    channels: tuple[int, int] = (32, 64)
    hidden: int = 128
    dropout: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        freeze_sequences(self, "channels", "dropout")
        check_sizes(num_classes=self.num_classes, channels=self.channels, hidden=self.hidden)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Float[Array, "B *image"], train: bool = False) -> Float[Array, "B K"]:
        """Compute logits, in float32 at least."""
        check_images(self, x, smallest=4)
        check_fan_in(self, "conv1", x)
        for n, channels in enumerate(self.channels, start=1):
            x = max_pool(nn.relu(Conv(channels, (3, 3), name=f"conv{n}")(x)))
        x = x.reshape(x.shape[0], -1)
        check_fan_in(self, "hidden", x)
        x = Dropout(self.dropout[0])(x, train)
        x = nn.relu(Dense(self.hidden, name="hidden")(x))
        x = Dropout(self.dropout[1])(x, train)
        return OutputDense(self.num_classes, name="output")(x)

    @property
    def tensor_dims(self) -> Mapping[str, int]:
        """Dimensions of params that `sharding.tensor` may split: of the dense layers."""
        return {"hidden/": -1, "output/kernel": -2}

"""Residual networks (He et al., 2015, "Deep residual learning for image recognition").

Two forms of one family: `cifar_resnet` (section 4.2) and `imagenet_resnet` (table 1). Names,
padding and the place of the strides follow torchvision, so that weights published for it fit.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from jaxmodels.errors import UserError
from jaxmodels.layers.conv import Conv
from jaxmodels.layers.dense import OutputDense
from jaxmodels.layers.initializers import Initializer
from jaxmodels.layers.shapes import check_fan_in, check_images, check_sizes, freeze_sequences
from jaxmodels.typing import Array

# He et al., 2015, "Delving deep into rectifiers", equation 14: keeps the gradients' variance.
_he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def _conv(channels: int, kernel: int, stride: int = 1, **kwargs: Any) -> nn.Module:
    # "SAME" would pad a stride of 2 on the lower right only; torch pads all four sides alike.
    pad = (kernel - 1) // 2
    return Conv(
        channels,
        (kernel, kernel),
        strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        use_bias=False,
        kernel_init=_he_fan_out,
        **kwargs,
    )


def _norm(train: bool, **kwargs: Any) -> nn.BatchNorm:
    """Make a BatchNorm; its statistics are float32 whatever the inputs are."""
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, **kwargs)


def pad_shortcut(x: Array, channels: int, stride: int, train: bool) -> Array:
    """Subsample, and fill the new channels with zeros, half on each side (option A)."""
    before = (channels - x.shape[-1]) // 2
    after = channels - x.shape[-1] - before
    return jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (before, after)))


def project_shortcut(x: Array, channels: int, stride: int, train: bool) -> Array:
    """Project with a strided 1x1 convolution and a norm (option B)."""
    x = _conv(channels, 1, stride, name="shortcut_conv")(x)
    return _norm(train, name="shortcut_norm")(x)


Shortcut = Callable[[Array, int, int, bool], Array]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; `width` channels."""

    width: int
    stride: int
    shortcut: Shortcut
    last_scale_init: Initializer

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w c"]:
        """Compute relu(shortcut(x) + residual(x))."""
        y = _conv(self.width, 3, self.stride, name="conv1")(x)
        y = nn.relu(_norm(train, name="norm1")(y))
        y = _conv(self.width, 3, name="conv2")(y)
        y = _norm(train, name="norm2", scale_init=self.last_scale_init)(y)
        if x.shape != y.shape:
            x = self.shortcut(x, self.width, self.stride, train)
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut; 4 * `width` channels.

    The stride is on the 3x3 convolution, as in torchvision (the paper: on the first 1x1).
    """

    width: int
    stride: int
    shortcut: Shortcut
    last_scale_init: Initializer

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w c"]:
        """Compute relu(shortcut(x) + residual(x))."""
        y = _conv(self.width, 1, name="conv1")(x)
        y = nn.relu(_norm(train, name="norm1")(y))
        y = _conv(self.width, 3, self.stride, name="conv2")(y)
        y = nn.relu(_norm(train, name="norm2")(y))
        y = _conv(4 * self.width, 1, name="conv3")(y)
        y = _norm(train, name="norm3", scale_init=self.last_scale_init)(y)
        if x.shape != y.shape:
            x = self.shortcut(x, 4 * self.width, self.stride, train)
        return nn.relu(x + y)


def cifar_stem(x: Array, width: int, train: bool) -> Array:
    """Apply a 3x3 convolution, a norm and ReLU, at full size."""
    x = _conv(width, 3, name="stem_conv")(x)
    return nn.relu(_norm(train, name="stem_norm")(x))


def imagenet_stem(x: Array, width: int, train: bool) -> Array:
    """Apply a 7x7 convolution, a norm, ReLU and 3x3 max-pooling: a quarter of the size."""
    x = _conv(width, 7, 2, name="stem_conv")(x)
    x = nn.relu(_norm(train, name="stem_norm")(x))
    # Flax annotates the padding as a string and documents pairs.
    return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))  # pyright: ignore[reportArgumentType]


class ResNet(nn.Module):
    """A stem, stages of residual blocks (the first of each but the first halves the size), a mean.

    BatchNorm's running statistics are the collection `batch_stats`: updated with momentum 0.9
    when `train`, used when not. The running variance is the biased one (torch: unbiased).

    Attributes:
        num_classes: the number of logits.
        blocks: how many in each stage.
        widths: of the stages.
        block: `BasicBlock` or `Bottleneck`, or a module with their attributes.
        stem: `cifar_stem` or `imagenet_stem`.
        shortcut: `pad_shortcut` or `project_shortcut`, where a block changes the shape.
        last_scale_init: of the last norm's scale in each block; zeros make every block start as
            the identity (Goyal et al., 2017, section 5.1; the paper: ones).
    """

    num_classes: int
    blocks: Sequence[int]
    widths: Sequence[int]
    block: Callable[..., nn.Module]
    stem: Callable[[Array, int, bool], Array]
    shortcut: Shortcut
    last_scale_init: Initializer = nn.initializers.ones

    def __post_init__(self) -> None:
        freeze_sequences(self, "blocks", "widths")
        check_sizes(num_classes=self.num_classes, blocks=self.blocks, widths=self.widths)
        if not self.blocks or len(self.blocks) != len(self.widths):
            raise UserError(
                f"Each stage has a number of blocks and a width; got blocks {self.blocks}, widths "
                f"{self.widths}."
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Float[Array, "B *image"], train: bool = False) -> Float[Array, "B K"]:
        """Compute logits of (B, H, W, C), of any H and W, in float32 at least."""
        check_images(self, x)
        check_fan_in(self, "stem_conv", x)
        make = functools.partial(
            self.block, shortcut=self.shortcut, last_scale_init=self.last_scale_init
        )
        x = self.stem(x, self.widths[0], train)
        for s, (width, count) in enumerate(zip(self.widths, self.blocks, strict=True), start=1):
            for b in range(1, count + 1):
                stride = 2 if s > 1 and b == 1 else 1
                x = make(width, stride, name=f"stage{s}_block{b}")(x, train)
        return OutputDense(self.num_classes, name="output")(x.mean(axis=(1, 2)))

    @property
    def tensor_dims(self) -> Mapping[str, int]:
        """Dimensions of params that `sharding.tensor` may split: the classes.

        Not the channels: they are few where images are large, and the sums over devices that
        split convolutions need are as large as the images.
        """
        return {"output/": -1}


def cifar_resnet(depth: int = 20, num_classes: int = 10) -> ResNet:
    """Make ResNet-`depth` for 32x32 images, of depth 6n + 2 (20, 32, 44, 56, 110), option A.

    0.27, 0.46, 0.66, 0.85 and 1.7 million parameters (table 6).
    """
    n, rest = divmod(depth - 2, 6)
    if n < 1 or rest:
        raise UserError(f"cifar_resnet takes a depth of 6n + 2 (20, 32, 44, ...), got {depth}.")
    return ResNet(num_classes, (n, n, n), (16, 32, 64), BasicBlock, cifar_stem, pad_shortcut)


_IMAGENET = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


def imagenet_resnet(depth: int = 50, num_classes: int = 1000) -> ResNet:
    """Make ResNet-18, 34, 50, 101 or 152 for 224x224 images, with projections (option B)."""
    if depth not in _IMAGENET:
        raise UserError(f"imagenet_resnet takes a depth of {sorted(_IMAGENET)}, got {depth}.")
    block, blocks = _IMAGENET[depth]
    widths = (64, 128, 256, 512)
    return ResNet(num_classes, blocks, widths, block, imagenet_stem, project_shortcut)

"""Convolution."""

import functools

import flax.linen as nn
from jax import lax

conv_general_dilated = lax.conv_general_dilated

Conv = functools.partial(nn.Conv, conv_general_dilated_cls=lambda: conv_general_dilated)

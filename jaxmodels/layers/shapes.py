"""Checks of sizes and input shapes, with clear errors."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from jaxmodels.errors import UserError
from jaxmodels.typing import Array


def check_sizes(**sizes: int | Sequence[int]) -> None:
    """Raise `UserError` unless all sizes, given by name, are at least 1."""
    for name, size in sizes.items():
        if any(one < 1 for one in ([size] if isinstance(size, int) else size)):
            raise UserError(f"{name} is at least 1; got {size}.")


def freeze_sequences(module: nn.Module, *names: str) -> None:
    """Convert attributes of a module to tuples: with a list among them it cannot be hashed."""
    for name in names:
        object.__setattr__(module, name, tuple(getattr(module, name)))


def check_images(module: nn.Module, x: Array, smallest: int = 1) -> None:
    """Raise `UserError` unless x is (B, H, W, C), floats, with H and W of at least `smallest`."""
    check_floats(module, x)
    if x.ndim == 4 and min(x.shape[1:3]) >= smallest and x.shape[3]:
        return
    raise UserError(
        f"{type(module).__name__} takes images of shape (B, H, W, C) with H and W at least "
        f"{smallest}, got an array of shape {x.shape}. "
        "Add the missing axis, or use larger images (`data.load(..., image_shape=...)`)."
    )


def check_floats(module: nn.Module, x: Array) -> None:
    """Raise `UserError` for integers, which the first layer would take for huge features."""
    if jnp.issubdtype(x.dtype, jnp.floating):
        return
    raise UserError(
        f"{type(module).__name__} takes floats, images as values in [0, 1]; got {x.dtype} of shape "
        f"{x.shape}. Convert bytes with `data.image.to_float`, images of another range with "
        "`data.image.rescale(max_value)`."
    )


def check_fan_in(module: nn.Module, layer: str, x: Array) -> None:
    """Raise `UserError` unless x has the features that `module`'s layer was initialised for.

    Another shape of images or sequences shows here; Flax would only report the kernel's shape.
    Does nothing during initialisation.
    """
    kernel = module.get_variable("params", layer, {}).get("kernel")
    if kernel is None or kernel.shape[-2] == x.shape[-1]:
        return
    raise UserError(
        f"{type(module).__name__} was initialised for {kernel.shape[-2]} features into its layer "
        f"{layer!r}, got {x.shape[-1]}: these inputs have another shape than those that the "
        "model was built for. Give inputs of that shape (images by `data.load(..., "
        "image_shape=...)`, sequences with as many features in each step), or initialise the model "
        "anew."
    )


def check_sequence(module: nn.Module, x: Array) -> None:
    """Raise `UserError` unless x is (B, T, D) with a step at least."""
    if x.ndim != 3 or not x.shape[1]:
        raise UserError(
            f"{type(module).__name__} takes sequences of shape (B, T, D) with T at least 1, got an "
            f"array of shape {x.shape}."
        )


def check_tokens(module: nn.Module, tokens: Array) -> None:
    """Raise `UserError` unless tokens are (B, T) with a step at least."""
    if tokens.ndim != 2 or not tokens.shape[1]:
        raise UserError(
            f"{type(module).__name__} takes tokens of shape (B, T) with T at least 1, got an "
            f"array of shape {tokens.shape}."
        )


def check_length(tokens: Array, context: int) -> None:
    """Raise `UserError` for a sequence that is longer than the context."""
    if tokens.shape[1] > context:
        raise UserError(
            f"A sequence of {tokens.shape[1]} tokens is longer than the model's context of "
            f"{context}. Cut it, or make the model with a larger `context`."
        )

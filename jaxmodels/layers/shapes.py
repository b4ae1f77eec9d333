"""Checks of input shapes that speak to the user before XLA does."""

import flax.linen as nn

from jaxmodels.errors import UserError
from jaxmodels.typing import Array


def check_images(module: nn.Module, x: Array, smallest: int = 1) -> None:
    """Raise `UserError` unless x is (B, H, W, C) with H and W of at least `smallest`."""
    if x.ndim == 4 and min(x.shape[1:3]) >= smallest:
        return
    raise UserError(
        f"{type(module).__name__} takes images of shape (B, H, W, C) with H and W at least "
        f"{smallest}, got an array of shape {x.shape}. "
        "Add the missing axis, or use larger images (`data.load(..., image_shape=...)`)."
    )


def check_fan_in(module: nn.Module, layer: str, x: Array) -> None:
    """Raise `UserError` where `module` was initialised with another last axis into `layer`.

    That is how images or sequences of another shape show themselves, and Flax would only say that
    a kernel's shape is wrong. Does nothing during initialisation.
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


def check_length(tokens: Array, context: int) -> None:
    """Raise `UserError` for a sequence that is longer than the context."""
    if tokens.shape[1] > context:
        raise UserError(
            f"A sequence of {tokens.shape[1]} tokens is longer than the model's context of "
            f"{context}. Cut it, or make the model with a larger `context`."
        )


def check_sizes(**sizes: int) -> None:
    """Raise `UserError` unless all sizes are at least 1."""
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"A Transformer's {name} is at least 1; got {size}.")

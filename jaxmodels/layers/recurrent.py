"""Recurrent layers: a cell over time, several on top of each other, in one or both directions."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxmodels.errors import UserError
from jaxmodels.kernels.rnn_scan import Course, State
from jaxmodels.layers.cells import LSTM, Cell
from jaxmodels.layers.dense import Dense
from jaxmodels.layers.shapes import check_fan_in
from jaxmodels.typing import Array, Key

Initializer = Callable[..., Array]
States = tuple[State, ...]
"""The state of each layer from below; of a bidirectional one forwards, then backwards."""


def uniform(scale: float) -> Initializer:
    """Initialise uniformly in [-scale, scale)."""

    def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -scale, scale)

    return init


class Recurrent(nn.Module):
    """One layer in one direction.

    Attributes:
        features: the width H of its state and outputs.
        cell: its equations (`layers.cells`).
        reverse: whether it begins with the last step; with `lengths`, the last that counts.
        dropout: the rate on h within the recurrent product, with one mask for a whole sequence
            (Gal and Ghahramani 2016, "A theoretically grounded application of dropout in recurrent
            neural networks").
        kernel_init: of the kernel (D, H) of each gate's inputs.
        recurrent_init: of the kernel (H, H) of each gate's recurrent side.
        bias_init: of all biases; an LSTM's forget bias is added to it.
    """

    features: int
    cell: Cell = LSTM()
    reverse: bool = False
    dropout: float = 0.0
    kernel_init: Initializer = nn.initializers.glorot_uniform()
    recurrent_init: Initializer = nn.initializers.orthogonal()
    bias_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        initial: State | None = None,
        lengths: Int[Array, " B"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "B T H"], State]:
        """Compute the outputs and the final state, from `initial` or from zeros.

        Steps at and after a row's length (`lengths`) leave its state as it is; their outputs are 0.
        """
        check_fan_in(self, "input", x)
        B, T, _ = x.shape
        H, gates = self.features, self.cell.gates
        x = Dense(
            gates * H,
            kernel_init=self._blocks(self.kernel_init),
            bias_init=self._first_bias,
            name="input",
        )(x.swapaxes(0, 1))
        kernel, bias = Weights(
            (H, gates * H), self._blocks(self.recurrent_init), self._second_bias, name="recurrent"
        )()
        state = self._initial(initial, B, x.dtype)
        keep = None if lengths is None else jnp.arange(T)[:, None] < lengths[None]
        course = Course(keep, self._mask(x[0, :, :H], train), self.reverse)
        outputs, state = self.cell.run(x, kernel, bias, state, course)
        if keep is not None:
            outputs = jnp.where(keep[..., None], outputs, 0)
        return outputs.swapaxes(0, 1), state

    def _initial(self, initial: State | None, B: int, dtype: Any) -> State:
        shapes = [(B, self.features)] * self.cell.states
        if initial is None:
            return tuple(jnp.zeros(shape, dtype) for shape in shapes)
        if [leaf.shape for leaf in initial] != shapes:
            raise UserError(
                f"The initial state of {self.name} must have arrays of shapes {shapes}, got "
                f"{[leaf.shape for leaf in initial]}."
            )
        return tuple(leaf.astype(dtype) for leaf in initial)

    def _mask(self, like: Array, train: bool) -> Array | None:
        if not train or not self.dropout:
            return None
        return nn.Dropout(self.dropout, deterministic=False)(jnp.ones_like(like))

    def _blocks(self, init: Initializer) -> Initializer:
        """Initialise the gates' kernels one by one, as if each stood alone."""

        def whole(key: Key, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
            keys = jax.random.split(key, self.cell.gates)
            return jnp.concatenate([init(k, (shape[0], self.features), dtype) for k in keys], 1)

        return whole

    def _first_bias(self, *args: Any) -> Array:
        return self.bias_init(*args) + self.cell.offset(self.features)

    @property
    def _second_bias(self) -> Initializer | None:
        return self.bias_init if self.cell.two_biases else None


class Weights(nn.Module):
    """Hold a kernel, and a bias where it has an initialiser, for a product made elsewhere."""

    shape: tuple[int, int]
    kernel_init: Initializer
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(self) -> tuple[Array, Array | None]:
        """The kernel, and the bias or None."""
        kernel = self.param("kernel", self.kernel_init, self.shape)
        if self.bias_init is None:
            return kernel, None
        return kernel, self.param("bias", self.bias_init, self.shape[1:])


class Stack(nn.Module):
    """Layers on top of each other, each in one or in both directions.

    Dropout is between layers only, never on what goes from step to step: Zaremba et al. 2014,
    "Recurrent neural network regularization".

    Attributes:
        layer: makes one, such as `functools.partial(Recurrent, 200, LSTM())`.
        depth: how many.
        bidirectional: whether each is two that see the sequence from both ends, outputs joined
            (Schuster and Paliwal 1997, "Bidirectional recurrent neural networks").
        dropout: the rate between layers.
        per_sequence: whether that takes one mask for all steps (Gal and Ghahramani 2016), instead
            of one for each.
    """

    layer: Callable[..., Recurrent]
    depth: int = 1
    bidirectional: bool = False
    dropout: float = 0.0
    per_sequence: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        initial: States | None = None,
        lengths: Int[Array, " B"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "B T H"], States]:
        """Compute the last layer's outputs (B, T, H), or (B, T, 2 H), and all final states."""
        ends = (False, True) if self.bidirectional else (False,)
        count = self.depth * len(ends)
        if initial is not None and len(initial) != count:
            raise UserError(
                f"{self.name} has {count} states, got {len(initial)} to begin with: one is "
                "needed for each layer and direction, from below."
            )
        before = iter(initial or (None,) * count)
        after = []
        for n in range(1, self.depth + 1):
            if n > 1:
                x = time_dropout(self.dropout, self.per_sequence, train)(x)
            outputs = []
            for reverse in ends:
                name = f"layer{n}_backwards" if reverse else f"layer{n}"
                layer = self.layer(name=name, reverse=reverse)
                y, state = layer(x, next(before), lengths, train)
                outputs.append(y)
                after.append(state)
            x = jnp.concatenate(outputs, axis=-1) if self.bidirectional else outputs[0]
        return x, tuple(after)


def time_dropout(rate: float, per_sequence: bool, train: bool) -> nn.Dropout:
    """Dropout of (B, T, D) with a mask for each step, or one for all steps."""
    return nn.Dropout(rate, (1,) if per_sequence else (), deterministic=not train)


def check_tokens(module: nn.Module, tokens: Array) -> None:
    """Raise `UserError` unless there are (B, T) with a step at least."""
    if tokens.ndim != 2 or not tokens.shape[1]:
        raise UserError(
            f"{type(module).__name__} takes tokens of shape (B, T) with T at least 1, got an "
            f"array of shape {tokens.shape}."
        )

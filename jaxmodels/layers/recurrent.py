"""Recurrent layers: a cell over time, several on top of each other, in one or both directions."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jaxtyping import Float, Integer

from jaxmodels.errors import UserError
from jaxmodels.kernels.rnn_scan import ScanOptions, State
from jaxmodels.layers.cells import LSTM, Cell
from jaxmodels.layers.dense import Dense
from jaxmodels.layers.dropout import Dropout
from jaxmodels.layers.initializers import Initializer, per_part_init
from jaxmodels.layers.shapes import check_fan_in, check_sequence, check_sizes
from jaxmodels.typing import Array

States = tuple[State, ...]
"""The state of each layer from below; of a bidirectional one forwards, then backwards."""


class RNN(nn.Module):
    """One recurrent layer in one direction.

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

    def __post_init__(self) -> None:
        check_sizes(features=self.features)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        initial: State | None = None,
        lengths: Integer[Array, " B"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "B T H"], State]:
        """Compute the outputs and the final state, from `initial` or from zeros.

        Steps at and after a row's length (`lengths`) leave its state as it is; their outputs are 0.
        """
        check_sequence(self, x)
        check_fan_in(self, "input", x)
        B, T, _ = x.shape
        H, gates = self.features, self.cell.gates
        x = Dense(
            gates * H,
            kernel_init=per_part_init(self.kernel_init, gates),
            bias_init=self._input_bias,
            name="input",
        )(x.swapaxes(0, 1))
        kernel, bias = Weights(
            (H, gates * H),
            per_part_init(self.recurrent_init, gates),
            self.bias_init if self.cell.two_biases else None,
            name="recurrent",
        )()
        x, kernel, bias = promote_dtype(x, kernel, bias)
        state = self._initial(initial, B, x.dtype)
        valid = None if lengths is None else jnp.arange(T)[:, None] < lengths[None]
        options = ScanOptions(valid, self._h_mask(x[0, :, :H], train), self.reverse)
        outputs, state = self.cell.run(x, kernel, bias, state, options)
        if valid is not None:
            outputs = jnp.where(valid[..., None], outputs, 0)
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

    def _h_mask(self, like: Array, train: bool) -> Array | None:
        if not train or self.dropout == 0:
            return None
        return Dropout(self.dropout)(jnp.ones_like(like), train)

    def _input_bias(self, *args: Any) -> Array:
        bias = self.bias_init(*args)
        return bias + self.cell.bias_offset(bias)


class Weights(nn.Module):
    """A kernel, and a bias if it has an initialiser, as params, for a product made elsewhere."""

    shape: tuple[int, int]
    kernel_init: Initializer
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(self) -> tuple[Array, Array | None]:
        kernel = self.param("kernel", self.kernel_init, self.shape, jnp.float32)
        if self.bias_init is None:
            return kernel, None
        return kernel, self.param("bias", self.bias_init, self.shape[1:], jnp.float32)


class StackedRNN(nn.Module):
    """Recurrent layers on top of each other, each in one or in both directions.

    Dropout is between layers only, never on what goes from step to step: Zaremba et al. 2014,
    "Recurrent neural network regularization".

    Attributes:
        layer: one of them, such as `RNN(200, LSTM())`; all are copies of it with params of
            their own.
        depth: how many.
        bidirectional: whether each is two that see the sequence from both ends, outputs joined
            (Schuster and Paliwal 1997, "Bidirectional recurrent neural networks").
        dropout: the rate between layers.
        per_sequence: whether that takes one mask for all steps (Gal and Ghahramani 2016), instead
            of one for each.
    """

    layer: RNN
    depth: int = 1
    bidirectional: bool = False
    dropout: float = 0.0
    per_sequence: bool = False

    def __post_init__(self) -> None:
        check_sizes(depth=self.depth)
        if self.bidirectional and self.layer.reverse:
            raise UserError("A bidirectional stack sets `reverse` itself: give it a forward layer.")
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        initial: States | None = None,
        lengths: Integer[Array, " B"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "B T H"], States]:
        """Compute the last layer's outputs (B, T, H), or (B, T, 2 H), and all final states."""
        directions = (False, True) if self.bidirectional else (self.layer.reverse,)
        count = self.depth * len(directions)
        if initial is not None and len(initial) != count:
            raise UserError(
                f"{self.name} has {count} states, got {len(initial)} to begin with: one is "
                "needed for each layer and direction, from below."
            )
        before = iter((None,) * count if initial is None else initial)
        after = []
        for n in range(1, self.depth + 1):
            if n > 1:
                x = time_dropout(self.dropout, self.per_sequence)(x, train)
            outputs = []
            for reverse, suffix in zip(directions, ("", "_backwards"), strict=False):
                layer = self.layer.copy(name=f"layer{n}{suffix}", reverse=reverse)
                y, state = layer(x, next(before), lengths, train)
                outputs.append(y)
                after.append(state)
            x = jnp.concatenate(outputs, axis=-1) if self.bidirectional else outputs[0]
        return x, tuple(after)


def time_dropout(rate: float, per_sequence: bool) -> Dropout:
    """Dropout of (B, T, D) with a mask for each step, or one for all steps."""
    return Dropout(rate, (1,) if per_sequence else ())

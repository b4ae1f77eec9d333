"""Recurrent cells: Elman, LSTM, GRU; their equations, without params."""

import abc
import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxmodels.kernels.rnn_scan import ScanOptions, State, plain_scan, rnn_scan
from jaxmodels.typing import Array


class Cell(abc.ABC):
    """A recurrent cell without its params.

    Attributes:
        gates: how many blocks of H columns its kernels and biases have, in the order documented.
        states: how many arrays (B, H) its state has.
        two_biases: whether there is a bias on the recurrent side too.
    """

    gates: ClassVar[int]
    states: ClassVar[int]
    two_biases: bool

    def bias_offset(self, bias: Array) -> Array:
        """Zeros, or what is added to a bias (gates * H,) when it is initialised."""
        return jnp.zeros_like(bias)

    @abc.abstractmethod
    def run(
        self, x: Array, kernel: Array, bias: Array | None, state: State, options: ScanOptions
    ) -> tuple[Array, State]:
        """Outputs (T, B, H) and final state, from projected inputs (T, B, gates * H).

        `kernel` (H, gates * H) and `bias` (gates * H,), where there are two, are the recurrent
        ones; the other bias is in x already.
        """


@dataclasses.dataclass(frozen=True)
class Elman(Cell):
    """h' = activation(W x + U h + b) (Elman 1990, "Finding structure in time"), torch's `RNN`."""

    activation: Callable[[Array], Array] = jnp.tanh
    two_biases: bool = False
    gates: ClassVar[int] = 1
    states: ClassVar[int] = 1

    def run(
        self, x: Array, kernel: Array, bias: Array | None, state: State, options: ScanOptions
    ) -> tuple[Array, State]:
        return rnn_scan(self._update, _biased(x, bias), kernel, state, options)

    def _update(self, state: State, gates: Array) -> State:
        return (self.activation(gates),)


@dataclasses.dataclass(frozen=True)
class LSTM(Cell):
    """Long short-term memory with a forget gate and without peepholes; state (h, c).

    Hochreiter and Schmidhuber 1997, "Long short-term memory"; Gers et al. 2000, "Learning to
    forget". In the order of the blocks, which is torch's and Keras's:

        i = sigmoid(W_i x + U_i h + b_i)        c' = f c + i g
        f = sigmoid(W_f x + U_f h + b_f)        h' = o tanh(c')
        g = tanh(W_g x + U_g h + b_g)
        o = sigmoid(W_o x + U_o h + b_o)

    Attributes:
        forget_bias: what b_f begins at, more than the other biases (Jozefowicz et al. 2015, "An
            empirical exploration of recurrent network architectures": 1; torch: 0). It is a part
            of the bias, not of the equations.
        two_biases: as torch has them. Only their sum counts, but that learns twice as fast.
    """

    forget_bias: float = 1.0
    two_biases: bool = False
    gates: ClassVar[int] = 4
    states: ClassVar[int] = 2

    def bias_offset(self, bias: Array) -> Array:
        """`forget_bias` for the forget gate's part."""
        each = jnp.array([0.0, self.forget_bias, 0.0, 0.0], bias.dtype)
        return jnp.repeat(each, len(bias) // 4)

    def run(
        self, x: Array, kernel: Array, bias: Array | None, state: State, options: ScanOptions
    ) -> tuple[Array, State]:
        return rnn_scan(self._update, _biased(x, bias), kernel, state, options)

    def _update(self, state: State, gates: Array) -> State:
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c


@dataclasses.dataclass(frozen=True)
class GRU(Cell):
    """Gated recurrent unit that resets after the recurrent product, as torch, cuDNN and Keras do.

    In the order of the blocks, which is torch's (Keras: z, r, n):

        r = sigmoid(W_r x + b_r + U_r h + d_r)
        z = sigmoid(W_z x + b_z + U_z h + d_z)
        n = tanh(W_n x + b_n + r (U_n h + d_n))
        h' = (1 - z) n + z h
    """

    two_biases: bool = dataclasses.field(default=True, init=False)
    gates: ClassVar[int] = 3
    states: ClassVar[int] = 1

    def run(
        self, x: Array, kernel: Array, bias: Array | None, state: State, options: ScanOptions
    ) -> tuple[Array, State]:
        assert bias is not None
        H = kernel.shape[0]
        # To r, z and the recurrent half of n the product is added; n's input half follows.
        added = jnp.pad(x[..., : 2 * H], ((0, 0), (0, 0), (0, H))) + bias[None, None]
        stream = jnp.concatenate([added, x[..., 2 * H :]], axis=-1)
        return rnn_scan(self._update, stream, kernel, state, options)

    def _update(self, state: State, gates: Array) -> State:
        r, z, recurrent, own = jnp.split(gates, 4, axis=-1)
        n = jnp.tanh(own + jax.nn.sigmoid(r) * recurrent)
        z = jax.nn.sigmoid(z)
        return ((1 - z) * n + z * state[0],)


@dataclasses.dataclass(frozen=True)
class OriginalGRU(Cell):
    """Gated recurrent unit that resets before the product: n = tanh(W_n x + b_n + U_n (r h)).

    Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder", equations 5 to 8;
    Keras's `reset_after=False`. All else is as in `GRU`. Slower: two products follow each other.
    """

    two_biases: bool = dataclasses.field(default=False, init=False)
    gates: ClassVar[int] = 3
    states: ClassVar[int] = 1

    def run(
        self, x: Array, kernel: Array, bias: Array | None, state: State, options: ScanOptions
    ) -> tuple[Array, State]:
        H = kernel.shape[0]

        def step(state: State, h: Array, x: Array) -> State:
            r, z = jnp.split(jax.nn.sigmoid(x[:, : 2 * H] + h @ kernel[:, : 2 * H]), 2, axis=-1)
            n = jnp.tanh(x[:, 2 * H :] + (r * h) @ kernel[:, 2 * H :])
            return ((1 - z) * n + z * state[0],)

        return plain_scan(step, x, state, options)


def _biased(x: Array, bias: Array | None) -> Array:
    return x if bias is None else x + bias[None, None]

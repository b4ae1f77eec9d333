"""The feed-forward sublayer of a Transformer's block, which works on each token alone."""

import functools
from collections.abc import Callable
from typing import ClassVar

import flax.linen as nn
from jaxtyping import Float

from jaxmodels.layers.context import NO_CONTEXT, Context
from jaxmodels.layers.dense import Dense
from jaxmodels.layers.dropout import Dropout
from jaxmodels.layers.initializers import Initializer, xavier
from jaxmodels.layers.shapes import check_sizes
from jaxmodels.typing import Array

Activation = Callable[[Array], Array]

gelu_exact: Activation = functools.partial(nn.gelu, approximate=False)
"""GELU, x Phi(x) (Hendrycks and Gimpel 2016), as in BERT."""
gelu_tanh: Activation = functools.partial(nn.gelu, approximate=True)
"""GELU's approximation by tanh, as in GPT-2."""


class FeedForward(nn.Module):
    """Two dense layers with an activation between (Vaswani et al. 2017, section 3.3).

    Attributes:
        hidden: the width of the hidden layer.
        activation: between the layers.
        use_bias: of both layers.
        dropout: the rate on the hidden features.
        kernel_init: of the first layer.
        out_init: of the second; `kernel_init` if absent.
    """

    label: ClassVar[str] = "feedforward"
    hidden: int
    activation: Activation = nn.relu
    use_bias: bool = True
    dropout: float = 0.0
    kernel_init: Initializer = xavier
    out_init: Initializer | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], context: Context = NO_CONTEXT, train: bool = False
    ) -> Float[Array, "B T D"]:
        del context
        check_sizes(hidden=self.hidden)
        init = self.kernel_init if self.out_init is None else self.out_init
        dense = functools.partial(Dense, use_bias=self.use_bias)
        h = self.activation(dense(self.hidden, kernel_init=self.kernel_init, name="hidden")(x))
        h = Dropout(self.dropout)(h, train)
        return dense(x.shape[-1], kernel_init=init, name="out")(h)


class GatedFeedForward(nn.Module):
    """out(activation(gate(x)) * hidden(x)), without biases.

    Shazeer 2020, "GLU variants improve Transformer", equation 6; with silu it is SwiGLU. The
    attributes are those of `FeedForward`.
    """

    label: ClassVar[str] = "feedforward"
    hidden: int
    activation: Activation = nn.silu
    dropout: float = 0.0
    kernel_init: Initializer = xavier
    out_init: Initializer | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], context: Context = NO_CONTEXT, train: bool = False
    ) -> Float[Array, "B T D"]:
        del context
        check_sizes(hidden=self.hidden)
        init = self.kernel_init if self.out_init is None else self.out_init
        dense = functools.partial(Dense, use_bias=False)
        gate = dense(self.hidden, kernel_init=self.kernel_init, name="gate")(x)
        h = dense(self.hidden, kernel_init=self.kernel_init, name="hidden")(x)
        h = Dropout(self.dropout)(self.activation(gate) * h, train)
        return dense(x.shape[-1], kernel_init=init, name="out")(h)

"""The part of a Transformer's block that works on each token alone."""

import functools
from collections.abc import Callable

import flax.linen as nn
from jaxtyping import Float

from jaxmodels.layers.dense import Dense
from jaxmodels.layers.dropout import Dropout
from jaxmodels.layers.initializers import Initializer
from jaxmodels.typing import Array

Activation = Callable[[Array], Array]

gelu_exact: Activation = functools.partial(nn.gelu, approximate=False)
"""x Phi(x) (Hendrycks and Gimpel 2016), as BERT has it."""
gelu_tanh: Activation = functools.partial(nn.gelu, approximate=True)
"""Its approximation by tanh, as GPT-2 has it."""


class FeedForward(nn.Module):
    """Two dense layers with an activation between (Vaswani et al. 2017, section 3.3)."""

    hidden: int
    activation: Activation = nn.relu
    use_bias: bool = True
    dropout: float = 0.0
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    out_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], train: bool = False) -> Float[Array, "B T D"]:
        """Compute it; dropout is of the hidden features."""
        dense = functools.partial(Dense, use_bias=self.use_bias)
        h = self.activation(dense(self.hidden, kernel_init=self.kernel_init, name="hidden")(x))
        h = Dropout(self.dropout)(h, train)
        return dense(x.shape[-1], kernel_init=self.out_init or self.kernel_init, name="out")(h)


class GatedFeedForward(nn.Module):
    """out(activation(gate(x)) * hidden(x)).

    Shazeer 2020, "GLU variants improve Transformer", equation 6; with silu it is SwiGLU.
    """

    hidden: int
    activation: Activation = nn.silu
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    out_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], train: bool = False) -> Float[Array, "B T D"]:
        """Compute it, without biases."""
        del train
        dense = functools.partial(Dense, use_bias=False)
        gate = dense(self.hidden, kernel_init=self.kernel_init, name="gate")(x)
        h = dense(self.hidden, kernel_init=self.kernel_init, name="hidden")(x)
        out = dense(x.shape[-1], kernel_init=self.out_init or self.kernel_init, name="out")
        return out(self.activation(gate) * h)

"""Multi-layer perceptrons."""

from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
from jaxtyping import Float

from jaxmodels.errors import UserError
from jaxmodels.layers.dense import Dense, OutputDense
from jaxmodels.layers.dropout import Dropout
from jaxmodels.layers.shapes import check_fan_in, check_floats, check_sizes, freeze_sequences
from jaxmodels.typing import Array

DENSE_DIMS = {r"hidden\d*[13579]/": -1, r"(hidden\d*[02468]|output)/kernel": -2}
"""Dimensions of stacked dense layers that may be split: columns and rows in turn."""


class MLP(nn.Module):
    """Multi-layer perceptron: dense layers, each but the last with an activation and dropout.

    Flattens its input.

    Attributes:
        widths: of every layer, the output layer's (classes, or regression targets) last.
        dropout: the rate, between hidden layers and before the output layer; 0 adds no layer.
        activation: any elementwise function.
    """

    widths: Sequence[int]
    dropout: float = 0.0
    activation: Callable[[Array], Array] = nn.relu

    def __post_init__(self) -> None:
        freeze_sequences(self, "widths")
        if not self.widths:
            raise UserError("An MLP needs the width of its output layer at least; got no widths.")
        check_sizes(widths=self.widths)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Float[Array, "B *shape"], train: bool = False) -> Float[Array, "B K"]:
        """Compute logits or regression outputs, in float32 at least."""
        check_floats(self, x)
        x = x.reshape(x.shape[0], -1)
        *hidden, outputs = self.widths
        check_fan_in(self, "hidden1" if hidden else "output", x)
        for n, width in enumerate(hidden, start=1):
            x = self.activation(Dense(width, name=f"hidden{n}")(x))
            x = Dropout(self.dropout)(x, train)
        return OutputDense(outputs, name="output")(x)

    @property
    def tensor_dims(self) -> Mapping[str, int]:
        """Dimensions of params that `sharding.tensor` may split, by pattern."""
        return DENSE_DIMS if len(self.widths) > 1 else {}


def mlp_classifier(num_classes: int = 10) -> MLP:
    """784-1024-1024-10 with dropout 0.5: 1,863,690 parameters on 28x28 images."""
    return MLP(widths=(1024, 1024, num_classes), dropout=0.5)


def mlp_regressor() -> MLP:
    """1000-500-100-1 for squared error: 550,701 parameters on 1,000 features."""
    return MLP(widths=(500, 100, 1))


def keras_mnist_mlp(num_classes: int = 10) -> MLP:
    """784-512-512-10 with dropout 0.2, Keras's example `mnist_mlp`: 669,706 parameters."""
    return MLP(widths=(512, 512, num_classes), dropout=0.2)

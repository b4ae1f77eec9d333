"""Multi-layer perceptrons."""

from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
from jaxtyping import Float

from jaxmodels.layers.shapes import check_fan_in
from jaxmodels.typing import Array

DENSE_DIMS = {r"hidden\d*[13579]/": -1, r"(hidden\d*[02468]|output)/kernel": -2}
"""Of dense layers one after the other, columns and rows in turn."""


class MLP(nn.Module):
    """Dense layers with an activation and dropout after each but the last; flattens its input.

    Attributes:
        widths: of every layer, the output layer's (classes, or regression targets) last.
        dropout: the rate, between hidden layers and before the output layer; 0 adds no layer.
        activation: any elementwise function.
    """

    widths: Sequence[int]
    dropout: float = 0.0
    activation: Callable[[Array], Array] = nn.relu

    @nn.compact
    def __call__(self, x: Float[Array, "B *shape"], train: bool = False) -> Float[Array, "B K"]:
        """Compute logits or regression outputs."""
        x = x.reshape(x.shape[0], -1)
        *hidden, outputs = self.widths
        check_fan_in(self, "hidden1" if hidden else "output", x)
        for n, width in enumerate(hidden, start=1):
            x = self.activation(nn.Dense(width, name=f"hidden{n}")(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(outputs, name="output")(x)

    @property
    def tensor_dims(self) -> Mapping[str, int]:
        """Which dimensions `sharding.tensor` may split, by pattern."""
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

"""What an experiment is: a model trained on data, judged against a published figure."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax

from jaxmodels.adapters.precision import Cast
from jaxmodels.errors import UserError
from jaxmodels.grads import Grad
from jaxmodels.sharding import Rule, tensor
from jaxmodels.train import State
from jaxmodels.typing import Params

Pictures = Callable[[Any, Mapping[str, Any]], Sequence[Any]]


def trained_params(state: State) -> Params:
    """The params as the optimizer leaves them."""
    return state.params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A pure value; `run` and `train` make a run of it.

    Attributes:
        objective: what training minimises, as made by `jaxmodels.objectives`.
        optimizer: an optax chain.
        train: batches by step number, as made by `Split.batches`.
        evaluate: evaluations by name, as made by `jaxmodels.metrics`; a figure `error` of the
            evaluation `test` is called `test/error`.
        steps: how many updates are made.
        published: the figures to reach, by name.
        best: the figure by which the best checkpoint is kept; the first published one if absent.
        rule: where params and optimizer state are placed; if absent, `sharding.tensor` of what the
            model names as `tensor_dims`, which without such an axis is `sharding.fsdp`.
        grad: anything with the interface of `jax.value_and_grad`.
        evaluated: the params that are judged, such as
            `lambda state: optimizers.averaged(state.opt_state)`.
        pictures: `(variables, figures) -> sections` of the run's page.
        files: texts by name that are kept in the run's folder, such as a vocabulary; a run goes
            on only with the same.
    """

    objective: Any
    optimizer: optax.GradientTransformation
    train: Any
    evaluate: Mapping[str, Any]
    steps: int
    published: Mapping[str, float] = dataclasses.field(default_factory=dict)
    best: str | None = None
    rule: Rule | None = None
    grad: Grad = jax.value_and_grad
    evaluated: Callable[[State], Params] = trained_params
    pictures: Pictures = lambda variables, figures: ()
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"an experiment takes at least one step; got steps={self.steps}")
        self._check_shapes()

    @property
    def best_figure(self) -> str | None:
        """The name of the figure that checkpoints are ranked by."""
        return self.best or next(iter(self.published), None)

    @property
    def placement(self) -> Rule:
        """The rule by which params and optimizer state are placed."""
        return self.rule or tensor(tensor_dims(self.objective))

    @property
    def prepared_objective(self) -> Any:
        """The objective of batches as they are stored."""
        return self.objective.after(self.train.prepare)

    def in_precision(self, dtype: Any) -> "Experiment":
        """The same experiment with all models computing in `dtype`."""

        def cast(part: Any) -> Any:
            return dataclasses.replace(part, model=Cast(part.model, dtype))

        return dataclasses.replace(
            self,
            objective=cast(self.objective),
            evaluate={name: cast(evaluation) for name, evaluation in self.evaluate.items()},
        )

    def _check_shapes(self) -> None:
        """Compare what the evaluations read with what the model is made for."""
        expected = _inputs(self.objective, self.train.split)
        for name, evaluation in self.evaluate.items():
            found = _inputs(evaluation, evaluation.split)
            if found != expected:
                raise UserError(
                    f"the evaluation {name!r} reads {evaluation.split.name} as {found}, but the "
                    f"model is trained on {self.train.split.name} as {expected}; give both "
                    "splits the same image_shape"
                )


def tensor_dims(part: Any) -> Mapping[str, int]:
    """What the innermost model in an objective, or another wrapper, says of itself."""
    while not hasattr(part, "tensor_dims") and hasattr(part, "model"):
        part = part.model
    return getattr(part, "tensor_dims", {})


def _inputs(reader: Any, split: Any) -> list[tuple[tuple[int, ...], str]]:
    """Shapes, less the batch axis, and dtypes of what a model reads of a split.

    Of integers, such as tokens, only the number of axes: sequences have many lengths.
    """
    read = jax.eval_shape(lambda raw: reader.inputs(split.preprocess(raw)), split.example(1))
    return [
        (leaf.shape[1:] if leaf.dtype.kind == "f" else (0,) * (leaf.ndim - 1), str(leaf.dtype))
        for leaf in jax.tree.leaves(read)
    ]

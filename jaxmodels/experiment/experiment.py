"""`Experiment`: objective, optimizer, data, evaluations and published metrics as one value."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from jaxmodels.adapters import Cast, has_model, map_model
from jaxmodels.errors import UserError
from jaxmodels.experiment.start import Start
from jaxmodels.grads import Grad
from jaxmodels.metric import Metric, Published
from jaxmodels.objectives import Prepared
from jaxmodels.sharding import Rule, tensor
from jaxmodels.train import State, Trainable
from jaxmodels.typing import Batch, Evaluation, Model, Objective, Params, TrainingData

Report = Callable[[Any, Mapping[str, Any], Mesh], Sequence[Any]]
"""`(variables, metrics, mesh) -> sections`, as returned by functions of `jaxmodels.inspect`."""


def trained_params(state: State) -> Params:
    """The params as the optimizer leaves them."""
    return state.params


def no_report(variables: Any, metrics: Mapping[str, Any], mesh: Mesh) -> Sequence[Any]:
    """No sections."""
    del variables, metrics, mesh
    return ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that defines an experiment, as a pure value; `run` and `train` execute it.

    Attributes:
        objective: the loss, such as `objectives.classification(model)`.
        optimizer: an optax chain.
        train: batches by step number, from `Split.batches`.
        evaluate: evaluations by name, from `jaxmodels.metrics`; the metric `error` of the
            evaluation `test` is called `test/error`.
        steps: number of updates.
        published: metrics to reach, by name, and the data set they were published on.
        best: the metric that selects the best checkpoint; the first published one if absent,
            and without a published one no checkpoint is the best.
        start: `state -> state` after initialisation, such as `from_run(folder)`.
        trainable: which params are trained: a regular expression searched in their paths, or a
            function of the path; all if absent. Frozen ones have no gradient or optimizer state;
            BatchNorm's running statistics still follow the data.
        rule: placement of params and optimizer state; `sharding.tensor(model.tensor_dims)` if
            absent, which equals `sharding.fsdp` on a mesh without an axis `tensor`.
        grad: a function with the interface of `jax.value_and_grad`.
        eval_params: which params are evaluated, such as `optimizers.averaged`. BatchNorm's
            statistics are then estimated for them from training batches.
        report: sections for the run's page, such as `inspect.classification(model, split)`. A plain
            function is possible too, whose models `--precision` does not change.
        files: text files by name that are kept in the run's folder, such as a vocabulary. A run
            is only resumed with the same contents.
    """

    objective: Objective
    optimizer: optax.GradientTransformation
    train: TrainingData
    evaluate: Mapping[str, Evaluation]
    steps: int
    published: Published | None = None
    best: str | None = None
    start: Start | None = None
    trainable: Trainable | None = None
    rule: Rule | None = None
    grad: Grad = jax.value_and_grad
    eval_params: Callable[[State], Params] = trained_params
    report: Report = no_report
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"an experiment needs at least one step; got steps={self.steps}")
        self._check_metrics()
        self._check_shapes()

    @property
    def metric_types(self) -> dict[str, Metric]:
        """Unit and direction of every metric, by its full name."""
        return {
            f"{name}/{metric}": kind
            for name, evaluation in self.evaluate.items()
            for metric, kind in evaluation.metrics.items()
        }

    @property
    def best_metric(self) -> str | None:
        """The metric that ranks checkpoints: `best`, or the first published one with a direction.

        None without either.
        """
        if self.best is not None:
            return self.best
        directed = [n for n, kind in self.metric_types.items() if kind.higher_is_better is not None]
        return next((n for n in self.published_metrics if n in directed), None)

    @property
    def published_metrics(self) -> Mapping[str, float]:
        """Published values by name; empty without any."""
        return {} if self.published is None else self.published.metrics

    @property
    def datasets(self) -> dict[str, str]:
        """The data set that each evaluation reads, by the evaluation's name."""
        names = {name: part.split.name for name, part in self.evaluate.items()}
        return {name: split.rpartition("/")[0] or split for name, split in names.items()}

    @property
    def placement(self) -> Rule:
        """The rule by which params and optimizer state are placed."""
        model = getattr(self.objective, "model", None)
        return self.rule or tensor(getattr(model, "tensor_dims", {}))

    @property
    def prepared_objective(self) -> Any:
        """The objective on raw batches: preprocessing and augmentation included."""
        return Prepared(self.objective, self.train.prepare)

    def map_models(self, fn: Callable[[Model], Model]) -> "Experiment":
        """The experiment with `fn` applied to the models of objective, evaluations and report."""
        return dataclasses.replace(
            self,
            objective=map_model(self.objective, fn),
            evaluate={name: map_model(part, fn) for name, part in self.evaluate.items()},
            report=map_model(self.report, fn) if has_model(self.report) else self.report,
        )

    def in_precision(self, dtype: Any) -> "Experiment":
        """The same experiment with all models computing in `dtype`."""
        return self.map_models(lambda model: Cast(model, dtype))

    def _check_metrics(self) -> None:
        """Raise `UserError` if `published` or `best` names a metric that is not evaluated."""
        types = self.metric_types
        for name in self.published_metrics:
            if name.partition("/")[0] not in self.evaluate:
                raise UserError(
                    f"the published metric {name!r} belongs to no evaluation; the evaluations are "
                    f"{', '.join(self.evaluate) or 'none'}, and a name looks like test/error"
                )
        if self.best is not None and (
            self.best not in types or types[self.best].higher_is_better is None
        ):
            ranked = [n for n, kind in types.items() if kind.higher_is_better is not None]
            raise UserError(
                f"best={self.best!r} cannot rank checkpoints: expected a metric with a direction "
                f"(`Evaluation.metrics`), one of {', '.join(ranked) or 'none'}"
            )

    def _check_shapes(self) -> None:
        """Raise `UserError` if an evaluation's inputs have other shapes than in training."""
        expected = _shapes(self.train.split)
        for name, evaluation in self.evaluate.items():
            shapes = _shapes(evaluation.split)
            both = [f for f in evaluation.inputs if f in shapes and f in expected]
            if any(shapes[field] != expected[field] for field in both):
                raise UserError(
                    f"the evaluation {name!r} reads {evaluation.split.name} as "
                    f"{ {f: shapes[f] for f in both} }, but the model is trained on "
                    f"{self.train.split.name} as { {f: expected[f] for f in both} }; give both "
                    "splits the same image_shape"
                )


def _shapes(split: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape without the batch axis, and dtype, of each preprocessed field.

    For integers, such as tokens, only the number of axes: sequences differ in length.
    """
    batch: Batch = jax.eval_shape(split.preprocess, split.example(1))
    return {
        name: (
            leaf.shape[1:] if leaf.dtype.kind == "f" else (0,) * (leaf.ndim - 1),
            str(leaf.dtype),
        )
        for name, leaf in batch.items()
    }

"""Metrics against scikit-learn, on splits whose last batch is padded."""

import dataclasses
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sk

from jaxmodels import adapters, metrics, sharding, train
from jaxmodels.errors import UserError

K = 7


class Arrays:
    """A split, as far as metrics know one."""

    name = "arrays/test"

    def __init__(self, num_classes=None, **arrays):
        self.num_classes = num_classes
        self.arrays = arrays

    def read(self, indices):
        return {name: values[indices] for name, values in self.arrays.items()}

    def preprocess(self, batch):
        return batch

    def example(self, batch_size):
        return {
            name: jax.ShapeDtypeStruct((batch_size, *values.shape[1:]), values.dtype)
            for name, values in self.arrays.items()
        }

    def padded(self, batch_size, rows=None):
        assert rows is None
        count = len(next(iter(self.arrays.values())))
        for start in range(0, count, batch_size):
            positions = np.arange(start, start + batch_size)
            filled = self.read(np.minimum(positions, count - 1))
            yield filled | {"mask": positions < count}


def evaluate(evaluation, batch_size):
    sized = dataclasses.replace(evaluation, batch_size=batch_size)
    return train.evaluate(sized, {}, {}, sharding.mesh(devices=jax.devices()[:1]))


IDENTITY = adapters.FunctionModel(lambda variables, x: x)


@pytest.fixture(scope="module")
def logits():
    return np.random.default_rng(0).normal(size=(101, K)).astype(np.float32) * 2


@pytest.fixture(scope="module")
def labels(logits):
    noise = np.random.default_rng(1).gumbel(size=logits.shape)
    return (logits + noise).argmax(-1)


@pytest.fixture(scope="module", params=[1, 16, 101, 200])
def measured(request, logits, labels):
    split = Arrays(K, image=logits, label=labels)
    evaluation = metrics.classification(IDENTITY, split, top=(2, 5), confusion=True)
    return evaluate(evaluation, request.param)


def softmax(logits):
    exp = np.exp(logits.astype(np.float64))
    return exp / exp.sum(-1, keepdims=True)


def test_counts_are_exact(measured, logits, labels):
    prediction = logits.argmax(-1)
    assert measured["accuracy"] == sk.accuracy_score(labels, prediction)
    assert measured["error"] == sk.zero_one_loss(labels, prediction)
    for k in (2, 5):
        assert measured[f"top{k}"] == sk.top_k_accuracy_score(labels, logits, k=k)
    confusion = sk.confusion_matrix(labels, prediction, labels=range(K))
    np.testing.assert_array_equal(measured["confusion"], confusion)


def test_cross_entropy_is_in_nats_per_example(measured, logits, labels):
    # Sums of 101 float32 terms.
    assert measured["cross_entropy"] == pytest.approx(
        sk.log_loss(labels, softmax(logits), labels=range(K)), rel=1e-6
    )


def test_calibration_error_is_the_definition(measured, logits, labels):
    p = softmax(logits)
    confidence, correct = p.max(-1), p.argmax(-1) == labels
    expected = 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if inside.any():
            gap = abs(correct[inside].mean() - confidence[inside].mean())
            expected += inside.mean() * gap
    assert measured["ece"] == pytest.approx(expected, rel=1e-5)


def test_certainty_falls_into_the_last_bin():
    split = Arrays(2, image=np.array([[200.0, 0.0]] * 4, np.float32), label=np.array([0, 0, 0, 1]))
    assert evaluate(metrics.classification(IDENTITY, split), 3)["ece"] == 0.25


def test_equal_logits_earn_nothing():
    split = Arrays(10, image=np.zeros((50, 10), np.float32), label=np.arange(50) % 10)
    measured = evaluate(metrics.classification(IDENTITY, split), 8)
    assert measured["accuracy"] == 0.1
    assert measured["top5"] == 0.5


def test_nan_is_never_a_hit_and_shows_in_the_cross_entropy():
    split = Arrays(10, image=np.full((5, 10), np.nan, np.float32), label=np.zeros(5, int))
    measured = evaluate(metrics.classification(IDENTITY, split), 4)
    assert measured["accuracy"] == 0
    assert measured["top5"] == 0
    assert np.isnan(measured["cross_entropy"])


def test_what_stands_in_padding_does_not_matter(logits, labels):
    mask = np.arange(8) < 5
    nan = np.where(mask[:, None], logits[:8], np.nan)
    clean = metrics.classification_sums(*map(jnp.asarray, (logits[:8], labels[:8], mask)))
    dirty = metrics.classification_sums(*map(jnp.asarray, (nan, labels[:8], mask)))
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)


def test_a_top_k_that_always_hits_is_left_out():
    split = Arrays(3, image=np.eye(3, dtype=np.float32), label=np.arange(3))
    evaluation = metrics.classification(IDENTITY, split, top=(1, 2, 3, 5))
    assert {"top1", "top2"} == {k for k in evaluate(evaluation, 2) if k.startswith("top")}


def test_bfloat16_logits_are_summed_in_float32(logits, labels):
    mask = jnp.ones(101, bool)
    half = jnp.asarray(logits, jnp.bfloat16)
    sums = metrics.classification_sums(half, jnp.asarray(labels), mask)
    expected = metrics.classification_sums(half.astype(jnp.float32), jnp.asarray(labels), mask)
    jax.tree.map(np.testing.assert_array_equal, sums, expected)


def test_another_number_of_classes_is_refused(logits, labels):
    split = Arrays(10, image=logits, label=labels)
    with pytest.raises(UserError, match=r"\(16, 7\).*arrays/test has 10 classes"):
        evaluate(metrics.classification(IDENTITY, split), 16)


def test_a_top_k_below_one_is_refused():
    with pytest.raises(UserError, match="from 1 up"):
        metrics.classification(IDENTITY, Arrays(3), top=(0,))


@pytest.mark.parametrize("batch_size", [1, 16, 101, 200])
@pytest.mark.parametrize("shape", [(101,), (101, 1), (101, 3)])
def test_regression_is_scikit_learns(shape, batch_size):
    rng = np.random.default_rng(0)
    y = rng.normal(size=shape).astype(np.float32)
    x = y + 0.5 * rng.normal(size=shape).astype(np.float32)
    outputs = x[:, None] if x.ndim == 1 else x
    measured = evaluate(metrics.regression(IDENTITY, Arrays(x=outputs, y=y)), batch_size)
    assert measured["mse"] == pytest.approx(sk.mean_squared_error(y, x), rel=1e-5)
    assert measured["r2"] == pytest.approx(sk.r2_score(y, x), rel=1e-5)


def test_r2_does_not_cancel_far_from_zero():
    rng = np.random.default_rng(0)
    y = (1e4 + rng.normal(size=999)).astype(np.float32)
    x = (y + 0.5 * rng.normal(size=999)).astype(np.float32)
    measured = evaluate(metrics.regression(IDENTITY, Arrays(x=x[:, None], y=y)), 100)
    # As exact as near zero: the inputs' own rounding at 1e4 is in both.
    expected = sk.r2_score(y.astype(np.float64), x.astype(np.float64))
    assert measured["r2"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("outputs", "r2"), [(3.0, 1.0), (4.0, 0.0)])
def test_r2_of_targets_that_are_all_equal(outputs, r2):
    split = Arrays(x=np.full((5, 1), outputs, np.float32), y=np.full(5, 3.0, np.float32))
    assert evaluate(metrics.regression(IDENTITY, split), 2)["r2"] == r2


def test_outputs_of_another_shape_than_the_targets_are_refused():
    split = Arrays(x=np.ones((5, 2), np.float32), y=np.ones(5, np.float32))
    with pytest.raises(UserError, match=r"\(2, 2\), the targets 'y' \(2,\)"):
        evaluate(metrics.regression(IDENTITY, split), 2)


def test_the_confusion_matrix_is_counted_only_where_it_is_asked_for(logits, labels):
    split = Arrays(K, image=logits, label=labels)
    assert "confusion" not in evaluate(metrics.classification(IDENTITY, split), 16)


def test_soft_targets_are_compared_with_their_likeliest_class(logits, labels, measured):
    soft = np.full((101, K), 0.1 / K, np.float32)
    soft[np.arange(101), labels] += 0.9
    split = Arrays(K, image=logits, label=soft)
    found = evaluate(metrics.classification(IDENTITY, split, top=(2, 5)), 16)
    assert found["accuracy"] == measured["accuracy"]
    expected = -np.mean(np.sum(soft * np.log(softmax(logits)), axis=-1))
    assert found["cross_entropy"] == pytest.approx(expected, rel=1e-5)


def test_labels_with_an_axis_too_many_are_refused(logits, labels):
    split = Arrays(K, image=logits, label=labels[:, None])
    with pytest.raises(UserError, match="Remove the last axis"):
        evaluate(metrics.classification(IDENTITY, split), 16)


@pytest.mark.parametrize("batch_size", [7, 101])
def test_multi_label_metrics_are_scikit_learns(logits, batch_size):
    rng = np.random.default_rng(2)
    logits = np.round(logits, 1)  # ties
    targets = (rng.random(logits.shape) < softmax(logits) + 0.1).astype(np.int32)
    split = Arrays(image=logits, label=targets)
    found = evaluate(metrics.multilabel_classification(IDENTITY, split), batch_size)
    predicted = logits >= 0
    expected = {
        "exact_match": sk.accuracy_score(targets, predicted),
        "f1_micro": sk.f1_score(targets, predicted, average="micro"),
        "f1_macro": sk.f1_score(targets, predicted, average="macro", zero_division=0),
        "auroc": sk.roc_auc_score(targets, logits, average="macro"),
        "mean_average_precision": sk.average_precision_score(targets, logits, average="macro"),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6), name


def test_every_metric_has_a_unit_and_a_direction(logits, labels):
    split = Arrays(K, image=logits, label=labels)
    evaluation = metrics.classification(IDENTITY, split, top=(2, 5))
    assert set(evaluate(evaluation, 50)) == set(evaluation.metrics)
    assert evaluation.metrics["accuracy"].higher_is_better
    assert not evaluation.metrics["error"].higher_is_better


class TestSums:
    """Running sums on the device: exact, and of constant size."""

    def summed(self, batches):
        reduction, total = metrics.Sums(), None
        for batch in batches:
            total = reduction.zero(batch) if total is None else total
            total = reduction.update(total, batch, jnp.ones(1, bool))
        return reduction.result(total)

    def test_integers_beyond_32_bits(self):
        batches = [{"n": jnp.array([2**31 - 1, 5], jnp.int32)}] * 9
        found = self.summed(batches)["n"]
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, [9 * (2**31 - 1), 45])

    @pytest.mark.parametrize("values", [[-1], [-5, 3], [2**31 - 1, -(2**31)], [7] * 4])
    def test_integers_of_either_sign(self, values):
        found = self.summed([{"n": jnp.int32(v)} for v in values])["n"]
        assert found == sum(values)

    def test_unsigned_integers(self):
        assert self.summed([{"n": jnp.uint32(2**32 - 1)}] * 3)["n"] == 3 * (2**32 - 1)

    def test_floats_lose_nothing_of_float32(self):
        values = np.random.default_rng(0).lognormal(0, 8, 2_000).astype(np.float32)
        exact = float(sum(map(Fraction, values.tolist())))
        found = self.summed([{"x": jnp.float32(v)} for v in values])["x"]
        assert found == pytest.approx(exact, rel=1e-12)
        assert abs(np.sum(values) - exact) > 1e-8 * exact

    @pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
    def test_what_is_not_finite_stays_so(self, value):
        found = self.summed([{"x": jnp.float32(v)} for v in (1.0, value, 2.0)])["x"]
        np.testing.assert_array_equal(found, value)


def test_only_one_total_is_held(monkeypatch):
    """1,000 classes, 80 batches: no more matrices are alive at the end than at the beginning."""
    split = Arrays(1000, image=np.zeros((800, 1000), np.float32), label=np.zeros(800, np.int32))
    evaluation = metrics.classification(IDENTITY, split, confusion=True)
    alive, update = [], metrics.Sums.update

    def counting(self, total, statistics, mask):
        matrix = [x for x in jax.live_arrays() if x.shape == (1000, 1000)]
        alive.append(len(matrix))
        return update(self, total, statistics, mask)

    monkeypatch.setattr(metrics.Sums, "update", counting)
    assert evaluate(evaluation, 10)["confusion"][0, 0] == 800
    assert len(alive) == 80
    assert max(alive[5:]) <= alive[4] + 1


def test_rows_need_an_axis_of_examples():
    split = Arrays(x=np.ones((5, 2), np.float32))
    evaluation = metrics.Evaluation(
        IDENTITY, split, ("x",), lambda y, b: {"sum": y.sum()}, dict, reduction=metrics.Rows()
    )
    with pytest.raises(UserError, match="a row for each of 5 examples"):
        evaluate(evaluation, 5)


def test_flags_of_another_shape_than_the_targets_are_refused():
    tokens = np.zeros((4, 3), np.int32)
    split = Arrays(tokens=np.zeros((4, 3, 7), np.float32), targets=tokens, valid=tokens[:, :1] == 0)
    with pytest.raises(UserError, match="expected a flag for each target"):
        evaluate(metrics.token_classification(IDENTITY, split), 2)


@pytest.mark.parametrize("label", [-1, 4])
def test_a_label_that_is_no_class_is_no_hit(label):
    logits, labels = 20 * jnp.eye(4), jnp.array([0, 1, 2, label])
    totals = metrics.classification_sums(logits, labels, jnp.ones(4, bool), confusion=True)
    found = metrics.classification_metrics(jax.device_get(totals))
    assert found["accuracy"] == 0.75
    np.testing.assert_array_equal(found["confusion"], np.diag([1, 1, 1, 0]))

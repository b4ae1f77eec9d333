"""Metrics against scikit-learn, on splits whose last batch is padded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sk

from jaxmodels import metrics
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

    def padded(self, batch_size):
        count = len(next(iter(self.arrays.values())))
        for start in range(0, count, batch_size):
            rows = np.arange(start, start + batch_size)
            yield self.read(np.minimum(rows, count - 1)) | {"mask": rows < count}


class Identity:
    def init(self, rngs, x):
        return {}

    def apply(self, variables, x):
        return x


def evaluate(evaluation, batch_size):
    """Do what a training loop does: sums on the device, totals on the host."""
    statistics = jax.jit(
        lambda batch: evaluation.statistics(
            evaluation.model.apply({}, *evaluation.inputs(batch)),
            evaluation.split.preprocess(batch),
        )
    )
    batches = [jax.device_get(statistics(b)) for b in evaluation.split.padded(batch_size)]
    wide = {"i": np.int64, "f": np.float64}
    totals = {
        name: sum(b[name].astype(wide[b[name].dtype.kind]) for b in batches) for name in batches[0]
    }
    return evaluation.summary(totals)


@pytest.fixture(scope="module")
def logits():
    return np.random.default_rng(0).normal(size=(101, K)).astype(np.float32) * 2


@pytest.fixture(scope="module")
def labels(logits):
    noise = np.random.default_rng(1).gumbel(size=logits.shape)
    return (logits + noise).argmax(-1)


@pytest.fixture(scope="module", params=[1, 16, 101, 200])
def figures(request, logits, labels):
    split = Arrays(K, image=logits, label=labels)
    return evaluate(metrics.classification(Identity(), split, top=(2, 5)), request.param)


def softmax(logits):
    exp = np.exp(logits.astype(np.float64))
    return exp / exp.sum(-1, keepdims=True)


def test_counts_are_exact(figures, logits, labels):
    prediction = logits.argmax(-1)
    assert figures["accuracy"] == sk.accuracy_score(labels, prediction)
    assert figures["error"] == sk.zero_one_loss(labels, prediction)
    for k in (2, 5):
        assert figures[f"top{k}"] == sk.top_k_accuracy_score(labels, logits, k=k)
    confusion = sk.confusion_matrix(labels, prediction, labels=range(K))
    np.testing.assert_array_equal(figures["confusion"], confusion)


def test_cross_entropy_is_in_nats_per_example(figures, logits, labels):
    # Sums of 101 float32 terms.
    assert figures["cross_entropy"] == pytest.approx(
        sk.log_loss(labels, softmax(logits), labels=range(K)), rel=1e-6
    )


def test_calibration_error_is_the_definition(figures, logits, labels):
    p = softmax(logits)
    confidence, correct = p.max(-1), p.argmax(-1) == labels
    expected = 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if inside.any():
            gap = abs(correct[inside].mean() - confidence[inside].mean())
            expected += inside.mean() * gap
    assert figures["ece"] == pytest.approx(expected, rel=1e-5)


def test_certainty_falls_into_the_last_bin():
    split = Arrays(2, image=np.array([[200.0, 0.0]] * 4, np.float32), label=np.array([0, 0, 0, 1]))
    assert evaluate(metrics.classification(Identity(), split), 3)["ece"] == 0.25


def test_equal_logits_earn_nothing():
    split = Arrays(10, image=np.zeros((50, 10), np.float32), label=np.arange(50) % 10)
    figures = evaluate(metrics.classification(Identity(), split), 8)
    assert figures["accuracy"] == 0.1
    assert figures["top5"] == 0.5


def test_nan_is_never_a_hit_and_shows_in_the_cross_entropy():
    split = Arrays(10, image=np.full((5, 10), np.nan, np.float32), label=np.zeros(5, int))
    figures = evaluate(metrics.classification(Identity(), split), 4)
    assert figures["accuracy"] == 0
    assert figures["top5"] == 0
    assert np.isnan(figures["cross_entropy"])


def test_what_stands_in_padding_does_not_matter(logits, labels):
    mask = np.arange(8) < 5
    nan = np.where(mask[:, None], logits[:8], np.nan)
    clean = metrics.classification_sums(*map(jnp.asarray, (logits[:8], labels[:8], mask)))
    dirty = metrics.classification_sums(*map(jnp.asarray, (nan, labels[:8], mask)))
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)


def test_a_top_k_that_always_hits_is_left_out():
    split = Arrays(3, image=np.eye(3, dtype=np.float32), label=np.arange(3))
    evaluation = metrics.classification(Identity(), split, top=(1, 2, 3, 5))
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
        evaluate(metrics.classification(Identity(), split), 16)


def test_a_top_k_below_one_is_refused():
    with pytest.raises(UserError, match="from 1 up"):
        metrics.classification(Identity(), Arrays(3), top=(0,))


@pytest.mark.parametrize("batch_size", [1, 16, 101, 200])
@pytest.mark.parametrize("shape", [(101,), (101, 1), (101, 3)])
def test_regression_is_scikit_learns(shape, batch_size):
    rng = np.random.default_rng(0)
    y = rng.normal(size=shape).astype(np.float32)
    x = y + 0.5 * rng.normal(size=shape).astype(np.float32)
    outputs = x[:, None] if x.ndim == 1 else x
    figures = evaluate(metrics.regression(Identity(), Arrays(x=outputs, y=y)), batch_size)
    assert figures["mse"] == pytest.approx(sk.mean_squared_error(y, x), rel=1e-5)
    assert figures["r2"] == pytest.approx(sk.r2_score(y, x), rel=1e-5)


def test_r2_does_not_cancel_far_from_zero():
    rng = np.random.default_rng(0)
    y = (1e4 + rng.normal(size=999)).astype(np.float32)
    x = (y + 0.5 * rng.normal(size=999)).astype(np.float32)
    figures = evaluate(metrics.regression(Identity(), Arrays(x=x[:, None], y=y)), 100)
    # As exact as near zero: the inputs' own rounding at 1e4 is in both.
    expected = sk.r2_score(y.astype(np.float64), x.astype(np.float64))
    assert figures["r2"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("outputs", "r2"), [(3.0, 1.0), (4.0, 0.0)])
def test_r2_of_targets_that_are_all_equal(outputs, r2):
    split = Arrays(x=np.full((5, 1), outputs, np.float32), y=np.full(5, 3.0, np.float32))
    assert evaluate(metrics.regression(Identity(), split), 2)["r2"] == r2


def test_outputs_of_another_shape_than_the_targets_are_refused():
    split = Arrays(x=np.ones((5, 2), np.float32), y=np.ones(5, np.float32))
    with pytest.raises(UserError, match=r"\(2, 2\).*arrays/test \(2,\)"):
        evaluate(metrics.regression(Identity(), split), 2)

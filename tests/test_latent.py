"""Stochastic layers, bounds of the log-likelihood, binarisation, and the page's sections."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from jaxmodels import data, inspect, metrics, objectives, sharding, train
from jaxmodels.adapters import Cast
from jaxmodels.data import binarize
from jaxmodels.errors import UserError
from jaxmodels.layers import distributions
from jaxmodels.losses import binary_cross_entropy
from jaxmodels.metrics.latent import ImportanceWeighted
from jaxmodels.models.autoencoder import shallow_autoencoder
from jaxmodels.models.hierarchical_vae import burda_vae
from jaxmodels.models.vae import conditional_vae, mlp_vae

KEY = jax.random.key(0)
MESH = sharding.mesh(devices=jax.devices()[:1])
# Float32 rounds at 6e-8; a few operations each.
CLOSE = {"rtol": 2e-6, "atol": 2e-6}


def normals(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


# Distributions.


def test_the_gaussian_is_scipys():
    x, mean, log_variance = normals(3, 5), normals(3, 5, seed=1), normals(3, 5, seed=2)
    found = distributions.gaussian_log_prob(x, mean, log_variance)
    np.testing.assert_allclose(found, stats.norm.logpdf(x, mean, np.exp(log_variance / 2)), 1e-5)


def test_the_bernoulli_is_scipys():
    x, logits = jnp.asarray([[0.0], [1.0]]), jnp.asarray([[-90.0, -20, -1, 0, 0.5, 15, 200]])
    found = distributions.bernoulli_log_prob(x, logits)
    expected = np.where(x, special.log_expit(logits), special.log_expit(-logits))
    np.testing.assert_allclose(found, expected, **CLOSE)
    slope = jax.grad(lambda logits: distributions.bernoulli_log_prob(x, logits).sum())(logits)
    np.testing.assert_allclose(slope, 1 - 2 * special.expit(logits), **CLOSE)


@pytest.mark.parametrize("levels", [2, 4, 256])
@pytest.mark.parametrize("log_scale", [-7.0, -3.0, 0.0, 3.0])
def test_the_discretised_logistic_sums_to_one_over_the_levels(levels, log_scale):
    x = jnp.arange(levels, dtype=jnp.float32)[:, None] / (levels - 1)
    mean = jnp.asarray([[-0.3, 0.0, 0.31, 0.998, 1.0, 1.7]])
    mean = jnp.broadcast_to(mean, (levels, 6))
    scales = jnp.full_like(mean, log_scale)
    x = jnp.broadcast_to(x, mean.shape)
    found = distributions.discretized_logistic_log_prob(x, mean, scales, levels)
    # 256 rounded terms.
    np.testing.assert_allclose(np.exp(found).sum(axis=0), 1, rtol=3e-5)


def test_the_discretised_logistic_is_the_difference_of_scipys():
    x, mean, scale = np.arange(256) / 255, 0.4, 0.07
    edges = stats.logistic.cdf((np.arange(255) + 0.5) / 255, mean, scale)
    expected = np.diff(np.concatenate([[0.0], edges, [1.0]]))
    shape = lambda value: jnp.full((256,), value, jnp.float32)  # noqa: E731
    found = distributions.discretized_logistic_log_prob(
        jnp.asarray(x, jnp.float32), shape(mean), shape(math.log(scale))
    )
    np.testing.assert_allclose(found, np.log(expected), rtol=1e-4)


def test_the_discretised_logistic_has_finite_gradients_far_from_the_mean():
    def total(mean, log_scale):
        x = jnp.asarray([0.0, 1.0, 0.5])
        return distributions.discretized_logistic_log_prob(x, mean, log_scale).sum()

    values = jnp.full((3,), 40.0), jnp.full((3,), -7.0)
    for gradient in jax.grad(total, argnums=(0, 1))(*values):
        assert np.isfinite(gradient).all()
    with pytest.raises(UserError, match="at least 2 levels, got 1"):
        distributions.discretized_logistic_log_prob(values[0], *values, levels=1)


@pytest.mark.parametrize(("log_scale", "bound"), [(-95.0, 0), (-50.0, 0), (100.0, 1)])
def test_the_discretised_logistic_keeps_its_scale_within_bounds(log_scale, bound):
    x, mean = jnp.asarray([0.0, 0.5, 0.5, 1.0]), jnp.asarray([0.2, 0.5, 0.8, 0.1])

    def log_prob(mean, log_scale):
        scales = jnp.full_like(x, 1.0) * log_scale
        return distributions.discretized_logistic_log_prob(x, mean, scales)

    found = log_prob(mean, log_scale)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, log_prob(mean, distributions.LOG_SCALES[bound]))
    gradients = jax.grad(lambda *given: log_prob(*given).sum(), (0, 1))(
        mean, jnp.float32(log_scale)
    )
    for gradient in gradients:
        assert (np.abs(gradient) < 1e4).all()


def test_the_divergence_is_the_integral():
    def expected(m, lv, n, lw):
        grid = np.linspace(-30, 30, 200_001)
        p = stats.norm.logpdf(grid, m, np.exp(lv / 2))
        q = stats.norm.logpdf(grid, n, np.exp(lw / 2))
        return np.trapezoid(np.exp(p) * (p - q), grid)

    arrays = [np.asarray(normals(3, 2, seed=seed)) for seed in range(4)]
    found = distributions.kl_between(*map(jnp.asarray, arrays))
    each = np.vectorize(expected)(*arrays)
    np.testing.assert_allclose(found, each.sum(axis=1), rtol=1e-5)
    zero = np.zeros((3, 2), np.float32)
    to_standard = distributions.kl_to_standard(*map(jnp.asarray, arrays[:2]))
    np.testing.assert_allclose(
        to_standard, np.vectorize(expected)(*arrays[:2], zero, zero).sum(1), rtol=1e-5
    )


def test_the_divergence_of_a_distribution_from_itself_is_zero():
    mean, log_variance = normals(4, 3), normals(4, 3, seed=1)
    same = distributions.kl_between(mean, log_variance, mean, log_variance)
    np.testing.assert_array_equal(same, 0)


def test_draws_have_the_mean_and_the_variance_and_a_gradient():
    mean, log_variance = jnp.full((200_000, 1), 3.0), jnp.full((200_000, 1), math.log(4.0))
    z = distributions.reparameterize(KEY, mean, log_variance)
    # Standard errors 0.0045 of the mean, 0.0126 of the variance: four of them.
    assert abs(z.mean() - 3) < 0.02
    assert abs(z.var() - 4) < 0.05
    gradient = jax.grad(lambda m: distributions.reparameterize(KEY, m, log_variance).sum())(mean)
    np.testing.assert_array_equal(gradient, 1)


@pytest.mark.parametrize("likelihood", [distributions.bernoulli, distributions.logistic])
def test_the_log_likelihood_of_an_image_is_the_sum_over_its_values(likelihood):
    image, P = jax.random.uniform(KEY, (2, 4, 5, 3)), likelihood.parameters
    outputs = normals(2, 6, 4, 5, 3 * P)
    found = likelihood.log_prob_sum(image, outputs)
    each = likelihood.log_prob(image[:, None], *jnp.split(outputs, P, axis=-1))
    np.testing.assert_allclose(found, each.sum((2, 3, 4)), rtol=1e-5)


def test_everything_is_computed_in_float32_and_draws_keep_the_type():
    half = normals(2, 3).astype(jnp.bfloat16)
    assert distributions.reparameterize(KEY, half, half).dtype == jnp.bfloat16
    for found in (
        distributions.kl_to_standard(half, half),
        distributions.gaussian_log_prob(half, half, half),
        distributions.bernoulli_log_prob(half, half),
        distributions.discretized_logistic_log_prob(half, half, half),
    ):
        assert found.dtype == jnp.float32


# Objectives.


def images(n=8, side=4, seed=0):
    bits = np.random.default_rng(seed).integers(0, 2, (n, side, side, 1))
    return {"image": jnp.asarray(bits, jnp.float32), "label": jnp.arange(n) % 3}


SMALL = mlp_vae((4, 4, 1), (8,), 2)


def test_the_loss_is_the_sum_of_its_terms_weighted_by_beta():
    params, _ = objectives.elbo(SMALL).init(KEY, images())
    plain, aux = objectives.elbo(SMALL)(params, {}, images(), KEY)
    terms = aux.scalars
    assert set(terms) == {"reconstruction", "kl"}
    np.testing.assert_allclose(plain, terms["reconstruction"] + terms["kl"], rtol=1e-6)
    weighted, again = objectives.elbo(SMALL, beta=4.0)(params, {}, images(), KEY)
    np.testing.assert_allclose(weighted, terms["reconstruction"] + 4 * terms["kl"], rtol=1e-6)
    assert again.scalars == terms
    for beta in (-1.0, float("nan")):
        with pytest.raises(UserError, match=f"a number from 0 up; got {beta}"):
            objectives.elbo(SMALL, beta=beta)


def test_the_terms_are_those_of_numpy():
    params, _ = objectives.elbo(SMALL).init(KEY, images())
    draws = SMALL.apply({"params": params}, images()["image"], samples=5, rngs={"sample": KEY})
    mean, log_variance = (
        np.asarray(x)
        for x in SMALL.apply(
            {"params": params}, images()["image"], method=lambda m, x: m.posterior(x)
        )
    )
    kl = -0.5 * (1 + log_variance - mean**2 - np.exp(log_variance)).sum(axis=1)
    np.testing.assert_allclose(draws.kl, np.repeat(kl[:, None], 5, 1), **CLOSE)
    # The divergence is the mean of the ratio.
    many = SMALL.apply({"params": params}, images()["image"], samples=20_000, rngs={"sample": KEY})
    error = np.asarray(many.log_ratio).std(axis=1) / math.sqrt(20_000)
    assert (np.abs(many.log_ratio.mean(axis=1) - kl) < 4 * error).all()


def test_more_samples_make_a_higher_bound_and_one_makes_the_elbo():
    params, _ = objectives.elbo(SMALL).init(KEY, images())
    params = jax.tree.map(lambda w: 2 * w, params)

    def loss(objective):
        keys = jax.random.split(KEY, 50)
        return float(
            jax.jit(jax.vmap(lambda key: objective(params, {}, images(), key)[0]))(keys).mean()
        )

    elbo = loss(objectives.elbo(SMALL, samples=20))
    bounds = [loss(objectives.iwae(SMALL, samples=k)) for k in (1, 5, 50)]
    assert bounds[0] > bounds[1] > bounds[2]
    assert abs(bounds[0] - elbo) < 0.2 * (bounds[0] - bounds[2])
    with pytest.raises(UserError, match="at least one sample of the latents, got 0"):
        objectives.iwae(SMALL, samples=0)


def test_reconstruction_is_scipys_cross_entropy_or_the_squared_error():
    model, batch = shallow_autoencoder((4, 4, 1), 5), images()
    params, _ = objectives.reconstruction(model).init(KEY, batch)
    logits, x = np.asarray(model.apply({"params": params}, batch["image"])), batch["image"]
    loss, _ = objectives.reconstruction(model)(params, {}, batch, KEY)
    entropy = -(x * special.log_expit(logits) + (1 - x) * special.log_expit(-logits))
    np.testing.assert_allclose(loss, entropy.sum((1, 2, 3)).mean(), rtol=1e-5)
    squared = objectives.reconstruction(model, objectives.squared_error)
    expected = np.square(special.expit(logits) - x).sum((1, 2, 3)).mean()
    np.testing.assert_allclose(squared(params, {}, batch, KEY)[0], expected, rtol=1e-5)


@pytest.mark.parametrize("noise", [objectives.masking_noise(0.3), objectives.gaussian_noise(0.2)])
def test_a_denoising_autoencoder_is_held_to_the_clean_image(noise):
    model, batch = shallow_autoencoder((4, 4, 1), 5), images()
    objective = objectives.reconstruction(model, noise=noise)
    params, _ = objective.init(KEY, batch)
    loss, _ = objective(params, {}, batch, KEY)
    # The key that the objective gives to what prepares a batch.
    drawn = noise(jax.random.split(KEY)[0], batch["image"])
    logits = model.apply({"params": params}, drawn)
    expected = binary_cross_entropy(logits, batch["image"])
    np.testing.assert_allclose(loss, expected.sum((1, 2, 3)).mean(), rtol=1e-6)
    assert loss != objectives.reconstruction(model)(params, {}, batch, KEY)[0]


def test_masking_sets_a_share_to_zero_and_impossible_noise_is_refused():
    ones = jnp.ones((100, 10, 10, 1))
    masked = objectives.masking_noise(0.25)(KEY, ones)
    assert set(np.unique(masked)) == {0.0, 1.0}
    assert abs(masked.mean() - 0.75) < 0.02  # four standard errors of 10,000 draws
    np.testing.assert_array_equal(objectives.masking_noise(0.0)(KEY, ones), ones)
    with pytest.raises(UserError, match=r"in \[0, 1\), got 1.5"):
        objectives.masking_noise(1.5)
    with pytest.raises(UserError, match=r"from 0 up, got -1\.0"):
        objectives.gaussian_noise(-1.0)


@pytest.mark.parametrize("bound", [objectives.elbo, functools.partial(objectives.iwae, samples=3)])
def test_a_model_in_bfloat16_is_held_to_the_images_themselves(bound):
    model = mlp_vae((4, 4, 1), (), 1, likelihood=distributions.gaussian)
    image = jax.random.uniform(jax.random.key(3), (8, 4, 4, 1))
    batch = {"image": image}
    params, _ = objectives.elbo(model).init(KEY, batch)
    params = jax.tree.map(jnp.zeros_like, params)
    # A mean of 1/2 and a deviation of exp(-4): whoever rounds the image to 8 bits sees it 4e-3 off.
    output = params["decoder"]["output"]
    output["bias"] = jnp.tile(jnp.asarray([0.5, -8.0]), 16)
    half, _ = bound(Cast(model))(params, {}, batch, KEY)
    full, _ = bound(model)(params, {}, batch, KEY)
    np.testing.assert_allclose(half, full, rtol=1e-6)


# Bounds against exact log-likelihoods.


def linear_gaussian(spread=1.0):
    """A model of four pixels and one latent, log p(x) by scipy, and images.

    p(x | z) = N(w z + b, s); the posterior is exact, but for its deviation, which is `spread`
    times the right one.
    """
    model = mlp_vae((2, 2, 1), (), 1, likelihood=distributions.gaussian)
    x = normals(6, 2, 2, 1)
    params = jax.device_get(jax.jit(model.init)({"params": KEY, "sample": KEY}, x)["params"])
    w, b = np.array([1.0, -0.5, 2.0, 0.3]), np.array([0.1, 0.0, -0.2, 0.4])
    s = np.array([0.5, 1.0, 0.7, 0.2])
    output, posterior = params["decoder"]["output"], params["posterior"]
    # The last axis of an image holds mean and log-variance.
    output["kernel"] = np.stack([w, np.zeros(4)], axis=1).reshape(1, 8)
    output["bias"] = np.stack([b, np.log(s)], axis=1).reshape(8)
    variance = 1 / (1 + (w**2 / s).sum())
    posterior["mean"]["kernel"] = (variance * w / s)[:, None]
    posterior["mean"]["bias"] = np.array([-(variance * w / s * b).sum()])
    posterior["log_variance"]["kernel"] = np.zeros((4, 1))
    posterior["log_variance"]["bias"] = np.log([variance * spread**2])
    exact = stats.multivariate_normal(b, np.outer(w, w) + np.diag(s)).logpdf(x.reshape(6, 4))
    return model, jax.tree.map(jnp.float32, params), x, exact


def test_with_the_exact_posterior_each_draw_gives_the_exact_log_likelihood():
    model, params, x, exact = linear_gaussian()
    draws = model.apply({"params": params}, x, samples=4, rngs={"sample": KEY})
    weights = model.likelihood.log_prob_sum(x, draws.outputs) - draws.log_ratio
    np.testing.assert_allclose(weights, np.repeat(exact[:, None], 4, 1), rtol=1e-4, atol=1e-4)


def evaluate(evaluation, params):
    return train.evaluate(evaluation, params, {}, MESH)


def test_bounds_rise_with_the_samples_to_the_exact_log_likelihood():
    model, params, x, exact = linear_gaussian(spread=2.0)
    # Each image 40 times, so that means over draws are sharp.
    split = data.from_arrays(test={"image": np.tile(x, (40, 1, 1, 1))})["test"]
    nll = -exact.mean()
    elbo = evaluate(metrics.elbo(model, split), params)["nll"]
    bounds = [
        evaluate(metrics.iwae(model, split, k, chunk), params)["nll"]
        for k, chunk in ((1, 1), (4, 2), (20, 20), (2_000, 100))
    ]
    assert elbo > bounds[1] > bounds[2] > nll - 0.01
    # KL(q || p(z | x)) is what the bound lacks: log 2 is the ratio of the deviations.
    gap = 0.5 * (4 - 1) - math.log(2)
    assert abs(elbo - nll - gap) < 0.3  # four standard errors of 240 draws
    assert abs(bounds[-1] - nll) < 0.01


def test_of_two_layers_too_the_estimate_is_the_integral():
    model = burda_vae((3, 3, 1), (1, 1), ((4,), (4,)))
    x = images(4, 3)["image"]
    params = model.init({"params": KEY, "sample": KEY}, x)["params"]
    # A posterior near the prior, and wider: no draw weighs much more than the others.
    params = jax.tree.map(np.array, params)
    for posterior in (params["posteriors_0"], params["posteriors_1"]):
        posterior["mean"]["kernel"] *= 0.3
        posterior["log_variance"]["kernel"] *= 0.3
        posterior["log_variance"]["bias"] += 0.5
    grid = jnp.linspace(-7, 7, 281)[:, None]
    step = 14 / 280
    mean, log_variance = model.apply({"params": params}, grid, method=lambda m, z: m.priors[0](z))
    below = jnp.linspace(-15, 15, 601)[:, None]
    given = stats.norm.pdf(below[:, 0], mean, np.exp(log_variance / 2))  # (upper, lower)
    p_lower = (stats.norm.pdf(grid) * given).sum(axis=0) * step
    np.testing.assert_allclose(p_lower.sum() * 30 / 600, 1, rtol=1e-3)
    p = np.asarray(
        model.apply(
            {"params": params}, below, method=lambda m, z: m.likelihood.expected(m.decoder(z))
        )
    ).reshape(601, 9)
    x_flat = np.asarray(x).reshape(4, 1, 9)
    p_x = np.prod(np.where(x_flat, p, 1 - p), axis=-1)  # (image, lower)
    exact = -np.log((p_x * p_lower).sum(axis=1) * 30 / 600).mean()
    split = data.from_arrays(test={"image": np.tile(x, (20, 1, 1, 1))})["test"]
    estimate = evaluate(metrics.iwae(model, split, 2_000, 100), params)
    elbo = evaluate(metrics.elbo(model, split), params)
    assert abs(estimate["nll"] - exact) < 0.02
    assert elbo["nll"] > exact
    np.testing.assert_allclose(estimate["bits_per_dim"], estimate["nll"] / 9 / math.log(2))


# Metrics.


def test_the_metrics_are_sums_over_every_image_and_agree_with_each_other():
    arrays = images(21)
    split = data.from_arrays(test=jax.device_get(arrays))["test"]
    params, _ = objectives.elbo(SMALL).init(KEY, arrays)
    found = evaluate(metrics.elbo(SMALL, split), params)
    assert found["elbo"] == -found["nll"]
    np.testing.assert_allclose(found["nll"], found["reconstruction"] + found["kl"])
    np.testing.assert_allclose(found["bits_per_dim"], found["nll"] / 16 / math.log(2))
    kl = SMALL.apply({"params": params}, arrays["image"], rngs={"sample": KEY}).kl
    np.testing.assert_allclose(found["kl"], kl.mean(), rtol=1e-5)


def test_chunks_are_added_up_as_one_sum():
    params, _ = objectives.elbo(SMALL).init(KEY, images())
    variables, x = {"params": params}, images()["image"]
    found = ImportanceWeighted(SMALL, 12, 4).apply(variables, x, x, rngs={"sample": KEY})
    keys = [jax.random.fold_in(KEY, n) for n in range(3)]
    draws = [SMALL.apply(variables, x, samples=4, rngs={"sample": key}) for key in keys]
    weights = np.concatenate(
        [SMALL.likelihood.log_prob_sum(x, d.outputs) - d.log_ratio for d in draws], axis=1
    )
    expected = special.logsumexp(weights, axis=1) - math.log(12)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(("samples", "chunk"), [(7, 2), (0, 1), (4, 0)])
def test_samples_that_are_no_whole_chunks_are_refused(samples, chunk):
    split = data.from_arrays(test=jax.device_get(images(8)))["test"]
    with pytest.raises(UserError, match="chunks of equal size"):
        metrics.iwae(SMALL, split, samples, chunk)


def test_eight_devices_estimate_what_one_does():
    split = data.from_arrays(test=jax.device_get(images(8)))["test"]
    params, _ = objectives.elbo(SMALL).init(KEY, images())
    evaluation = dataclasses.replace(metrics.iwae(SMALL, split, 4, 2), batch_size=8)
    found = train.evaluate(evaluation, params, {}, sharding.mesh())
    np.testing.assert_allclose(found["nll"], evaluate(evaluation, params)["nll"], rtol=1e-5)


def test_an_evaluation_in_bfloat16_is_close():
    split = data.from_arrays(test=jax.device_get(images(8)))["test"]
    params, _ = objectives.elbo(SMALL).init(KEY, images())
    full, half = (
        evaluate(metrics.iwae(model, split, 100), params)["nll"] for model in (SMALL, Cast(SMALL))
    )
    assert 0 < abs(full - half) < 0.02 * full


def test_labels_are_given_to_a_conditional_model():
    model, arrays = conditional_vae(3, (4, 4, 1), (8,), 2), images(8)
    split = data.from_arrays(test=jax.device_get(arrays))["test"]
    params, _ = objectives.elbo(model, inputs=("image", "label")).init(KEY, arrays)
    inputs = ("image", "label")
    elbo = evaluate(metrics.elbo(model, split, inputs=inputs), params)["nll"]
    estimate = evaluate(metrics.iwae(model, split, 1_000, inputs=inputs), params)["nll"]
    assert estimate < elbo


def test_the_reconstruction_is_measured_by_cross_entropy_and_squared_error():
    model, arrays = shallow_autoencoder((4, 4, 1), 5), images(11)
    split = data.from_arrays(test=jax.device_get(arrays))["test"]
    params, _ = objectives.reconstruction(model).init(KEY, arrays)
    found = evaluate(metrics.reconstruction(model, split), params)
    loss, _ = objectives.reconstruction(model)(params, {}, arrays, KEY)
    np.testing.assert_allclose(found["cross_entropy"], loss, rtol=1e-5)
    p = special.expit(model.apply({"params": params}, arrays["image"]))
    np.testing.assert_allclose(found["mse"], np.square(p - arrays["image"]).mean(), rtol=1e-5)


# Binary images.


def test_draws_are_ones_with_the_probability_of_the_grey_value():
    grey = jnp.full((2_000, 4, 4, 1), 0.3)
    for made in (
        binarize.stochastic(KEY, {"image": grey}),
        binarize.fixed(0)({"image": grey + jnp.arange(2_000.0)[:, None, None, None] / 1e6}),
    ):
        assert set(np.unique(made["image"])) == {0.0, 1.0}
        # 32,000 draws, or far fewer different images: bytes are what tells images apart.
    assert abs(binarize.stochastic(KEY, {"image": grey})["image"].mean() - 0.3) < 0.011


def test_a_fixed_draw_depends_on_the_image_and_the_seed_alone():
    image = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 1)) / np.float32(255)
    whole = binarize.fixed(3)({"image": image})["image"]
    np.testing.assert_array_equal(binarize.fixed(3)({"image": image[7:9]})["image"], whole[7:9])
    np.testing.assert_array_equal(jax.jit(binarize.fixed(3))({"image": image})["image"], whole)
    assert not np.array_equal(binarize.fixed(4)({"image": image})["image"], whole)
    # 3,200 draws: the mean of x - p is 0 with a standard error of at most 0.0088.
    assert abs((whole - image).mean()) < 0.035
    # Two pixels' draws are independent of each other across images.
    rows = np.asarray(whole - image).reshape(50, 64)
    assert abs(np.corrcoef(rows.T)[np.triu_indices(64, 1)].mean()) < 0.02


def test_the_threshold_leaves_binary_images_alone():
    made = binarize.threshold({"image": jnp.asarray([0.0, 0.5, 0.51, 1.0]), "label": 3})
    np.testing.assert_array_equal(made["image"], [0, 0, 1, 1])
    np.testing.assert_array_equal(binarize.threshold(made)["image"], made["image"])
    assert made["label"] == 3


# The page.


@pytest.mark.parametrize(
    ("model", "titles"),
    [
        (mlp_vae((8, 8, 1), (4,), 2), ["Reconstructions", "Samples", "Latent plane"]),
        (mlp_vae((8, 8, 1), (4,), 3), ["Reconstructions", "Samples", "Interpolations"]),
        (burda_vae((8, 8, 1), (4, 3)), ["Reconstructions", "Samples", "Interpolations"]),
    ],
)
def test_the_page_shows_what_becomes_of_images_and_what_the_latents_mean(model, titles):
    digits = data.load("digits")["test"]
    image = jnp.zeros((1, 8, 8, 1))
    variables = jax.jit(model.init)({"params": KEY, "sample": KEY}, image)
    sections = inspect.latents(model, digits)(variables, {}, MESH)
    assert [section.title for section in sections] == titles
    assert all(section.html.count("<img") == 1 for section in sections)


def test_the_page_of_a_conditional_model_gives_it_labels_and_a_plain_one_has_no_samples():
    digits = data.load("digits")["test"]
    image, label = jnp.zeros((1, 8, 8, 1)), jnp.zeros((1,), jnp.int32)
    model = conditional_vae(10, (8, 8, 1), (4,), 2)
    variables = model.init({"params": KEY, "sample": KEY}, image, label)
    sections = inspect.latents(model, digits, ("image", "label"))(variables, {}, MESH)
    assert [section.title for section in sections] == ["Reconstructions", "Samples", "Latent plane"]
    plain = shallow_autoencoder((8, 8, 1), 5)
    variables = plain.init(KEY, image)
    sections = inspect.reconstruction(plain, digits)(variables, {}, MESH)
    assert [section.title for section in sections] == ["Reconstructions", "Interpolations"]


def test_a_split_smaller_than_the_page_is_shown_several_times():
    few = data.from_arrays(test=jax.device_get(images(3)))["test"]
    variables = SMALL.init({"params": KEY, "sample": KEY}, images()["image"])
    assert len(inspect.latents(SMALL, few)(variables, {}, MESH)) == 3

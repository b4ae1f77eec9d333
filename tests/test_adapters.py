"""One contract for all adapters: what they do not change is the model's own."""

import copy
import operator
import pickle

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import DenyList

from jaxmodels import adapters, objectives
from jaxmodels.errors import UserError
from jaxmodels.layers.distributions import bernoulli
from jaxmodels.metrics.latent import ImportanceWeighted
from jaxmodels.models.causal_lm import gpt2
from jaxmodels.models.encoder_decoder import transformer

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (4, 6))


class Network(nn.Module):
    """Statistics, dropout, a sown value, a method with an argument that is no array."""

    features: int = 3
    context: int = 7

    def setup(self):
        self.norm = nn.BatchNorm(use_running_average=False, momentum=0.9)
        self.dense = nn.Dense(self.features)

    def __call__(self, x, train=False):
        self.sow("intermediates", "input", x)
        return self.dense(self.norm(x))

    def rows(self, count, x=None):
        return self.dense(jnp.ones((count, 6)) if x is None else x)

    @property
    def tensor_dims(self):
        return {"dense/kernel": -1}


ADAPTERS = {
    "cast": lambda model: adapters.Cast(model),
    "cast to the same": lambda model: adapters.Cast(model, jnp.float32),
    "remat": lambda model: adapters.Remat(model),
    "arguments": lambda model: adapters.with_arguments(model, train=False),
    "stack": lambda model: adapters.Cast(adapters.Remat(model)),
}
TOLERANCE = 0.05  # bfloat16: 8 bits of values of about 1

cases = pytest.mark.parametrize("adapt", ADAPTERS.values(), ids=ADAPTERS)


@pytest.fixture(scope="module")
def variables():
    return Network().init(KEY, X)


def close(found, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE),
        found,
        expected,
    )
    assert jax.tree.map(lambda x: x.dtype, found) == jax.tree.map(lambda x: x.dtype, expected)


@cases
def test_attributes_are_the_models(adapt):
    assert adapt(Network(context=9)).context == 9
    assert adapt(Network()).tensor_dims == Network().tensor_dims
    with pytest.raises(AttributeError, match="no_such_thing"):
        adapt(Network()).no_such_thing  # noqa: B018


@cases
def test_variables_are_the_models(adapt, variables):
    jax.tree.map(np.testing.assert_array_equal, adapt(Network()).init(KEY, X), variables)
    outputs, made = adapt(Network()).init_with_output(KEY, X)
    close(outputs, Network().apply(variables, X, mutable=True)[0])
    jax.tree.map(np.testing.assert_array_equal, made["params"], variables["params"])


@cases
@pytest.mark.parametrize(
    "mutable",
    [True, "batch_stats", ["batch_stats"], ("batch_stats", "intermediates"), DenyList("params")],
    ids=repr,
)
def test_mutable_in_all_its_forms(adapt, mutable, variables):
    expected, changed = Network().apply(variables, X, mutable=mutable)
    outputs, found = adapt(Network()).apply(variables, X, mutable=mutable)
    close(outputs, expected)
    assert jax.tree.structure(found) == jax.tree.structure(changed)
    close(found["batch_stats"], changed["batch_stats"])


no_arguments = pytest.mark.parametrize(
    "adapt", [adapt for name, adapt in ADAPTERS.items() if name != "arguments"]
)


@no_arguments
def test_nothing_mutable_gives_no_or_empty_collections(adapt, variables):
    frozen = Network().clone()
    rows = {"method": "rows"}
    expected = frozen.apply(variables, 2, **rows)
    for mutable, unpack in [(False, lambda y: y), ([], lambda y: y[0])]:
        found = adapt(frozen).apply(variables, 2, mutable=mutable, **rows)
        close(unpack(found), expected)


@no_arguments
@pytest.mark.parametrize("method", ["rows", Network.rows, lambda m, n, **k: m.rows(n, **k)])
@pytest.mark.parametrize("kwargs", [{}, {"x": X}])
def test_methods_and_arguments_that_are_no_arrays(adapt, method, kwargs, variables):
    expected = Network().apply(variables, 3, method=method, **kwargs)
    found = adapt(Network()).apply(variables, 3, method=method, **kwargs)
    close(found, expected)


@cases
def test_equal_adapters_are_equal_and_copies_work(adapt):
    one, other = adapt(Network()), adapt(Network())
    assert one == other
    assert hash(one) == hash(other)
    assert adapt(Network(features=5)) != one
    assert copy.deepcopy(one) == one
    assert pickle.loads(pickle.dumps(one)) == one


@cases
def test_a_clone_is_adapted_as_well(adapt):
    clone = adapt(Network()).clone(features=5)
    assert clone == adapt(Network(features=5))


@cases
def test_a_bound_module_would_bypass_it(adapt, variables):
    with pytest.raises(UserError, match="cannot be bound"):
        adapt(Network()).bind(variables)


@cases
def test_gradients_are_the_models(adapt, variables):
    def loss(model):
        def of_params(params):
            outputs, _ = model.apply({**variables, "params": params}, X, mutable=["batch_stats"])
            return jnp.sum(jnp.square(outputs))

        return jax.jit(jax.grad(of_params))(variables["params"])

    expected = loss(Network())
    scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(expected))
    close(*(jax.tree.map(lambda g: g / scale, tree) for tree in (loss(adapt(Network())), expected)))


def test_the_innermost_model_is_mapped_everywhere():
    cast = lambda model: adapters.Cast(model)  # noqa: E731
    nested = ImportanceWeighted(adapters.with_arguments(Network(), train=False), 4, 2)
    mapped = adapters.map_model(nested, cast)
    assert mapped.model.model == adapters.Cast(Network())
    objective = objectives.classification(Network()).after(lambda key, batch: batch)
    assert adapters.map_model(objective, cast).model == adapters.Cast(Network())
    with pytest.raises(UserError, match="has no model"):
        adapters.map_model(object(), cast)


def test_cast_computes_in_bfloat16_and_keeps_integers_and_keys():
    model = adapters.Cast(Network())
    variables = model.init(KEY, X)
    text = str(jax.make_jaxpr(lambda v, x: model.apply(v, x, mutable=True)[0])(variables, X))
    assert "bf16[4,3]" in text
    tokens = jnp.arange(4, dtype=jnp.uint8)
    embed = nn.Embed(4, 2)
    assert adapters.Cast(embed).apply(embed.init(KEY, tokens), tokens).dtype == jnp.float32


def test_remat_is_of_the_blocks_where_there_are_some():
    policy = adapters.POLICIES["dots"]
    assert adapters.remat(Network(), policy) == adapters.Remat(Network(), policy)

    class Blocks(nn.Module):
        remat: object = None

    assert adapters.remat(Blocks(), policy) == Blocks(remat=policy)


def test_a_function_is_a_model_without_variables():
    model = adapters.FunctionModel(lambda variables, x: variables["params"] * x)
    assert model.init(KEY, X) == {}
    assert model.apply({"params": 2}, 3) == 6
    assert model.apply({"params": 2}, 3, mutable=[]) == (6, {})


def test_precision_does_not_round_what_a_likelihood_is_of():
    """Images with more digits than bfloat16 has: the target is the batch's own."""
    image = jnp.linspace(0.001, 0.999, 16).reshape(1, 4, 4, 1)

    class Logits(nn.Module):
        likelihood = bernoulli

        @nn.compact
        def __call__(self, image, samples=1, train=False):
            outputs = self.param("logits", nn.initializers.constant(3.0), (4, 4, 1))
            outputs = jnp.broadcast_to(outputs, (len(image), samples, 4, 4, 1))
            zero = jnp.zeros((len(image), samples))
            return Draws(outputs, zero, zero)

    from jaxmodels.models.vae import Draws

    for cast in (lambda m: m, adapters.Cast):
        objective = objectives.elbo(cast(Logits()))
        params, _ = objective.init(KEY, {"image": image})
        loss, _ = objective(params, {}, {"image": image}, KEY)
        exact = jnp.sum(jnp.log1p(jnp.exp(3.0)) - image * 3.0)
        np.testing.assert_allclose(loss, exact, rtol=1e-6)


def test_remat_reaches_blocks_in_tuples_and_dicts():
    class Block(nn.Module):
        remat: object = None

    class Whole(nn.Module):
        blocks: object
        named: object
        width: int = 3

    policy = adapters.POLICIES["full"]
    found = adapters.remat(Whole((Block(), Block()), {"a": Block(), "b": 1}), policy)
    assert isinstance(found, Whole)
    assert [block.remat for block in found.blocks] == [policy, policy]
    assert found.named["a"].remat is policy
    assert (found.named["b"], found.width) == (1, 3)


def test_remat_reaches_the_stacks_of_a_model_made_of_modules():
    policy = adapters.POLICIES["full"]
    for model, paths in (
        (gpt2(11, 8, 8, 2, 2), ["stack"]),
        (transformer(11, 11, 8, 2, 2, 16), ["encoder.stack", "decoder.stack"]),
    ):
        found = adapters.remat(model, policy)
        assert type(found) is type(model)
        assert all(operator.attrgetter(path)(found).remat is policy for path in paths)


@pytest.mark.parametrize("dtype", [jnp.float16, np.float16, jnp.dtype("float16")])
@no_arguments
def test_a_dtype_is_no_array(adapt, dtype):
    class Typed(nn.Module):
        @nn.compact
        def __call__(self, x, dtype=None):
            return nn.Dense(2, dtype=dtype)(x)

    variables = Typed().init(KEY, X)
    outputs = adapt(Typed()).apply(variables, X, dtype=dtype)
    assert outputs.shape == (4, 2)

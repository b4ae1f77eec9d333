"""Transformers equal to PyTorch's; positions and activations equal to their papers' formulas."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxmodels.layers import feedforward, positions
from jaxmodels.models import causal_lm, encoder_decoder

# Float32 rounds at 6e-8, and two layers add to it.
SAME = {"rtol": 1e-5, "atol": 1e-5}

with np.load(Path(__file__).parent / "transformer_reference.npz") as file:
    REFERENCE = dict(file)
"""Weights in, and logits of, torch 2.13, by `transformer_reference.py`."""

MODELS = {
    "gpt": (causal_lm.gpt2(11, 9, 8, 2, 2), ("tokens",)),
    "llama": (causal_lm.llama(11, 9, 16, 2, 4, 2, 24), ("tokens",)),
    "pair": (
        encoder_decoder.transformer_multi30k(10, 11, 8, 2, 2, 12, context=9),
        ("source", "tokens"),
    ),
}


def stored(prefix):
    """What the file holds under a prefix, by the rest of the name."""
    names = [name for name in REFERENCE if name.startswith(prefix)]
    return {name.removeprefix(prefix): REFERENCE[name] for name in names}


def linear(prefix):
    return {{"weight": "kernel"}.get(k, k): v.T for k, v in stored(f"{prefix}.").items()}


def norm(prefix):
    return {{"weight": "scale"}.get(k, k): v for k, v in stored(f"{prefix}.").items()}


def embedding(prefix):
    return {"embedding": REFERENCE[f"{prefix}.weight"]}


def projection(kernel, *features):
    """The kernel (D, features) of heads from torch's (features, D)."""
    return kernel.T.reshape(-1, *features)


def attention(prefix, heads=2):
    """Of `torch.nn.MultiheadAttention`: its query, key and value, and its output."""
    weights = stored(f"{prefix}.")
    D = len(weights["out_proj.bias"])
    H = D // heads
    kernel, bias = weights["in_proj_weight"], weights["in_proj_bias"]
    query = {"kernel": projection(kernel[:D], heads, H), "bias": bias[:D].reshape(heads, H)}
    key_value = {
        "kernel": projection(kernel[D:], 2, heads, H),
        "bias": bias[D:].reshape(2, heads, H),
    }
    kernel = weights["out_proj.weight"].T.reshape(heads, H, D)
    return query, key_value, {"kernel": kernel, "bias": weights["out_proj.bias"]}


def torch_block(prefix, last_norm="norm2"):
    """Of `torch.nn.TransformerEncoderLayer`, and of a decoder's without its look at the memory."""
    query, key_value, out = attention(f"{prefix}.self_attn")
    return {
        "attention": {"query": query, "key_value": key_value, "out": out},
        "attention_norm": norm(f"{prefix}.norm1"),
        "feedforward": {"hidden": linear(f"{prefix}.linear1"), "out": linear(f"{prefix}.linear2")},
        "feedforward_norm": norm(f"{prefix}.{last_norm}"),
    }


def decoder_block(prefix):
    query, _, out = attention(f"{prefix}.multihead_attn")
    return {
        **torch_block(prefix, "norm3"),
        "cross": {"query": query, "out": out},
        "cross_norm": norm(f"{prefix}.norm2"),
    }


def llama_block(prefix, heads=4, groups=2):
    q, k, v, o = (stored(f"{prefix}.{name}_proj.")["weight"] for name in "qkvo")
    H = len(q) // heads
    return {
        "attention": {
            "query": {"kernel": projection(q, heads, H)},
            "key_value": {"kernel": projection(np.concatenate([k, v]), 2, groups, H)},
            "out": {"kernel": o.T.reshape(heads, H, -1)},
        },
        "attention_norm": norm(f"{prefix}.input_layernorm"),
        "feedforward": {
            "gate": linear(f"{prefix}.gate_proj"),
            "hidden": linear(f"{prefix}.up_proj"),
            "out": linear(f"{prefix}.down_proj"),
        },
        "feedforward_norm": norm(f"{prefix}.post_attention_layernorm"),
    }


def stack(block, prefix):
    """Two layers' params side by side, on a leading axis."""
    layers = block(f"{prefix}.0"), block(f"{prefix}.1")
    return {"layers": {"block": jax.tree.map(lambda *pair: np.stack(pair), *layers)}}


def memory(prefix):
    """Keys and values of both layers of a decoder, in one kernel (D, layer, 2, N, H)."""
    layers = [attention(f"{prefix}.{n}.multihead_attn")[1] for n in (0, 1)]
    return {
        "kernel": np.stack([layer["kernel"] for layer in layers], axis=1),
        "bias": np.stack([layer["bias"] for layer in layers]),
    }


def params(name):
    if name == "gpt":
        return {
            "embedding": {
                **embedding("gpt/token"),
                "position_embedding": {"table": embedding("gpt/place")},
            },
            "stack": stack(torch_block, "gpt/stack.layers"),
            "final_norm": norm("gpt/stack.norm"),
        }
    if name == "llama":
        return {
            "embedding": embedding("llama/embed_tokens"),
            "stack": stack(llama_block, "llama/layers"),
            "final_norm": norm("llama/norm"),
            "output": embedding("llama/lm_head"),
        }
    embeddings = {
        name: {
            **embedding(f"pair/{name}"),
            "position_embedding": {"table": embedding(f"pair/{name}_place")},
        }
        for name in ("source", "target")
    }
    return {
        "encoder": {
            "embedding": embeddings["source"],
            "stack": stack(torch_block, "pair/encoder.layers"),
        },
        "decoder": {
            "embedding": embeddings["target"],
            "stack": stack(decoder_block, "pair/decoder.layers"),
            "memory": {"project": memory("pair/decoder.layers")},
            "output": linear("pair/output"),
        },
    }


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_torchs(name):
    model, inputs = MODELS[name]
    inputs = [jnp.asarray(REFERENCE[key], jnp.int32) for key in inputs]
    logits = jax.jit(model.apply)({"params": params(name)}, *inputs)
    np.testing.assert_allclose(logits, REFERENCE[f"{name}/logits"], **SAME)


@pytest.mark.parametrize("name", MODELS)
def test_the_stored_logits_are_those_of_the_torch_that_is_installed(name):
    pytest.importorskip("torch")
    import transformer_reference

    weights = stored(f"{name}/")
    logits = weights.pop("logits")
    np.testing.assert_allclose(transformer_reference.logits_of(name, weights), logits, **SAME)


def test_rotary_turns_each_first_half_with_its_second():
    x = jax.random.normal(jax.random.key(0), (1, 5, 2, 6))
    at = jnp.array([[0, 1, 2, 7, 500]])
    found = positions.Rotary()(x, at)
    for t, position in enumerate(at[0].tolist()):
        turn = np.zeros((6, 6))
        for i in range(3):
            angle = position / 10_000 ** (2 * i / 6)
            cos, sin = math.cos(angle), math.sin(angle)
            turn[[[i], [i + 3]], [i, i + 3]] = [[cos, -sin], [sin, cos]]
        # Angles are float32: of 500 they are right to 3e-5.
        np.testing.assert_allclose(found[0, t], x[0, t] @ turn.T, atol=1e-4)


def test_alibi_falls_with_the_distance_as_in_the_paper():
    at = jnp.arange(4)[None]
    # Press et al. 2022, figure 3: the queries' rows, the keys' columns; for two heads the slopes
    # are 1/16 and 1/256. What is above the diagonal matters where attention is not causal.
    distance = np.array([[0, -1, -2, -3], [-1, 0, -1, -2], [-2, -1, 0, -1], [-3, -2, -1, 0]])
    expected = np.stack([distance / 16, distance / 256])[None]
    np.testing.assert_array_equal(positions.alibi(2, at, at), expected)
    np.testing.assert_array_equal(positions.alibi(2, at[:, 2:], at), expected[:, :, 2:])


def test_both_gelus_are_those_of_their_paper():
    x = np.linspace(-6, 6, 49)
    exact = x / 2 * (1 + special.erf(x / math.sqrt(2)))
    tanh = x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    given = jnp.asarray(x, jnp.float32)
    np.testing.assert_allclose(feedforward.gelu_exact(given), exact, **SAME)
    np.testing.assert_allclose(feedforward.gelu_tanh(given), tanh, **SAME)
    assert np.abs(exact - tanh).max() > 1e-4

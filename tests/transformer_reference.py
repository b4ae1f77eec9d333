"""Transformers of PyTorch's own layers, and what they compute: `python transformer_reference.py`.

Written where PyTorch is installed, for `test_transformer_reference`, which reads the file anywhere.
"""

import functools
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

FILE = Path(__file__).with_suffix(".npz")

SOURCE = torch.tensor([[2, 7, 5, 9, 3], [2, 4, 3, 0, 0]])
TOKENS = torch.tensor([[2, 5, 9, 1, 4, 7], [6, 10, 8, 3, 0, 5]])
SOURCE_VOCAB, VOCAB, CONTEXT, DEPTH = 10, 11, 9, 2


class GPT(nn.Module):
    """GPT-2's: pre-norm, tanh GELU, causal, tied."""

    def __init__(self, width=8, heads=2):
        super().__init__()
        self.token = nn.Embedding(VOCAB, width)
        self.place = nn.Embedding(CONTEXT, width)
        gelu = functools.partial(F.gelu, approximate="tanh")
        options = {"norm_first": True, "batch_first": True}
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, gelu, **options)
        self.stack = nn.TransformerEncoder(layer, DEPTH, nn.LayerNorm(width), False)

    def forward(self, tokens):
        T = tokens.shape[1]
        x = self.token(tokens) + self.place(torch.arange(T))
        return self.stack(x, mask=later(T)) @ self.token.weight.T


class Llama(nn.Module):
    """RMSNorm, rotary positions, grouped heads and SwiGLU, named as Hugging Face's weights are."""

    def __init__(self, width=16, hidden=24):
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCAB, width)
        self.layers = nn.ModuleList(LlamaLayer(width, hidden) for _ in range(DEPTH))
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.lm_head = nn.Linear(width, VOCAB, bias=False)

    def forward(self, tokens):
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.norm(x))


class LlamaLayer(nn.Module):
    """Four heads, of which two share keys and values."""

    def __init__(self, width, hidden, heads=4, groups=2):
        super().__init__()
        self.head = width // heads
        linear = functools.partial(nn.Linear, bias=False)
        self.q_proj, self.o_proj = linear(width, width), linear(width, width)
        self.k_proj, self.v_proj = (linear(width, groups * self.head) for _ in range(2))
        self.gate_proj, self.up_proj = linear(width, hidden), linear(width, hidden)
        self.down_proj = linear(hidden, width)
        self.input_layernorm = nn.RMSNorm(width, eps=1e-5)
        self.post_attention_layernorm = nn.RMSNorm(width, eps=1e-5)

    def forward(self, x):
        x = x + self.attention(self.input_layernorm(x))
        h = self.post_attention_layernorm(x)
        return x + self.down_proj(F.silu(self.gate_proj(h)) * self.up_proj(h))

    def attention(self, x):
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head)).transpose(1, 2)  # B N T H
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        options = {"is_causal": True, "enable_gqa": True}
        y = F.scaled_dot_product_attention(turned(q), turned(k), v, **options)
        return self.o_proj(y.transpose(1, 2).flatten(-2))


class Translator(nn.Module):
    """Vaswani et al.'s: post-norm, ReLU; positions are learned, the output layer has a bias."""

    def __init__(self, width=8, heads=2, hidden=12):
        super().__init__()
        self.source, self.source_place = nn.Embedding(SOURCE_VOCAB, width), nn.Embedding(9, width)
        self.target, self.target_place = nn.Embedding(VOCAB, width), nn.Embedding(9, width)
        sizes = width, heads, hidden, 0.0
        encoder = nn.TransformerEncoderLayer(*sizes, batch_first=True)
        decoder = nn.TransformerDecoderLayer(*sizes, batch_first=True)
        self.encoder = nn.TransformerEncoder(encoder, DEPTH, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(decoder, DEPTH)
        self.output = nn.Linear(width, VOCAB)

    def forward(self, source, target):
        padding, scale = source == 0, self.output.in_features**0.5
        S, T = source.shape[1], target.shape[1]
        x = self.source(source) * scale + self.source_place(torch.arange(S))
        memory = self.encoder(x, src_key_padding_mask=padding)
        y = self.target(target) * scale + self.target_place(torch.arange(T))
        return self.output(
            self.decoder(y, memory, tgt_mask=later(T), memory_key_padding_mask=padding)
        )


def later(T):
    """True where a token must not look."""
    return torch.ones(T, T, dtype=torch.bool).triu(1)


def turned(x, base=10_000.0):
    """Rotary positions of (B, N, T, H) with `rotate_half` of Hugging Face's modeling_llama."""
    T, H = x.shape[-2:]
    angles = torch.outer(torch.arange(T), base ** (-torch.arange(0, H, 2) / H))
    cos, sin = (torch.cat((f(angles), f(angles)), -1) for f in (torch.cos, torch.sin))
    one, two = x.chunk(2, -1)
    return x * cos + torch.cat((-two, one), -1) * sin


MODELS = {
    "gpt": (GPT, (TOKENS,)),
    "llama": (Llama, (TOKENS,)),
    "pair": (Translator, (SOURCE, TOKENS)),
}


def logits_of(name, weights):
    """What a model computes with these weights."""
    make, inputs = MODELS[name]
    model = make()
    model.load_state_dict({key: torch.tensor(value) for key, value in weights.items()})
    return model(*inputs).detach().numpy()


def drawn(name):
    """Weights that are all far from zero, those of biases and norms too."""
    torch.manual_seed(0)
    weights = MODELS[name][0]().state_dict()
    return {key: nn.init.uniform_(value, -1, 1).numpy() for key, value in weights.items()}


if __name__ == "__main__":
    stored = {"source": SOURCE.numpy(), "tokens": TOKENS.numpy()}
    for name in MODELS:
        weights = drawn(name)
        stored |= {f"{name}/{key}": value for key, value in weights.items()}
        stored[f"{name}/logits"] = logits_of(name, weights)
    np.savez_compressed(FILE, **stored)

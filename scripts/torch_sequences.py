"""The benchmark's sequence models and autoencoder in PyTorch: the same layers, batch, optimizer."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    """Multi-head attention through PyTorch's fused function; a cache of keys for decoding."""

    def __init__(self, width: int, heads: int, causal: bool, bias: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.query = nn.Linear(width, width, bias=bias)
        self.key_value = nn.Linear(width, 2 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)

    def forward(
        self,
        x: torch.Tensor,
        memory: torch.Tensor,
        mask: torch.Tensor | None = None,
        cache: list | None = None,
    ) -> torch.Tensor:
        """Attend from x to memory, and to what the cache holds."""
        B, T, D = x.shape
        q = self._heads(self.query(x))
        k, v = map(self._heads, self.key_value(memory).chunk(2, dim=-1))
        if cache is not None:
            if cache:
                k, v = (torch.cat(pair, dim=2) for pair in zip(cache, (k, v), strict=True))
            cache[:] = k, v
        causal = self.causal and T > 1
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        return self.out(y.transpose(1, 2).reshape(B, T, D))

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        B, T, D = x.shape
        return x.view(B, T, self.heads, D // self.heads).transpose(1, 2)


class GPTBlock(nn.Module):
    """A block of nanoGPT without biases."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, bias=False)
        self.attention = Attention(width, heads, True, False)
        self.norm2 = nn.LayerNorm(width, bias=False)
        self.hidden = nn.Linear(width, 4 * width, bias=False)
        self.out = nn.Linear(4 * width, width, bias=False)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, cache: list | None = None) -> torch.Tensor:
        """Compute the block."""
        y = self.norm1(x)
        x = x + self.drop(self.attention(y, y, cache=cache))
        hidden = F.gelu(self.hidden(self.norm2(x)), approximate="tanh")
        return x + self.drop(self.out(hidden))


class GPT(nn.Module):
    """nanoGPT."""

    def __init__(self, vocab: int, context: int, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        heads = {128: 4, 384: 6}[width]
        self.embedding = nn.Embedding(vocab, width)
        self.place = nn.Embedding(context, width)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(GPTBlock(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width, bias=False)

    def forward(
        self, tokens: torch.Tensor, start: int = 0, caches: list | None = None
    ) -> torch.Tensor:
        """Compute logits."""
        at = torch.arange(start, start + tokens.shape[1])
        x = self.drop(self.embedding(tokens) + self.place(at))
        for n, block in enumerate(self.blocks):
            x = block(x, caches[n] if caches is not None else None)
        return F.linear(self.norm(x), self.embedding.weight)


class TranslatorBlock(nn.Module):
    """A post-norm block with ReLU, of an encoder or a decoder."""

    def __init__(self, decoder: bool) -> None:
        super().__init__()
        self.attention = Attention(256, 8, decoder, True)
        self.cross = Attention(256, 8, False, True) if decoder else None
        self.norms = nn.ModuleList(nn.LayerNorm(256) for _ in range(3 if decoder else 2))
        self.hidden, self.out = nn.Linear(256, 512), nn.Linear(512, 256)
        self.drop = nn.Dropout(0.1)

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor | None, memory: Any = None
    ) -> torch.Tensor:
        """Compute the block."""
        x = self.norms[0](x + self.drop(self.attention(x, x, None if self.cross else mask)))
        if self.cross is not None:
            x = self.norms[1](x + self.drop(self.cross(x, memory, mask)))
        hidden = self.drop(F.relu(self.hidden(x)))
        return self.norms[-1](x + self.drop(self.out(hidden)))


class Translator(nn.Module):
    """The Transformer of Multi30k."""

    def __init__(self, source: int, target: int) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(size, 256) for size in (source, target))
        self.places = nn.ModuleList(nn.Embedding(100, 256) for _ in range(2))
        self.encoder = nn.ModuleList(TranslatorBlock(False) for _ in range(3))
        self.decoder = nn.ModuleList(TranslatorBlock(True) for _ in range(3))
        self.output = nn.Linear(256, target)
        self.drop = nn.Dropout(0.1)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Compute logits."""
        mask = (source != 0)[:, None, None]
        memory, y = self._embedded(0, source), self._embedded(1, target)
        for block in self.encoder:
            memory = block(memory, mask)
        for block in self.decoder:
            y = block(y, mask, memory)
        return self.output(y)

    def _embedded(self, side: int, tokens: torch.Tensor) -> torch.Tensor:
        at = torch.arange(tokens.shape[1])
        return self.drop(16.0 * self.embeddings[side](tokens) + self.places[side](at))


class LSTM(nn.Module):
    """Zaremba's small language model; its state goes from batch to batch."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10_000, 200)
        self.recurrent = nn.LSTM(200, 200, 2, batch_first=True)
        self.output = nn.Linear(200, 10_000)
        self.state: Any = None

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Compute logits."""
        x, state = self.recurrent(self.embedding(tokens), self.state)
        self.state = tuple(part.detach() for part in state)
        return self.output(x)


class VAE(nn.Module):
    """784-500-20-500-784."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(784, 500)
        self.mean, self.log_variance = nn.Linear(500, 20), nn.Linear(500, 20)
        self.back, self.output = nn.Linear(20, 500), nn.Linear(500, 784)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the negative evidence lower bound, a mean over images."""
        h = F.relu(self.hidden(x))
        mean, log_variance = self.mean(h), self.log_variance(h)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        logits = self.output(F.relu(self.back(z)))
        kl = 0.5 * torch.sum(torch.exp(log_variance) + mean**2 - 1 - log_variance)
        return (F.binary_cross_entropy_with_logits(logits, x, reduction="sum") + kl) / len(x)


TWINS: dict[str, Callable[[], nn.Module]] = {
    "lstm": LSTM,
    "gpt4": lambda: GPT(65, 64, 128, 4, 0.0),
    "gpt6": lambda: GPT(65, 256, 384, 6, 0.2),
    "translator": lambda: Translator(7_885, 5_905),
    "vae": VAE,
}


def loss_of(name: str, batch: dict[str, np.ndarray]) -> Callable[[nn.Module], torch.Tensor]:
    """The loss of a model on the batch, which is already where it is needed."""
    arrays = {
        key: torch.from_numpy(value.astype(np.int64) if value.dtype.kind in "iu" else value)
        for key, value in batch.items()
    }
    if name == "vae":
        pixels = arrays["image"].reshape(len(arrays["image"]), -1)
        return lambda model: model(pixels)
    if name == "translator":
        inputs = arrays["source"], arrays["target"][:, :-1]
        targets = arrays["target"][:, 1:]
    else:
        inputs, targets = (arrays["tokens"],), arrays["targets"]
    flat = targets.reshape(-1)
    return lambda model: F.cross_entropy(model(*inputs).flatten(0, 1), flat)


def optimizer_of(name: str, model: nn.Module) -> tuple[torch.optim.Optimizer, float | None, float]:
    """The optimizer, the largest norm of the gradient, and what the loss is multiplied by."""
    parameters = list(model.parameters())
    if name == "lstm":
        return torch.optim.SGD(parameters, 1.0), 5.0, 20.0
    if name.startswith("gpt"):
        adam = torch.optim.AdamW(parameters, 1e-3, (0.9, 0.99), weight_decay=0.1)
        return adam, 1.0, 1.0
    return torch.optim.Adam(parameters, 1e-3), 1.0 if name == "translator" else None, 1.0


def make_step(
    name: str, batch: dict[str, np.ndarray], threads: int, compiled: bool
) -> Callable[[], float]:
    """A training step on one batch, in eager mode or through `torch.compile`."""
    torch.set_num_threads(threads)
    model = TWINS[name]().train()
    optimizer, norm, scale = optimizer_of(name, model)
    loss_of_model = loss_of(name, batch)
    called = torch.compile(model) if compiled else model

    def step() -> float:
        optimizer.zero_grad()
        loss = loss_of_model(called)
        (scale * loss).backward()
        if norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), norm)
        optimizer.step()
        return loss.item()

    return step


def make_decode(rows: int, length: int, threads: int) -> Callable[[], Any]:
    """Greedy decoding of the small GPT with a cache of keys and values."""
    torch.set_num_threads(threads)
    model = TWINS["gpt4"]().eval()

    @torch.inference_mode()
    def decode() -> torch.Tensor:
        token = torch.full((rows, 1), 5)
        caches: list[list] = [[] for _ in model.blocks]  # pyright: ignore
        found = []
        for n in range(length):
            token = model(token, n, caches)[:, -1].argmax(-1, keepdim=True)
            found.append(token)
        return torch.cat(found, 1)

    return decode

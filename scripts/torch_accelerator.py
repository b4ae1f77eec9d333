"""The accelerator benchmark's networks in PyTorch, with its usual optimizations.

Bfloat16 by autocast over float32 params, the loss compiled together with the model, fused
optimizers, one product for queries, keys and values, flash attention where
`F.scaled_dot_product_attention` has it, images with their channels last.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Run = Callable[[int], None]


class Attention(nn.Module):
    """Causal attention; a cache of keys and values for decoding."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor, cache: list | None = None) -> torch.Tensor:
        """Attend to the tokens before, and to what the cache holds."""
        B, T, D = x.shape
        parts = self.project(x).view(B, T, 3, self.heads, D // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)  # 3 B N T H
        if cache is not None:
            if cache:
                k, v = (torch.cat(pair, dim=2) for pair in zip(cache, (k, v), strict=True))
            cache[:] = k, v
        y = F.scaled_dot_product_attention(q, k, v, is_causal=T > 1)
        return self.out(y.transpose(1, 2).reshape(B, T, D))


class Block(nn.Module):
    """GPT-2's block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.hidden, self.out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor, cache: list | None = None) -> torch.Tensor:
        """Compute the block."""
        x = x + self.attention(self.norm1(x), cache)
        return x + self.out(F.gelu(self.hidden(self.norm2(x)), approximate="tanh"))


class GPT(nn.Module):
    """GPT-2."""

    def __init__(self, vocab: int, context: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embedding, self.place = nn.Embedding(vocab, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(
        self, tokens: torch.Tensor, start: int = 0, caches: list | None = None
    ) -> torch.Tensor:
        """Compute logits."""
        at = torch.arange(start, start + tokens.shape[1], device=tokens.device)
        x = self.embedding(tokens) + self.place(at)
        for n, block in enumerate(self.blocks):
            x = block(x, caches[n] if caches is not None else None)
        return F.linear(self.norm(x), self.embedding.weight)


class Bottleneck(nn.Module):
    """ResNet's block of three convolutions, the stride on the second."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *normed(before, width, 1),
            nn.ReLU(inplace=True),
            *normed(width, width, 3, stride),
            nn.ReLU(inplace=True),
            *normed(width, 4 * width, 1),
        )
        same = before == 4 * width and stride == 1
        self.shortcut = nn.Sequential(*([] if same else normed(before, 4 * width, 1, stride)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute relu(shortcut(x) + residual(x))."""
        return F.relu(self.shortcut(x) + self.residual(x))


def normed(before: int, width: int, kernel: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    """A convolution and its norm."""
    conv = nn.Conv2d(before, width, kernel, stride, kernel // 2, bias=False)
    return conv, nn.BatchNorm2d(width)


def resnet(blocks: tuple[int, ...], widths: tuple[int, ...], classes: int) -> nn.Module:
    """A ResNet of bottlenecks for ImageNet."""
    before, made = widths[0], []
    for s, (count, width) in enumerate(zip(blocks, widths, strict=True)):
        for b in range(count):
            made.append(Bottleneck(before, width, 2 if s and not b else 1))
            before = 4 * width
    stem = *normed(3, widths[0], 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
    return nn.Sequential(
        *stem, *made, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes)
    )


class Loss(nn.Module):
    """Cross-entropy of a model's logits, to be compiled with the model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Compute the mean over all targets."""
        return F.cross_entropy(self.model(inputs).flatten(0, -2), targets.flatten())


def model_of(case: Any) -> nn.Module:
    """The twin of a case's model."""
    sizes = case.sizes
    if case.workload == "resnet50":
        return resnet(sizes.blocks, sizes.widths, sizes.classes)
    return GPT(sizes.vocab, sizes.context, sizes.width, sizes.depth, sizes.heads)


def count(case: Any) -> int:
    """The number of the twin's parameters; none of them is made."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in model_of(case).parameters())


def place() -> tuple[str, str]:
    """The platform as jax calls it, and the versions."""
    if not torch.cuda.is_available():
        return "cpu", f"PyTorch {torch.__version__}"
    versions = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    return "gpu", f"PyTorch {torch.__version__}, {versions}, {torch.cuda.get_device_name()}"


@functools.cache
def ready(case: Any, compiled: bool) -> Run:
    """A function that computes so many steps (texts) of a case, and waits for them."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # What autocast leaves in float32 may use tensor cores, as jax's does.
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    with torch.device(device):
        model = model_of(case)
    make = decoding if case.workload == "decode" else training
    call = make(case, model, device, compiled)

    def run(times: int) -> None:
        for _ in range(times):
            call()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def training(case: Any, model: nn.Module, device: str, compiled: bool) -> Callable[[], Any]:
    """A step of training."""
    inputs, targets = (torch.from_numpy(part).to(device) for part in case.batch().values())
    parameters = list(model.parameters())
    if case.workload == "resnet50":
        model = model.to(memory_format=torch.channels_last)
        inputs = inputs.movedim(-1, 1).contiguous(memory_format=torch.channels_last)
        optimizer: Any = torch.optim.SGD(
            parameters, 0.1, momentum=0.9, weight_decay=1e-4, fused=True
        )
    else:
        optimizer = torch.optim.AdamW(parameters, 6e-4, (0.9, 0.95), weight_decay=0.1, fused=True)
    loss = Loss(model.train())
    called = torch.compile(loss) if compiled else loss

    def step() -> None:
        with torch.autocast(device, torch.bfloat16):
            value = called(inputs, targets.long())
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def decoding(case: Any, model: Any, device: str, compiled: bool) -> Callable[[], Any]:
    """Greedy decoding with a cache that grows, in eager mode: a plain loop."""
    del compiled  # every token has another shape
    model = model.eval().bfloat16()
    sizes = case.sizes

    @torch.inference_mode()
    def decode() -> torch.Tensor:
        tokens = torch.full((case.rows, sizes.prompt), 5, device=device)
        caches: list[list] = [[] for _ in model.blocks]
        found, start = [], 0
        for _ in range(sizes.length):
            logits = model(tokens, start, caches)
            start += tokens.shape[1]
            tokens = logits[:, -1].argmax(-1, keepdim=True)
            found.append(tokens)
        return torch.cat(found, 1)

    return decode

"""The benchmark's networks in PyTorch: the same layers, batch and optimizer."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torch_sequences
from torch import nn


class Block(nn.Module):
    """The basic residual block with a parameter-free shortcut."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.stride = 2 if width != before else 1
        self.pad = (width - before) // 2
        self.conv1 = nn.Conv2d(before, width, 3, self.stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute relu(shortcut(x) + residual(x))."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return F.relu(y + F.pad(shortcut, (0, 0, 0, 0, self.pad, self.pad)))


def resnet20() -> nn.Module:
    """ResNet-20 for CIFAR-10."""
    widths = [16] * 4 + [32] * 3 + [64] * 3
    blocks = [Block(before, width) for before, width in pairwise(widths)]
    stem = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def convnet() -> nn.Module:
    """Two convolutions and two dense layers, 28x28x1."""
    first = nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
    second = nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
    dense = nn.Flatten(), nn.Linear(64 * 49, 128), nn.ReLU(), nn.Linear(128, 10)
    return nn.Sequential(*first, *second, *dense)


def lenet() -> nn.Module:
    """LeNet-5, 28x28x1."""
    first = nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)
    second = nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)
    dense = nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)
    return nn.Sequential(*first, *second, nn.Flatten(), *dense)


def mlp() -> nn.Module:
    """784-512-512-10."""
    hidden = nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU()
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(512, 10))


TWINS = {"lenet": lenet, "convnet": convnet, "resnet20": resnet20, "mlp": mlp}


def count(name: str) -> int:
    """The number of the twin's parameters."""
    twin = {**TWINS, **torch_sequences.TWINS}[name]()
    return sum(parameter.numel() for parameter in twin.parameters())


def make_step(
    name: str, batch: dict[str, Any], threads: int, compiled: bool = False
) -> Callable[[], float]:
    """A training step on one batch, which is already where it is needed."""
    if name in torch_sequences.TWINS:
        return torch_sequences.make_step(name, batch, threads, compiled)
    torch.set_num_threads(threads)
    model = TWINS[name]().train()
    sgd = name == "resnet20"
    parameters = model.parameters()
    optimizer = (
        torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=1e-4)
        if sgd
        else torch.optim.Adam(parameters, 1e-3)
    )
    scaled = np.moveaxis(batch["image"], -1, 1).astype(np.float32) / 255
    images = torch.from_numpy(np.ascontiguousarray(scaled))
    labels = torch.from_numpy(batch["label"].astype(np.int64))

    def step() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step

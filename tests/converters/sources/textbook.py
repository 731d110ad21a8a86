"""The textbook's networks in PyTorch: a small ResNet of 512 features under a box head, or under one vector of all.

A test's folder gets a copy of this file, so that its networks are imported as a user's own are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = ["box_network", "vector_network"]


class Block(nn.Module):
    """Two convolutions and the way around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        self.around = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Any) -> Any:
        return torch.relu(self.second(self.first(x)) + self.around(x))


class Localizer(nn.Module):
    """Features of an image (n, 3, h, w), and what `head` makes of their 512."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 7, 2, 3, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
            Block(16, 32, 2),
            Block(32, 64, 2),
            Block(64, 128, 2),
            nn.Conv2d(128, 512, 3, 1, 1, bias=False),
            nn.BatchNorm2d(512),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = head

    def forward(self, image: Any) -> Any:
        return self.head(self.features(image))


class NamedVector(nn.Module):
    """A head whose one output has a name."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 8))

    def forward(self, features: Any) -> dict[str, Any]:
        return {"vector": self.layers(features)}


def box_network() -> nn.Module:
    """The box alone: centre, width and height as fractions of the image."""
    return Localizer(nn.Sequential(nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 4)))


def vector_network() -> nn.Module:
    """Presence, centre, height before width, and three classes, all as logits in one output."""
    return Localizer(NamedVector())

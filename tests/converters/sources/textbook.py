"""The textbook's networks in PyTorch: a small ResNet of 512 features under a box head, or under one vector of all.

A test's folder gets a copy of this file, so that its networks are imported as a user's own are.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as f
from torch import nn

__all__ = ["box_network", "train", "vector_network"]

EPOCHS = {"box": 10, "vector": 5}


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


def train(pictures: Any, boxes: Any, present: Any, kinds: Any) -> dict[str, nn.Module]:
    """Both networks, by name, on images (n, 3, h, w); the second starts from the first one's features."""
    torch.manual_seed(0)
    # More wait for each other where something else runs.
    torch.set_num_threads(1)
    box = _fit(box_network(), "box", pictures[present], (boxes[present],))
    vector = vector_network()
    vector.features.load_state_dict(box.features.state_dict())
    return {"box": box, "vector": _fit(vector, "vector", pictures, (boxes, present, kinds))}


def _fit(network: Any, name: str, pictures: Any, truth: tuple[Any, ...]) -> Any:
    batch = 32
    steps = EPOCHS[name] * -(-len(pictures) // batch)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    network.train()
    for _ in range(EPOCHS[name]):
        for chosen in torch.randperm(len(pictures)).split(batch):
            image, *targets = _mirrored(pictures[chosen], *(values[chosen] for values in truth))
            loss = _LOSSES[name](network(image), *targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def _mirrored(image: Any, boxes: Any, *others: Any) -> tuple[Any, ...]:
    """Half of the batches left to right, half of them upside down."""
    for axis, centre in ((3, 0), (2, 1)):
        if torch.rand(()) < 0.5:
            image, boxes = image.flip(axis), boxes.clone()
            boxes[:, centre] = 1 - boxes[:, centre]
    return image, boxes, *others


def _box_loss(answer: Any, boxes: Any) -> Any:
    return (answer - boxes).abs().mean()


def _vector_loss(answer: Any, boxes: Any, present: Any, kinds: Any) -> Any:
    vector = answer["vector"]
    # The box is learnt as cx, cy, w, h and leaves with its height before its width.
    box = vector[:, [1, 2, 4, 3]][present].sigmoid()
    return (
        f.binary_cross_entropy_with_logits(vector[:, 0], present.float())
        + 5 * (box - boxes[present]).abs().mean()
        + 0.5 * f.cross_entropy(vector[present, 5:], kinds[present])
    )


_LOSSES = {"box": _box_loss, "vector": _vector_loss}

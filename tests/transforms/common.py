"""The networks, targets and images that the tests of transformations share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from camfn import targets
from tests.nets.small import Net, images, seeded

WEIGHING = [
    "grad_cam",
    "hires_cam",
    "elementwise_grad_cam",
    "grad_cam_plusplus",
    "xgrad_cam",
    "layer_cam",
    "bag_cam",
]


LAYER = "blocks.1"


def net64() -> nn.Module:
    return seeded(Net, dtype=torch.float64)


def x64(batch: int = 2, seed: int = 1) -> Tensor:
    return images(batch, 3, 8, 8, dtype=torch.float64, seed=seed)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Segmenter(nn.Module):
    """A score map of each class at the resolution of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2))
        self.head = nn.Sequential(nn.Conv2d(5, 4, 3, padding=1), nn.Upsample(scale_factor=2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.features(x))
        return out


def region(c: int, mask: Tensor) -> targets.Score:
    """The score of a class inside a mask (B, H, W)."""
    return targets.Score(lambda outputs: (outputs[:, c] * mask).sum((1, 2)), moved=lambda move: region(c, move(mask)))

"""Small networks and explainers for the tests of exports."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Small(nn.Module):
    """A small network with what larger ones have: norms, strides, groups, a residual, a pooled linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.middle = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=2), nn.SiLU())
        self.last = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(16, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.middle(x)
        features: Tensor = self.last(x)
        logits: Tensor = self.fc(self.pool(features).flatten(1))
        return logits


def small() -> Small:
    """Return the network in evaluation mode, with statistics that are not those of its start."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Small()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.1)
                assert module.running_var is not None
                module.running_var.uniform_(0.5, 1.5)
    return net.eval()


def photos(count: int = 2, size: int = 32) -> Tensor:
    """Return images of noise."""
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))

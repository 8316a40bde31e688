"""Laws of Recipro-CAM."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from camfn import explainer, methods
from camfn._layout.pairs import tokens
from tests.methods.laws import (
    BIAS,
    WEIGHTS,
    close,
    normal,
    pooled_head,
)
from tests.nets.small import images, seeded


def convolved(maps: Tensor) -> Tensor:
    """(B, *S) filtered with (1, 2, 1) / 4 along each dimension, zeros outside."""
    for axis in range(1, maps.ndim):
        moved = maps.movedim(axis, -1)
        line = torch.tensor([[[0.25, 0.5, 0.25]]], dtype=maps.dtype)
        flat = functional.conv1d(moved.reshape(-1, 1, moved.shape[-1]), line, padding=1)
        maps = flat.reshape(moved.shape).movedim(-1, axis)
    return maps


@pytest.mark.parametrize("shape", [(3, 6, 7), (3, 6, 4, 5), (3, 6, 2, 3, 4)], ids=str)
def test_recipro_cam_on_a_pooled_head_is_cam_and_cam_filtered(shape: tuple[int, ...]) -> None:
    a, _, _, tail = pooled_head(normal(*shape))
    cam = methods.cam(a, weights=WEIGHTS) / math.prod(shape[2:])
    close(methods.recipro_cam(a, tail=tail, kernel="point"), cam + BIAS)
    close(methods.recipro_cam(a, tail=tail), convolved(cam) + BIAS)


def test_recipro_cam_runs_a_tail_for_each_position_and_no_backward() -> None:
    a, seen = normal(2, 3, 4, 5), []

    def tail(x: Tensor) -> Tensor:
        assert not x.requires_grad
        return x.sum((1, 2, 3))

    methods.recipro_cam(a, tail=tail, chunk_size=6, progress=lambda done, count: seen.append((done, count)))
    # two rows are tried first
    assert seen == [(2, 20), (8, 20), (14, 20), (20, 20)]


class Tokens(nn.Module):
    """Patches behind a class token, and attention, of which the class token is read out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.first = nn.Identity()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.embed(x).flatten(2).mT
        x = self.first(torch.cat([patches.mean(1, keepdim=True) + 1, patches], 1))
        return torch.as_tensor(self.head(self.attention(x, x, x, need_weights=False)[0][:, 0]))


def test_recipro_cam_of_a_transformer_keeps_the_class_token() -> None:
    net = seeded(Tokens, dtype=torch.float64)
    x = images(2, 3, 8, 12, dtype=torch.float64)
    explain = explainer(partial(methods.recipro_cam, kernel="point"), net, "first", layout=tokens((2, 3)))
    classes = torch.tensor([1, 4])
    patches = net.embed(x).flatten(2).mT  # type: ignore[operator]
    head = patches.mean(1, keepdim=True) + 1
    expected = torch.zeros(2, 6, dtype=torch.float64)
    for p in range(6):
        kept = torch.zeros_like(patches)
        kept[:, p] = patches[:, p]
        full = torch.cat([head, kept], 1)
        logits = net.head(net.attention(full, full, full, need_weights=False)[0][:, 0])  # type: ignore[operator]
        expected[:, p] = logits[torch.arange(2), classes].detach()
    close(explain(x, classes), expected.reshape(2, 2, 3))

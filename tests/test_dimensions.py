"""Series and volumes, end to end: networks that find two shapes by matched filters, so that the truth is known."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import explainer, image, layers, methods

SIZE = {1: (96,), 3: (16, 20, 24)}
CONV: dict[int, Any] = {1: nn.Conv1d, 3: nn.Conv3d}
POOL: dict[int, Any] = {1: nn.AdaptiveMaxPool1d, 3: nn.AdaptiveMaxPool3d}
AT = {1: ((20,), (60,)), 3: ((2, 3, 4), (9, 11, 14))}
"""Where the two shapes begin."""


def shapes(dims: int) -> Tensor:
    """A ramp and a block, (2, 1, *5), with zero mean."""
    line = torch.linspace(-1, 1, 5)
    ramp = line.reshape(-1, *(1,) * (dims - 1)).expand(*(5,) * dims)
    block = torch.zeros(*(5,) * dims)
    block[(slice(1, 4),) * dims] = 1
    both: Tensor = torch.stack([ramp, block - block.mean()])[:, None]
    length: Tensor = both.flatten(1).norm(dim=1)
    return both / length.reshape(-1, *(1,) * (dims + 1))


def network(dims: int) -> nn.Module:
    """A matched filter for each shape, its excess over a threshold, the best place, and a class for each."""
    filters = CONV[dims](1, 2, 5, padding=2)
    head = nn.Linear(2, 2)
    model = nn.Sequential(filters, nn.ReLU(), POOL[dims](1), nn.Flatten(), head)
    with torch.no_grad():
        filters.weight.copy_(shapes(dims))
        filters.bias.fill_(-0.5)
        head.weight.copy_(torch.eye(2))
        head.bias.zero_()
    return model.eval()


def signal(dims: int, batch: int = 2) -> Tensor:
    """Noise with both shapes in it, (B, 1, *S)."""
    x = 0.05 * torch.randn(batch, 1, *SIZE[dims], generator=torch.Generator().manual_seed(0))
    for shape, start in zip(shapes(dims), AT[dims], strict=True):
        x[(slice(None), slice(None), *(slice(s, s + 5) for s in start))] += 2 * shape
    return x


def peak(cam: Tensor) -> tuple[int, ...]:
    return tuple(int(i) for i in torch.unravel_index(cam.argmax(), cam.shape))


EVERYWHERE = ["grad_cam", "hires_cam", "elementwise_grad_cam", "xgrad_cam", "layer_cam", "odam", "ablation_cam"]
EVERYWHERE += ["recipro_cam", "lift_cam", "grad_cam_plusplus", "seg_eigen_cam", "fd_cam"]


@pytest.mark.parametrize("dims", [1, 3])
@pytest.mark.parametrize("name", EVERYWHERE)
def test_the_peak_of_a_map_is_where_the_shape_is(name: str, dims: int) -> None:
    model, x = network(dims), signal(dims)
    method = getattr(methods, name)
    if name == "recipro_cam":
        method = partial(method, kernel="point")
    explain = explainer(method, model, "1")
    for label in (0, 1):
        cam = explain(x, label)
        assert cam.shape == (2, *SIZE[dims])
        center = tuple(start + 2 for start in AT[dims][label])
        for one in cam:
            assert max(abs(a - b) for a, b in zip(peak(one), center, strict=True)) <= 1


@pytest.mark.parametrize("dims", [1, 3])
def test_rise_finds_the_shape_too(dims: int) -> None:
    model, x = network(dims), signal(dims)
    rise = partial(methods.rise, samples=600, grid=6, generator=torch.Generator().manual_seed(0))
    cam = explainer(rise, model, "1")(x, 1)
    inside = cam[(slice(None), *(slice(s, s + 5) for s in AT[dims][1]))].flatten(1).mean(1)
    other = cam[(slice(None), *(slice(s, s + 5) for s in AT[dims][0]))].flatten(1).mean(1)
    assert (inside > other).all()


@pytest.mark.parametrize("dims", [1, 3])
def test_a_layer_is_suggested(dims: int) -> None:
    best = layers.suggest(network(dims), signal(dims))[0]
    assert best.spatial == SIZE[dims]


@pytest.mark.parametrize("dims", [1, 3])
def test_upsampling_keeps_the_place(dims: int) -> None:
    cam = explainer(methods.hires_cam, network(dims), "1")(signal(dims), 1)
    size = tuple(3 * n for n in SIZE[dims])
    center = tuple(3 * (start + 2) + 1 for start in AT[dims][1])
    found = peak(image.upsample(cam, size)[0])
    assert max(abs(a - b) for a, b in zip(found, center, strict=True)) <= 3

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


# ------------------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_are_overlays_of_the_slices(axis: int) -> None:
    volume = torch.rand(5, 6, 7, generator=torch.Generator().manual_seed(0))
    heat = torch.rand(5, 6, 7, generator=torch.Generator().manual_seed(1))
    found = image.slices(volume, heat, axis=axis, count=3)
    last = volume.shape[axis] - 1
    for picture, n in zip(found, (0, last / 2, last), strict=True):
        index = round(n)
        photo = volume.select(axis, index).expand(3, -1, -1)
        wanted = image.overlay(photo, heat.select(axis, index)[None])[0]
        torch.testing.assert_close(picture, wanted)
    assert image.slices(volume, heat, axis=axis, count=99).shape[0] == volume.shape[axis]
    colored = (255 * volume).round().to(torch.uint8).expand(3, 5, 6, 7)
    assert image.slices(colored, heat[::2, ::2, ::2], axis=axis, count=3).shape == found.shape


def test_a_curve_goes_through_its_samples() -> None:
    series = torch.tensor([[0.0, 1.0, 2.0, 1.0], [3.0, 3.0, -1.0, 3.0]])
    found = image.curve(series, torch.zeros(4), height=9)
    assert found.shape == (3, 18, 4)
    assert set(found.flatten().tolist()) == {0.0, 1.0}
    for row, base in ((0, 0), (1, 9)):
        scaled = (series[row] - series[row].min()) / (series[row].max() - series[row].min())
        for column, value in enumerate(scaled.tolist()):
            assert found[:, base + round(8 * (1 - value)), column].sum() == 0
    flat = image.curve(torch.ones(4), torch.tensor([0.0, 1.0]), height=9)
    assert (flat[:, 8] == 0).all()
    assert (flat[:, 0, 0] == 1).all()
    assert flat[:, 0, 3].min() < 1


def test_boxes_are_drawn_where_they_are() -> None:
    photo = torch.zeros(3, 20, 30)
    found = image.boxes(photo, torch.tensor([[4.0, 5.0, 14.0, 12.0]]), color=(255, 0, 0))
    lit = found[0].nonzero()
    assert lit.amin(0).tolist() == [5, 4]
    assert lit.amax(0).tolist() == [12, 14]
    assert found[1:].sum() == 0
    assert torch.equal(image.boxes(photo, torch.zeros(0, 4)), photo)
    assert not torch.equal(image.boxes(photo, torch.tensor([[4.0, 5.0, 28.0, 19.0]]), ["a"], color=(255, 0, 0)), found)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: image.slices(torch.rand(4, 4), torch.rand(4, 4, 4)), r"volume \(D, H, W\)"),
        (lambda: image.slices(torch.rand(4, 4, 4), torch.rand(1, 4, 4, 4)), r"heatmap\[0\]"),
        (lambda: image.slices(torch.rand(4, 4, 4), torch.rand(4, 4, 4), axis=3), "axis 0, 1 or 2"),
        (lambda: image.slices(torch.rand(4, 4, 4), torch.rand(4, 4, 4), count=0), "at least one slice"),
        (lambda: image.curve(torch.rand(2, 2, 4), torch.rand(4)), r"series \(L,\)"),
        (lambda: image.curve(torch.rand(4), torch.rand(4), height=1), "height of at least 2"),
        (lambda: image.boxes(torch.rand(3, 4, 4), torch.rand(4)), r"shape \(N, 4\)"),
        (lambda: image.boxes(torch.rand(3, 4, 4), torch.tensor([[3.0, 0.0, 1.0, 2.0]])), "x0 <= x1"),
        (lambda: image.boxes(torch.rand(3, 4, 4), torch.zeros(1, 4), ["a", "b"]), "labels: expected one"),
    ],
)
def test_refusals(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()

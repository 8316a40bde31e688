"""Sizes of the image: the definition of CAMERAS in a loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from camfn import capture, methods
from camfn.transforms import multi_scale
from tests.nets.small import images, seeded, unchanged

from .common import LAYER, net64, x64


def up(x: Tensor, size: tuple[int, ...]) -> Tensor:
    return functional.interpolate(x, size, mode="bilinear", align_corners=False)


def cameras(net: nn.Module, x: Tensor, sizes: list[tuple[int, int]], target: int | None) -> Tensor:
    """By the paper, sample by sample: sizes whose top class is another are left out where no class is given."""
    maps = []
    for b in range(x.shape[0]):
        own = x[b : b + 1]
        scaled = [own] + [functional.interpolate(own, s, mode="bicubic", align_corners=False) for s in sizes]
        tops = [int(net(one).argmax()) for one in scaled]
        kept = [one for one, top in zip(scaled, tops, strict=True) if target is not None or top == tops[0]]
        found = [capture(net, "blocks.1")(one, tops[0] if target is None else target) for one in kept]
        a = torch.stack([up(one.activations, x.shape[2:]) for one in found]).mean(0)
        g = torch.stack([up(one.grads, x.shape[2:]) for one in found]).mean(0)
        maps.append((a * g).sum(1))
    return torch.cat(maps)


@pytest.mark.parametrize("target", [None, 2])
def test_multi_scale_is_cameras(target: int | None) -> None:
    net, x = net64(), torch.cat([x64(2), 60 * x64(2, seed=5)])
    sizes = [(12, 12), (16, 16), (5, 5), (24, 24)]
    with unchanged(net):
        found = multi_scale(methods.hires_cam, net, LAYER, [12, 16, (5, 5), 24])(x, target)
    torch.testing.assert_close(found, cameras(net, x, sizes, target))
    if target is None:
        tops = torch.stack(
            [net(functional.interpolate(x, s, mode="bicubic", align_corners=False)).argmax(1) for s in sizes]
        )
        assert (tops != net(x).argmax(1)).any()  # else nothing would show what is left out
        everywhere = multi_scale(methods.hires_cam, net, LAYER, [12, 16, (5, 5), 24], agree=False)(x)
        torch.testing.assert_close(everywhere, _with_classes(net, x, sizes, net(x).argmax(1)))


def _with_classes(net: nn.Module, x: Tensor, sizes: list[tuple[int, int]], classes: Tensor) -> Tensor:
    return torch.cat([cameras(net, x[b : b + 1], sizes, int(c)) for b, c in enumerate(classes)])


def test_its_own_size_alone_is_the_method_of_resized_activations() -> None:
    net, x = net64(), x64()
    captured = capture(net, LAYER)(x, 1)
    found = multi_scale(methods.hires_cam, net, LAYER, [8, (8, 8)])(x, 1)
    torch.testing.assert_close(found, (up(captured.activations, (8, 8)) * up(captured.grads, (8, 8))).sum(1))
    small = multi_scale(methods.hires_cam, net, LAYER, [8], size=captured.activations.shape[2:])(x, 1)
    torch.testing.assert_close(small, methods.hires_cam(*captured))


def test_shorter_sides_keep_the_proportions_of_the_image() -> None:
    net, sizes = net64(), []
    net.register_forward_pre_hook(lambda module, args: sizes.append(tuple(args[0].shape[2:])))
    found = multi_scale(methods.grad_cam, net, LAYER, [6, 12])(images(1, 3, 8, 12, dtype=torch.float64))
    assert sizes == [(8, 12), (6, 9), (12, 18)]
    assert found.shape == (1, 8, 12)


@pytest.mark.parametrize("size", [(9,), (6, 5, 4)])
def test_one_and_three_dimensions(size: tuple[int, ...]) -> None:
    conv: Any = {1: nn.Conv1d, 3: nn.Conv3d}[len(size)]
    pool: Any = {1: nn.AdaptiveAvgPool1d, 3: nn.AdaptiveAvgPool3d}[len(size)]
    net = seeded(lambda: nn.Sequential(conv(2, 4, 3), nn.Tanh(), pool(1), nn.Flatten()))
    assert multi_scale(methods.layer_cam, net, "1", [12])(images(2, 2, *size), 1).shape == (2, *size)


@pytest.mark.parametrize(
    ("sizes", "method", "words"),
    [
        ([], methods.hires_cam, "at least one"),
        ([(8, 8, 8)], methods.hires_cam, "sizes: expected"),
        ([0], methods.hires_cam, "sizes: expected"),
        ([12], methods.score_cam, "asks for chunk_size, forward, inputs"),
    ],
)
def test_what_has_no_sizes_is_refused(sizes: list[Any], method: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        multi_scale(method, net64(), LAYER, sizes)(x64())

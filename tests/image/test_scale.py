"""Upsampling and normalizing against scalar loops, and the peer's pipeline against the peer itself."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from camfn import image

from .common import SHAPES, randn


def naive_upsample(values: Any, size: tuple[int, ...]) -> Any:
    """One output pixel at a time, between the 2^n input pixels around its half-pixel center."""
    out = np.zeros(size)
    for place in itertools.product(*map(range, size)):
        corners = []
        for i, n_out, n_in in zip(place, size, values.shape, strict=True):
            source = max((i + 0.5) * n_in / n_out - 0.5, 0.0)
            low = int(source)
            corners.append([(low, 1 - (source - low)), (min(low + 1, n_in - 1), source - low)])
        for corner in itertools.product(*corners):
            out[place] += values[tuple(i for i, _ in corner)] * math.prod(weight for _, weight in corner)
    return out


@pytest.mark.parametrize(
    ("shape", "size"),
    [((5,), (13,)), ((4, 7), (9, 15)), ((4, 7), (3, 20)), ((6, 8), (3, 4)), ((4, 7), (4, 7)), ((3, 2, 5), (4, 5, 6))],
)
def test_upsample_equals_the_scalar_loop(shape: tuple[int, ...], size: tuple[int, ...]) -> None:
    cam = randn(2, *shape, dtype=torch.float64)
    expected = np.stack([naive_upsample(m.numpy(), size) for m in cam])
    torch.testing.assert_close(image.upsample(cam, size), torch.from_numpy(expected))


def test_upsample_equals_interpolate_and_takes_height_first() -> None:
    cam = randn(2, 7, 5)
    expected = torch.nn.functional.interpolate(cam[:, None], (64, 48), mode="bilinear", align_corners=False)[:, 0]
    assert torch.equal(image.upsample(cam, (64, 48)), expected)
    assert image.upsample(cam, torch.empty(3, 30, 40).shape[-2:]).shape == (2, 30, 40)


@pytest.mark.parametrize(
    ("shape", "size", "order"),
    [
        ((2, 7, 7), (224,), r"\(height, width\)"),
        ((2, 7, 7), (1, 3, 224, 224), r"\(height, width\)"),
        ((2, 7), (3, 9), r"\(length,\)"),
        ((2, 3, 7, 7), (9, 9), r"\(depth, height, width\)"),
        ((2, 7, 7), (0, 9), r"\(height, width\)"),
    ],
)
def test_upsample_names_the_order_when_the_size_does_not_fit(
    shape: tuple[int, ...], size: tuple[int, ...], order: str
) -> None:
    with pytest.raises(ValueError, match=order):
        image.upsample(torch.zeros(shape), size)


def test_upsample_refuses_other_ranks_and_a_bare_number() -> None:
    with pytest.raises(ValueError, match="one to three spatial dimensions"):
        image.upsample(torch.zeros(2, 1, 1, 1, 1), (2, 2, 2, 2))
    with pytest.raises(TypeError, match=r"\(height, width\)"):
        image.upsample(torch.zeros(2, 7, 7), 224)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", SHAPES)
def test_normalize_equals_the_scalar_loop(shape: tuple[int, ...]) -> None:
    cam = randn(3, *shape, dtype=torch.float64)
    for m, got, signed in zip(cam, image.normalize(cam), image.normalize(cam, signed=True), strict=True):
        clipped = [max(v, 0.0) for v in m.flatten().tolist()]
        low, high = min(clipped), max(clipped)
        peak = max(abs(v) for v in m.flatten().tolist())
        torch.testing.assert_close(got.flatten().tolist(), [(v - low) / (high - low) for v in clipped])
        torch.testing.assert_close(signed.flatten().tolist(), [(1 + v / peak) / 2 for v in m.flatten().tolist()])


@pytest.mark.parametrize("value", [0.0, 3.0, -3.0, 1e-30])
def test_normalize_of_a_constant_map(value: float) -> None:
    cam = torch.full((2, 3, 4), value)
    assert torch.equal(image.normalize(cam), torch.zeros(2, 3, 4))
    assert torch.equal(
        image.normalize(cam, signed=True), torch.full((2, 3, 4), (math.copysign(1, value) + 1) / 2 if value else 0.5)
    )


@pytest.mark.parametrize("signed", [False, True])
def test_normalize_does_not_depend_on_the_scale(signed: bool) -> None:
    cam = randn(2, 5, 6)
    for power in (-80, 80):  # powers of two: no rounding; far below and above any constant in a denominator
        assert torch.equal(image.normalize(cam * 2.0**power, signed=signed), image.normalize(cam, signed=signed))


def test_normalize_reaches_both_ends_and_keeps_signs() -> None:
    cam = randn(4, 6, 6)
    heat, signed = image.normalize(cam), image.normalize(cam, signed=True)
    assert torch.equal(heat.amin((1, 2)), torch.zeros(4))
    assert torch.equal(heat.amax((1, 2)), torch.ones(4))
    assert torch.equal(torch.sign(signed - 0.5), torch.sign(cam))
    assert torch.equal((signed - 0.5).abs().amax((1, 2)), torch.full((4,), 0.5))


def test_normalize_has_finite_exact_derivatives() -> None:
    cam = randn(2, 3, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(image.normalize, (cam,))
    assert torch.autograd.gradcheck(lambda m: image.normalize(m, signed=True), (cam,))
    flat = torch.zeros(1, 3, 4, requires_grad=True)
    (grad,) = torch.autograd.grad(image.normalize(flat).sum(), flat)
    assert torch.equal(grad, torch.zeros(1, 3, 4))


@pytest.fixture(scope="module")
def peer() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own imports warn
        return pytest.importorskip("pytorch_grad_cam", reason="needs grad-cam==1.5.7, in the extra camfn[bench]")


@pytest.mark.parametrize("size", [(64, 48), (7, 5), (14, 20), (4, 3), (9, 31)])
@pytest.mark.parametrize("scale", [1.0, 1e-7, 1e6])
def test_one_layer_equals_the_peers_functions(peer: Any, size: tuple[int, int], scale: float) -> None:
    from pytorch_grad_cam.utils.image import scale_cam_image

    cam = randn(3, 14, 10) * scale
    cam[2] = -1.0
    expected = scale_cam_image(scale_cam_image(np.maximum(cam.numpy(), 0), size[::-1]))
    got = image.peer_postprocess(cam, size)
    torch.testing.assert_close(got, torch.from_numpy(expected), atol=1e-6, rtol=1e-5)


def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, stride=2),
            nn.ReLU(),
            nn.Conv2d(12, 6, 3, stride=2),
            nn.Flatten(),
            nn.LazyLinear(5),
        ).eval()


def by_hand(model: nn.Sequential, layer: int, x: Tensor, classes: list[int], method: str) -> Tensor:
    """Raw map of a layer of a chain, by torch.autograd.grad."""
    activations = model[: layer + 1](x).detach().requires_grad_()
    scores = model[layer + 1 :](activations)[torch.arange(len(classes)), classes]
    (grads,) = torch.autograd.grad(scores.sum(), activations)
    weights = grads.mean((2, 3), keepdim=True) if method == "GradCAM" else grads
    raw: Tensor = (weights * activations).sum(1)
    return raw.detach()


@pytest.mark.parametrize("layers", [[4], [2], [0, 2, 4]])
@pytest.mark.parametrize("method", ["GradCAM", "HiResCAM"])
def test_raw_maps_postprocessed_equal_the_peer_end_to_end(peer: Any, method: str, layers: list[int]) -> None:
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    x, classes = randn(3, 3, 25, 38), [4, 0, 2]
    model = net()
    model(x)
    raw = [by_hand(model, layer, x, classes, method) for layer in layers]
    got = image.peer_postprocess(raw if len(raw) > 1 else raw[0], x.shape[-2:])
    with getattr(peer, method)(model=model, target_layers=[model[layer] for layer in layers]) as cam:
        expected = cam(x, targets=[ClassifierOutputTarget(c) for c in classes])
    assert got.shape == (3, 25, 38)
    assert (got.amax((1, 2)) > 0.9).sum() >= 2
    torch.testing.assert_close(got, torch.from_numpy(expected), atol=1e-5, rtol=1e-5)


def test_peer_postprocess_refuses_what_the_pipeline_has_no_place_for() -> None:
    for cams in ([], torch.zeros(2, 3, 4, 4), [torch.zeros(4, 4)]):
        with pytest.raises(ValueError, match=r"\(B, h, w\)"):
            image.peer_postprocess(cams, (8, 8))
    with pytest.raises(ValueError, match=r"\(height, width\)"):
        image.peer_postprocess(torch.zeros(2, 4, 4), (3, 8, 8))

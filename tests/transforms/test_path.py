"""Paths: definitions in loops, completeness, affine tails, and what they cost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import explainer, methods, resume
from camfn._shared.quadrature import gauss_legendre
from camfn.transforms import path_integral
from tests.nets.small import images, seeded, unchanged

from .common import LAYER, generator, net64, x64


class Counting(nn.Module):
    """Keeps the batch size of each of its runs."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.rows.append(x.shape[0])
        return x


class Smooth(nn.Module):
    """A smooth tail after the first convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.before = Counting()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.tail = nn.Sequential(nn.Tanh(), nn.Flatten(), nn.Linear(256, 6), nn.Tanh(), nn.Linear(6, 5))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.tail(self.conv(self.before(x)))
        return out


def smooth_net() -> nn.Module:
    return seeded(Smooth, dtype=torch.float64)


@pytest.mark.parametrize("baseline", ["zero", "number", "tensor"])
def test_completeness_along_a_path_of_activations(baseline: str) -> None:
    net, x = smooth_net(), x64()
    starts: dict[str, Any] = {"zero": 0.0, "number": 0.3, "tensor": images(2, 4, 8, 8, dtype=torch.float64, seed=7)}
    start = starts[baseline]
    explain = path_integral(methods.hires_cam, net, "conv", space="activations", baseline=start, steps=24)
    with unchanged(net):
        cam = explain(x, [1, 2])
    tail = resume(net, "conv")(x)
    a = net.get_submodule("conv")(x)
    gained = tail(a) - tail(torch.zeros_like(a) + start)
    torch.testing.assert_close(cam.sum((1, 2)), gained[[0, 1], [1, 2]], rtol=1e-9, atol=1e-9)


def test_completeness_needs_the_points() -> None:
    net, x = smooth_net(), x64()
    tail = resume(net, "conv")(x)
    a = net.get_submodule("conv")(x)
    gained = (tail(a) - tail(torch.zeros_like(a)))[:, 1]
    off = []
    for steps in (1, 4, 16):
        cam = path_integral(methods.hires_cam, net, "conv", space="activations", steps=steps)(x, 1)
        off.append(float((cam.sum((1, 2)) - gained).detach().abs().max()))
    assert off[0] > 10 * off[1] > 100 * off[2]


def test_a_mean_over_baselines_is_the_mean_of_the_maps() -> None:
    net, x = smooth_net(), x64()
    starts = images(3, 2, 4, 8, 8, dtype=torch.float64, seed=7)
    options: dict[str, Any] = {"space": "activations", "steps": 6}
    found = path_integral(methods.hires_cam, net, "conv", baseline=starts, **options)(x, 1)
    each = [path_integral(methods.hires_cam, net, "conv", baseline=one, **options)(x, 1) for one in starts]
    torch.testing.assert_close(found, torch.stack(each).mean(0))


@pytest.mark.parametrize("method", ["grad_cam", "hires_cam", "xgrad_cam", "layer_cam", "grad_cam_plusplus"])
def test_over_an_affine_tail_every_method_is_itself(method: str) -> None:
    net, x = net64(), x64()  # pooling and a linear layer follow the last block
    chosen = getattr(methods, method)
    found = path_integral(chosen, net, LAYER, space="activations", steps=3)(x, [1, 2])
    torch.testing.assert_close(found, explainer(chosen, net, LAYER)(x, [1, 2]))


@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("difference", [True, False])
@pytest.mark.parametrize("average", ["grads", "maps"])
@pytest.mark.parametrize("space", ["inputs", "activations"])
def test_it_is_its_definition(space: Any, average: Any, difference: bool, chunk_size: int | None) -> None:
    net, x = smooth_net(), x64()
    conv, tail = net.get_submodule("conv"), net.get_submodule("tail")
    end = x if space == "inputs" else conv(x).detach()
    start = images(*end.shape, dtype=torch.float64, seed=8)
    nodes, lengths = gauss_legendre(5)
    origin = (conv(start) if space == "inputs" else start).detach() if difference else torch.zeros(2, 4, 8, 8)
    expected, mean = [], torch.zeros(2, 4, 8, 8, dtype=torch.float64)
    for t, w in zip(nodes, lengths, strict=True):
        point = start + t * (end - start)
        a = (conv(point) if space == "inputs" else point).detach().requires_grad_()
        (g,) = torch.autograd.grad(tail(a)[[0, 1], [1, 2]].sum(), a)
        mean += w * g
        expected.append(w * methods.grad_cam(a.detach() - origin, g).relu())
    wanted = sum(expected) if average == "maps" else methods.grad_cam(conv(x).detach() - origin, mean)
    explain = path_integral(
        methods.grad_cam,
        net,
        "conv",
        space=space,
        average=average,
        baseline=start,
        steps=5,
        difference=difference,
        rectified=average == "maps",
        chunk_size=chunk_size,
    )
    torch.testing.assert_close(explain(x, [1, 2]), wanted)


def test_the_top_class_is_that_of_the_sample() -> None:
    net, x = net64(), x64()
    top = net(x).argmax(1)
    options: dict[str, Any] = {"space": "inputs", "baseline": 30.0, "steps": 4}
    path = [30.0 + t * (x - 30.0) for t in gauss_legendre(4)[0]]
    assert any(not torch.equal(net(point).argmax(1), top) for point in path)
    found = path_integral(methods.grad_cam, net, LAYER, **options)
    torch.testing.assert_close(found(x), found(x, top))


def test_noise_is_drawn_from_the_generator_alone() -> None:
    net, x = smooth_net(), x64()
    state = torch.get_rng_state()
    for space in ("inputs", "activations"):
        found = [
            path_integral(methods.grad_cam, net, "conv", space=space, std=0.5, generator=generator(s))(x, 1)
            for s in (0, 0, 1)
        ]
        assert torch.equal(found[0], found[1])
        assert not torch.equal(found[0], found[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_forwards_through_the_input_and_none_through_the_activations() -> None:
    net, x = smooth_net(), x64()
    before = net.get_submodule("before")
    assert isinstance(before, Counting)
    path_integral(methods.grad_cam, net, "conv", space="activations", steps=4)(x)
    assert before.rows == [2]
    before.rows.clear()
    path_integral(methods.grad_cam, net, "conv", space="inputs", steps=4)(x)
    assert before.rows == [2, 2, 8]


@pytest.mark.parametrize("space", ["inputs", "activations"])
def test_a_batch_is_its_samples_and_vmap_the_loop(space: Any) -> None:
    net, x = smooth_net(), x64()
    explain = path_integral(methods.layer_cam, net, "conv", space=space, steps=3)
    torch.testing.assert_close(explain(x)[1:], explain(x[1:]))
    classes = torch.arange(5)
    looped = torch.stack([explain(x, c) for c in classes])
    torch.testing.assert_close(torch.vmap(lambda c: explain(x, c))(classes), looped)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("space", ["inputs", "activations"])
def test_types_are_kept(space: Any, dtype: torch.dtype) -> None:
    net, x = smooth_net().to(dtype), x64().to(dtype)
    found = path_integral(methods.grad_cam, net, "conv", space=space)(x, 1)
    exact = path_integral(methods.grad_cam, smooth_net(), "conv", space=space)(x64(), 1)
    assert found.dtype is dtype
    torch.testing.assert_close(found.double(), exact, rtol=0.1, atol=0.02 if dtype is torch.bfloat16 else 1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": methods.eigen_cam}, "gradient method"),
        ({"method": methods.ablation_cam}, "gradient method"),
        ({"space": "input"}, "'inputs' or 'activations'"),
        ({"average": "map"}, "'grads' or 'maps'"),
        ({"steps": 0}, "steps: expected a whole number from 1"),
        ({"std": 1.0}, "generator"),
        ({"rectified": True}, "average='maps'"),
        ({"baseline": torch.ones(2, 4, 7, 8)}, r"\(2, 4, 8, 8\)"),
        ({"baseline": torch.ones(0, 2, 4, 8, 8)}, "at least one baseline"),
        ({"baseline": torch.ones(1, 1, 2, 4, 8, 8)}, r"\(n, \*\(2, 4, 8, 8\)\)"),
    ],
)
def test_what_has_no_integral_is_refused(options: dict[str, Any], words: str) -> None:
    given = {"method": methods.grad_cam, "space": "activations", **options}
    with pytest.raises(ValueError, match=words):
        path_integral(given.pop("method"), smooth_net(), "conv", **given)(x64(), 1)


def test_noise_may_be_given() -> None:
    net, x = net64(), x64()
    source = generator(0)
    drawn = torch.stack([torch.randn(x.shape, generator=source) for _ in range(3)])
    what: dict[str, Any] = {"space": "inputs", "steps": 3, "std": 0.3}
    want = path_integral(methods.grad_cam, net, LAYER, **what, generator=generator(0))(x, 1)
    torch.testing.assert_close(path_integral(methods.grad_cam, net, LAYER, **what, noise=drawn)(x, 1), want)
    with pytest.raises(ValueError, match=r"one for each of the 3 steps, \(3, ...\), got shape \(2,"):
        path_integral(methods.grad_cam, net, LAYER, **what, noise=drawn[:2])
    with pytest.raises(ValueError, match="one of generator and noise, got neither"):
        path_integral(methods.grad_cam, net, LAYER, **what)

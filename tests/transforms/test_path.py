"""Paths and sizes: definitions in loops, completeness, affine tails, and what they cost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from camfn import capture, explainer, methods, resume, targets
from camfn._shared.quadrature import gauss_legendre
from camfn.transforms import augment, eigen_smooth, flip, fuse, multi_scale, multiply, path_integral, smooth
from tests.nets.small import images, seeded, unchanged
from tests.transforms.test_transforms import generator, net64, x64

LAYER = "blocks.1"


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


# ------------------------------------------------------------------------------------------------------ path_integral


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
        ({"steps": 0}, "at least 1 step"),
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


# -------------------------------------------------------------------------------------------------------- multi_scale


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
        ([(8, 8, 8)], methods.hires_cam, "expected numbers of pixels"),
        ([0], methods.hires_cam, "expected numbers of pixels"),
        ([12], methods.score_cam, "asks for chunk_size, forward, inputs"),
    ],
)
def test_what_has_no_sizes_is_refused(sizes: list[Any], method: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        multi_scale(method, net64(), LAYER, sizes)(x64())


# -------------------------------------------------------------------------------------------------------- composition


def test_all_of_them_compose() -> None:
    net, x = net64(), x64()
    eigen = eigen_smooth(methods.grad_cam)
    path = path_integral(eigen, net, LAYER, space="inputs", steps=3)
    scales = multi_scale(eigen, net, LAYER, [12])
    for explain in (path, scales, fuse(eigen, net, ["stem", LAYER])):
        expected = (explain(x) + explain(x.flip(-1), net(x).argmax(1)).flip(-1)) / 2
        torch.testing.assert_close(augment(explain, [multiply(1), flip(-1)])(x, net(x).argmax(1)), expected)
        assert smooth(augment(explain, "flips"), 2, generator=generator())(x).shape == expected.shape
        assert augment(smooth(explain, 2, generator=generator()), "flips")(x).shape == expected.shape
    assert path(x, targets.contrast()).isfinite().all()

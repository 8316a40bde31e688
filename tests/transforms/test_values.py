"""Transformations as values: printed, compared, pickled, copied, replaced; the input they change; their derivatives."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vjp

from camfn import CamfnError, explainer, methods
from camfn.transforms import (
    Augmentation,
    augment,
    eigen_smooth,
    flip,
    fuse,
    multi_scale,
    multiply,
    path_integral,
    smooth,
)
from tests.nets.small import images, seeded

from .common import LAYER, generator, net64, x64

NOISE = images(3, 2, 3, 8, 8, dtype=torch.float64, seed=5)
Make = Callable[..., Any]


def fused(net: nn.Module, method: Any = methods.grad_cam, **options: Any) -> Any:
    return fuse(method, net, ["blocks.0", LAYER], scaling="none", **options)


def path(net: nn.Module, method: Any = methods.grad_cam, **options: Any) -> Any:
    return path_integral(method, net, LAYER, space="inputs", steps=2, average="maps", **options)


def scales(net: nn.Module, method: Any = methods.grad_cam, **options: Any) -> Any:
    return multi_scale(method, net, LAYER, [12], **options)


def smoothed(net: nn.Module, method: Any = methods.grad_cam, **options: Any) -> Any:
    return smooth(explainer(method, net, LAYER, **options), 3, noise=NOISE)


def augmented(net: nn.Module, method: Any = methods.grad_cam, **options: Any) -> Any:
    return augment(explainer(method, net, LAYER, **options))


COMPOSED = [fused, path, scales]
every_composed = pytest.mark.parametrize("make", COMPOSED)
every_one = pytest.mark.parametrize("make", [*COMPOSED, smoothed, augmented])


# -------------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (fused(net64(), how="max"), "fuse(grad_cam, Net, ['blocks.0', 'blocks.1'], how='max', scaling='none')"),
        (
            path(net64(), partial(methods.layer_cam), baseline=0.5),
            "path_integral(partial(layer_cam), Net, 'blocks.1', space='inputs', average='maps', baseline=0.5, steps=2)",
        ),
        (scales(net64(), agree=True), "multi_scale(grad_cam, Net, 'blocks.1', [12], agree=True)"),
        (eigen_smooth(methods.hires_cam, centered=True), "eigen_smooth(hires_cam, centered=True)"),
        (
            smooth(methods.eigen_cam, 4, std=0.1, noise=torch.ones(9)),
            "smooth(eigen_cam, 4, std=0.1, noise=<tensor (9,)>)",
        ),
        (
            augment(fused(net64()), "flips"),
            "augment(fuse(grad_cam, Net, ['blocks.0', 'blocks.1'], scaling='none'), 'flips')",
        ),
        (augment(methods.eigen_cam, images="rgb"), "augment(eigen_cam, images='rgb')"),
    ],
)
def test_the_text_reads_like_the_call(value: Any, text: str) -> None:
    assert repr(value) == text


def test_augmentations_are_values() -> None:
    assert repr(flip(-1)) == "Augmentation(flip(-1), flip(-1), flip(-1))"
    assert flip(-1, -2) == pickle.loads(pickle.dumps(flip(-1, -2))) != flip(-2)
    assert multiply(0.5) == copy.deepcopy(multiply(0.5)) != multiply(0.25)
    assert len({flip(), flip(-1), multiply(2), multiply(2), Augmentation(abs, abs)}) == 3


@every_composed
def test_equal_by_what_they_hold(make: Make) -> None:
    net = net64()
    assert make(net) == make(net)
    assert hash(make(net)) == hash(make(net))
    assert make(net) != make(net64())
    assert make(net) != make(net, methods.hires_cam)
    assert make(net) != make(net, differentiable=True)


@every_composed
@pytest.mark.parametrize("wrap", [lambda one: one, lambda one: augment(one, [flip(-1), multiply(0.5)])])
def test_copies_explain_the_copy(make: Make, wrap: Callable[[Any], Any]) -> None:
    net, x = net64(), x64()
    explain = wrap(make(net))
    expected = explain(x, 1)
    copied, pickled = copy.deepcopy(explain), pickle.loads(pickle.dumps(explain))
    assert copy.copy(explain) == explain == replace(explain)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(-0.5)
    assert not torch.allclose(explain(x, 1), expected)
    torch.testing.assert_close(copied(x, 1), expected)
    torch.testing.assert_close(pickled(x, 1), expected)


class Holder(nn.Module):
    """A module that holds its explainer, with a layer given as a module."""

    def __init__(self, make: Callable[[nn.Module, Any], Any]) -> None:
        super().__init__()
        self.net = net64()
        self.explain = make(self.net, self.net.get_submodule(LAYER))


@pytest.mark.parametrize(
    "make",
    [
        lambda net, layer: fuse(methods.grad_cam, net, [layer]),
        lambda net, layer: path_integral(methods.grad_cam, net, layer, space="activations", steps=2),
        lambda net, layer: multi_scale(methods.grad_cam, net, layer, [12]),
    ],
)
def test_a_copied_module_explains_itself(make: Any) -> None:
    holder, x = Holder(make), x64()
    copied = copy.deepcopy(holder)
    assert copied.explain.model is copied.net
    with torch.no_grad():
        for parameter in copied.net.parameters():
            parameter.mul_(-0.5)
    torch.testing.assert_close(copied.explain(x, 1), make(copied.net, copied.net.get_submodule(LAYER))(x, 1))


def test_replaced_options_are_checked() -> None:
    net, x = net64(), x64()
    explain = fused(net)
    torch.testing.assert_close(
        replace(explain, layers=[LAYER])(x, 1), fuse(methods.grad_cam, net, LAYER, scaling="none")(x, 1)
    )
    for value, change in (
        (explain, {"layers": "blocks.7"}),
        (explain, {"how": "sum"}),
        (explain, {"scaling": "some"}),
        (path(net), {"steps": 0}),
        (path(net), {"space": "layer"}),
        (path(net), {"chunk_size": 0}),
        (scales(net), {"sizes": []}),
        (scales(net), {"method": methods.score_cam}),
        (augment(explain), {"transforms": "turns"}),
        (augment(explain), {"chunk_size": -1}),
        (smoothed(net), {"std": -1.0}),
        (smoothed(net), {"generator": generator()}),
        (eigen_smooth(methods.grad_cam), {"method": methods.eigen_cam}),
    ):
        with pytest.raises(CamfnError):
            replace(value, **change)


# --------------------------------------------------------------------------------------------------------- which input


class Two(nn.Module):
    """An rgb branch and a depth branch, and a table that weighs the classes."""

    def __init__(self) -> None:
        super().__init__()
        self.rgb, self.depth = (
            nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 5, 3, padding=1))
            for channels in (3, 1)
        )

    def forward(self, table: Tensor, rgb: Tensor, depth: Tensor) -> Tensor:
        out: Tensor = (self.rgb(rgb).tanh() + self.depth(depth).tanh() * table.sum(1)[:, None, None, None]).mean((2, 3))
        return out


def two() -> tuple[nn.Module, dict[str, Tensor]]:
    shapes = {"table": (2, 6), "rgb": (2, 3, 8, 8), "depth": (2, 1, 8, 8)}
    return seeded(Two, dtype=torch.float64), {
        name: images(*shape, dtype=torch.float64, seed=i) for i, (name, shape) in enumerate(shapes.items())
    }


def test_augment_moves_all_that_have_space() -> None:
    net, inputs = two()
    explain = explainer(methods.hires_cam, net, "depth.1")
    both = {**inputs, "rgb": inputs["rgb"].flip(-1), "depth": inputs["depth"].flip(-1)}
    expected = (explain(inputs, 2) + explain(both, 2).flip(-1)) / 2
    torch.testing.assert_close(augment(explain, "flips")(inputs, 2), expected)
    torch.testing.assert_close(augment(explain, "flips")(tuple(inputs.values()), 2), expected)
    torch.testing.assert_close(augment(explain, "flips", images=["rgb", "depth"])(inputs, 2), expected)
    alone = {**inputs, "depth": inputs["depth"] * 3}
    torch.testing.assert_close(augment(explain, [multiply(3)], images="depth")(inputs, 2), explain(alone, 2))


@pytest.mark.parametrize("which", ["rgb", "depth"])
@pytest.mark.parametrize("make", ["smooth", "path", "scales"])
def test_one_of_several_is_named(make: str, which: str) -> None:
    net, inputs = two()
    layer = f"{which}.1"
    if make == "smooth":
        noise = images(1, *inputs[which].shape, dtype=torch.float64, seed=7)
        ask: Any = smooth(explainer(methods.hires_cam, net, layer), 1, noise=noise, relative=False)
        changed = {**inputs, which: inputs[which] + 0.15 * noise[0]}
        expected = explainer(methods.hires_cam, net, layer)(changed, 2)
    elif make == "path":
        ask = path_integral(methods.hires_cam, net, layer, space="inputs", average="maps", steps=1, difference=False)
        expected = explainer(methods.hires_cam, net, layer)({**inputs, which: inputs[which] / 2}, 2)
    else:
        # depth and rgb are added, so only one size fits both
        ask = multi_scale(methods.hires_cam, net, layer, [8])
        expected = explainer(methods.hires_cam, net, layer)(inputs, 2)
    with pytest.raises(CamfnError, match=r"images='rgb' of shape .*images='depth' of shape"):
        ask(inputs, 2)
    torch.testing.assert_close(replace(ask, images=which)(inputs, 2), expected)
    place = list(inputs).index(which)
    torch.testing.assert_close(replace(ask, images=place)(tuple(inputs.values()), 2), expected)


PERTURBING: dict[str, dict[str, Any]] = {
    "score_cam": {},
    "group_cam": {"groups": 2},
    "is_cam": {},
    "ss_cam": {"generator": 0},
    "poly_cam": {},
    "opti_cam": {},
    "vit_cx": {"generator": 0},
    "rise": {"generator": 0},
}


def drawing(name: str) -> Callable[..., Tensor]:
    """A method with its options, with a generator at its beginning if it draws."""
    options = {key: generator() if key == "generator" else value for key, value in PERTURBING[name].items()}
    return partial(getattr(methods, name), **options)


@pytest.mark.parametrize("which", ["rgb", "depth"])
@pytest.mark.parametrize("name", PERTURBING)
def test_methods_that_perturb_change_the_one_that_is_named(name: str, which: str) -> None:
    """As they do on the network of that input alone, the others bound."""
    net, inputs = two()
    explain = explainer(drawing(name), net, f"{which}.1", images=which)
    with pytest.raises(CamfnError, match=r"images='rgb' of shape .*images='depth' of shape"):
        replace(explain, images=None)(inputs, 2)

    class Bound(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.net(**{**inputs, which: x})
            return out

    alone = explainer(drawing(name), Bound(), f"net.{which}.1")
    torch.testing.assert_close(explain(inputs, 2), alone(inputs[which], 2))
    fusing = fuse(drawing(name), net, f"{which}.1", scaling="none", images=which)
    alone = replace(alone, method=drawing(name))
    torch.testing.assert_close(fusing(inputs, 2), alone(inputs[which], 2))


def test_the_same_tensor_twice_is_two_inputs() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net64()

        def forward(self, one: Tensor, other: Tensor) -> Tensor:
            out: Tensor = self.net(one) * self.net(other)
            return out

    net, x = Pair(), x64()
    explain = explainer(methods.grad_cam, net, f"net.{LAYER}", call=0)
    for ask in (smooth(explain, 3, noise=NOISE, images=1), augment(explain, "flips")):
        torch.testing.assert_close(ask((x, x), 1), ask((x, x.clone()), 1))


# --------------------------------------------------------------------------------------------------------- derivatives


def smooth_net() -> nn.Module:
    """Smooth everywhere, so that finite differences are near."""
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.Tanh(),
            nn.Conv2d(4, 5, 3, stride=2, padding=1),
            nn.Tanh(),
            nn.Conv2d(5, 4, 3),
            nn.Softplus(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 5),
        ),
        dtype=torch.float64,
    )


DIFFERENTIABLE: list[Callable[[nn.Module], Any]] = [
    lambda net: fuse(methods.grad_cam, net, ["1", "3"], scaling="none", differentiable=True),
    lambda net: fuse(methods.grad_cam, net, ["1", "3"], how="product", differentiable=True),
    lambda net: path_integral(methods.grad_cam, net, "3", space="inputs", average="maps", steps=2, differentiable=True),
    lambda net: path_integral(methods.hires_cam, net, "3", space="inputs", steps=2, baseline=0.3, differentiable=True),
    lambda net: path_integral(
        methods.hires_cam, net, "3", space="activations", average="maps", steps=2, differentiable=True
    ),
    lambda net: path_integral(methods.grad_cam, net, "3", space="activations", baseline=0.3, differentiable=True),
    lambda net: fuse(methods.ablation_cam, net, ["1", "3"], scaling="none", differentiable=True),
    lambda net: multi_scale(methods.hires_cam, net, "3", [12], differentiable=True),
    lambda net: augment(explainer(methods.grad_cam, net, "3", differentiable=True), [multiply(0.7), flip(-1)]),
    lambda net: smooth(explainer(methods.layer_cam, net, "3", differentiable=True), 3, noise=NOISE),
    lambda net: explainer(eigen_smooth(methods.grad_cam), net, "3", differentiable=True),
]


@pytest.mark.parametrize("make", DIFFERENTIABLE)
def test_derivatives_are_finite_differences(make: Any) -> None:
    """In the images, and in the parameters before, at and after the layer."""
    net, x = smooth_net(), x64()
    explain = make(net)
    weights = images(*explain(x, 1).shape, dtype=torch.float64, seed=8)
    names = ["0.weight", "2.weight", "2.bias", "4.weight", "8.weight"]
    given = {name: net.get_parameter(name).detach() for name in names}
    moves = {name: images(*value.shape, dtype=torch.float64, seed=i) for i, (name, value) in enumerate(given.items())}

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = (explain(x, 1) * weights).sum()
            return out

    whole = Whole()

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        out: Tensor = functional_call(whole, {f"net.{name}": value for name, value in parameters.items()}, (x,))
        return out

    by_parameter, by_image = grad(loss, argnums=(0, 1))(given, x)
    step = 1e-5
    for name, move in moves.items():
        ahead, behind = ({**given, name: given[name] + sign * step * move} for sign in (1, -1))
        expected = (loss(ahead, x) - loss(behind, x)) / (2 * step)
        torch.testing.assert_close((by_parameter[name] * move).sum(), expected, rtol=1e-5, atol=1e-9)
    move = images(*x.shape, dtype=torch.float64, seed=9)
    expected = (loss(given, x + step * move) - loss(given, x - step * move)) / (2 * step)
    assert expected.abs() > 1e-7
    torch.testing.assert_close((by_image * move).sum(), expected, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(jvp(lambda x: loss(given, x), (x,), (move,))[1], expected, rtol=1e-5, atol=1e-9)
    plain = x.clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(loss(given, plain), plain)[0], by_image)


@every_one
def test_reverse_mode_without_a_graph_is_refused(make: Make) -> None:
    net, x = net64(), x64()
    explain = make(net)

    def total(x: Tensor) -> Tensor:
        out: Tensor = explain(x, 1).sum()
        return out

    if make in COMPOSED:
        for ask in (lambda: grad(total)(x), lambda: jacrev(total)(x), lambda: vjp(total, x)):
            with pytest.raises(CamfnError, match="differentiable=True"):
                ask()
    kept = make(net, differentiable=True)
    assert grad(lambda x: kept(x, 1).sum())(x).any()
    move = images(*x.shape, dtype=torch.float64, seed=4)
    step = 1e-6
    expected = (total(x + step * move) - total(x - step * move)) / (2 * step)
    torch.testing.assert_close((jacfwd(total)(x) * move).sum(), expected, rtol=1e-4, atol=1e-7)

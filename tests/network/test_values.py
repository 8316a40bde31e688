"""Methods of a network as values: printed, compared, pickled, copied, replaced; the input they explain; derivatives."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vjp

from camfn import CamfnError, network
from camfn.transforms import augment
from tests.nets.small import images, seeded
from tests.network.cases import AT_A_LAYER, CASES, Case, Plain, layer_of

X = images(2, 3, 7, 6, dtype=torch.float64)
RULED = [case for case in CASES if case.name in ("guided_backprop", "deconvnet", "guided_grad_cam")]
every_case = pytest.mark.parametrize("case", CASES, ids=str)


def plain() -> nn.Module:
    return seeded(Plain, dtype=torch.float64)


def changed(net: nn.Module) -> None:
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(-0.7)


# -------------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (network.full_grad(plain()), "full_grad(Plain)"),
        (network.input_gradient(plain(), images="rgb"), "input_gradient(Plain, images='rgb')"),
        (
            network.integrated_gradients(plain(), steps=3, baseline=1.0),
            "integrated_gradients(Plain, baseline=1.0, steps=3)",
        ),
        (network.smooth_grad(plain(), noise=X), "smooth_grad(Plain, noise=<tensor (2, 3, 7, 6)>)"),
        (network.guided_grad_cam(plain(), "first"), "guided_grad_cam(Plain, 'first')"),
        (
            network.smooth_grad_cam_plusplus(plain(), "first", noise=X),
            "smooth_grad_cam_plusplus(Plain, 'first', noise=<tensor (2, 3, 7, 6)>)",
        ),
        (network.unguided(plain()), "unguided(Plain)"),
        (augment(network.deconvnet(plain()), "flips"), "augment(deconvnet(Plain), 'flips')"),
    ],
)
def test_the_text_reads_like_the_call(value: Any, text: str) -> None:
    assert repr(value) == text


@every_case
def test_copies_explain_the_copy(case: Case) -> None:
    net = plain()
    explain: Any = case.build(net, X)
    expected = explain(X, 1)
    assert explain == case.build(net, X) == replace(explain) == copy.copy(explain) != case.build(plain(), X)
    assert hash(explain) == hash(case.build(net, X))
    assert replace(explain, images=0) != explain
    copied, pickled = copy.deepcopy(explain), pickle.loads(pickle.dumps(explain))
    changed(net)
    assert not torch.allclose(explain(X, 1), expected)
    torch.testing.assert_close(copied(X, 1), expected)
    torch.testing.assert_close(pickled(X, 1), expected)


@every_case
def test_a_copied_module_explains_itself(case: Case) -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = plain()
            self.explain: Any = case.build(self.net, X)

    copied = copy.deepcopy(Holder())
    assert copied.explain.model is copied.net
    changed(copied.net)
    torch.testing.assert_close(copied.explain(X, 1), case.build(copied.net, X)(X, 1))


def test_replaced_options_are_checked() -> None:
    net = plain()
    for value, change in (
        (network.integrated_gradients(net), {"steps": 0}),
        (network.integrated_gradients(net), {"rule": "simpson"}),
        (network.smooth_grad(net, noise=X[None]), {"noise": None}),
        (network.smooth_full_grad(net, noise=X[None]), {"std": -1.0}),
        (network.guided_grad_cam(net, "first"), {"layer": "third"}),
        (network.full_grad(net), {"model": "net"}),
    ):
        with pytest.raises(CamfnError):
            replace(value, **change)


def test_noise_for_all_images_alike() -> None:
    noise = images(3, 1, 3, 7, 6, dtype=torch.float64, seed=3)
    for method in (network.smooth_grad, network.smooth_full_grad):
        one, other = (method(plain(), noise=given)(X, 1) for given in (noise, noise.expand(3, 2, 3, 7, 6)))
        assert torch.equal(one, other)


# --------------------------------------------------------------------------------------------------------- which input


class Late(nn.Module):
    """The scores of an rgb and of a depth network, weighed by a table."""

    def __init__(self) -> None:
        super().__init__()
        self.rgb, self.depth = plain(), plain()

    def forward(self, table: Tensor, rgb: Tensor, depth: Tensor) -> Tensor:
        out: Tensor = self.rgb(rgb) * table[:, :1] + self.depth(depth.tile(1, 3, 1, 1)) * table[:, 1:]
        return out


class Bound(nn.Module):
    """The same of one input, with the others bound."""

    def __init__(self, net: nn.Module, inputs: dict[str, Tensor], name: str) -> None:
        super().__init__()
        self.net, self.inputs, self.name = net, inputs, name

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(**{**self.inputs, self.name: x})
        return out


@every_case
@pytest.mark.parametrize("name", ["rgb", "depth"])
def test_one_of_several_inputs(case: Case, name: str) -> None:
    net = seeded(Late, dtype=torch.float64)
    inputs = {
        "table": images(2, 2, dtype=torch.float64),
        "rgb": X,
        "depth": images(2, 1, 7, 6, dtype=torch.float64, seed=4),
    }
    options = {**case.options, **case.tensors(inputs[name])}
    if layer_of(case.name, plain()):
        options["layer"] = f"{name}.first"
    method = getattr(network, case.name)
    with pytest.raises(CamfnError, match=r"images='rgb' of shape .*images='depth' of shape"):
        method(net, **options)(inputs, 1)
    found = method(net, images=name, **options)(inputs, 1)
    by_place = method(net, images=list(inputs).index(name), **options)(tuple(inputs.values()), 1)
    assert torch.equal(found, by_place)
    if "full" not in case.name and case.name not in AT_A_LAYER:
        torch.testing.assert_close(found, method(Bound(net, inputs, name), **options)(inputs[name], 1))


@every_case
def test_a_table_beside_the_image(case: Case) -> None:
    class Weighed(Plain):
        def forward(self, table: Tensor, x: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x) * table

    net = seeded(Weighed, dtype=torch.float64)
    found = case.build(net, X)((torch.ones(2, 4, dtype=torch.float64), X), 1)
    torch.testing.assert_close(found, case.build(plain(), X)(X, 1))


# --------------------------------------------------------------------------------------------------------- derivatives


def smooth_net() -> nn.Module:
    """Few kinks, of ReLUs that guided backpropagation asks for, and smooth elsewhere."""
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 5, 3, stride=2, padding=1)]
    head = [nn.ReLU(), nn.Conv2d(5, 4, 2), nn.Softplus(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)]
    return nn.Sequential(*layers, *head)


NAMES = ["0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "5.weight", "5.bias", "9.weight"]


def build(case: Case, net: nn.Module, **options: Any) -> Any:
    layer = {"layer": "3"} if case.name in AT_A_LAYER and "layer" not in options else {}
    return getattr(network, case.name)(net, **case.options, **case.tensors(X), **layer, **options)


class Whole(nn.Module):
    """A loss of a map, in a module that holds the network."""

    def __init__(self, net: nn.Module, loss: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.loss = net, loss

    def forward(self, x: Tensor) -> Tensor:
        return self.loss(x)


@pytest.mark.parametrize("case", [case for case in CASES if case not in RULED], ids=str)
def test_derivatives_are_finite_differences(case: Case) -> None:
    """In the image, and in parameters of all layers."""
    net = seeded(smooth_net, dtype=torch.float64)
    explain = build(case, net, differentiable=True)
    weights = images(*explain(X, 1).shape, dtype=torch.float64, seed=8)
    whole = Whole(net, lambda x: (explain(x, 1) * weights).sum())
    given = {name: net.get_parameter(name).detach() for name in NAMES}

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        out: Tensor = functional_call(whole, {f"net.{name}": value for name, value in parameters.items()}, (x,))
        return out

    by_parameter, by_image = grad(loss, argnums=(0, 1))(given, X)
    step = 1e-6

    def close(got: Tensor, ahead: Tensor, behind: Tensor) -> None:
        torch.testing.assert_close(got, (ahead - behind) / (2 * step), rtol=1e-4, atol=1e-7)

    for i, (name, value) in enumerate(given.items()):
        move = images(*value.shape, dtype=torch.float64, seed=20 + i)
        ahead, behind = (loss({**given, name: value + sign * step * move}, X) for sign in (1, -1))
        close((by_parameter[name] * move).sum(), ahead, behind)
    move = images(*X.shape, dtype=torch.float64, seed=9)
    ahead, behind = (loss(given, X + sign * step * move) for sign in (1, -1))
    close((by_image * move).sum(), ahead, behind)
    close(jvp(lambda x: loss(given, x), (X,), (move,))[1], ahead, behind)
    leaf = X.clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(loss(given, leaf), leaf)[0], by_image)
    assert any(value.any() for value in by_parameter.values())


@every_case
def test_without_a_graph_reverse_mode_is_refused_and_forward_mode_right(case: Case) -> None:
    net = seeded(smooth_net, dtype=torch.float64)
    explain = build(case, net)

    def total(x: Tensor) -> Tensor:
        out: Tensor = explain(x, 1).sum()
        return out

    remedy = rf"{case.name}: .*{'jacfwd' if case in RULED else 'differentiable=True'}"
    for ask in (lambda: grad(total)(X), lambda: jacrev(total)(X), lambda: vjp(total, X)):
        with pytest.raises(CamfnError, match=remedy):
            ask()
    whole = Whole(net, total)
    parameters = {f"net.{name}": net.get_parameter(name).detach() for name in NAMES}
    with pytest.raises(CamfnError, match=remedy):
        grad(lambda given: functional_call(whole, given, (X,)))(parameters)
    move, step = images(*X.shape, dtype=torch.float64, seed=9), 1e-6
    expected = (total(X + step * move) - total(X - step * move)) / (2 * step)
    torch.testing.assert_close((jacfwd(total)(X) * move).sum(), expected, rtol=1e-4, atol=1e-7)
    assert not explain(X.clone().requires_grad_(), 1).requires_grad
    assert torch.vmap(explain, in_dims=(None, 0))(X, torch.arange(4)).isfinite().all()


@pytest.mark.parametrize("case", RULED, ids=str)
def test_a_rule_has_no_derivative_in_reverse_mode(case: Case) -> None:
    with pytest.raises(CamfnError, match=rf"{case.name}: differentiable=True cannot be had.*jacfwd"):
        build(case, plain(), **({"layer": "first"} if case.name == "guided_grad_cam" else {}), differentiable=True)

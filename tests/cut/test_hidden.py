"""Models whose parts know each other by hooks, lists, closures: what a hook keeps reaches the network that runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import capture, capture_each, explainer, functional, network, observe, resume
from camfn._cut.hidden import is_hooked
from camfn.methods import ablation_cam
from tests.nets.small import images, seeded

X = images(2, 3, 8, 8)


class Parts(nn.Module):
    """A stem, a body and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 5)
        self.inner = nn.Sequential(nn.Identity())
        self.kept: Any = None

    def keep(self, *given: Any) -> None:
        self.kept = given[-1][0] if isinstance(given[-1], tuple) else given[-1]

    def put(self, name: str, *given: Any) -> None:
        setattr(self, name, given[-1])

    def first(self, x: Tensor) -> Tensor:
        y: Tensor = self.stem(x)
        return y

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.between(x).tanh().mean((2, 3)))
        return y

    def between(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(self.inner(self.stem(x)).relu())
        return y


class Hooked(Parts):
    """What a hook kept on the model is what the model goes on with."""

    def __init__(self, register: Callable[[Hooked], Any]) -> None:
        super().__init__()
        register(self)

    def between(self, x: Tensor) -> Tensor:
        self.inner(self.stem(x))
        y: Tensor = self.body(self.kept.relu()) + self.kept.sin()
        return y


class Listed(Parts):
    """Parts that are called by what a plain attribute holds."""

    def __init__(self, hold: Callable[[Listed], list[Callable[[Tensor], Tensor]]]) -> None:
        super().__init__()
        self.steps = hold(self)

    def between(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x).sin()
        return x


def closure(model: Parts) -> None:
    def keep(module: nn.Module, args: Any, output: Any) -> None:
        model.kept = output

    model.stem.register_forward_hook(keep)


MODELS: dict[str, Callable[[], Parts]] = {
    "bound method": lambda: Hooked(lambda net: net.stem.register_forward_hook(net.keep)),
    "of a part of a part": lambda: Hooked(lambda net: net.inner[0].register_forward_hook(net.keep)),
    "before a module": lambda: Hooked(lambda net: net.inner.register_forward_pre_hook(net.keep)),
    "closure": lambda: Hooked(closure),
    "partial": lambda: Hooked(lambda net: net.stem.register_forward_hook(partial(net.put, "kept"))),
    "decorated": lambda: Hooked(lambda net: net.stem.register_forward_hook(torch.enable_grad()(net.keep))),
    "default": lambda: Hooked(
        lambda net: net.stem.register_forward_hook(lambda m, args, out, net=net: setattr(net, "kept", out))
    ),
    "list of modules": lambda: Listed(lambda net: [net.stem, net.body]),
    "list of methods": lambda: Listed(lambda net: [net.first, net.body]),
    "lambdas": lambda: Listed(lambda net: [lambda x: net.stem(x), partial(lambda part, x: part(x), net.body)]),
    "dict": lambda: Listed(lambda net: list({"a": net.stem, "b": net.body}.values())),
    "weak reference": lambda: Listed(lambda net: [net.stem, weak(net)]),
}


def weak(net: Parts) -> Callable[[Tensor], Tensor]:
    ref = weakref.ref(net)
    return lambda x: ref().body(x)  # type: ignore[union-attr]


def by_hand(net: nn.Module, layer: str) -> tuple[Tensor, Tensor, Tensor]:
    """Activations, gradient and outputs by a hook of one's own, ahead of those there are."""
    found = []

    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        found.append((output.detach().clone(), torch.zeros_like(output, requires_grad=True)))
        return output + found[-1][1]

    handle = net.get_submodule(layer).register_forward_hook(hook, prepend=True)
    outputs = net(X)
    handle.remove()
    ((activations, zero),) = found
    return activations, torch.autograd.grad(outputs[:, 1].sum(), zero)[0], outputs.detach()


@pytest.mark.parametrize("ran", [False, True])
@pytest.mark.parametrize("layer", ["stem", "body"])
@pytest.mark.parametrize("name", MODELS)
def test_every_door(name: str, layer: str, ran: bool) -> None:
    activations, grads, outputs = by_hand(seeded(MODELS[name]), layer)
    net = seeded(MODELS[name])
    if ran:
        net(torch.ones_like(X))
    held = dict(vars(net))
    same = torch.testing.assert_close
    for run in (capture(net, layer), capture(net, layer, differentiable=True)):
        got = run(X, 1)
        same((got.activations.detach(), got.grads.detach(), got.outputs.detach()), (activations, grads, outputs))
    same(capture_each(net, layer)(X, [1]).grads[0], grads)
    same(torch.vmap(lambda t: capture(net, layer)(X, t).grads)(torch.arange(2))[1], grads)
    params, pure = functional(capture(net, layer))
    same(pure(params, X, 1).grads, grads)
    same(observe(net, layer)(X)[1], outputs)
    tail = resume(net, layer)(X)
    same(tail(activations), outputs)
    same(torch.func.grad(lambda a: tail(a)[:, 1].sum())(activations), grads)
    same(network.input_gradient(net)(X, 1), network.input_gradient(seeded(MODELS[name]))(X, 1))
    assert all(vars(net)[key] is value for key, value in held.items())


class Remembering(Parts):
    """A module keeps its output on itself, or on the model; the head reads that, after the layer."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.inner = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Keeper(self, way))

    def between(self, x: Tensor) -> Tensor:
        self.inner(x)
        y = self.body(self.stem(x))
        found: Tensor = y * (self.kept if way_is_model(self.way) else self.inner[1].kept)
        return found


def way_is_model(way: str) -> bool:
    return way == "on the model"


class Keeper(nn.Module):
    kept: Tensor

    def __init__(self, model: nn.Module, way: str) -> None:
        super().__init__()
        self.on = [model] if way_is_model(way) else None

    def forward(self, x: Tensor) -> Tensor:
        (self.on[0] if self.on else self).kept = x.sin()
        return x


@pytest.mark.parametrize("way", ["on the model", "on itself"])
def test_what_a_module_keeps_is_there_in_the_tail(way: str) -> None:
    activations, grads, outputs = by_hand(seeded(lambda: Remembering(way)), "body")
    net = seeded(lambda: Remembering(way))
    net(torch.ones_like(X))
    tail = resume(net, "body")(X)
    torch.testing.assert_close(tail(activations), outputs)
    torch.testing.assert_close(torch.func.grad(lambda a: tail(a)[:, 1].sum())(activations), grads)
    fresh = seeded(lambda: Remembering(way))
    torch.testing.assert_close(explainer(ablation_cam, net, "body")(X, 1), explainer(ablation_cam, fresh, "body")(X, 1))


def test_a_module_is_hooked_by_a_hook_or_by_a_forward_of_its_own() -> None:
    plain, hooked, replaced = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
    hooked.register_forward_pre_hook(lambda module, args: None)
    replaced.forward = replaced.forward  # type: ignore[method-assign]
    assert [is_hooked(one) for one in (plain, hooked, replaced)] == [False, True, True]

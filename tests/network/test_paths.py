"""Guided IG and IDGI: oracles of loops, completeness, dummies, and the straight line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import CamfnError, network
from tests.nets.small import images, seeded
from tests.network.cases import Plain
from tests.oracles import network as oracles

X = images(2, 3, 7, 6, dtype=torch.float64)


def plain() -> nn.Module:
    return seeded(Plain, dtype=torch.float64)


def parts(net: nn.Module) -> tuple[Callable[[Tensor], float], Callable[[Tensor], Tensor]]:
    """The score of class 1 of one image, and its gradient."""

    def score(x: Tensor) -> float:
        return float(net(x[None])[0, 1].detach())

    def gradient(x: Tensor) -> Tensor:
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(net(leaf[None])[0, 1], leaf)[0]

    return score, gradient


@pytest.mark.parametrize(
    "options", [{"fraction": 0.25}, {"fraction": 0.01, "max_dist": 0.3}, {"max_dist": 1.0}, {"fraction": 1.0}]
)
def test_guided_ig_equals_the_oracle(options: dict[str, Any]) -> None:
    net = plain()
    found = network.guided_ig(net, steps=6, baseline=0.2, **options)(X, 1)
    for i, x in enumerate(X):
        expected = oracles.guided_ig(x, torch.full_like(x, 0.2), parts(net)[1], 6, **options)
        torch.testing.assert_close(found[i], expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 5])
def test_idgi_equals_the_oracle(steps: int) -> None:
    net = plain()
    found = network.idgi(net, steps=steps, baseline=-0.3)(X, 1)
    for i, x in enumerate(X):
        torch.testing.assert_close(found[i], oracles.idgi(x, torch.full_like(x, -0.3), *parts(net), steps))


@pytest.mark.parametrize("steps", [1, 4, 9])
def test_idgi_is_complete_at_any_number_of_steps(steps: int) -> None:
    net = plain()
    found = network.idgi(net, steps=steps)(X, 1)
    torch.testing.assert_close(found.sum((1, 2, 3)), (net(X) - net(torch.zeros_like(X)))[:, 1])


def test_guided_ig_nears_completeness_and_is_the_line_without_distance() -> None:
    net = plain()
    change = (net(X) - net(torch.zeros_like(X)))[:, 1]
    gaps = [(network.guided_ig(net, steps=n)(X, 1).sum((1, 2, 3)) - change).abs().max().item() for n in (8, 400)]
    assert gaps[1] < 0.1 * gaps[0]
    line = torch.stack([parts(net)[1](x * k / 5) for x in X for k in range(5)]).reshape(2, 5, *X.shape[1:]).mean(1)
    torch.testing.assert_close(network.guided_ig(net, steps=5, max_dist=0.0)(X, 1), X * line)


@pytest.mark.parametrize("method", [network.idgi, network.guided_ig])
def test_values_that_the_network_does_not_read_are_zero(method: Any) -> None:
    class Left(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = plain()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.net(torch.cat([x[..., :3], torch.zeros_like(x[..., 3:])], -1))
            return out

    found = method(Left(), steps=3)(X, 1)
    assert found[..., :3].any()
    assert not found[..., 3:].any()


def test_a_linear_network_in_closed_form() -> None:
    last = nn.Linear(126, 4)
    net = nn.Sequential(nn.Flatten(), last).double()
    weight = last.weight[1].detach().reshape(X.shape[1:])
    torch.testing.assert_close(network.guided_ig(net, steps=7, max_dist=0.4)(X, 1), X * weight)
    share = weight.square() / weight.square().sum()
    change = (X * weight).sum((1, 2, 3), keepdim=True)
    torch.testing.assert_close(network.idgi(net, steps=3)(X, 1), change * share)


def test_small_gradients_are_no_zeros_when_they_are_squared() -> None:
    net = seeded(Plain)
    x = X.float()
    expected = network.idgi(net, steps=3)(x, 1)
    found = network.idgi(net, steps=3)(x, lambda outputs: 1e-25 * outputs[:, 1])
    torch.testing.assert_close(1e25 * found, expected, rtol=1e-3, atol=1e-5)


def test_no_distance_and_no_gradient_give_zero() -> None:
    net = plain()
    for method in (network.idgi(net, steps=3, baseline=X), network.guided_ig(net, steps=3, baseline=X)):
        assert not method(X, 1).any()
    for method in (network.idgi(net, steps=3), network.guided_ig(net, steps=3)):
        assert not method(X, lambda outputs: 0 * outputs[:, 1]).any()


@pytest.mark.parametrize(
    ("method", "options", "text"),
    [
        (network.idgi, {"steps": 0}, "idgi: steps: expected a whole number from 1"),
        (network.idgi, {"baseline": "black"}, "idgi: baseline: expected a finite number"),
        (network.guided_ig, {"fraction": 0.0}, r"guided_ig: fraction: expected a number in \(0, 1\], got 0.0"),
        (network.guided_ig, {"max_dist": 1.5}, r"guided_ig: max_dist: expected a number in \[0, 1\], got 1.5"),
        (network.guided_ig, {"steps": 1.5}, "guided_ig: steps: expected a whole number"),
    ],
)
def test_wrong_options_are_refused(method: Any, options: dict[str, Any], text: str) -> None:
    with pytest.raises(CamfnError, match=text):
        method(plain(), **options)


def test_a_baseline_that_does_not_fit_is_refused() -> None:
    for method, name in ((network.idgi, "idgi"), (network.guided_ig, "guided_ig")):
        with pytest.raises(CamfnError, match=rf"{name}: expected a baseline that broadcasts .*got \(5,\)"):
            method(plain(), baseline=torch.ones(5))(X, 1)

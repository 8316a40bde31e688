"""Derivatives by `torch.func`, and by plain autograd where an operation refuses it: the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from camfn._shared.pullback import pullback, slope_and_curvature
from tests.nets.small import images


class Sine(torch.autograd.Function):
    """Refuses `torch.func`: it has no `setup_context`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        slope: Tensor = grad * x.cos()
        return slope


def plain(x: Tensor) -> Tensor:
    y: Tensor = x.sin() * x
    return y.sum(1)


def custom(x: Tensor) -> Tensor:
    return torch.as_tensor((Sine.apply(x) * x).sum(1))


def without_graph(x: Tensor) -> Tensor:
    return x.detach().sum(1)


X = images(2, 5, dtype=torch.float64)


@pytest.mark.parametrize("function", [plain, custom])
def test_a_derivative(function: Callable[[Tensor], Tensor]) -> None:
    with torch.no_grad():
        value, pull = pullback(function, X)
        torch.testing.assert_close(value, plain(X))
        torch.testing.assert_close(pull(torch.ones_like(value)), X.sin() + X * X.cos())
        assert not value.requires_grad


@pytest.mark.parametrize("function", [plain, custom])
def test_a_second_derivative(function: Callable[[Tensor], Tensor]) -> None:
    with torch.no_grad():
        value, slope, curved = slope_and_curvature(function, X)
    torch.testing.assert_close(value, plain(X))
    torch.testing.assert_close(slope, X.sin() + X * X.cos())
    torch.testing.assert_close(curved, X * (2 * X.cos() - X * X.sin()))
    assert not any(x.requires_grad for x in (value, slope, curved))


def test_no_graph_is_a_derivative_of_zero() -> None:
    def cut(x: Tensor) -> Tensor:
        return torch.as_tensor(Sine.apply(x).detach().sum(1))

    for function in (without_graph, cut):
        value, pull = pullback(function, X)
        assert not pull(torch.ones_like(value)).any()
        assert not any(x.any() for x in slope_and_curvature(function, X)[1:])


@pytest.mark.parametrize("function", [plain, custom])
def test_the_outer_graph_goes_on(function: Callable[[Tensor], Tensor]) -> None:
    x = X.clone().requires_grad_()
    value, pull = pullback(function, x)
    (found,) = torch.autograd.grad(pull(torch.ones_like(value)).sum(), x)
    torch.testing.assert_close(found, 2 * X.cos() - X * X.sin())
    curved = slope_and_curvature(function, x)[2]
    assert curved.requires_grad


def test_other_errors_are_raised() -> None:
    def broken(x: Tensor) -> Tensor:
        return x @ x

    for derive in (pullback, slope_and_curvature):
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            derive(broken, X)

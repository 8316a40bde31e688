"""Derivatives of a function of one tensor, by `torch.func` or, where the function refuses that, by plain autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .errors import DerivativeError
from .levels import inside_transform, refuses_levels, writes_graph

_IN_PLACE = ("modified by an inplace operation", "is a view and is being modified inplace")
_INFERENCE = "Inference tensors cannot be saved for backward"


@contextmanager
def naming_refusals() -> Iterator[None]:
    """Say what works where autograd refuses a network that writes over values, or was made in inference mode."""
    try:
        yield
    except RuntimeError as error:
        if _INFERENCE in str(error):
            raise DerivativeError(
                "a parameter or another tensor of the network was made under torch.inference_mode, and autograd takes "
                "no derivative through it: explain a copy that you make outside of it, copy.deepcopy(model)"
            ) from error
        if not any(text in str(error) for text in _IN_PLACE):
            raise
        raise DerivativeError(
            "the network writes in place over values that its own derivative needs, as decoding heads of detectors do "
            "with their boxes (YOLOv5, YOLOv7). Take the score from the raw heads, which such a network returns beside "
            "the boxes: target=lambda outputs: outputs[1][0].flatten(1).amax(1), for example. Where the writing itself "
            "ends the run, have the head return them undecoded: head.train(), or head.inplace = False where it has "
            "that. Methods without gradients (ablation_cam, recipro_cam, score_cam, rise) run as it is"
        ) from error


def pullback(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return `function(x)`, and the function from a cotangent of it to one of `x`, once.

    Example:
        >>> value, pull = pullback(lambda x: x.square().sum(1), torch.tensor([[1.0, 2.0]]))
        >>> value, pull(torch.ones(1))
        (tensor([5.]), tensor([[2., 4.]]))
    """
    if torch.compiler.is_compiling():
        return _by_func(function, x)
    with naming_refusals():
        try:
            value, pull = (_by_autograd if writes_graph() else _by_func)(function, x)
        except RuntimeError as error:
            if inside_transform() or not refuses_levels(error):
                raise
            value, pull = _by_autograd(function, x)

    def named(cotangent: Tensor) -> Tensor:
        with naming_refusals():
            return pull(cotangent)

    return value, named


def slope_and_curvature(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return `function(x)`, the derivative of its sum, and the product of that derivative's own derivative with `x`.

    By the forward derivative of the reverse one; by two reverse ones where an operation has no forward derivative, or
    the function refuses `torch.func`.

    Example:
        >>> slope_and_curvature(lambda x: x[:, 0] * x[:, 1], torch.tensor([[1.0, 2.0]]))
        (tensor([2.]), tensor([[2., 1.]]), tensor([[2., 1.]]))
    """
    if torch.compiler.is_compiling():
        return _twice_by_func(function, x)
    with naming_refusals():
        try:
            return (_twice_by_autograd if writes_graph() else _twice_by_func)(function, x)
        except RuntimeError as error:
            without = isinstance(error, NotImplementedError) or refuses_levels(error)
            if inside_transform() or isinstance(error, DerivativeError) or not without:
                raise
            try:
                return _twice_by_autograd(function, x)
            except RuntimeError as second:
                raise second from error


def _by_func(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Do as `pullback` does, by `torch.func`."""
    value, pull = torch.func.vjp(function, x)  # type: ignore[misc]
    return value, lambda cotangent: pull(cotangent)[0]


def _twice_by_func(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Do as `slope_and_curvature` does, by `torch.func`."""

    def total(x: Tensor) -> tuple[Tensor, Tensor]:
        value = function(x)
        return value.sum(), value

    slope, curved, value = torch.func.jvp(torch.func.grad(total, has_aux=True), (x,), (x,), has_aux=True)  # type: ignore[misc]
    return value, slope, curved


def _by_autograd(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Do as `pullback` does, by plain autograd."""
    outer = torch.is_grad_enabled() and x.requires_grad
    with torch.enable_grad():
        # a view, so that the derivative is one at this place alone
        start = x.view_as(x) if outer else x.detach().requires_grad_()
        value = function(start)

    def pull(cotangent: Tensor) -> Tensor:
        if not value.requires_grad:
            return torch.zeros_like(x)
        (found,) = torch.autograd.grad(value, start, cotangent, create_graph=outer, allow_unused=True)
        return torch.zeros_like(x) if found is None else found

    return value if outer else value.detach(), pull


def _twice_by_autograd(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Do as `slope_and_curvature` does, by plain autograd."""
    outer = torch.is_grad_enabled() and x.requires_grad
    with torch.enable_grad():
        start = x.view_as(x) if outer else x.detach().requires_grad_()
        value = function(start)
        zeros = torch.zeros_like(x)
        if not value.requires_grad:
            return value, zeros, zeros
        (slope,) = torch.autograd.grad(value.sum(), start, create_graph=True, allow_unused=True)
        if slope is None or not slope.requires_grad:
            return value.detach(), zeros if slope is None else slope, zeros
        along = (slope * x.detach()).sum()
        (curved,) = torch.autograd.grad(along, start, create_graph=outer, allow_unused=True)
    curved = zeros if curved is None else curved
    return (value, slope, curved) if outer else (value.detach(), slope.detach(), curved.detach())

"""Another rule for the backward of every ReLU that a network calls; the network itself is not changed."""

# tested in tests/network/test_guided.py

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Rule: TypeAlias = Literal["guided", "deconv"]
"""The gradient that a ReLU of input z passes back for a gradient g: `g [g > 0] [z > 0]`, or `g [g > 0]`."""

INF = float("inf")


def _relu(z: Tensor, *args: Any, **kwargs: Any) -> float | None:
    """A ReLU has no upper bound."""
    return INF


def _relu6(z: Tensor, *args: Any, **kwargs: Any) -> float | None:
    """A ReLU6 has the upper bound 6."""
    return 6.0


def _hardtanh(z: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> float | None:
    """A hardtanh from 0 is a ReLU with an upper bound."""
    return max_val if min_val == 0 else None


def _threshold(z: Tensor, threshold: float, value: float, inplace: bool = False) -> float | None:
    """A threshold at 0 that fills in 0 is a ReLU."""
    return INF if threshold == 0 and value == 0 else None


def _clamp(z: Tensor, min: Any = None, max: Any = None) -> float | None:  # noqa: A002  torch's own names
    """A clamp from the number 0, with or without an upper bound that is a number, is a ReLU."""
    numbers = isinstance(min, (int, float)) and (max is None or isinstance(max, (int, float)))
    return (INF if max is None else float(max)) if numbers and min == 0 else None


CEILING: dict[Any, Callable[..., float | None]] = {
    functional.relu: _relu,
    torch.relu: _relu,
    torch.relu_: _relu,
    Tensor.relu: _relu,
    Tensor.relu_: _relu,
    functional.relu6: _relu6,
    functional.hardtanh: _hardtanh,
    functional.hardtanh_: _hardtanh,
    functional.threshold: _threshold,
    functional.threshold_: _threshold,  # type: ignore[attr-defined]
    **dict.fromkeys((torch.clamp, torch.clamp_, Tensor.clamp, Tensor.clamp_), _clamp),
    **dict.fromkeys((torch.clip, torch.clip_, Tensor.clip, Tensor.clip_), _clamp),
    **dict.fromkeys((torch.clamp_min, torch.clamp_min_, Tensor.clamp_min, Tensor.clamp_min_), _clamp),
}
"""Functions that may be a ReLU: for each a function from its arguments to its upper bound, or None if it is no ReLU."""

OTHERS: dict[Any, str] = {
    getattr(place, name): name.rstrip("_")
    for place in (functional, torch, Tensor)
    for name in (
        "gelu", "silu", "silu_", "mish", "hardswish", "hardsigmoid", "elu", "elu_", "selu", "selu_", "celu", "celu_",
        "leaky_relu", "leaky_relu_", "prelu", "rrelu", "rrelu_", "softplus", "softsign", "logsigmoid", "tanhshrink",
        "hardshrink", "softshrink", "glu", "tanh", "tanh_", "sigmoid", "sigmoid_",
    )
    if hasattr(place, name)
}  # fmt: skip
"""Activations that keep their own backward."""

_ALWAYS_IN_PLACE = frozenset(func for func in CEILING if func.__name__.endswith("_"))
_INPLACE_ARGUMENT = {functional.relu: 1, functional.relu6: 1, functional.hardtanh: 3, functional.threshold: 3}


class Rectify(TorchFunctionMode):
    """Gives every ReLU that runs inside the backward of the rule, and reports the other activations that run.

    Attributes:
        guided: the number of ReLUs that ran.
    """

    def __init__(self, rule: Rule, other: Callable[[str], None]) -> None:
        super().__init__()
        self.apply = (_COMPILED if torch.compiler.is_compiling() else _EAGER)[rule].apply
        self.other = other
        self.guided = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace a ReLU, and call every other function as it is."""
        kwargs = kwargs or {}
        ceiling = CEILING[func](*args, **_positional(kwargs)) if func in CEILING else None
        if ceiling is not None:
            z = args[0] if args else kwargs["input"]
            self.guided += 1
            out = self.apply(z, ceiling)
            # an in-place ReLU overwrites its input, which other modules may hold
            return z.copy_(out) if _in_place(func, args, kwargs) else out
        if func in OTHERS:
            self.other(OTHERS[func])
        return func(*args, **kwargs)


def _positional(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Rename `input`, as functions call the tensor, to `z`; methods never get theirs by name."""
    return {"z" if key == "input" else key: value for key, value in kwargs.items()}


def _in_place(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether a call overwrites its input."""
    if func in _ALWAYS_IN_PLACE or func not in _INPLACE_ARGUMENT:
        return func in _ALWAYS_IN_PLACE
    place = _INPLACE_ARGUMENT[func]
    return bool(args[place] if len(args) > place else kwargs.get("inplace", False))


class _ClippedReLU(torch.autograd.Function):
    """The forward of a ReLU with an upper bound."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, ceiling: float) -> Tensor:
        return z.clamp(0, ceiling)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        z, ceiling = inputs
        alive = (z > 0) & (z < ceiling)
        ctx.save_for_backward(alive)
        ctx.save_for_forward(alive)


class _GuidedReLU(_ClippedReLU):
    """A ReLU whose backward is `g [g > 0] [z > 0]`."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (alive,) = ctx.saved_tensors
        return grad.clamp(min=0) * alive, None


class _DeconvReLU(_ClippedReLU):
    """A ReLU whose backward is `g [g > 0]`."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad.clamp(min=0), None


class _Forward:
    """The derivative of a ReLU in forward mode, its own; the compiler takes no function that has one."""

    @staticmethod
    def jvp(ctx: Any, move: Tensor, _: Any) -> Tensor:
        (alive,) = ctx.saved_tensors
        tangent: Tensor = move * alive
        return tangent


class _GuidedBothWays(_Forward, _GuidedReLU):
    """A guided ReLU with a derivative in forward mode."""


class _DeconvBothWays(_Forward, _DeconvReLU):
    """A ReLU of a deconvnet with a derivative in forward mode."""


_COMPILED: dict[Rule, Any] = {"guided": _GuidedReLU, "deconv": _DeconvReLU}
_EAGER: dict[Rule, Any] = {"guided": _GuidedBothWays, "deconv": _DeconvBothWays}

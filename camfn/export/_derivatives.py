"""Derivatives of operators in words that ONNX has, which autograd derives again with an open batch."""

# tested in tests/export/test_rules.py

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def normed(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Normalize by fixed statistics, as `torch.nn.functional.batch_norm`."""
    if training or running_mean is None or running_var is None or _moves(weight, bias):
        return NotImplemented
    scale = (running_var + eps).rsqrt()
    scale = (scale if weight is None else weight * scale).reshape(-1, *[1] * (x.ndim - 2))

    def forward(x: Tensor) -> Tensor:
        return torch.batch_norm(x, weight, bias, running_mean, running_var, False, 0.0, eps, False)

    return _apply(forward, lambda slope, x: slope * scale, x)


def group_normed(
    x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Any:
    """Normalize within groups of channels, as `torch.nn.functional.group_norm`."""
    if _moves(weight, bias) or x.ndim < 3:
        return NotImplemented
    channels, *sides = x.shape[1:]
    gain = None if weight is None else weight.reshape(-1, *[1] * len(sides))

    def grouped(x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], num_groups, channels // num_groups, *sides).flatten(2)

    def backward(slope: Tensor, x: Tensor) -> Tensor:
        rows, slopes = grouped(x), grouped(slope if gain is None else slope * gain)
        centered = rows - rows.mean(-1, keepdim=True)
        scale = (centered.square().mean(-1, keepdim=True) + eps).rsqrt()
        unit = centered * scale
        along = slopes.mean(-1, keepdim=True) + unit * (slopes * unit).mean(-1, keepdim=True)
        return ((slopes - along) * scale).reshape(x.shape)

    return _apply(lambda x: torch.group_norm(x, num_groups, weight, bias, eps), backward, x)


def instance_normed(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Normalize each channel of each image, as `torch.nn.functional.instance_norm`."""
    if not use_input_stats:
        return normed(x, running_mean, running_var, weight, bias, False, momentum, eps)
    return group_normed(x, int(x.shape[1]), weight, bias, eps)


def convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """Convolve within groups of channels, as `torch.nn.functional.conv2d`."""
    if groups == 1 or isinstance(padding, str) or _moves(weight, bias) or x.ndim != weight.ndim:
        return NotImplemented
    sides = weight.ndim - 2
    step, around, apart = (_for_sides(one, sides) for one in (stride, padding, dilation))
    none = [0] * sides

    def backward(slope: Tensor, x: Tensor) -> Tensor:
        mask = [True, False, False]
        given = (slope, x, weight, None, step, around, apart, False, none, groups, mask)
        found: Tensor = convolution_backward(*given)[0]
        return found

    return _apply(lambda x: aten.convolution(x, weight, bias, step, around, apart, False, none, groups), backward, x)


def convolution_backward(
    slope: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Any,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    mask: list[bool],
) -> Any:
    """Say the derivative of a convolution in its input as a convolution, which ONNX has; its weights are constants."""
    if mask[1] or mask[2]:
        return NotImplemented
    if not mask[0]:
        return None, None, None
    if transposed:
        return aten.convolution(slope, weight, None, stride, padding, dilation, False, [0], groups), None, None
    dims = range(weight.ndim - 2)
    reach = [dilation[i] * (weight.shape[2 + i] - 1) for i in dims]
    if all(step == 1 for step in stride) and all(r >= p for r, p in zip(reach, padding)):
        there = _turned(weight, groups)
        around = [r - p for r, p in zip(reach, padding)]
        return (
            aten.convolution(slope, there, None, stride, around, dilation, False, [0] * len(reach), groups),
            None,
            None,
        )
    rest = [
        int(x.shape[2 + i]) - ((int(slope.shape[2 + i]) - 1) * stride[i] - 2 * padding[i] + reach[i] + 1) for i in dims
    ]
    return aten.convolution(slope, weight, None, stride, padding, dilation, True, rest, groups), None, None


def _turned(weight: Tensor, groups: int) -> Tensor:
    """Swap the channels of a weight within its groups, and flip its kernel."""
    out, inner, *kernel = weight.shape
    swapped = weight.reshape(groups, out // groups, inner, *kernel).transpose(1, 2)
    swapped = swapped.reshape(groups * inner, out // groups, *kernel)
    return swapped.flip(list(range(2, weight.ndim))) if any(side > 1 for side in kernel) else swapped


def _for_sides(given: Any, sides: int) -> list[int]:
    values = list(given) if isinstance(given, (tuple, list)) else [given]
    return values * sides if len(values) == 1 else values


def _moves(*weights: Tensor | None) -> bool:
    """Whether weights depend on what the trace differentiates in: their own derivatives are not said here."""
    return any(weight is not None and weight.requires_grad for weight in weights)


def _apply(forward: Callable[[Tensor], Tensor], backward: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> Any:
    """Run a function whose derivative is `backward(slope, x)`."""
    return _Said.apply(forward, backward, x)


class _Said(torch.autograd.Function):
    """An operator, as onnxruntime knows it, and its derivative in operators that autograd derives again."""

    @staticmethod
    def forward(ctx: Any, forward: Any, backward: Any, x: Tensor) -> Tensor:
        """Run the operator."""
        ctx.save_for_backward(x)
        ctx.slope = backward
        found: Tensor = forward(x)
        return found

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        """Run the derivative."""
        return None, None, ctx.slope(slopes[0], *ctx.saved_tensors)

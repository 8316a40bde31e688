"""Operations in words that ONNX has, with an open batch: decompositions, and a mode for functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ._derivatives import convolution_backward, convolved, group_normed, instance_normed, normed
from ._resample import average_backward, max_pooled, pooled, resampled

aten = torch.ops.aten


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Return what the trace says in place of operators that no ONNX function has, or that fix the batch."""
    from torch._decomp import get_decompositions

    said = [
        aten.linalg_vector_norm,
        aten.norm,
        aten.silu_backward,
        aten.hardswish_backward,
        aten.hardsigmoid_backward,
        aten.hardtanh_backward,
        aten.leaky_relu_backward,
        aten.elu_backward,
        aten.softplus_backward,
        aten.mish_backward,
        aten.gelu_backward,
        aten.native_layer_norm_backward,
        aten.native_group_norm_backward,
        aten.native_batch_norm_backward,
        aten._softmax_backward_data,
        aten._log_softmax_backward_data,
        aten.threshold_backward,
        aten.sigmoid_backward,
        aten.tanh_backward,
        aten.select_backward,
        aten.slice_backward,
        aten.embedding_dense_backward,
        aten.addcmul,
        aten.addcdiv,
    ]
    table: dict[Any, Callable[..., Any]] = dict(get_decompositions(said))
    table[aten.convolution_backward.default] = convolution_backward
    table[aten.avg_pool2d_backward.default] = average_backward
    return table


class Sayings(TorchFunctionMode):
    """Says functions in other words of the same meaning while a network is traced."""

    def __torch_function__(self, func: Any, types: Iterable[Any], args: Any = (), kwargs: Any = None) -> Any:
        said = _SAYINGS.get(func)
        found = NotImplemented if said is None else said(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {})) if found is NotImplemented else found


def _pooled(x: Tensor, output_size: Any, *rest: Any, **more: Any) -> Any:
    """Adaptive pooling as a mean or two products: its derivative has no ONNX function, nor what it makes of tokens."""
    if x.ndim != 4:
        return NotImplemented
    sizes = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    sizes = tuple(side if size is None else size for size, side in zip(sizes, x.shape[2:]))
    return x.mean((-2, -1), keepdim=True) if sizes == (1, 1) else pooled(x, sizes)


def _added_product(x: Tensor, one: Tensor, other: Tensor, *, value: float = 1) -> Tensor:
    return x + value * one * other


def _clamped(x: Tensor, min: Any = None, max: Any = None) -> Any:  # noqa: A002
    """Clamp to a whole number and a fraction, which a derivative of torch's takes for numbers of two kinds."""
    if not x.is_floating_point() or {type(min), type(max)} != {int, float}:
        return NotImplemented
    return torch.clamp(x, float(min), float(max))


_SAYINGS: dict[Any, Callable[..., Any]] = {
    torch.nn.functional.adaptive_avg_pool2d: _pooled,
    torch._C._nn.adaptive_avg_pool2d: _pooled,
    torch.nn.functional.adaptive_max_pool2d: max_pooled,
    torch.addcmul: _added_product,
    torch.Tensor.addcmul: _added_product,
    torch.clamp: _clamped,
    torch.clip: _clamped,
    torch.Tensor.clamp: _clamped,
    torch.Tensor.clip: _clamped,
    torch.nn.functional.batch_norm: normed,
    torch.nn.functional.group_norm: group_normed,
    torch.nn.functional.instance_norm: instance_normed,
    torch.conv1d: convolved,
    torch.conv2d: convolved,
    torch.conv3d: convolved,
    torch.nn.functional.interpolate: resampled,
}

"""Resizing and pooling as products with constant matrices: right for linear filters, and the batch stays open."""

# tested in tests/export/test_rules.py

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import _disable_current_modes


def resampled(
    x: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Any:
    """Resize images (B, C, H, W) as `torch.nn.functional.interpolate`: along each side, a product with a matrix."""
    if x.ndim != 4:
        return NotImplemented
    options = {
        "mode": mode,
        "align_corners": align_corners,
        "recompute_scale_factor": recompute_scale_factor,
        "antialias": antialias,
    }
    for side in (0, 1):
        matrix = _matrix(int(x.shape[2 + side]), _of_side(size, side), _of_side(scale_factor, side), options)
        x = _along(x, matrix, side)
    return x


def pooled(x: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Average images (B, C, H, W) over windows, as `torch.nn.functional.adaptive_avg_pool2d`; side by side."""
    for side, size in enumerate(sizes):
        if size == x.shape[2 + side]:
            continue
        matrix = _averages(int(x.shape[2 + side]), size)
        x = _along(x, matrix, side)
    return x


def max_pooled(x: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Take the largest of windows as `torch.nn.functional.adaptive_max_pool2d`, where all windows are of one size."""
    if return_indices or x.ndim != 4:
        return NotImplemented
    asked = [_of_side(output_size, side) for side in (0, 1)]
    lengths = [int(length) for length in x.shape[2:]]
    sizes = [length if size is None else int(size) for size, length in zip(asked, lengths)]
    if any(length % size for size, length in zip(sizes, lengths)):
        return NotImplemented
    return functional.max_pool2d(x, [length // size for size, length in zip(sizes, lengths)])


def average_backward(
    slope: Tensor,
    x: Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    ceil: bool,
    count_padding: bool,
    divisor: int | None,
) -> Any:
    """Say the derivative of `torch.nn.functional.avg_pool2d` as two products: ONNX has no function for it."""
    if divisor is not None or x.ndim != 4:
        return NotImplemented
    for side in (0, 1):
        kernel_, stride_, padding_ = (one[min(side, len(one) - 1)] for one in (kernel, stride or kernel, padding))
        with _at_once():
            rows = torch.eye(int(x.shape[2 + side]))[None]
            matrix = functional.avg_pool1d(rows, kernel_, stride_, padding_, ceil, count_padding)[0].contiguous()
        slope = _along(slope, matrix, side)
    return slope


@contextmanager
def _at_once() -> Iterator[None]:
    """Compute in numbers within the block: a trace keeps the result as a constant."""
    with _disable_current_modes(), torch._C.DisableTorchFunction(), torch.no_grad():
        yield


def _along(x: Tensor, matrix: Tensor, side: int) -> Tensor:
    """Apply a matrix (new, old) along the height (side 0) or the width (1), as one product of two matrices."""
    if side == 0:
        return _along(x.mT, matrix, 1).mT
    batch, channels, height, width = x.shape
    rows = x.reshape(batch * channels * height, width) @ matrix.to(x.dtype).mT
    return rows.reshape(batch, channels, height, matrix.shape[0])


def _averages(length: int, size: int) -> Tensor:
    """Return the matrix that pools one side, (new, old): what pooling makes of the rows of the identity."""
    with _at_once():
        return functional.adaptive_avg_pool1d(torch.eye(length)[None], size)[0].mT.contiguous()


def _of_side(given: Any, side: int) -> Any:
    return given[side] if isinstance(given, (tuple, list)) else given


def _matrix(length: int, size: Any, factor: Any, options: dict[str, Any]) -> Tensor:
    """Return the matrix that resizes one side, (new, old): what resizing makes of the columns of the identity."""
    with _at_once():
        columns = torch.eye(length)[None, :, :, None].repeat(1, 1, 1, 2)
        given: dict[str, Any] = {"size": None if size is None else (int(size), 2)}
        given["scale_factor"] = None if factor is None else (float(factor), 1.0)
        return functional.interpolate(columns, **given, **options)[0, :, :, 0].mT.contiguous()

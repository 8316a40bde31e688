"""Arithmetic on maps: reductions over (B, C, *spatial), exact division, min-max, resizing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import overload

import torch
from einops import einsum, rearrange, reduce
from torch import Tensor
from torch.nn import functional

from .._shared.errors import CamfnError

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


@overload
def widen(x: Tensor, /) -> Tensor: ...
@overload
def widen(x: Tensor, y: Tensor, /, *more: Tensor) -> tuple[Tensor, ...]: ...
def widen(*tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
    """Return bfloat16 and float16 tensors as float32, others as they are: one tensor for one, a tuple for several.

    A method computes in the wider dtype, and casts its map back to the dtype of the activations.
    """
    wide = tuple(x.float() if x.dtype in (torch.bfloat16, torch.float16) else x for x in tensors)
    return wide[0] if len(wide) == 1 else wide


def spatial_sum(x: Tensor) -> Tensor:
    """(B, C, *S) -> (B, C)."""
    return reduce(x, "b c ... -> b c", "sum")


def spatial_mean(x: Tensor) -> Tensor:
    """(B, C, *S) -> (B, C)."""
    return reduce(x, "b c ... -> b c", "mean")


def channel_sum(x: Tensor) -> Tensor:
    """(B, C, *S) -> (B, *S)."""
    return reduce(x, "b c ... -> b ...", "sum")


def weighted_sum(activations: Tensor, weights: Tensor) -> Tensor:
    """(B, C, *S), (B, C) -> (B, *S)."""
    return einsum(activations, weights, "b c ..., b c -> b ...")


def over_space(weights: Tensor, like: Tensor) -> Tensor:
    """(B, C) -> (B, C, 1, ..., 1), to broadcast over the spatial dimensions of `like`."""
    return weights.reshape(*weights.shape, *(1,) * (like.ndim - weights.ndim))


def pixels(x: Tensor) -> Tensor:
    """(B, C, *S) -> (B, N, C), one row for each of the N positions."""
    return rearrange(x, "b c ... -> b (...) c")


def safe_divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return `numerator / denominator`, and exactly 0 where the denominator is 0, with derivatives of 0 there."""
    # x / inf is 0, and so are both its derivatives; a mask on the quotient would leave NaN in the backward
    return numerator / torch.where(denominator == 0, torch.inf, denominator)


def safe_sqrt(x: Tensor) -> Tensor:
    """Return the square root, and exactly 0 where `x <= 0`, with finite derivatives there."""
    clamped = x <= 0
    return torch.where(clamped, 0.0, torch.where(clamped, 1.0, x).sqrt())


def lowest_and_range(x: Tensor, dims: int | tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return the minimum over `dims`, and how far the maximum is above it; the dimensions are kept with size 1."""
    low = x.amin(dims, keepdim=True)
    return low, x.amax(dims, keepdim=True) - low


def min_max(x: Tensor, dims: int | tuple[int, ...], *, epsilon: float = 0.0) -> Tensor:
    """Rescale to [0, 1] over `dims`: `(x - min) / (max - min + epsilon)`, and 0 where x is constant.

    Example:
        >>> min_max(torch.tensor([[2.0, 4.0, 3.0], [5.0, 5.0, 5.0]]), 1)
        tensor([[0.0000, 1.0000, 0.5000],
                [0.0000, 0.0000, 0.0000]])
    """
    low, width = lowest_and_range(x, dims)
    return safe_divide(x - low, epsilon + width if epsilon else width)


def largest(x: Tensor, dims: int | tuple[int, ...]) -> Tensor:
    """Return the largest magnitude over `dims`, which are kept with size 1; its derivative is 0."""
    magnitude: Tensor = torch.linalg.vector_norm(x.detach(), torch.inf, dims, keepdim=True)
    return magnitude


def resize(maps: Tensor, size: Sequence[int], *, align_corners: bool = False) -> Tensor:
    """Resize maps linearly, with pixel centers at half integers (`align_corners=False`), not antialiased.

    Args:
        maps: (B, C, *S) with one to three spatial dimensions.
        size: the new spatial shape, as long as S; (height, width) for images.
        align_corners: align the centers of the corner pixels instead.

    Returns:
        (B, C, *size), of the dtype of `maps`; half precision is interpolated in float32.

    Raises:
        CamfnError: if `size` and `maps` do not have the same number of spatial dimensions, one to three.

    Example:
        >>> resize(torch.tensor([[[0.0, 4.0]]]), (4,))
        tensor([[[0., 1., 3., 4.]]])
    """
    if maps.ndim - 2 != len(size) or len(size) not in _LINEAR:
        raise CamfnError(
            f"resize: expected maps (B, C, *S) with 1 to 3 spatial dimensions and a size for each, got maps of shape "
            f"{tuple(maps.shape)} and size {tuple(size)}; for example resize(maps, (224, 224)) for (B, C, H, W)"
        )
    if any(side == 0 for side in (*maps.shape[1:], *size)):
        raise CamfnError(
            f"resize: expected maps with a channel and a position at least, got {tuple(maps.shape)} to {tuple(size)}"
        )
    wide = widen(maps)
    resized: Tensor = functional.interpolate(
        wide, size=tuple(size), mode=_LINEAR[len(size)], align_corners=align_corners
    )
    return resized.to(maps.dtype)


def largest_space(maps: Sequence[Tensor]) -> tuple[int, ...]:
    """Return the spatial shape of the first of maps (B, *S) that no other exceeds in positions."""
    best = tuple(maps[0].shape[1:])
    for one in maps[1:]:
        # `max` with a key does not compile where sizes are open
        if math.prod(one.shape[1:]) > math.prod(best):
            best = tuple(one.shape[1:])
    return best


def same_numbers(one: Tensor, other: Tensor, digits: float | None = None) -> bool:
    """Whether two tensors have the same finite entries, and agree in `digits` of the digits of the largest entry.

    With `digits=1`, they agree but for the last two bits; None is `kept_digits` of their type and device.
    """
    return one.shape == other.shape and bool(agreement(one, other, digits))


def kept_digits(dtype: torch.dtype, device: str) -> float:
    """Return the share of a type's digits in which two right computations agree on a device: half of them.

    A GPU convolves float32 by TF32, whose numbers have 10 bits, and another batch size takes another algorithm: 0.3.

    Example:
        >>> kept_digits(torch.float32, "cpu"), kept_digits(torch.float32, "cuda"), kept_digits(torch.float64, "cuda")
        (0.5, 0.3, 0.5)
    """
    return 0.3 if device == "cuda" and dtype is torch.float32 else 0.5


def agreement(one: Tensor, other: Tensor, digits: float | None = None) -> Tensor:
    """Return `same_numbers` of two tensors of one shape as a tensor (): reading a number waits for the GPU."""
    digits = kept_digits(one.dtype, one.device.type) if digits is None else digits
    if not one.numel():
        return torch.ones((), dtype=torch.bool, device=one.device)
    scale, off = (x.nan_to_num(0.0, 0.0, 0.0).abs().max() for x in (one, one - other))
    finite = (one.isfinite() == other.isfinite()).all()
    eps = torch.finfo(one.dtype).eps
    return finite & (off <= (4 * eps if digits == 1 else eps**digits) * scale)

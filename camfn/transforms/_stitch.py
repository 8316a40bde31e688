"""Windows laid over an image, and their maps added up with weights, as MONAI's sliding-window inferer does."""

# tested in tests/transforms/test_windows.py

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from .._shared.checks import space
from .._shared.errors import CamfnError
from .._shared.maps import resize, widen

Box: TypeAlias = "tuple[tuple[int, int], ...]"
"""The first place of a window and the first after it, in each dimension; negative where it begins before the image."""

Index: TypeAlias = "tuple[Any, ...]"
"""The index of a part of a tensor (..., *S)."""

_LEAST = 1e-3
"""The least weight of a place in a window, as MONAI has it."""


class Plan:
    """Windows over an image.

    Attributes:
        space: the spatial shape of the image.
        size: that of a window.
        boxes: the windows, in reading order.
        grid: how many there are along each dimension.
    """

    def __init__(self, own: tuple[int, ...], size: int | Sequence[int], overlap: float | Sequence[float]) -> None:
        dims = len(own)
        self.space = own
        self.size = space("windows: size", size if isinstance(size, (list, tuple)) else (size,) * dims, dims)
        spans = [_spans(*one) for one in zip(own, self.size, each("overlap", overlap, dims))]
        self.boxes: list[Box] = list(product(*spans))
        self.grid = tuple(map(len, spans))

    @property
    def corners(self) -> list[list[int]]:
        """The corners of each window, the last dimension of the image first: x0 y0 x1 y1."""
        return [[span[end] for end in (0, 1) for span in reversed(box)] for box in self.boxes]


class Stitch:
    """The weighted mean of the maps of windows, added one by one in the order of the plan."""

    def __init__(self, plan: Plan, weights: str, sigma_scale: float | Sequence[float]) -> None:
        self.plan, self.weights = plan, weights
        self.scales = each("sigma_scale", sigma_scale, len(plan.space))
        self.kernel = self.total = self.weight = torch.empty(0)
        self.dtype: torch.dtype | None = None

    def add(self, boxes: Sequence[Box], cams: Tensor) -> None:
        """Add the maps (n, B, *rest) of these windows, `rest` ending in a map's own spatial shape."""
        dims = len(self.plan.space)
        wide = widen(_resized(cams, self.plan.size))
        if self.dtype is None:
            self.dtype = cams.dtype
            # made of the maps, so that they are batched where the maps are
            self.total = wide.new_zeros(*wide.shape[1:-dims], *self.plan.space)
            self.weight = torch.zeros(self.plan.space, dtype=wide.dtype, device=wide.device)
            self.kernel = _kernel(self.plan.size, self.weights, self.scales, self.weight)
        for box, cam in zip(boxes, wide):
            inside, seen = _overlap(box, self.plan.space)
            part = cam[seen]
            if len(self.plan.boxes) == 1:
                self.total = part
                return
            self.total[inside] += part * self.kernel[seen]
            self.weight[inside] += self.kernel[seen]

    def result(self) -> Tensor:
        """Return the mean, (B, *rest), in the dtype of the maps."""
        assert self.dtype is not None
        if len(self.plan.boxes) > 1:
            self.total /= self.weight  # in place, since the map may be as large as the images
        return self.total.to(self.dtype)


def cut(x: Tensor, box: Box, own: tuple[int, ...]) -> Tensor:
    """Cut a window out of images (..., *S); where it goes beyond the image, there are zeros."""
    inside, seen = _overlap(box, own)
    part = x[inside]
    if tuple(part.shape[-len(own) :]) == tuple(stop - start for start, stop in box):
        return part
    pads = [n for (a, b), s in zip(reversed(box), reversed(seen[1:])) for n in (s.start, b - a - s.stop)]
    return functional.pad(part, pads)


def each(name: str, value: Any, dims: int) -> tuple[float, ...]:
    """Return one number for each dimension; refuse another number of them."""
    many = tuple(value) if isinstance(value, (list, tuple)) else (value,) * dims
    if len(many) != dims:
        raise CamfnError(f"windows: {name}: expected one number, or {dims}, one for each dimension; got {value}")
    return many


def _spans(length: int, side: int, overlap: float) -> list[tuple[int, int]]:
    """Lay windows along one dimension; the last ends with the image, and a larger one has the image in its middle."""
    if side >= length:
        first = -((side - length) // 2)
        return [(first, first + side)]
    step = max(int(side * (1 - overlap)), 1)
    return [(start, start + side) for start in (*range(0, length - side, step), length - side)]


def _overlap(box: Box, own: tuple[int, ...]) -> tuple[Index, Index]:
    """Return the part of the image that a window covers, and the part of the window that lies in the image."""
    spans = [(max(a, 0), min(b, n), a) for (a, b), n in zip(box, own)]
    inside = (..., *(slice(a, b) for a, b, _ in spans))
    return inside, (..., *(slice(a - first, b - first) for a, b, first in spans))


def _kernel(size: Sequence[int], weights: str, scales: Sequence[float], like: Tensor) -> Tensor:
    """Return the weight of each place of a window, (*size)."""
    kernel = torch.ones((1,) * len(size), dtype=like.dtype, device=like.device)
    for dim, (side, scale) in enumerate(zip(size, scales)):
        if weights == "gaussian":
            place = torch.arange(side, dtype=like.dtype, device=like.device) - (side - 1) / 2
            bell = torch.exp(-((place / (scale * side)) ** 2) / 2)
            kernel = kernel * bell.reshape(-1, *(1,) * (len(size) - 1 - dim))
    return kernel.clamp(min=_LEAST).expand(tuple(size))


def _resized(cams: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize maps (n, B, *rest) to the size of the window, those that have it not at all."""
    dims = len(size)
    if tuple(cams.shape[-dims:]) == size:
        return cams
    flat = cams.reshape(-1, 1, *cams.shape[-dims:])
    return resize(flat, size).reshape(*cams.shape[:-dims], *size)

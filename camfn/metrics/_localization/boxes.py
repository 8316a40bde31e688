"""Boxes of objects, in pixels and as masks."""

# tested in tests/metrics/localization/test_overlap.py

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from ..._shared.checks import describe, is_concrete, seen_false, space, tensor, within
from ..._shared.errors import ArgumentTypeError, CamfnError

Boxes: TypeAlias = "Tensor | Sequence[Tensor]"
"""Boxes in pixels of the heatmap, half-open: (B, 4), (B, n, 4), or a sequence with an (n, 4) a sample.

x0, y0, x1, y1 in an image; x0, x1 in a series; x0, y0, z0, x1, y1, z1 in a volume, z along its first dimension.
"""

_CALLS = {1: "x0 x1", 2: "x0 y0 x1 y1", 3: "x0 y0 z0 x1 y1 z1"}


def boxes_in_pixels(fractions: Tensor, size: Sequence[int]) -> Tensor:
    """Scale boxes from fractions of the image to pixels.

    Args:
        fractions: (..., 4), x0, y0, x1, y1 in [0, 1]; (..., 2) or (..., 6) for a series or a volume.
        size: (height, width) in pixels; (length,) or (depth, height, width).

    Returns:
        Same shape, in pixels, not rounded.

    Raises:
        CamfnError: numbers outside [0, 1], such as pixels.

    Example:
        >>> boxes_in_pixels(torch.tensor([[0.25, 0.5, 0.75, 1.0]]), (100, 200))
        tensor([[ 50.,  50., 150., 100.]])
    """
    tensor("boxes_in_pixels: fractions", fractions)
    sides = _space("boxes_in_pixels: size", size)
    numbers = 2 * len(sides)
    if not fractions.is_floating_point() or fractions.shape[-1:] != (numbers,) or not within(fractions, 0.0, 1.0):
        raise CamfnError(
            f"boxes_in_pixels: expected floats (..., {numbers}) in [0, 1], got {tuple(fractions.shape)} of "
            f"{fractions.dtype}{_span(fractions)}; divide pixels by the size of the photo first"
        )
    return fractions * fractions.new_tensor([*reversed(sides)] * 2)


def box_masks(boxes: Boxes, size: Sequence[int]) -> Tensor:
    """Mark the pixels whose centers lie in a sample's boxes.

    Args:
        boxes: x0, y0, x1, y1 in pixels, as `image.to_boxes` returns them: (B, 4), (B, n, 4), or a sequence with an
            (n, 4) a sample; integers or fractions of a pixel. 2 or 6 numbers for a series or a volume.
        size: (height, width) in pixels; (length,) or (depth, height, width).

    Returns:
        (B, *size), bool, the union of each sample's boxes.

    Raises:
        CamfnError: boxes of another shape, empty or outside the image, naming the sample.

    Example:
        >>> box_masks(torch.tensor([[1, 0, 3, 1]]), (2, 4)).int()
        tensor([[[0, 1, 1, 0],
                 [0, 0, 0, 0]]], dtype=torch.int32)
    """
    return region_masks("box_masks", boxes, _space("box_masks: size", size))


def region_masks(what: str, boxes: Boxes, size: Sequence[int]) -> Tensor:
    """Mark the pixels of the boxes of each sample; an error names the function."""
    dims, masks = len(size), []
    for each in boxes_by_sample(what, boxes, size):
        inside = torch.ones(len(each), *(1,) * dims, dtype=torch.bool, device=each.device)
        for axis, side in enumerate(reversed(size)):
            centers = torch.arange(side, device=each.device) + 0.5
            within_box = (each[:, axis, None] <= centers) & (centers < each[:, axis + dims, None])
            inside = inside & within_box.reshape(len(each), *(1,) * (dims - 1 - axis), side, *(1,) * axis)
        masks.append(inside.any(0))
    return torch.stack(masks) if masks else torch.zeros(0, *size, dtype=torch.bool)


def _space(name: str, size: Sequence[int]) -> tuple[int, ...]:
    """Return a spatial shape of one to three dimensions; refuse anything else."""
    sides = space(name, size)
    return sides if len(sides) <= 3 else space(name, size, 3)


def boxes_by_sample(what: str, boxes: Boxes, size: Sequence[int]) -> list[Tensor]:
    """Check boxes, and return one (n, 2 D) for each sample."""
    dims = len(size)
    numbers, corners = 2 * dims, _CALLS[dims]
    several = isinstance(boxes, (list, tuple)) or (isinstance(boxes, Tensor) and boxes.ndim)
    if not several or not all(isinstance(b, Tensor) for b in boxes):
        raise ArgumentTypeError(
            f"{what}: boxes: expected {corners} in pixels as (B, {numbers}), (B, n, {numbers}), or a list with an "
            f"(n, {numbers}) a sample, got {describe(boxes)}"
        )
    by_sample = [each.reshape(-1, numbers) if each.shape[-1:] == (numbers,) else each for each in boxes]
    for index, each in enumerate(by_sample):
        shape = tuple(each.shape)
        if each.ndim != 2 or each.shape[1] != numbers or not each.numel() or each.is_complex():
            raise CamfnError(
                f"{what}: boxes: expected (n, {numbers}), {corners}, with n > 0 for sample {index}, got {shape}"
            )
        low, high = each[:, :dims], each[:, dims:]
        inside = ((low >= 0) & (low < high)).all(1)
        for axis, side in enumerate(reversed(size)):
            inside = inside & (high[:, axis] <= side)
        if seen_false(inside):
            bad = each[~inside][0].tolist()
            ordered = " and ".join(f"{axis}0 < {axis}1" for axis in "xyz"[:dims])
            raise CamfnError(
                f"{what}: boxes: expected {ordered} within {' x '.join(map(str, reversed(size)))} pixels of the "
                f"heatmap, got {bad} for sample {index}; upsample the heatmap to the photo, or scale the boxes"
            )
    return by_sample


def _span(x: Tensor) -> str:
    """Say from where to where the numbers of a tensor go, if they can be read."""
    return f", {x.min():g} to {x.max():g}" if is_concrete(x) and x.numel() and not x.is_complex() else ""

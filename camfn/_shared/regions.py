"""Regions of an image: labels of a partition, or masks that may overlap, as masks (n, B, *T)."""

# tested in tests/methods/black_box/test_search.py and tests/image/test_by_region.py

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .checks import is_concrete, tensor
from .errors import CamfnError


def grid_labels(size: Sequence[int], grid: int, device: torch.device) -> Tensor:
    """Label a grid of `min(grid, side)` cells along each dimension, each as wide as the others to a position, (*size).

    Example:
        >>> grid_labels((2, 4), 2, torch.device("cpu"))
        tensor([[0, 0, 1, 1],
                [2, 2, 3, 3]])
    """
    labels = torch.zeros((), dtype=torch.long, device=device)
    for side in size:
        cells = min(grid, side)
        labels = labels[..., None] * cells + (2 * torch.arange(side, device=device) + 1) * cells // (2 * side)
    return labels


def grid_masks(size: Sequence[int], grid: int, device: torch.device) -> Tensor:
    """Return the cells of `grid_labels` as masks, (n, *size).

    Example:
        >>> grid_masks((3,), 2, torch.device("cpu"))
        tensor([[ True, False, False],
                [False,  True,  True]])
    """
    labels = grid_labels(size, grid, device)
    count = math.prod(min(grid, side) for side in size)
    cells: Tensor = labels == torch.arange(count, device=device).reshape(-1, *(1,) * labels.ndim)
    return cells


def masks_of(what: str, regions: Tensor, size: Sequence[int], batch: int) -> Tensor:
    """Turn regions into masks, (n, B, *T) or (n, 1, *T) for those of all images.

    Args:
        what: the function, for an error.
        regions: labels (*T) or (B, *T) of an integer dtype, equal in a region; or masks (n, *T) or (n, B, *T),
            bool or floats.
        size: T.
        batch: B.

    Example:
        >>> masks_of("f", torch.tensor([0, 2, 2]), (3,), 4)[:, 0].int()
        tensor([[1, 0, 0],
                [0, 1, 1]], dtype=torch.int32)
    """
    tensor(f"{what}: regions", regions, "labels of a partition, or masks; for example image.superpixels(photo)")
    size, shape = tuple(size), tuple(regions.shape)
    if regions.dtype == torch.bool or regions.is_floating_point():
        if shape and shape[0] and shape[1:] in (size, (batch, *size), (1, *size)):
            return regions if len(shape) > 1 + len(size) else regions[:, None]
    elif shape in (size, (batch, *size), (1, *size)) and not regions.is_complex():
        return _labelled(what, regions if len(shape) > len(size) else regions[None])
    raise CamfnError(
        f"{what}: regions: expected labels of an integer dtype, {size} or {(batch, *size)}, or masks of bools or "
        f"floats, (n, *{size}) or (n, *{(batch, *size)}); got {regions.dtype} of {shape}"
    )


def _labelled(what: str, labels: Tensor) -> Tensor:
    """Return a mask for each label, in the order of their numbers."""
    if not is_concrete(labels):
        raise CamfnError(f"{what}: regions: labels cannot be read here, so their number is unknown; give masks (n, *T)")
    names = labels.unique()  # type: ignore[no-untyped-call]
    masks: Tensor = labels[None] == names.reshape(-1, *(1,) * labels.ndim)
    return masks

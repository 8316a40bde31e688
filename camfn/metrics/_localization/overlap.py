"""Whether a heatmap lies where the object is, given as boxes or as a mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ..._shared.boxes import box_iou
from ..._shared.checks import (
    describe,
    length_matches,
    number,
    one_of,
    same_device,
    seen_false,
    shapes_agree,
    tensor,
)
from ..._shared.devices import brought
from ..._shared.errors import ArgumentTypeError, CamfnError
from ..._shared.maps import safe_divide
from ...image import to_mask
from ...image._checks import as_maps
from ...image._regions import boxes_of
from .boxes import Boxes, boxes_by_sample, region_masks


def pointing_game(heatmap: Tensor, region: Boxes, *, tolerance: float = 0.0) -> Tensor:
    """Pointing game: whether the largest value lies on the object.

    Where several pixels have the largest value, the result is the share of them on the object. For a constant map it is
    the area of the object, whereas the first pixel would always be the upper left corner.

    Source: Zhang et al., IJCV 2018 (1608.00507), with a tolerance of 15 pixels around the point; 2301.07002 has none.

    Args:
        heatmap: (B, H, W), or (B, *S) of one to three dimensions; raw or normalized.
        region: boxes in pixels of the heatmap (see `box_masks`), or a bool mask (B, *S).
        tolerance: largest distance of a hit from the nearest pixel of the object, in pixels.

    Returns:
        (B,), in [0, 1], higher is better.

    Raises:
        CamfnError: other shapes, a sample without an object, NaN or infinity.

    Example:
        >>> heatmap = torch.tensor([[[0.0, 5.0], [1.0, 0.0]]])
        >>> pointing_game(heatmap, torch.tensor([[1, 0, 2, 2]]))
        tensor([1.])
    """
    number("pointing_game: tolerance", tolerance, "[0, inf)")
    maps, masks = on_region("pointing_game", heatmap, region)
    if tolerance > 0:
        masks = _grown(masks, tolerance)
    highest = maps.amax(tuple(range(1, maps.ndim)), keepdim=True)
    # up to rounding, which is another one on another machine
    top = maps >= highest - 16 * torch.finfo(maps.dtype).eps * highest.abs()
    hits, all_ = (x.flatten(1).sum(1).to(maps) for x in (top & masks, top))
    return (hits / all_).to(heatmap.dtype)


def energy_in_box(heatmap: Tensor, region: Boxes) -> Tensor:
    """Energy-based pointing game: the share of the heatmap that lies on the object.

    Source: arXiv 1910.01279, section 4.3. The authors' code swaps the two axes of the box.

    Args:
        heatmap: (B, H, W), or (B, *S) of one to three dimensions; not negative.
        region: boxes in pixels of the heatmap (see `box_masks`), or a bool mask (B, *S).

    Returns:
        (B,), in [0, 1], higher is better: the area of the object for a constant map, 0 for a map of zeros.

    Raises:
        CamfnError: negative values, other shapes, a sample without an object, NaN or infinity.

    Example:
        >>> energy_in_box(torch.tensor([[[3.0, 1.0]]]), torch.tensor([[0, 0, 1, 1]]))
        tensor([0.7500])
    """
    maps, masks = on_region("energy_in_box", heatmap, region)
    if seen_false(maps >= 0):
        raise CamfnError("energy_in_box: expected a heatmap without negative values; pass camfn.image.normalize(cam)")
    inside, total = (x.flatten(1).sum(1) for x in (maps * masks, maps))
    return safe_divide(inside, total).to(heatmap.dtype)


def iou(heatmap: Tensor, region: Boxes, *, threshold: float = 0.2) -> Tensor:
    """Intersection over union of the object and the pixels where the heatmap exceeds a share of its maximum.

    Args:
        heatmap: (B, H, W), or (B, *S) of one to three dimensions.
        region: boxes in pixels of the heatmap (see `box_masks`), or a bool mask (B, *S).
        threshold: share of each map's maximum; values must be larger, as in `image.to_mask`.

    Returns:
        (B,), in [0, 1], higher is better; 0 for a map of zeros.

    Raises:
        CamfnError: a threshold out of range, other shapes, a sample without an object, NaN or infinity.

    Example:
        >>> iou(torch.tensor([[[1.0, 1.0, 0.0]]]), torch.tensor([[1, 0, 3, 1]]))
        tensor([0.3333])
    """
    maps, masks = on_region("iou", heatmap, region)
    above = to_mask(maps, threshold=threshold)
    both, either = (x.flatten(1).sum(1).to(maps) for x in (above & masks, above | masks))
    return (both / either).to(heatmap.dtype)


def box_ious(
    heatmap: Tensor,
    boxes: Boxes,
    *,
    thresholds: Sequence[float] | None = None,
    parts: Literal["largest", "all"] = "largest",
) -> Tensor:
    """Best IoU of the boxes around a thresholded heatmap with the boxes of the object, for each threshold.

    `max_box_acc` reads these rows: a run over many photos collects them, (B, T), and calls it at the end. SciPy finds
    the connected parts, on the CPU.

    Args:
        heatmap: (B, H, W), or (B, *S) of one to three dimensions.
        boxes: in pixels of the heatmap (see `box_masks`).
        thresholds: shares of the maximum; values must be larger. By default k / 255 for k = 0 to 254, since the authors
            round maps to 8 bits.
        parts: draw a box around the part with most pixels, or around every part.

    Returns:
        (B, T); 0 where nothing exceeds the threshold.

    Raises:
        CamfnError: as `box_masks`, or other `parts`; NaN or infinity, naming the samples.
        ImportError: SciPy is missing.

    Example:
        >>> heatmap = torch.tensor([[[0.0, 1.0, 1.0, 0.4]]])
        >>> box_ious(heatmap, torch.tensor([[1, 0, 3, 1]]), thresholds=(0.2, 0.5))
        tensor([[0.6667, 1.0000]])
    """
    one_of("box_ious: parts", parts, ("largest", "all"))
    levels = (
        [k / 255 for k in range(255)] if thresholds is None else _levels("box_ious: thresholds", thresholds, "[0, 1)")
    )
    maps = _of_space(heatmap, "box_ious")
    truth = boxes_by_sample("box_ious", boxes, maps.shape[1:])
    length_matches("box_ious: boxes", len(truth), len(maps))
    # SciPy finds the parts on the host, for each level
    maps, truth = maps.cpu(), [each.cpu() for each in truth]
    columns = []
    for level in levels:
        drawn = boxes_of(maps, level, parts == "largest")
        best = [_best_iou(ours.to(maps), theirs.to(maps)) for ours, theirs in zip(drawn, truth)]
        columns.append(torch.stack(best) if best else maps.new_zeros(0))
    return brought(torch.stack(columns, 1), heatmap)


def max_box_acc(ious: Tensor, *, at: Sequence[float] = (0.5,)) -> Tensor:
    """MaxBoxAcc: the share of samples whose box has enough IoU, at the single threshold that is best for all.

    Version 1 is `max_box_acc(box_ious(heatmap, boxes))`; version 2 draws boxes around all parts and takes the mean
    over three bounds, `max_box_acc(box_ious(heatmap, boxes, parts="all"), at=(0.3, 0.5, 0.7))`. It is a number of a
    data set, not of a sample.

    Boxes are half-open here. The authors' code counts both ends as pixels of the box, and takes the contour of largest
    area, where `image.to_boxes` takes the part with most pixels.

    Source: arXiv 2001.07437, section 4; version 2 from the journal version, 2007.04178.

    Args:
        ious: (B, T), from `box_ious`, all samples.
        at: smallest IoU that counts as a hit; the result is the mean over several.

    Returns:
        A scalar in [0, 1], higher is better.

    Raises:
        CamfnError: no samples, or another shape.

    Example:
        >>> max_box_acc(torch.tensor([[0.6, 0.4], [0.6, 0.9]]))
        tensor(1.)
    """
    tensor("max_box_acc: ious", ious, "the result of box_ious")
    if ious.ndim != 2 or not ious.numel() or not ious.is_floating_point():
        raise CamfnError(f"max_box_acc: expected (B, T) from box_ious, got {tuple(ious.shape)} of {ious.dtype}")
    at = _levels("max_box_acc: at", at, "[0, 1]")
    accuracies = [(ious >= bound).to(ious.dtype).mean(0).amax() for bound in at]
    return torch.stack(accuracies).mean()


def pxap(heatmap: Tensor, masks: Tensor, *, pooled: bool = False) -> Tensor:
    """PxAP: average precision of the pixels, ordered by the heatmap, against a mask.

    `sum_k (R_k - R_(k-1)) P_k` over all distinct values of the map. The authors take 1000 thresholds, which gives the
    same up to rounding.

    Source: arXiv 2001.07437, section 4.

    Args:
        heatmap: (B, *S).
        masks: (B, *S), bool.
        pooled: order the pixels of all samples together, as the paper does. The heatmaps must then be comparable, for
            example normalized.

    Returns:
        (B,), higher is better; the area of the object for a constant map. A scalar if `pooled`.

    Raises:
        CamfnError: other shapes, a mask that is not bool or is empty, NaN or infinity.

    Example:
        >>> pxap(torch.tensor([[0.9, 0.8, 0.1]]), torch.tensor([[True, False, True]]))
        tensor([0.8333])
    """
    maps = as_maps(heatmap, "pxap: heatmap")
    check_masks("pxap", masks, maps)
    values, truth = maps.flatten(1), masks.flatten(1)
    if pooled and not len(maps):
        raise CamfnError("pxap: pooled=True: expected at least one sample, got none")
    if pooled:
        values, truth = values.reshape(1, -1), truth.reshape(1, -1)
    ordered, order = (-values).sort(1)
    positive = truth.gather(1, order)
    # the number of pixels that are at least as large
    above = torch.searchsorted(ordered, ordered.contiguous(), right=True)
    precision = positive.cumsum(1).gather(1, above - 1).to(values) / above
    average = ((precision * positive).sum(1) / positive.sum(1)).to(heatmap.dtype)
    return average[0] if pooled else average


def on_region(what: str, heatmap: Tensor, region: Boxes) -> tuple[Tensor, Tensor]:
    """Check maps and their objects; return the maps in a type to compute in, and the masks of the objects."""
    maps = _of_space(heatmap, what)
    # a map may be four pixels wide, but no box is a bool
    is_mask = isinstance(region, Tensor) and (
        region.dtype == torch.bool or (region.shape == maps.shape and region.shape[-1] != 2 * (maps.ndim - 1))
    )
    masks = region if isinstance(region, Tensor) and is_mask else region_masks(what, region, maps.shape[1:])
    same_device(f"{what}: region", masks, maps, "heatmap")
    check_masks(what, masks, maps)
    return maps, masks


def _of_space(heatmap: Tensor, what: str) -> Tensor:
    """Check maps (B, *S) of one to three dimensions."""
    maps = as_maps(heatmap, f"{what}: heatmap")
    return maps if maps.ndim <= 4 else as_maps(heatmap, f"{what}: heatmap", spatial=3)


def check_masks(what: str, masks: Tensor, maps: Tensor) -> None:
    """Refuse masks of another type or shape, and masks without a pixel."""
    tensor(f"{what}: masks", masks)
    same_device(f"{what}: masks", masks, maps, "heatmap")
    if masks.dtype != torch.bool:
        raise CamfnError(f"{what}: expected a mask of bool, got {masks.dtype}; pass mask > 0")
    shapes_agree(f"{what}: mask", masks.shape, maps.shape)
    marked = masks.flatten(1).any(1)
    if seen_false(marked):
        sample = int(marked.int().argmin())
        raise CamfnError(
            f"{what}: no pixel belongs to the object of sample {sample}; if the boxes are fractions of "
            "the image, pass boxes_in_pixels(boxes, heatmap.shape[1:])"
        )


def _levels(name: str, values: Sequence[float], interval: str) -> list[float]:
    """Return a list of numbers in an interval, at least one; refuse anything else."""
    if not isinstance(values, (list, tuple)) or not values:
        raise ArgumentTypeError(f"{name}: expected a list of numbers in {interval}, got {describe(values)}")
    for value in values:
        number(name, value, interval)
    return list(values)


def _grown(masks: Tensor, tolerance: float) -> Tensor:
    """Add to each mask all pixels that are at most `tolerance` away."""
    squared = torch.where(masks, 0.0, torch.inf)
    for dim in range(1, masks.ndim):
        # the squared distance along one more dimension, no further than the tolerance and the image
        length, reach = squared.shape[dim], min(int(tolerance), squared.shape[dim] - 1)
        edge = torch.full_like(squared.narrow(dim, 0, 1), torch.inf).expand(
            *(reach if axis == dim else -1 for axis in range(masks.ndim))
        )
        wide = torch.cat([edge, squared, edge], dim)
        for step in range(2 * reach + 1):
            squared = torch.minimum(squared, wide.narrow(dim, step, length) + (step - reach) ** 2)
    return squared <= tolerance**2


def _best_iou(drawn: Tensor, truth: Tensor) -> Tensor:
    """Largest IoU of boxes (m, 4) with boxes (n, 4); 0 for none."""
    return box_iou(drawn[:, None], truth[None]).amax() if len(drawn) else drawn.new_zeros(())

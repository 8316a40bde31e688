"""Groups of pixels of like relevance, each removed alone: SaCo and faithfulness estimate."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ..._shared.checks import one_of, whole
from ..._shared.errors import ArgumentTypeError, CamfnError
from ..._shared.maps import safe_divide
from ..._shared.rows import ChunkSize, Progress
from .._common.likeness import correlation
from .._common.order import as_images, is_constant, on_images, ranks
from .._common.scores import ScoreOf
from .confidence import Baseline, baseline_of
from .drops import scores_beside


def mean_color(images: Tensor) -> Tensor:
    """Return the mean of each image and channel: the baseline of SaCo.

    Args:
        images: (B, C, *T).

    Returns:
        (B, C, 1, ..., 1), which broadcasts to the images.

    Raises:
        CamfnError: images of another shape.

    Example:
        >>> mean_color(torch.tensor([[[[1.0, 3.0]], [[0.0, 8.0]]]])).flatten()
        tensor([2., 4.])
    """
    as_images("mean_color", images)
    return images.mean(tuple(range(2, images.ndim)), keepdim=True)


def saco(
    score: ScoreOf,
    images: Tensor,
    heatmap: Tensor,
    *,
    groups: int = 10,
    baseline: Baseline = mean_color,
    reduce: Literal["mean", "sum"] = "mean",
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """Salience-guided faithfulness (SaCo): whether groups that a map holds for more relevant cost the score more.

    The pixels, in the order of the map, are cut into K groups of one size; s is the mean of the map over a group, d
    what the score loses without that group alone. Each pair i < j weighs `|s_i - s_j|`, and counts for the map where
    `d_i >= d_j`, otherwise against it: `sum_ij w_ij / sum_ij |w_ij|`. It costs `K + 1` forwards and has no derivative.

    A map of two values puts all weight on the pairs of its first groups: the mask of two digits, of which one cannot
    matter, scores above Grad-CAM.

    Source: arXiv 2404.01415 and the loop over pairs of the authors' code, which leaves the groups and the removal out:
    ten groups and the mean color are from memory. It takes sums; with groups of one size the result is the same.

    Args:
        score: images (B, C, *T) to (B,), as `scores_of(model, images)` makes it; probabilities in the paper.
        images: (B, C, *T).
        heatmap: (B, *S), raw, with its sign; resized linearly to T where S differs. Equal pixels come in reading order.
        groups: K. Where it does not divide the number of pixels, the first groups have one more.
        baseline: what replaces a group, as in `masked`.
        reduce: "sum" compares the sums of groups, which differ in size where K does not divide the pixels.
        chunk_size: groups at once: a number, None for all, or "auto" for what memory allows.
        progress: called with (forwards done, K + 1) after each chunk.

    Returns:
        (B,), in [-1, 1], higher is better; 0 for a constant map. It stays as it is if the map is multiplied by a
        positive number, or if a number is added to it (with `reduce="mean"`).

    Raises:
        CamfnError: more groups than pixels, other shapes, NaN or infinity in the map, NaN or infinity from `score`.

    Example:
        >>> images = torch.tensor([[[[1.0, 2.0, 3.0, 5.0]]]])
        >>> saco(lambda x: x.sum((1, 2, 3)), images, images[:, 0], groups=4, baseline=0.0)
        tensor([1.])
    """
    one_of("saco: reduce", reduce, ("mean", "sum"))
    maps, group = grouped("saco", heatmap, images, groups)
    before, after = _without_groups("saco", score, images, group, groups, baseline, chunk_size, progress)
    told = sums_of_groups(maps, group, groups)
    if reduce == "mean":
        told = told / _group_sizes(maps, groups)
    told = torch.where(is_constant(heatmap)[:, None], 0, told)
    return _weighted_pairs(told, before[:, None] - after).to(heatmap.dtype)


def faithfulness_estimate(
    score: ScoreOf,
    images: Tensor,
    heatmap: Tensor,
    *,
    groups: int = 50,
    baseline: Baseline = 0.0,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """Faithfulness estimate: Pearson's correlation of the sums of a map with the drops, over groups of like relevance.

    The pixels, in the order of the map, are cut into K groups of one size, and each is removed alone. With the
    gradient times the input of a linear score and a baseline of 0, the sums are the drops. It costs `K + 1` forwards
    and has no derivative.

    Source: arXiv 1806.07538: single features; in groups as in Quantus, whose `features_in_step` counts the
    values of channels.

    Args:
        score: images (B, C, *T) to (B,), as `scores_of(model, images)` makes it.
        images: (B, C, *T).
        heatmap: (B, *S), raw, with its sign; resized linearly to T where S differs. Equal pixels come in reading order.
        groups: K. Where it does not divide the number of pixels, the first groups have one more.
        baseline: what replaces a group, as in `masked`.
        chunk_size: groups at once: a number, None for all, or "auto" for what memory allows.
        progress: called with (forwards done, K + 1) after each chunk.

    Returns:
        (B,), in [-1, 1], higher is better; 0 for a constant map, and where all groups cost the same.

    Raises:
        CamfnError: more groups than pixels, other shapes, NaN or infinity in the map, NaN or infinity from `score`.

    Example:
        >>> images = torch.tensor([[[[1.0, 2.0, 3.0, 5.0]]]])
        >>> faithfulness_estimate(lambda x: x.sum((1, 2, 3)), images, images[:, 0], groups=4)
        tensor([1.])
    """
    what = "faithfulness_estimate"
    maps, group = grouped(what, heatmap, images, groups)
    before, after = _without_groups(what, score, images, group, groups, baseline, chunk_size, progress)
    told = torch.where(is_constant(heatmap)[:, None], 0, sums_of_groups(maps, group, groups))
    return correlation(told, before[:, None] - after)[0].to(heatmap.dtype)


def grouped(what: str, heatmap: Tensor, images: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return the maps at the size of the images, and the group of each pixel, 0 the most relevant: both (B, *T)."""
    whole(f"{what}: groups", groups, 2)
    maps = on_images(what, heatmap, images)
    if heatmap.dtype == torch.bool:
        raise ArgumentTypeError(
            f"{what}: heatmap: expected a floating-point tensor, got torch.bool; pass heatmap.float()"
        )
    total = math.prod(maps.shape[1:])
    if groups > total:
        raise CamfnError(f"{what}: groups: expected at most {total}, the pixels of an image, got {groups}")
    small, larger = divmod(total, groups)
    order, border = ranks(maps), larger * (small + 1)
    # the first groups are by one larger
    return maps, torch.where(order < border, order // (small + 1), larger + (order - border) // small)


def sums_of_groups(maps: Tensor, group: Tensor, groups: int) -> Tensor:
    """Sum maps over the groups of their pixels, (B, K)."""
    told = torch.zeros(len(maps), groups, dtype=maps.dtype, device=maps.device)
    return told.scatter_add(1, group.flatten(1), maps.flatten(1))


def _without_groups(
    what: str,
    score: ScoreOf,
    images: Tensor,
    group: Tensor,
    groups: int,
    baseline: Baseline,
    chunk_size: ChunkSize,
    progress: Progress | None,
) -> tuple[Tensor, Tensor]:
    """Score the images, (B,), and the images without each group alone, (B, K)."""
    base = baseline_of(what, baseline, images)
    return scores_beside(
        what,
        score,
        images,
        lambda row: torch.where((group == row)[:, None], base, images),
        groups,
        chunk_size,
        progress,
    )


def _group_sizes(maps: Tensor, groups: int) -> Tensor:
    """Count the pixels of each group, (K,)."""
    small, larger = divmod(math.prod(maps.shape[1:]), groups)
    return (small + (torch.arange(groups, device=maps.device) < larger)).to(maps.dtype)


def _weighted_pairs(told: Tensor, lost: Tensor) -> Tensor:
    """Weigh the pairs that two rows (B, K) order alike, less those that they order otherwise, (B,)."""
    count = told.shape[1]
    above, below = torch.triu_indices(count, count, 1, device=told.device)
    weights = told[:, above] - told[:, below]
    agrees = lost[:, above] >= lost[:, below]
    return safe_divide(torch.where(agrees, weights, -weights).sum(1), weights.abs().sum(1))

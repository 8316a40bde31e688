"""Groups of pixels of like relevance, each removed alone."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .._shared.checks import one_of, whole
from .._shared.errors import CamfnError
from .._shared.maps import safe_divide
from .._shared.rows import ChunkSize, Progress
from ._confidence import Baseline, baseline_of
from ._drops import scores_beside
from ._order import as_images, is_constant, on_images, ranks
from ._scores import ScoreOf


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
        CamfnError: more groups than pixels, other shapes, NaN or infinity in the map, NaN from `score`.

    Example:
        >>> images = torch.tensor([[[[1.0, 2.0, 3.0, 5.0]]]])
        >>> saco(lambda x: x.sum((1, 2, 3)), images, images[:, 0], groups=4, baseline=0.0)
        tensor([1.])
    """
    one_of("saco: reduce", reduce, ("mean", "sum"))
    whole("saco: groups", groups, 2)
    maps = on_images("saco", heatmap, images)
    total = maps[0].numel()
    if groups > total:
        raise CamfnError(f"saco: groups: expected at most {total}, the pixels of an image, got {groups}")
    group = group_of(ranks(maps), groups)
    base = baseline_of("saco", baseline, images)
    before, after = scores_beside(
        "saco",
        score,
        images,
        lambda row: torch.where((group == row)[:, None], base, images),
        groups,
        chunk_size,
        progress,
    )
    told = torch.zeros(len(maps), groups, dtype=maps.dtype, device=maps.device)
    told = told.scatter_add(1, group.flatten(1), maps.flatten(1))
    if reduce == "mean":
        told = told / group_sizes(total, groups, maps)
    told = torch.where(is_constant(heatmap)[:, None], 0, told)
    return _weighted_pairs(told, before[:, None] - after).to(heatmap.dtype)


def group_of(order: Tensor, groups: int) -> Tensor:
    """Return the group of each pixel by its rank, (B, *T): groups of one size, or the first ones by one larger."""
    total = order[0].numel()
    small, larger = divmod(total, groups)
    border = larger * (small + 1)
    return torch.where(order < border, order // (small + 1), larger + (order - border) // max(small, 1))


def group_sizes(total: int, groups: int, like: Tensor) -> Tensor:
    """Count the pixels of each group, (groups,)."""
    small, larger = divmod(total, groups)
    place = torch.arange(groups, device=like.device)
    return (small + (place < larger)).to(like.dtype)


def _weighted_pairs(told: Tensor, lost: Tensor) -> Tensor:
    """Weigh the pairs that two rows (B, K) order alike, less those that they order otherwise, (B,)."""
    count = told.shape[1]
    above, below = torch.triu_indices(count, count, 1, device=told.device)
    weights = told[:, above] - told[:, below]
    agrees = lost[:, above] >= lost[:, below]
    return safe_divide(torch.where(agrees, weights, -weights).sum(1), weights.abs().sum(1))

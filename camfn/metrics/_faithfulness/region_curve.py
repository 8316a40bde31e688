"""Scores while whole regions go, in the order of a map."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..._shared.checks import one_of
from ..._shared.errors import CamfnError
from ..._shared.maps import safe_divide
from ..._shared.rows import ChunkSize, Progress, finite
from .._common.order import as_images, is_constant, levels, ranks_of
from .._common.regions import of_images, sizes_of, sums_of
from .._common.scores import ScoreOf, score_rows
from .confidence import Baseline, baseline_of
from .curves import Curve
from .groups import mean_color


def region_curve(
    score: ScoreOf,
    images: Tensor,
    heatmap: Tensor,
    masks: Tensor,
    *,
    baseline: Baseline = 0.0,
    reduce: Literal["sum", "mean"] = "sum",
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Curve:
    """Score images while whole regions are replaced, those that a map holds for most relevant first.

    It is `deletion` by regions of any shape. It costs `n + 1` forwards and has no derivative.

    Args:
        score: images (B, C, *T) to (B,), as `scores_of(model, images)` makes it.
        images: (B, C, *T).
        heatmap: (B, *S), raw; resized linearly to T where S differs. Regions that are equal, up to rounding,
            come in their own order.
        masks: the regions, (n, *T), bool, such as `grid_cells((224, 224), 7)`; (n, B, *T) where each sample has its
            own.
        baseline: what replaces a region, as in `masked`.
        reduce: order the regions by the sum of the map over each, or by its mean.
        chunk_size: steps at once: a number, None for all, or "auto" for what memory allows.
        progress: called with (steps done, all steps) after each chunk.

    Returns:
        A `Curve` of the scores, (B, n + 1), against the shares of regions.

    Raises:
        CamfnError: other shapes, an empty region, NaN or infinity in the map, NaN or infinity from `score`.

    Example:
        >>> from camfn.metrics import grid_cells
        >>> images = torch.tensor([[[[1.0, 2.0, 3.0, 5.0]]]])
        >>> region_curve(lambda x: x.sum((1, 2, 3)), images, images[:, 0], grid_cells((1, 4), (1, 2))).scores
        tensor([[11.,  3.,  0.]])
    """
    one_of("region_curve: reduce", reduce, ("sum", "mean"))
    as_images("region_curve", images)
    order = order_of("region_curve", heatmap, images, masks, reduce)
    return curve_of("region_curve", score, images, masks, order, baseline, chunk_size, progress)


def irof(
    score: ScoreOf,
    images: Tensor,
    heatmap: Tensor,
    masks: Tensor,
    *,
    baseline: Baseline = mean_color,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """IROF: the area over the curve of the score's share that is left while superpixels go, the most relevant first.

    `1 - area(f(x_k) / f(x))` over the share of superpixels, by trapezoids, both ends included; a superpixel is as
    relevant as the mean of the map over it. The number of superpixels times this is the area in superpixels. It costs
    `n + 1` forwards and has no derivative.

    Source: arXiv 2003.08747: superpixels by SLIC, replaced by the mean color; scikit-image's `slic` makes them, and
    `label_masks` turns their labels into masks. Quantus leaves the point of the whole image out of its area.

    Args:
        score: images (B, C, *T) to (B,), as `scores_of(model, images)` makes it; probabilities in the paper.
        images: (B, C, *T).
        heatmap: (B, *S), raw, with its sign; resized linearly to T where S differs.
        masks: the superpixels, (n, *T), bool, or (n, B, *T) where each sample has its own. A sample with fewer of them
            has empty ones, which do not count: `torch.nn.utils.rnn.pad_sequence([label_masks(a), label_masks(b)])`.
        baseline: what replaces a superpixel, as in `masked`.
        chunk_size: steps at once: a number, None for all, or "auto" for what memory allows.
        progress: called with (steps done, all steps) after each chunk.

    Returns:
        (B,), at most 1 for scores that are not negative, higher is better; 0 where the score of the image is 0.

    Raises:
        CamfnError: as `region_curve`; a sample without a superpixel.

    Example:
        >>> from camfn.metrics import grid_cells
        >>> images = torch.tensor([[[[1.0, 2.0, 3.0, 5.0]]]])
        >>> irof(lambda x: x.sum((1, 2, 3)), images, images[:, 0], grid_cells((1, 4), (1, 2)), baseline=0.0)
        tensor([0.6136])
    """
    as_images("irof", images)
    order = order_of("irof", heatmap, images, masks, "mean", padded=True)
    curve = curve_of("irof", score, images, masks, order, baseline, chunk_size, progress)
    scores = finite("irof: score", curve.scores)
    sizes = sizes_of(masks, images.ndim - 2)
    counts = (sizes > 0).sum(0).expand(len(images))
    steps = torch.arange(len(masks), device=scores.device) < counts[:, None]
    area = ((scores[:, :-1] + scores[:, 1:]) / 2 * steps).sum(1) / counts
    return torch.where(scores[:, 0] == 0, 0, 1 - safe_divide(area, scores[:, 0]))


def order_of(
    what: str,
    heatmap: Tensor,
    images: Tensor,
    masks: Tensor,
    reduce: Literal["sum", "mean"],
    *,
    padded: bool = False,
) -> Tensor:
    """Rank the regions by a map, 0 the first to go: (B, n); empty ones, which `padded` lets a sample have, go last."""
    of_images(what, masks, images)
    sums = sums_of(what, heatmap, masks)
    if sums.shape[0] != images.shape[0]:
        raise CamfnError(f"{what}: heatmap: expected one for each of the {images.shape[0]} images, got {len(sums)}")
    sizes = sizes_of(masks, images.ndim - 2)
    empty = sizes == 0
    if bool((empty.all(0) if padded else empty).any()):
        raise CamfnError(
            f"{what}: masks: expected at least one pixel in {'a region of each sample' if padded else 'each region'}; "
            "where photos have different numbers of regions, call it for each photo"
        )
    each = sizes if sizes.ndim == 1 else sizes.mT
    told = sums if reduce == "sum" else sums / each.clamp(min=1)
    told = torch.where(is_constant(heatmap)[:, None], 0, told)
    # sums of cells that mirror each other differ by how a machine adds up
    return ranks_of(levels(told, told.abs().amax(1, keepdim=True)).masked_fill(each == 0, -1))


def curve_of(
    what: str,
    score: ScoreOf,
    images: Tensor,
    masks: Tensor,
    order: Tensor,
    baseline: Baseline,
    chunk_size: ChunkSize,
    progress: Progress | None,
) -> Curve:
    """Score images while regions go in the order of their ranks (B, n)."""
    base = baseline_of(what, baseline, images)
    count = len(masks)
    inside = masks if masks.ndim == images.ndim else masks[:, None]
    place = torch.where(inside, order.mT.reshape(count, -1, *(1,) * (images.ndim - 2)), count).amin(0)[:, None]
    counts = torch.arange(count + 1, device=images.device)
    scores = score_rows(
        what,
        score,
        lambda gone: torch.where(place < gone, base, images),
        counts,
        chunk_size=chunk_size,
        progress=progress,
    )
    return Curve(counts.to(scores.dtype) / count, scores.mT.contiguous())

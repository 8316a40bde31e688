"""What the score loses without a region, and how well a map's sums over the regions tell."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..._shared.checks import same_device, shapes_agree
from ..._shared.rows import ChunkSize, Progress, finite, row_of
from ...image._checks import as_maps
from .._common.likeness import correlation, mean_ranks
from .._common.order import as_images, is_constant
from .._common.regions import of_images, sums_of
from .._common.scores import ScoreOf, score_rows
from .confidence import Baseline, baseline_of


def drops(
    score: ScoreOf,
    images: Tensor,
    masks: Tensor,
    *,
    baseline: Baseline = 0.0,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """Score images without each of several regions: `f(x) - f(x without S)`.

    The regions do not look at a map, so these numbers belong to the photo: run them once, and give them to
    `single_deletion` and `faithfulness_correlation` for the map of every method. It costs `n + 1` forwards and has no
    derivative.

    Args:
        score: f: images (B, C, *T) to (B,), as `scores_of(model, images)` makes it.
        images: x, (B, C, *T).
        masks: S, (n, *T), bool, such as `grid_cells((224, 224), 4)` or `random_cells(...)`; (n, B, *T) where each
            sample has regions of its own.
        baseline: what replaces the region, as in `masked`.
        chunk_size: regions at once: a number, None for all, or "auto" for what memory allows.
        progress: called with (forwards done, n + 1) after each chunk.

    Returns:
        (B, n), any sign; 0 for an empty region.

    Raises:
        CamfnError: masks of another type or shape, NaN or infinity from `score`.

    Example:
        >>> from camfn.metrics import grid_cells
        >>> images = torch.tensor([[[[1.0, 2.0, 3.0, 5.0]]]])
        >>> drops(lambda x: x.sum((1, 2, 3)), images, grid_cells((1, 4), (1, 2)))
        tensor([[3., 8.]])
    """
    as_images("drops", images)
    removed = of_images("drops", masks, images)
    base = baseline_of("drops", baseline, images)

    def without(row: Tensor) -> Tensor:
        return torch.where(row_of(removed, row), base, images)

    before, after = scores_beside("drops", score, images, without, len(masks), chunk_size, progress)
    return before[:, None] - after


def scores_beside(
    what: str,
    score: ScoreOf,
    images: Tensor,
    change: Callable[[Tensor], Tensor],
    count: int,
    chunk_size: ChunkSize,
    progress: Progress | None,
) -> tuple[Tensor, Tensor]:
    """Score the images and `count` changes of them in one run: (B,) and (B, count).

    One run rounds alike, so that a change that changes nothing has exactly the score of the images on a CPU.
    """
    rows = torch.arange(count + 1, device=images.device)

    def each(row: Tensor) -> Tensor:
        return torch.where(row == 0, images, change((row - 1).clamp(min=0)))

    scores = score_rows(what, score, each, rows, chunk_size=chunk_size, progress=progress)
    finite(f"{what}: score", scores.mT)
    return scores[0], scores[1:].mT.contiguous()


def single_deletion(heatmap: Tensor, drops: Tensor, masks: Tensor) -> Tensor:
    """Single deletion score (IDSDS): whether the sum of a map over a cell ranks what the score loses without the cell.

    Rank correlation over the cells, equal values with the mean of their ranks. It compares networks only where each was
    trained further on images without one cell, as the authors do; otherwise a removed cell is a sight that the network
    never had.

    Source: arXiv 2407.11910 and the authors' code: 4 x 4 cells, replaced by 0 in normalized images; the sum keeps the
    sign of the map. A constant map is NaN there, which makes the mean over photos NaN.

    Args:
        heatmap: (B, *S), raw, with its sign; resized linearly to T where S differs.
        drops: (B, n), from `drops`; of logits in the paper.
        masks: those that `drops` took, (n, *T) or (n, B, *T), bool.

    Returns:
        (B,), in [-1, 1], higher is better; 0 for a constant map, and where the sums or the drops are all equal.

    Raises:
        CamfnError: other shapes; NaN or infinity, naming the samples.

    Example:
        >>> from camfn.metrics import grid_cells
        >>> images, cells = torch.tensor([[[[1.0, 2.0, 3.0, 5.0]]]]), grid_cells((1, 4), (1, 4))
        >>> lost = drops(lambda x: x.square().sum((1, 2, 3)), images, cells)
        >>> single_deletion(images[:, 0], lost, cells)
        tensor([1.])
    """
    sums, lost = _told_and_lost("single_deletion", heatmap, drops, masks)
    return rank_correlation(sums, lost).to(drops.dtype)


def faithfulness_correlation(heatmap: Tensor, drops: Tensor, masks: Tensor) -> Tensor:
    """Faithfulness correlation: Pearson's correlation of a map's sums over sets of pixels with what the score loses.

    With the gradient times the input of a linear score and a baseline of 0, the sums are the drops. For sets of
    one size it is also the sensitivity-n of that size: see `sensitivity_n`. A map of few values or few sets decides
    little: the number is as good as the number of sets.

    Source: arXiv 2005.00631, definition 1: random sets of fixed size, replaced by a baseline.

    Args:
        heatmap: (B, *S), raw, with its sign; resized linearly to T where S differs.
        drops: (B, n), from `drops`.
        masks: those that `drops` took, such as `random_cells(...)`: (n, *T) or (n, B, *T), bool.

    Returns:
        (B,), in [-1, 1], higher is better; 0 for a constant map, and where the sums or the drops are all equal.

    Raises:
        CamfnError: other shapes; NaN or infinity, naming the samples.

    Example:
        >>> from camfn.metrics import grid_cells, random_cells
        >>> images, generator = torch.tensor([[[[1.0, 2.0, 3.0, 5.0]]]]), torch.Generator().manual_seed(0)
        >>> sets = random_cells(grid_cells((1, 4), (1, 4)), 2, 8, generator=generator)
        >>> lost = drops(lambda x: x.sum((1, 2, 3)), images, sets)
        >>> faithfulness_correlation(7 * images[:, 0], lost, sets)
        tensor([1.])
    """
    sums, lost = _told_and_lost("faithfulness_correlation", heatmap, drops, masks)
    return correlation(sums, lost)[0].to(drops.dtype)


def _told_and_lost(what: str, heatmap: Tensor, drops: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the map says of each region, and what the score lost without it, both (B, n)."""
    sums = sums_of(what, heatmap, masks)
    lost = as_maps(drops, f"{what}: drops")
    shapes_agree(f"{what}: drops", lost.shape, sums.shape)
    same_device(f"{what}: drops", lost, sums, "heatmap")
    # the sums of a constant map tell the sizes of the regions alone, and their rounding
    return torch.where(is_constant(heatmap)[:, None], 0, sums), lost


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's correlation of rows (B, n), values that are equal up to rounding tied; 0 for a constant row."""
    return correlation(mean_ranks(_levels(first)), mean_ranks(_levels(second)))[0]


def _levels(rows: Tensor) -> Tensor:
    """Number the distinct values of each row (B, n), from the lowest; those that only rounding sets apart are one."""
    ordered, order = rows.sort(1)
    step = ordered.diff(dim=1) > 16 * torch.finfo(rows.dtype).eps * rows.abs().amax(1, keepdim=True)
    level = torch.cat([torch.zeros_like(step[:, :1]), step], 1).cumsum(1) if rows.shape[1] > 1 else order
    return torch.zeros_like(rows).scatter(1, order, level.to(rows.dtype))

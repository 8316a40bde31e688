"""The best order in which cells can go, and how near to it the order of a map comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..._shared.checks import generator_of, one_of, whole
from ..._shared.devices import tensor_on
from ..._shared.errors import CamfnError
from ..._shared.maps import safe_divide
from ..._shared.noise import draw_uniform
from ..._shared.rows import ChunkSize, Progress
from .._common.order import as_images
from .._common.regions import of_images
from .._common.scores import ScoreOf, score_rows
from .confidence import Baseline, baseline_of
from .curves import Curve
from .region_curve import curve_of, order_of

_MOST_CELLS = {"exact": 16, "greedy": 62}
"""65536 forwards for 16 cells; and a set of cells is the bits of one integer."""


class Ceiling(NamedTuple):
    """The best order in which the cells of images can go, and the mean over orders.

    Attributes:
        order: (B, n), the cells, the first to go first.
        best: the scores while they go, (B, n + 1).
        random: the mean area under the curve over all orders, or over those that were drawn, (B,).
    """

    order: Tensor
    best: Curve
    random: Tensor


def trace_ceiling(
    score: ScoreOf,
    images: Tensor,
    masks: Tensor,
    *,
    how: Literal["greedy", "exact"] = "greedy",
    baseline: Baseline = 0.0,
    generator: torch.Generator | None = None,
    orders: int = 10,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Ceiling:
    """Find the order of cells whose removal lowers the score fastest: the ceiling of every deletion curve.

    "greedy" removes the cell that leaves the lowest score, n times, `n (n + 1) / 2` forwards; its area is at most a
    little above the least one. The mean over orders is of `orders` drawn ones, the same for all samples,
    `orders (n - 1)` forwards more. "exact" scores all `2^n` sets of cells once, and finds the order of least area
    by dynamic programming, and the mean over all orders, without a generator.

    The order that keeps the score longest (LeRF) is the ceiling of `lambda x: -score(x)`.

    Source: TRACE (ICML 2024, openreview SKPhvzxO1g), its greedy order; the annealing that follows it there is left out.
    The exact order is camfn's.

    Args:
        score: images (B, C, *T) to (B,), as `scores_of(model, images)` makes it.
        images: (B, C, *T).
        masks: the cells, (n, *T), bool, or (n, B, *T): at most 62, or 16 for "exact".
        how: "greedy" or "exact".
        baseline: what replaces a cell, as in `masked`.
        generator: draws the orders of "greedy".
        orders: how many.
        chunk_size: sets of cells at once: a number, None for all, or "auto" for what memory allows.
        progress: called with (sets done, sets of this step) after each chunk.

    Returns:
        A `Ceiling`.

    Raises:
        CamfnError: too many cells, "greedy" without a generator, other shapes, NaN or infinity from `score`.

    Example:
        >>> from camfn.metrics import grid_cells
        >>> images = torch.tensor([[[[1.0, 2.0, 3.0, 5.0]]]])
        >>> ceiling = trace_ceiling(lambda x: x.sum((1, 2, 3)), images, grid_cells((1, 4), (1, 4)), how="exact")
        >>> ceiling.order, ceiling.best.auc, ceiling.random
        (tensor([[3, 2, 1, 0]]), tensor([3.8750]), tensor([5.5000]))
    """
    one_of("trace_ceiling: how", how, ("greedy", "exact"))
    as_images("trace_ceiling", images)
    removed = of_images("trace_ceiling", masks, images)
    count, most = len(removed), _MOST_CELLS[how]
    if count > most:
        raise CamfnError(f"trace_ceiling: expected at most {most} cells for how={how!r}, got {count}")
    base = baseline_of("trace_ceiling", baseline, images)
    bits = tensor_on(torch.tensor([1 << k for k in range(count)]), images.device)
    codes = (removed * bits.reshape(-1, *(1,) * (removed.ndim - 1))).sum(0)

    def scores(sets: Tensor) -> Tensor:
        """Score the images without sets of cells, each the bits of an integer: (R,) or (R, B) to (B, R)."""

        def change(row: Tensor) -> Tensor:
            gone = codes & row.reshape(-1, *(1,) * (images.ndim - 1))
            return torch.where(gone != 0, base, images)

        return score_rows("trace_ceiling", score, change, sets, chunk_size=chunk_size, progress=progress).mT

    if how == "exact":
        return _exact(scores(torch.arange(2**count, device=images.device)), count)
    generator_of("trace_ceiling", generator)
    whole("trace_ceiling: orders", orders)
    assert generator is not None
    drawn = tensor_on(draw_uniform((orders, count), generator).argsort(1).cpu(), images.device)
    return _greedy(scores, bits, len(images), drawn)


def trace(
    score: ScoreOf,
    images: Tensor,
    heatmap: Tensor,
    masks: Tensor,
    ceiling: Ceiling,
    *,
    baseline: Baseline = 0.0,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """Measure the way from a random order of cells to the best one that a map's order goes: `(R - A) / (R - A*)`.

    A is the area under `region_curve`, A* that of the best order, R the mean over orders. 1 is the best that any
    map could reach on this network with these cells and this baseline, 0 is chance. Over photos, take the ratio of the
    means: a photo on which no order matters has a small denominator. It costs `n + 1` forwards beyond the ceiling.

    Source: TRACE (ICML 2024, openreview SKPhvzxO1g) for the best order; the share is camfn's.

    Args:
        score: as `trace_ceiling` took it.
        images: as `trace_ceiling` took them.
        heatmap: (B, *S), raw; resized linearly to T where S differs.
        masks: as `trace_ceiling` took them.
        ceiling: from `trace_ceiling`.
        baseline: as `trace_ceiling` took it.
        chunk_size: steps at once: a number, None for all, or "auto" for what memory allows.
        progress: called with (steps done, all steps) after each chunk.

    Returns:
        (B,), at most 1 for an exact ceiling, higher is better; 0 where all orders have one area.

    Raises:
        CamfnError: as `region_curve`, or a ceiling of other cells.

    Example:
        >>> from camfn.metrics import grid_cells
        >>> score, images, cells = lambda x: x.sum((1, 2, 3)), torch.tensor([[[[1.0, 2.0, 3.0, 5.0]]]]), (1, 4)
        >>> cells = grid_cells((1, 4), cells)
        >>> ceiling = trace_ceiling(score, images, cells, how="exact")
        >>> trace(score, images, -images[:, 0], cells, ceiling), trace(score, images, images[:, 0], cells, ceiling)
        (tensor([-1.]), tensor([1.]))
    """
    as_images("trace", images)
    order = order_of("trace", heatmap, images, masks, "sum")
    if not isinstance(ceiling, Ceiling) or tuple(ceiling.order.shape) != (len(images), len(masks)):
        raise CamfnError(
            f"trace: ceiling: expected that of these images and cells, of order ({len(images)}, {len(masks)}); call "
            "trace_ceiling(score, images, masks, ...)"
        )
    curve = curve_of("trace", score, images, masks, order, baseline, chunk_size, progress)
    # areas of a number of cells: what does not matter must not leave a rounding error over a rounding error
    way = ceiling.random - ceiling.best.auc
    least = 16 * torch.finfo(way.dtype).eps * ceiling.random.abs()
    return safe_divide(ceiling.random - curve.auc, torch.where(way <= least, 0, way))


def _exact(scores: Tensor, count: int) -> Ceiling:
    """Find the order of least area from the scores of all sets of cells, (B, 2^n), set by set of one size."""
    # which sets to read is the host's to know: a device would have to wait for each list of them
    sets = torch.arange(2**count)
    sizes = sum((sets >> k & 1 for k in range(count)), torch.zeros_like(sets))
    of_size = [sets[sizes == size] for size in range(count + 1)]
    total = torch.full_like(scores, torch.inf)
    total[:, 0] = scores[:, 0] / 2
    last = torch.zeros(scores.shape, dtype=torch.long, device=scores.device)
    for size in range(1, count + 1):
        for k in range(count):
            holding = tensor_on(of_size[size][(of_size[size] >> k & 1) == 1], scores.device)
            before, least = total[:, holding ^ (1 << k)], total[:, holding]
            total[:, holding] = torch.where(before < least, before, least)
            last[:, holding] = torch.where(before < least, k, last[:, holding])
        these = tensor_on(of_size[size], scores.device)
        total[:, these] += scores[:, these]
    now = torch.full((len(scores), 1), 2**count - 1, device=scores.device)
    states, order = [now], []
    for _ in range(count):
        order.append(last.gather(1, now))
        now = now ^ (1 << order[-1])
        states.append(now)
    at_size = torch.stack([scores[:, tensor_on(these, scores.device)].mean(1) for these in of_size], 1)
    shares = torch.arange(count + 1, device=scores.device).to(scores.dtype) / count
    best = Curve(shares, scores.gather(1, torch.cat(states[::-1], 1)))
    return Ceiling(torch.cat(order[::-1], 1), best, Curve(shares, at_size).auc)


def _greedy(scores: Callable[[Tensor], Tensor], bits: Tensor, batch: int, drawn: Tensor) -> Ceiling:
    """Remove the cell that leaves the lowest score, again and again; and score the orders that were drawn."""
    count = len(bits)
    left = bits.expand(batch, count)
    gone = torch.zeros(batch, 1, dtype=bits.dtype, device=bits.device)
    chosen, curve = [], [scores(gone.mT)]
    for _ in range(count):
        found = scores((gone | left).mT.contiguous())
        best = found.argmin(1, keepdim=True)
        chosen.append(left.gather(1, best))
        curve.append(found.gather(1, best))
        gone = gone | chosen[-1]
        others = torch.arange(left.shape[1] - 1, device=left.device)
        left = left.gather(1, others + (others >= best))
    ends = curve[0], curve[-1]
    inner = bits[drawn].cumsum(1)[:, :-1].reshape(-1)
    middle = scores(inner).reshape(batch, len(drawn), count - 1).mean(1) if count > 1 else ends[0][:, :0]
    shares = torch.arange(count + 1, device=bits.device).to(ends[0].dtype) / count
    order = (torch.cat(chosen, 1)[:, :, None] == bits).long().argmax(2)
    random = Curve(shares, torch.cat([ends[0], middle, ends[1]], 1)).auc
    return Ceiling(order, Curve(shares, torch.cat(curve, 1)), random)

"""Region search: regions of the input in the order in which they make the score, greedily. A black box."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..._shared.checks import function, progress_bar, within
from ..._shared.chunks import Engine, telling
from ..._shared.devices import brought
from ..._shared.errors import CamfnError
from ..._shared.maps import widen
from ..._shared.regions import grid_masks, masks_of
from ..._shared.rows import ChunkSize, Progress, finite, score_variants
from .._checks import at_least_one, broadcastable, images


def region_search(
    activations: Tensor,
    grads: Tensor | None = None,
    outputs: Any = None,
    *,
    forward: Callable[[Tensor], Tensor],
    inputs: Tensor,
    regions: Tensor | None = None,
    grid: int = 7,
    steps: int | None = None,
    baseline: float | Tensor = 0.0,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """Region search, as VPS and EAGLE do it: at each step the region that helps the score most joins those before it.

    With `F(S) = f(S shown alone) - f(S hidden)`, step i adds to `S` the region that makes `F` greatest, and
    `L(p) = sum_(j > i) |F(S_j) - F(S_(j-1))|` in the region of step i: the first region is highest, the last is 0. A
    pixel of several regions takes its highest value, one of none is 0. The candidates of a step run as one batch, for
    any score: detections and words too. `n (n + 1)` forwards for n regions, 2450 as it comes; with `steps` the first s
    regions are found, in `s (2 n - s + 1)` forwards, and the others are 0.

    The map is that of the authors' code before it is stretched to [0, 1]. There `F` has `1 - f(S hidden)`, which is the
    same in differences. The authors take superpixels: `image.superpixels`. Masks of SAM do as well. The order of the
    regions is greedy, not the best; for a score that is additive over regions it is the best.

    Source: arXiv 2411.16198 (VPS) and 2509.22496 (EAGLE), both weights 1, and the authors' code.

    Args:
        activations: (B, C, *S), not used.
        grads: not used.
        outputs: not used.
        forward: the whole network and the target, inputs to scores (B,); runs under `torch.vmap` where it can.
        inputs: (B, channels, *T), one to three spatial dimensions.
        regions: labels of one partition of the image, (*T), or of each image's own, (B, *T), of an integer dtype and
            equal in a region, whatever the numbers; or masks, (n, *T) or (n, B, *T), bool or floats in [0, 1], which
            may overlap. None is a grid of squares.
        grid: cells of that grid along each dimension.
        steps: how many regions to find, two or more; None is all. The last one found has 0, as those not found.
        baseline: what hides a region: a number, or a tensor that broadcasts to the inputs.
        chunk_size: runs at once; None is all of a step, "auto" as many as memory allows.
        progress: called with forwards done and their number.

    Returns:
        The raw map, (B, *T), where other methods give (B, *S); never negative.

    Raises:
        CamfnError: for regions of another shape, masks outside of [0, 1], fewer than two regions or steps, a
            baseline that does not broadcast, or scores that are not one finite number a sample.

    Example:
        >>> import torch
        >>> image, regions = torch.tensor([[[1.0, 1.0, 5.0, 3.0]]]), torch.tensor([0, 0, 1, 2])
        >>> region_search(image, forward=lambda x: x.sum((1, 2)), inputs=image, regions=regions)  # 5, then 3, then 2
        tensor([[ 0.,  0., 10.,  4.]])
    """
    at_least_one("region_search", grid=grid, **({} if steps is None else {"steps": steps}))
    images("region_search", inputs)
    progress_bar("region_search", progress)
    function("region_search: forward", forward, "from inputs to one score a sample, as explainer binds it")
    base = broadcastable("region_search: baseline", baseline, inputs, "inputs")
    size, x = inputs.shape[2:], widen(inputs)
    given = grid_masks(size, grid, inputs.device) if regions is None else regions
    masks = masks_of("region_search", given, size, len(inputs))
    if not within(masks, 0, 1):
        raise CamfnError("region_search: regions: expected masks of numbers in [0, 1], 1 inside of a region")
    masks = brought(masks, x).expand(-1, len(inputs), *size)
    empty = masks.flatten(2).amax(2).mT == 0
    most = len(masks) if steps is None else min(steps, len(masks))
    if most < 2:
        raise CamfnError(
            f"region_search: expected two regions or more to find, got steps={steps} of {len(masks)}: a region's value "
            "is how the score changes after it, which is 0 for the last one. For example steps=2, or None for all"
        )
    count, done = most * (2 * len(masks) - most + 1), 0
    left = torch.arange(len(masks), device=x.device).expand(len(inputs), -1)
    shown = torch.zeros_like(x[:, 0])
    found: list[Tensor] = []
    chosen: list[Tensor] = []
    for _ in range(most):
        tell = None if progress is None else partial(_tell, progress, done, count)
        rows = torch.arange(2 * left.shape[1], device=x.device)
        change = partial(_candidate, inputs, base, shown, masks, left)
        scores = score_variants("region_search: forward", forward, change, rows, chunk_size=chunk_size, progress=tell)
        scores = widen(finite("region_search: forward", scores.mT, inputs)).to(x.dtype)
        gain = scores[:, : left.shape[1]] - scores[:, left.shape[1] :]
        best = torch.where(empty.gather(1, left), -torch.inf, gain).argmax(1, keepdim=True)
        found.append(gain.gather(1, best)[:, 0])
        chosen.append(_region(masks, left.gather(1, best)[:, 0]))
        shown = torch.maximum(shown, chosen[-1])
        left, done = _without(left, best), done + len(rows)
    return _painted(chosen, torch.stack(found, 1)).to(inputs.dtype)


def _tell(progress: Progress, before: int, count: int, done: int, total: int, *, engine: Engine = "folded") -> None:
    """Tell the forwards done since the first step."""
    telling(progress, engine)(before + done, count)


def _region(masks: Tensor, index: Tensor) -> Tensor:
    """Return one region of each image, (B, *T), of masks (n, B, *T) and indices (B,)."""
    return masks[index, torch.arange(masks.shape[1], device=masks.device)]


def _candidate(inputs: Tensor, base: Tensor, shown: Tensor, masks: Tensor, left: Tensor, row: Tensor) -> Tensor:
    """Show the regions found and one more, or, for the second half of the rows, all but these."""
    number = row % left.shape[1]
    mask = torch.maximum(shown, _region(masks, left.index_select(1, number.reshape(1))[:, 0]))
    mask = torch.where(row < left.shape[1], mask, 1 - mask)[:, None].to(inputs.dtype)
    return inputs * mask + base * (1 - mask)


def _without(left: Tensor, place: Tensor) -> Tensor:
    """Drop the entry at one place of each row, (B, m) and (B, 1) to (B, m - 1)."""
    kept = torch.arange(left.shape[1] - 1, device=left.device).expand(len(left), -1)
    return left.gather(1, kept + (kept >= place))


def _painted(chosen: list[Tensor], scores: Tensor) -> Tensor:
    """Give each region the changes of the score after it; a position of several regions has its highest value."""
    after = scores.diff(dim=1).abs().flip(1).cumsum(1).flip(1)
    painted = torch.zeros_like(chosen[0])
    for region, value in zip(chosen, after.unbind(1), strict=False):
        painted = torch.maximum(painted, torch.where(region > 0, value.reshape(-1, *(1,) * (region.ndim - 1)), 0.0))
    return painted

"""Sobol and HSIC: the sensitivity of the score to each cell of a grid that masks the input. Black boxes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from einops import einsum
from torch import Tensor

from ..._shared.checks import function, one_of, whole, within
from ..._shared.devices import brought
from ..._shared.errors import CamfnError
from ..._shared.maps import widen
from ..._shared.noise import draw_uniform, one_source
from ..._shared.rows import ChunkSize, Progress, finite, row_of, score_variants
from ..._shared.sensitivity import points_of, total_indices, with_one_from_second
from .._checks import at_least_one, broadcastable, images


def sobol(
    activations: Tensor,
    grads: Tensor | None = None,
    outputs: Any = None,
    *,
    forward: Callable[[Tensor], Tensor],
    inputs: Tensor,
    designs: int = 32,
    grid: int = 8,
    baseline: float | Tensor = 0.0,
    points: Tensor | None = None,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """Sobol: the share of the score's variance that each cell of a grid takes part in, where all cells are masked.

    `L(i) = sum_j (f(x A_j) - f(x C_ij))^2 / (2 n Var f(x A))`, Jansen's estimate of the total index of cell i, alone
    and with others. `A` are n masks of independent numbers in [0, 1], one a cell; `C_i` is `A` with cell i drawn anew.
    Never negative: a cell that lowers the score counts like one that raises it. For an additive score the indices are
    `c_i^2 / sum c^2`. The map has one value a cell, `min(grid, size)` cells along each dimension, each as wide as the
    others to a pixel. `n (cells + 1)` forwards: 2080 as it comes.

    As the authors do, the n masks and their changes are points of the Sobol sequence, the same at each call. It is
    uneven for so many cells and so few points: a score to which 64 cells add alike has indices from 0.22 to 1.15 of
    the right one at n = 32, and from 0.81 to 1.01 at n = 512. Hand over `points` of another design to change that. The
    authors also score the second set of points, which the estimator does not read.

    Source: arXiv 2111.04138; the estimator, the sequence and the defaults as in the authors' package, xplique.

    Args:
        activations: (B, C, *S), not used.
        grads: not used.
        outputs: not used.
        forward: the whole network and the target, inputs to scores (B,); runs under `torch.vmap` where it can.
        inputs: (B, channels, *T), one to three spatial dimensions.
        designs: n, two or more; the authors take powers of two.
        grid: cells along each dimension.
        baseline: what a mask of 0 shows: a number, or a tensor that broadcasts to the inputs, such as a blurred image.
            A mask m shows `x m + baseline (1 - m)`.
        points: (n, 2, *cells) in [0, 1], both sets of points, in place of the Sobol sequence.
        chunk_size: masks tried at once; None is all, "auto" as many as memory allows.
        progress: called with masks done and their number.

    Returns:
        The raw map, (B, *cells), where other methods give (B, *S).

    Raises:
        CamfnError: for points of another shape, outside of [0, 1] or fewer than two, more cells than the sequence has,
            `grid` below 1, a baseline that does not broadcast, or scores that are not one finite number a sample.

    Example:
        >>> import torch
        >>> image = torch.tensor([[[3.0, 4.0, 0.0]]])
        >>> sobol(image, forward=lambda x: x.sum((1, 2)), inputs=image, designs=4096).round(decimals=2)  # 9 : 16 : 0
        tensor([[0.3600, 0.6400, 0.0000]])
    """
    at_least_one("sobol", designs=designs, grid=grid)
    cells = _cells("sobol", forward, inputs, grid)
    x = widen(inputs)
    points = points_of("sobol", points, designs, cells)
    count = points.shape[0]
    base = broadcastable("sobol: baseline", baseline, inputs, "inputs")
    flat = brought(points, x).flatten(2)

    def masked(row: Tensor) -> Tensor:
        return _shown(inputs, base, with_one_from_second(flat, row).reshape(cells))

    rows = torch.arange(count * (cells.numel() + 1), device=x.device)
    scores = score_variants("sobol: forward", forward, masked, rows, chunk_size=chunk_size, progress=progress)
    finite("sobol: forward", scores.mT, inputs)
    return total_indices(scores, count).mT.reshape(len(inputs), *cells).to(inputs.dtype)


def hsic(
    activations: Tensor,
    grads: Tensor | None = None,
    outputs: Any = None,
    *,
    forward: Callable[[Tensor], Tensor],
    inputs: Tensor,
    samples: int = 1500,
    grid: int = 7,
    baseline: float | Tensor = 0.0,
    width: Literal["distance", "score"] = "distance",
    generator: torch.Generator | None = None,
    masks: Tensor | None = None,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """HSIC: how strongly the score depends on each cell of a grid, where random cells are masked.

    `L(i) = tr(K_i H L H) / (n - 1)^2`, the Hilbert-Schmidt independence criterion of cell i and the score over n masks:
    `K_i = 1 + k(m_i, m_i)`, `k(a, b) = 1/2 - (a - b)^2`; `L = exp(-(y - y')^2 / (2 width^2))`; `H` centers. Near 0 for
    a cell that the score ignores; never negative but for rounding, and blind to the sign of the effect. A mask is a
    grid of zeros and ones; each cell is on in half of them (a Latin hypercube, rounded, as in the paper). As `k` is
    a square, `H K_i H = 2 c c'`, c the centered mask values of the cell, so no n x n matrix a cell is made. The map has
    one value a cell, `min(grid, size)` cells along each dimension. n forwards.

    The authors' code sets the width to the median of the scores themselves (`width="score"`), so that adding a constant
    to the score changes the map, and a median of 0 leaves NaN; fit for probabilities. Here it is by default the median
    distance of two scores. Where that median is 0, equal scores have kernel 1 and others 0.

    Source: arXiv 2206.06219; 7 x 7 cells and 1500 masks as there; the kernels as in the authors' package, xplique.

    Args:
        activations: (B, C, *S), not used.
        grads: not used.
        outputs: not used.
        forward: the whole network and the target, inputs to scores (B,); runs under `torch.vmap` where it can.
        inputs: (B, channels, *T), one to three spatial dimensions.
        samples: how many masks a generator draws, two or more; the matrix of all pairs of an image is kept.
        grid: cells along each dimension.
        baseline: what a mask of 0 shows: a number, or a tensor that broadcasts to the inputs.
        width: "distance" or "score".
        generator: draws the masks on its own device, the same for all samples of a batch.
        masks: (n, *cells), the masks of cells, in place of a generator.
        chunk_size: masks tried at once; None is all, "auto" as many as memory allows.
        progress: called with masks done and their number.

    Returns:
        The raw map, (B, *cells), where other methods give (B, *S).

    Raises:
        CamfnError: if neither or both of `generator` and `masks` are given, for masks of another shape, outside of
            [0, 1] or fewer than two, `grid` below 1, an unknown width, a baseline that does not broadcast, or scores
            that are not one finite number a sample.

    Example:
        >>> import torch
        >>> image, draw = torch.tensor([[[3.0, 0.0]]]), torch.Generator().manual_seed(0)
        >>> hsic(image, forward=lambda x: x.sum((1, 2)), inputs=image, samples=400, generator=draw) > 0.01
        tensor([[ True, False]])
    """
    at_least_one("hsic", samples=samples, grid=grid)
    one_of("hsic: width", width, ("distance", "score"))
    cells = _cells("hsic", forward, inputs, grid)
    x = widen(inputs)
    given = one_source("hsic", generator, masks, name="masks")
    if not isinstance(given, Tensor):
        given = _half_on((samples, *cells), given)
    elif tuple(given.shape[1:]) != tuple(cells):
        raise CamfnError(f"hsic: expected masks of shape (n, *cells), cells = {tuple(cells)}; got {tuple(given.shape)}")
    elif not within(given, 0, 1):
        raise CamfnError("hsic: masks: expected numbers in [0, 1], 1 where a cell is shown")
    count = given.shape[0]
    whole("hsic: samples", count, 2)
    base = broadcastable("hsic: baseline", baseline, inputs, "inputs")
    on = brought(given, x)

    def masked(index: Tensor) -> Tensor:
        return _shown(inputs, base, row_of(on, index))

    rows = torch.arange(count, device=x.device)
    scores = widen(score_variants("hsic: forward", forward, masked, rows, chunk_size=chunk_size, progress=progress))
    kernel = _kernel(finite("hsic: forward", scores.mT, inputs).to(x.dtype), width)
    centered = kernel - kernel.mean(1, keepdim=True)
    centered = centered - centered.mean(2, keepdim=True)
    change = on.flatten(1) - on.flatten(1).mean(0)
    found = 2 * einsum(change, centered, change, "n i, b n m, m i -> b i") / (count - 1) ** 2
    return found.reshape(len(inputs), *cells).to(inputs.dtype)


def _cells(method: str, forward: Any, inputs: Tensor, grid: int) -> torch.Size:
    """Refuse inputs that are no images, and return the number of cells along each dimension."""
    images(method, inputs)
    function(f"{method}: forward", forward, "from inputs to one score a sample, as explainer binds it")
    return torch.Size(min(grid, side) for side in inputs.shape[2:])


def _shown(inputs: Tensor, base: Tensor, cells: Tensor) -> Tensor:
    """Show the inputs through one mask of cells, (*cells), and the baseline behind it."""
    mask = cells
    for dim, side in enumerate(inputs.shape[2:]):
        middles = 2 * torch.arange(side, device=mask.device) + 1
        mask = mask.index_select(dim, middles * mask.shape[dim] // (2 * side))
    mask = mask.to(inputs.dtype)
    return inputs * mask + base * (1 - mask)


def _half_on(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw masks in which each cell is on in half of the rows, each cell independent of the others."""
    return (draw_uniform(shape, generator).argsort(0) < shape[0] // 2).float()


def _kernel(scores: Tensor, width: str) -> Tensor:
    """Compare the scores (B, n) of each sample by a Gaussian, (B, n, n)."""
    apart = scores[:, :, None] - scores[:, None, :]
    one, other = torch.triu_indices(scores.shape[1], scores.shape[1], 1, device=scores.device).unbind()
    middle = _median(apart[:, one, other].abs() if width == "distance" else scores)[:, None, None]
    wide = torch.where(middle == 0, 1.0, middle)
    return torch.where(middle == 0, (apart == 0).to(apart.dtype), (-(apart / wide).square() / 2).exp())


def _median(values: Tensor) -> Tensor:
    """Return the median of each row, the mean of the middle two where they are even in number."""
    ordered, last = values.sort(1).values, values.shape[1] - 1
    return (ordered[:, last // 2] + ordered[:, (last + 1) // 2]) / 2

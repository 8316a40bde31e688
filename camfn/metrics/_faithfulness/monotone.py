"""Whether more relevant pixels change the score more."""

from __future__ import annotations

import torch
from torch import Tensor

from ..._shared.checks import number, whole
from ..._shared.devices import brought
from ..._shared.errors import CamfnError
from ..._shared.noise import draw_uniform, one_source
from ..._shared.rows import ChunkSize, Progress, finite, row_of
from .._common.order import is_constant, on_images
from .._common.scores import ScoreOf
from .confidence import Baseline
from .curves import removal_curve
from .drops import rank_correlation, scores_beside
from .groups import grouped, sums_of_groups


def monotonicity(
    score: ScoreOf,
    images: Tensor,
    heatmap: Tensor,
    *,
    baseline: Baseline = 0.0,
    step: float = 0.02,
    tolerance: float = 1e-4,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """Monotonicity: whether the score never falls while pixels come back into the baseline, the least relevant first.

    Of a linear score with the gradient times the input it is 1 where no pixel speaks against the class, and 0 for any
    map where one does: a single bit a photo, which most networks answer with 0. It has no derivative.

    Quantus 0.6 brings nothing back: it puts the baseline into the baseline, so that it returns 1 for random maps with a
    black baseline, and 0 with noise. This function follows the paper.

    Source: arXiv 1909.03012 (AI Explainability 360), after 1905.12698.

    Args:
        score: images (B, C, *T) to (B,), as `scores_of(model, images)` makes it.
        images: (B, C, *T).
        heatmap: (B, *S), raw, with its sign; resized linearly to T where S differs.
        baseline: what the pixels come back into, as in `masked`.
        step: pixels a step if it is an integer, their share if it is a float.
        tolerance: how far the score may fall in a step, as a share of its range over the steps: for rounding.
        chunk_size: steps at once, as in `removal_curve`.
        progress: called with (steps done, all steps) after each chunk.

    Returns:
        (B,), 0 or 1, higher is better; 1 where the score never changes.

    Raises:
        CamfnError: as `removal_curve`.

    Example:
        >>> images = torch.tensor([[[[1.0, 2.0, 3.0]]], [[[1.0, -2.0, 3.0]]]])
        >>> monotonicity(lambda x: x.sum((1, 2, 3)), images, images[:, 0], step=1)
        tensor([1., 0.])
    """
    number("monotonicity: tolerance", tolerance, "[0, 1]")
    maps = -on_images("monotonicity", heatmap, images)
    scores = removal_curve(
        score, images, maps, baseline=baseline, step=step, insert=True, chunk_size=chunk_size, progress=progress
    ).scores
    finite("monotonicity: score", scores)
    span = scores.amax(1, keepdim=True) - scores.amin(1, keepdim=True)
    return (scores.diff(dim=1) >= -tolerance * span).all(1).to(scores.dtype)


def monotonicity_correlation(
    score: ScoreOf,
    images: Tensor,
    heatmap: Tensor,
    *,
    groups: int = 50,
    samples: int = 10,
    generator: torch.Generator | None = None,
    values: Tensor | None = None,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """Monotonicity by correlation: whether a map's magnitude ranks how far the score moves when pixels are redrawn.

    The pixels, in the order of the map's magnitude, are cut into K groups of one size. Each group alone is replaced by
    drawn values, n times; the rank correlation is that of the sums of magnitudes with the mean squared changes of the
    score. The paper divides the changes by the square of the score, which changes no rank. It costs `n K + 1`
    forwards and has no derivative.

    Source: arXiv 2007.07584, there of single features, and called monotonicity.

    Args:
        score: images (B, C, *T) to (B,), as `scores_of(model, images)` makes it.
        images: (B, C, *T).
        heatmap: (B, *S); resized linearly to T where S differs. Its sign has no effect.
        groups: K. Where it does not divide the number of pixels, the first groups have one more.
        samples: n, drawn by a generator: uniform from the least to the largest value of each image and channel.
        generator: draws them, on its own device.
        values: (n, C, *T), values to use in place of a generator.
        chunk_size: forwards at once: a number, None for all, or "auto" for what memory allows.
        progress: called with (forwards done, n K + 1) after each chunk.

    Returns:
        (B,), in [-1, 1], higher is better; 0 for a constant map, and where all groups move the score alike.

    Raises:
        CamfnError: neither or both of generator and values, other shapes, NaN or infinity in the map or from `score`.

    Example:
        >>> images, zeros = torch.tensor([[[[1.0, -2.0, 3.0, 5.0]]]]), torch.zeros(1, 1, 1, 4)
        >>> monotonicity_correlation(lambda x: x.sum((1, 2, 3)), images, images[:, 0], groups=4, values=zeros)
        tensor([1.])
    """
    what = "monotonicity_correlation"
    maps, group = grouped(what, on_images(what, heatmap, images).abs(), images, groups)
    drawn = _values(what, images, samples, generator, values)

    def redrawn(row: Tensor) -> Tensor:
        return torch.where((group == row % groups)[:, None], row_of(drawn, row // groups), images)

    count = groups * len(drawn)
    before, after = scores_beside(what, score, images, redrawn, count, chunk_size, progress)
    moved = (after - before[:, None]).square().reshape(len(images), count // groups, groups).mean(1)
    told = torch.where(is_constant(maps)[:, None], 0, sums_of_groups(maps, group, groups))
    return rank_correlation(told, moved).to(heatmap.dtype)


def _values(
    what: str, images: Tensor, samples: int, generator: torch.Generator | None, values: Tensor | None
) -> Tensor:
    """Return what replaces pixels: (n, C, *T), or drawn in the range of each image and channel, (n, B, C, *T)."""
    source = one_source(what, generator, values, name="values", arguments="...")
    shape = tuple(images.shape[1:])
    if isinstance(source, Tensor):
        if not source.ndim or not len(source) or tuple(source.shape[1:]) != shape:
            raise CamfnError(f"{what}: expected values of shape (n, *{shape}), got {tuple(source.shape)}")
        return brought(source, images)
    whole(f"{what}: samples", samples)
    dims = tuple(range(2, images.ndim))
    low, high = images.amin(dims, keepdim=True), images.amax(dims, keepdim=True)
    return low + (high - low) * brought(draw_uniform((samples, *shape), source), images)[:, None]

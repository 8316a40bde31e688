"""Scores while pixels are removed, or brought back, in the order of relevance."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..._shared.checks import number, whole
from ..._shared.devices import tensor_on
from ..._shared.errors import CamfnError
from ..._shared.maps import widen
from ..._shared.rows import ChunkSize, Progress
from .._common.filter import gaussian
from .._common.order import as_images, on_images, ranks
from .._common.scores import ScoreOf, score_rows
from .confidence import Baseline, baseline_of


class Curve(NamedTuple):
    """Scores against the share of pixels that were removed or inserted.

    Attributes:
        shares: (S,), ascending, in [0, 1].
        scores: (B, S).
    """

    shares: Tensor
    scores: Tensor

    @property
    def auc(self) -> Tensor:
        """Area under the curve by trapezoids, over the range of shares, (B,)."""
        return torch.trapezoid(self.scores, self.shares.to(self.scores), dim=1)

    @property
    def average(self) -> Tensor:
        """Mean over the shares, (B,)."""
        return self.scores.mean(1)

    @property
    def aopc(self) -> Tensor:
        """Area over the perturbation curve, the mean of `f(x_0) - f(x_k)` (1509.06321, eq. 12), (B,)."""
        return self.scores[:, 0] - self.scores.mean(1)


def blur(images: Tensor, kernel_size: int = 11, std: float = 5.0) -> Tensor:
    """Blur images by a Gaussian: the baseline of insertion (1806.07421), which leaves no sharp edge as evidence.

    The kernel size and the deviation are those of the authors' notebook. Their code pads the image with zeros, which
    darkens its border; this function reflects the image at its border.

    Args:
        images: (B, C, *T), of one to three spatial dimensions.
        kernel_size: odd, in pixels; at most twice the smallest side less one.
        std: standard deviation of the Gaussian in pixels.

    Returns:
        Same shape.

    Raises:
        CamfnError: images of another shape, or too small for the kernel.

    Example:
        >>> blur(torch.ones(1, 3, 16, 16)).shape
        torch.Size([1, 3, 16, 16])
    """
    as_images("blur", images)
    whole("blur: kernel_size", kernel_size)
    number("blur: std", std, "(0, inf)")
    if kernel_size % 2 == 0:
        raise CamfnError(f"blur: kernel_size: expected an odd number of pixels, got {kernel_size}")
    if images.ndim < 3 or min(images.shape[2:]) <= kernel_size // 2:
        raise CamfnError(
            f"blur: expected images (B, C, *T) of more than {kernel_size // 2} pixels a side for a kernel of "
            f"{kernel_size}, got {tuple(images.shape)}; for others: baseline=lambda x: blur(x, kernel_size=3)"
        )
    return gaussian(widen(images), kernel_size, std).to(images.dtype)


def removal_curve(
    score: ScoreOf,
    images: Tensor,
    heatmap: Tensor,
    *,
    baseline: Baseline = 0.0,
    step: float = 0.01,
    insert: bool = False,
    side: int = 1,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Curve:
    """Score images while the baseline replaces their most relevant pixels, or while these come back into the baseline.

    Pixels of equal relevance come in reading order. The curve contains both ends: with k pixels a step, its points are
    0, k, 2k, ... and N pixels. The curve has no derivative.

    Args:
        score: images (B, C, *T) to (B,), as `scores_of(model, images)` makes it; with `score_many` many steps run
            as one batch.
        images: (B, C, *T), as the model takes them.
        heatmap: (B, *S), raw or normalized; resized linearly to T where S differs. The pixels of a constant map come in
            reading order.
        baseline: a number, a tensor that broadcasts to the images, or a function of them such as `blur`.
        step: the number of pixels a step if it is an integer, their share if it is a float.
        insert: start from the baseline, and bring back the most relevant pixels first.
        side: replace whole squares of this many pixels a side, in the order of the sums of the heatmap over them; then
            `step` counts squares.
        chunk_size: steps at once: a number, None for all, or "auto" for what memory allows.
        progress: called with (steps done, all steps) after each chunk.

    Returns:
        A `Curve` of the scores, (B, S), against the shares of pixels (or squares).

    Raises:
        CamfnError: other shapes, a step out of range, NaN or infinity in the map or from `score`.

    Example:
        >>> images, heatmap = torch.ones(1, 1, 2, 2), torch.tensor([[[4.0, 3.0], [2.0, 1.0]]])
        >>> curve = removal_curve(lambda x: x.sum((1, 2, 3)), images, heatmap, step=2)
        >>> curve.shares, curve.scores, curve.auc
        (tensor([0.0000, 0.5000, 1.0000]), tensor([[4., 2., 0.]]), tensor([2.]))
    """
    maps = on_images("removal_curve", heatmap, images)
    base = baseline_of("removal_curve", baseline, images)
    whole("removal_curve: side", side)
    if side == 1:
        order = ranks(maps)
        total = math.prod(maps.shape[1:])
    else:
        order, total = _square_ranks(maps, side)
    counts = tensor_on(_counts(step, total), images.device)
    place = order[:, None]
    first, second = (images, base) if insert else (base, images)

    def change(count: Tensor) -> Tensor:
        return torch.where(place < count, first, second)

    scores = score_rows("removal_curve", score, change, counts, chunk_size=chunk_size, progress=progress)
    return Curve(counts.to(scores.dtype) / total, scores.mT.contiguous())


def deletion(
    score: ScoreOf,
    images: Tensor,
    heatmap: Tensor,
    *,
    baseline: Baseline = 0.0,
    step: float = 0.01,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Curve:
    """Deletion: the score while zeros replace the most relevant pixels; its `.auc` is the metric, lower is better.

    Source: arXiv 1806.07421 and the authors' code: trapezoids, 224 pixels a step at 224 x 224 (`step=224`).

    Args:
        score: images to (B,); the authors take probabilities.
        images: (B, C, *T).
        heatmap: (B, *S).
        baseline: as in `removal_curve`.
        step: as in `removal_curve`.
        chunk_size: as in `removal_curve`.
        progress: as in `removal_curve`.

    Returns:
        A `Curve`.

    Raises:
        CamfnError: as `removal_curve`.

    Example:
        >>> heatmap = torch.tensor([[[1.0, 0.0]]])
        >>> deletion(lambda x: x.sum((1, 2, 3)), torch.tensor([[[[3.0, 1.0]]]]), heatmap, step=1).scores
        tensor([[4., 1., 0.]])
    """
    return removal_curve(score, images, heatmap, baseline=baseline, step=step, chunk_size=chunk_size, progress=progress)


def insertion(
    score: ScoreOf,
    images: Tensor,
    heatmap: Tensor,
    *,
    baseline: Baseline = blur,
    step: float = 0.01,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Curve:
    """Insertion: the score while the most relevant pixels come back to a blurred image; `.auc`, higher is better.

    Source: arXiv 1806.07421 and the authors' code, as `deletion`.

    Args:
        score: images to (B,); the authors take probabilities.
        images: (B, C, *T).
        heatmap: (B, *S).
        baseline: as in `removal_curve`; 0.0 makes it the mirror of deletion: without equal values in the map,
            `insertion(heatmap).auc == deletion(-heatmap).auc`.
        step: as in `removal_curve`.
        chunk_size: as in `removal_curve`.
        progress: as in `removal_curve`.

    Returns:
        A `Curve`.

    Raises:
        CamfnError: as `removal_curve`.

    Example:
        >>> heatmap = torch.tensor([[[1.0, 0.0]]])
        >>> images = torch.tensor([[[[3.0, 1.0]]]])
        >>> insertion(lambda x: x.sum((1, 2, 3)), images, heatmap, baseline=0.0, step=1).scores
        tensor([[0., 3., 4.]])
    """
    return removal_curve(
        score, images, heatmap, baseline=baseline, step=step, insert=True, chunk_size=chunk_size, progress=progress
    )


def pixel_flipping(
    score: ScoreOf,
    images: Tensor,
    heatmap: Tensor,
    *,
    side: int = 9,
    baseline: Baseline = 0.0,
    step: float = 0.01,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Curve:
    """Pixel flipping, or region perturbation: deletion by whole squares; its `.aopc` is the metric, higher is better.

    Source: arXiv 1509.06321, eq. 9 to 12, with squares of 9 x 9. Squares at the right and the lower border
    are smaller where the image ends. In a series they are intervals, in a volume cubes.
    The paper replaces 100 squares by uniform noise, 10 times over: for that, pass a noise tensor as `baseline` and
    cut the curve.

    Args:
        score: images to (B,).
        images: (B, C, *T).
        heatmap: (B, *S).
        side: side of the squares in pixels; 1 replaces single pixels.
        baseline: as in `removal_curve`.
        step: the number of squares a step if it is an integer, their share if it is a float.
        chunk_size: as in `removal_curve`.
        progress: as in `removal_curve`.

    Returns:
        A `Curve`.

    Raises:
        CamfnError: as `removal_curve`, or a side below 1.

    Example:
        >>> images, heatmap = torch.ones(1, 1, 2, 4), torch.tensor([[[0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]])
        >>> pixel_flipping(lambda x: x.mean((1, 2, 3)), images, heatmap, side=2, step=1).aopc
        tensor([0.5000])
    """
    return removal_curve(
        score, images, heatmap, baseline=baseline, step=step, side=side, chunk_size=chunk_size, progress=progress
    )


def _counts(step: float, total: int) -> Tensor:
    """Count the pixels removed at each point of a curve, both ends included."""
    number("step", step, "(0, inf)", "A number of pixels, or a share of them as a float")
    is_count = isinstance(step, int) and not isinstance(step, bool)
    if not 0 < step <= (total if is_count else 1):
        raise CamfnError(
            f"step: expected a number of pixels, 1 to {total}, or a share of them as a float, above 0.0 and up to "
            f"1.0; got {step!r}"
        )
    width = step if is_count else step * total
    # half a pixel less: without it, rounding could make the last two counts equal
    points = {round(i * width) for i in range(int((total - 0.5) // width) + 1)}
    return torch.tensor(sorted({min(point, total) for point in points} | {total}))


def _square_ranks(maps: Tensor, side: int) -> tuple[Tensor, int]:
    """Rank of each pixel's square, (B, *S), and the number of squares."""
    space = maps.shape[1:]
    short = [-length % side for length in space]
    padding = [amount for length in reversed(short) for amount in (0, length)]
    pooled = functional.pad(maps, padding)
    for dim in range(1, maps.ndim):
        pooled = torch.stack([part.sum(dim) for part in torch.split(pooled, side, dim)], dim)
    order = ranks(pooled)
    for dim, length in enumerate(space, 1):
        order = order.repeat_interleave(side, dim).narrow(dim, 0, length)
    return order, math.prod(pooled.shape[1:])

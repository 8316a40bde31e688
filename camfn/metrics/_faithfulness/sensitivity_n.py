"""Sums of a map over random sets of n features, against what the score loses without them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..._shared.checks import describe, generator_of, whole
from ..._shared.devices import tensor_on
from ..._shared.errors import ArgumentTypeError, CamfnError
from ..._shared.rows import ChunkSize, Progress
from .._common.order import on_images
from .._common.regions import random_cells, random_pixels
from .._common.scores import ScoreOf
from .confidence import Baseline
from .curves import Curve
from .drops import drops, faithfulness_correlation


def sensitivity_n(
    score: ScoreOf,
    images: Tensor,
    heatmap: Tensor,
    *,
    sizes: Sequence[int],
    generator: torch.Generator,
    masks: Tensor | None = None,
    samples: int = 100,
    baseline: Baseline = 0.0,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Curve:
    """Sensitivity-n: Pearson's correlation of a map's sums over random sets of n features with the drops, for each n.

    With the gradient times the input of a linear score and a baseline of 0 it is 1 for every n. Quantus 0.6 gives .516
    there, since it compares sums of one step with drops that add up over the steps; this function follows the paper.
    The sets do not look at the map: where many methods share a photo, call `drops` and `faithfulness_correlation`. It
    costs `len(sizes) samples + 1` forwards and has no derivative.

    Source: arXiv 1711.06104: 100 sets for each of some n from 1 to 80 % of the features.

    Args:
        score: images (B, C, *T) to (B,), as `scores_of(model, images)` makes it.
        images: (B, C, *T).
        heatmap: (B, *S), raw, with its sign; resized linearly to T where S differs.
        sizes: the n, ascending, each from 1 to all features but one.
        generator: draws the sets, on its own device.
        masks: the features, such as `grid_cells(...)`, (n, *T) or (n, B, *T), bool; None takes single pixels.
        samples: sets for each n.
        baseline: what replaces a set, as in `masked`.
        chunk_size: sets at once: a number, None for all, or "auto" for what memory allows.
        progress: called with (forwards done, all forwards) after each chunk.

    Returns:
        A `Curve`: the correlation, (B, S) in [-1, 1], against n as a share of the features; `.average` is one number,
        higher is better. 0 for a constant map.

    Raises:
        CamfnError: sizes out of range, other shapes, NaN or infinity in the map, NaN or infinity from `score`.

    Example:
        >>> images, generator = torch.tensor([[[[1.0, 2.0, 3.0, 5.0]]]]), torch.Generator().manual_seed(0)
        >>> curve = sensitivity_n(
        ...     lambda x: x.sum((1, 2, 3)), images, images[:, 0], sizes=(1, 2, 3), samples=8, generator=generator
        ... )
        >>> curve.shares, curve.average.round(decimals=4)
        (tensor([0.2500, 0.5000, 0.7500]), tensor([1.]))
    """
    what = "sensitivity_n"
    on_images(what, heatmap, images)
    generator_of(what, generator)
    whole(f"{what}: samples", samples, 2)
    space = tuple(images.shape[2:])
    total = math.prod(space) if masks is None else len(masks)
    for n in _sizes(sizes):
        if n >= total:
            raise CamfnError(f"{what}: sizes: expected less than {total}, the number of features, got {n}")
    sets = torch.cat(
        [
            tensor_on(random_pixels(space, n, samples, generator=generator), images.device)
            if masks is None
            else random_cells(masks, n, samples, generator=generator)
            for n in sizes
        ]
    )
    lost = drops(score, images, sets, baseline=baseline, chunk_size=chunk_size, progress=progress)
    found = [
        faithfulness_correlation(heatmap, some, those)
        for some, those in zip(torch.split(lost, samples, 1), torch.split(sets, samples))
    ]
    scores = torch.stack(found, 1)
    return Curve(tensor_on([n / total for n in sizes], scores.device, scores.dtype), scores)


def _sizes(sizes: Sequence[int]) -> list[int]:
    """Return ascending whole numbers from 1, at least one; refuse anything else."""
    if not isinstance(sizes, (list, tuple, range)) or not len(sizes):
        raise ArgumentTypeError(
            f"sensitivity_n: sizes: expected a list of whole numbers, got {describe(sizes)}; for example (1, 10, 100)"
        )
    for size in sizes:
        whole("sensitivity_n: sizes", size)
    if list(sizes) != sorted(set(sizes)):
        raise CamfnError(f"sensitivity_n: sizes: expected ascending numbers, got {list(sizes)}")
    return list(sizes)

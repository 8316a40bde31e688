"""ROAD: scores of images whose most relevant pixels are filled in from their neighbors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..._shared.checks import function, number, shapes_agree
from ..._shared.devices import brought, tensor_on
from ..._shared.noise import draw_normal, one_source
from ..._shared.rows import finite, one_score
from .._common.order import count_of, on_images, ranks, shares_of
from .._common.scores import ScoreOf, for_runs
from .curves import Curve
from .impute import impute, refuse_volumes

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def road(
    score: ScoreOf,
    images: Tensor,
    heatmap: Tensor,
    *,
    shares: Sequence[float] = SHARES,
    least: bool = False,
    std: float = 0.01,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    tolerance: float = 1e-5,
) -> Curve:
    """ROAD: scores after the most relevant pixels (or the least relevant) were imputed from their neighbors.

    `impute` replaces exactly `round(share * N)` pixels; pixels of equal relevance come in reading order. The noise is
    the same for all samples and shares. It costs `len(shares)` forwards and has no derivative.

    Like all metrics that remove pixels without retraining, ROAD favors blurred maps (2304.13836). pytorch-grad-cam
    removes all pixels above a percentile p, where the share is 1 - p / 100; of a map with 96 % zeros it removes every
    pixel, whatever p is.

    Source: arXiv 2202.00449.

    Args:
        score: images (B, C, *T) to (B,), as `scores_of(model, images)` makes it.
        images: (B, C, H, W) or series (B, C, L), as the model takes them.
        heatmap: (B, h, w) or (B, l), raw or normalized; resized linearly to the images where the size differs.
        shares: of the pixels to remove, ascending.
        least: remove the least relevant first: `road(-heatmap)`.
        std: standard deviation of the noise on imputed pixels, in the units of the images; 0 adds none.
        generator: draws the noise, on its own device.
        noise: (C, H, W) or (C, L), standard normal numbers in place of a generator.
        tolerance: relative residual of the imputation.

    Returns:
        A `Curve`; its `.average` is the metric, lower is better (higher with `least`).

    Raises:
        CamfnError: other shapes, volumes, a share outside [0, 1], neither or both of generator and noise, NaN in the
            map or from `score`.

    Example:
        >>> images, heatmap = torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4)
        >>> images[0, 0, 1, 1] = heatmap[0, 1, 1] = 1.0
        >>> road(lambda x: x.amax((1, 2, 3)), images, heatmap, shares=(0.0, 1 / 16), std=0.0).scores
        tensor([[1., 0.]])
    """
    maps = on_images("road", heatmap, images)
    refuse_volumes("road", images)
    maps = -maps if least else maps
    shares = shares_of("road", shares, "[0, 1]", "(0.1, 0.5, 0.9)")
    number("road: std", std, "[0, inf)")
    number("road: tolerance", tolerance, "(0, 1)")
    function("road: score", score, "as scores_of(model, images) makes it")
    noise = _noise(std, generator, noise, images)
    order, score = ranks(maps), for_runs(score, len(shares))
    missing = torch.stack([order < count_of("road: shares", share, math.prod(order.shape[1:])) for share in shares])
    scores = []
    for gone, filled in zip(missing, _filled(images, missing, tolerance)):
        noisy = filled if noise is None else torch.where(gone[:, None], filled + noise, filled)
        with torch.no_grad():
            scores.append(one_score("road: score", score(noisy), len(noisy)))
    stacked = finite("road: score", torch.stack(scores, 1))
    return Curve(tensor_on(list(shares), stacked.device, stacked.dtype), stacked)


def road_combined(
    score: ScoreOf,
    images: Tensor,
    heatmap: Tensor,
    *,
    shares: Sequence[float] = SHARES,
    std: float = 0.01,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    tolerance: float = 1e-5,
) -> Tensor:
    """Combined ROAD: half of the score without the least relevant pixels less the score without the most relevant.

    `(mean over shares of LeRF - mean over shares of MoRF) / 2`, as in pytorch-grad-cam. It costs
    `2 len(shares)` forwards.

    Args:
        score: as in `road`; with probabilities the result is within [-0.5, 0.5].
        images: (B, C, H, W) or (B, C, L).
        heatmap: (B, h, w) or (B, l).
        shares: as in `road`.
        std: as in `road`; both halves draw noise, one after the other.
        generator: as in `road`.
        noise: as in `road`.
        tolerance: as in `road`.

    Returns:
        (B,), higher is better.

    Raises:
        CamfnError: as `road`.

    Example:
        >>> images = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        >>> score = lambda x: x.mean((1, 2, 3))
        >>> road_combined(score, images, images[:, 0], shares=(0.5,), std=0.0) > 0
        tensor([True])
    """
    shares = shares_of("road", shares, "[0, 1]", "(0.1, 0.5, 0.9)")
    score = for_runs(score, 2 * len(shares))
    most, fewest = (
        road(
            score,
            images,
            heatmap,
            shares=shares,
            least=least,
            std=std,
            generator=generator,
            noise=noise,
            tolerance=tolerance,
        ).average
        for least in (False, True)
    )
    return (fewest - most) / 2


def _filled(images: Tensor, missing: Tensor, tolerance: float) -> Iterable[Tensor]:
    """Impute the pixels that are missing for each share, (shares, B, *T)."""
    if images.device.type == "cpu":
        return (impute(images, gone, tolerance=tolerance) for gone in missing)
    # each check of a residual waits for an accelerator, so that all shares are solved at once
    several = images.expand(len(missing), *images.shape).flatten(0, 1)
    return impute(several, missing.flatten(0, 1), tolerance=tolerance).reshape(len(missing), *images.shape)


def _noise(std: float, generator: torch.Generator | None, given: Tensor | None, images: Tensor) -> Tensor | None:
    """Return the noise of all samples, (C, *T): a sample's score does not depend on its place in the batch."""
    if not std:
        return None
    source = one_source("road", generator, given, arguments="...")
    if isinstance(source, Tensor):
        shapes_agree("road: noise", source.shape, images.shape[1:])
        return std * brought(source, images)
    return std * brought(draw_normal(tuple(images.shape[1:]), source), images)

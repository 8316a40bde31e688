"""Infidelity: how well a map predicts what noise on the image does to the score."""

from __future__ import annotations

import torch
from einops import einsum
from torch import Tensor

from ..._shared.checks import number, same_device, shapes_agree, tensor
from ..._shared.errors import CamfnError
from ..._shared.maps import safe_divide, widen
from ..._shared.rows import ChunkSize, Progress, finite, row_of
from ...image._checks import require_finite
from .._common.noise import perturbations_for
from .._common.order import as_images, on_images
from .._common.scores import ScoreOf, score_once, score_rows


def infidelity(
    score: ScoreOf,
    images: Tensor,
    attribution: Tensor,
    *,
    samples: int = 100,
    std: float = 0.2,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    drops: Tensor | None = None,
    optimal_scale: bool = True,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """Infidelity: how badly a map predicts what noise does to the score, `E_I (<I, M> - (f(x) - f(x - I)))^2`.

    A heatmap has no scale of its own. By default this function therefore multiplies it by the number that fits best,
    `beta = E <I, M> D / E <I, M>^2` with D the drop, as the authors' code always does and Captum does on request. All
    samples get the same noise. It costs `samples + 1` forwards and has no derivative.

    Source: arXiv 1901.09392, definition 2.1; the paper fixes neither `samples` nor `std`.

    Args:
        score: f: images (B, C, *T) to (B,), as `scores_of(model, images)` makes it.
        images: x, (B, C, *T).
        attribution: M: one number for each entry of the images, (B, C, *T), or a map (B, *S) for all channels, resized
            linearly to T where S differs.
        samples: number of perturbations to draw.
        std: standard deviation of the perturbations to draw.
        generator: draws normal noise, on its own device.
        noise: I, (n, C, *T): perturbations to use in place of a generator.
        drops: D, (B, n), from `noise_drops` of the same `noise`: the score is then not called, so that the maps of many
            methods share its forwards.
        optimal_scale: multiply the map by beta.
        chunk_size: perturbations at once: a number, None for all, or "auto" for what memory allows.
        progress: called with (perturbations done, all perturbations) after each chunk.

    Returns:
        (B,), not negative, lower is better. Without `optimal_scale` in squared units of the score.

    Raises:
        CamfnError: neither or both of generator and noise, other shapes, NaN or infinity in the map or from `score`.

    Example:
        >>> images, weights = torch.ones(1, 1, 2, 2), torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
        >>> noise = torch.eye(4).reshape(4, 1, 2, 2)
        >>> infidelity(lambda x: (x * weights).sum((1, 2, 3)), images, 10 * weights, noise=noise)
        tensor([0.])
    """
    as_images("infidelity", images)
    tensor("infidelity: attribution", attribution)
    number("infidelity: std", std, "(0, inf)")
    perturbations = perturbations_for(
        "infidelity", images, samples, generator, noise, lambda size, like: std * torch.randn(size, **like)
    )
    if attribution.ndim == images.ndim:
        shapes_agree("infidelity: attribution", attribution.shape, images.shape)
        require_finite(attribution, "infidelity: attribution")
        weights = attribution
    else:
        weights = on_images("infidelity", attribution, images)[:, None].expand_as(images)
    if drops is None:
        drop = _noise_drops("infidelity", score, images, perturbations, chunk_size, progress)
    else:
        drop = _given_drops(drops, noise, (len(images), len(perturbations)), images)
    changes, slopes = widen(perturbations.flatten(1), weights.flatten(1))
    predicted = einsum(changes, slopes.to(changes), "n p, b p -> n b").to(drop)
    if optimal_scale:
        predicted = predicted * safe_divide((predicted * drop).sum(0), predicted.square().sum(0))
    error: Tensor = (predicted - drop).square().mean(0)
    return error


def noise_drops(
    score: ScoreOf,
    images: Tensor,
    noise: Tensor,
    *,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """Score images less each of several perturbations: `f(x) - f(x - I)`, as `infidelity` takes it for many maps.

    The noise does not look at a map, so these numbers belong to the photo. It costs `n + 1` forwards and has no
    derivative.

    Args:
        score: f: images (B, C, *T) to (B,), as `scores_of(model, images)` makes it.
        images: x, (B, C, *T).
        noise: I, (n, C, *T), such as `0.2 * torch.randn(100, 3, 224, 224, generator=generator)`.
        chunk_size: perturbations at once: a number, None for all, or "auto" for what memory allows.
        progress: called with (perturbations done, all perturbations) after each chunk.

    Returns:
        (B, n).

    Raises:
        CamfnError: noise of another shape, NaN or infinity from `score`.

    Example:
        >>> images, noise = torch.ones(1, 1, 2, 2), torch.eye(4).reshape(4, 1, 2, 2)
        >>> noise_drops(lambda x: x.sum((1, 2, 3)), images, noise)
        tensor([[1., 1., 1., 1.]])
    """
    as_images("noise_drops", images)
    tensor("noise_drops: noise", noise)
    perturbations = perturbations_for("noise_drops", images, 1, None, noise, lambda size, like: noise)
    return _noise_drops("noise_drops", score, images, perturbations, chunk_size, progress).mT.contiguous()


def _noise_drops(
    what: str,
    score: ScoreOf,
    images: Tensor,
    perturbations: Tensor,
    chunk_size: ChunkSize,
    progress: Progress | None,
) -> Tensor:
    """Score images less each perturbation, in the name of another function: (n, B)."""
    before = score_once(what, score, images)
    rows = torch.arange(len(perturbations), device=images.device)
    after = score_rows(
        what,
        score,
        lambda row: images - row_of(perturbations, row),
        rows,
        chunk_size=chunk_size,
        progress=progress,
    )
    finite(f"{what}: score", torch.cat([before[None], after]).mT)
    return before - after


def _given_drops(drops: Tensor, noise: Tensor | None, shape: tuple[int, int], images: Tensor) -> Tensor:
    """Check drops (B, n) of given noise, and return them as (n, B)."""
    if noise is None:
        raise CamfnError(
            "infidelity: drops: expected them with the noise that they are of, got drops alone; call "
            "infidelity(score, images, attribution, noise=noise, drops=noise_drops(score, images, noise))"
        )
    tensor("infidelity: drops", drops)
    shapes_agree("infidelity: drops", drops.shape, shape)
    same_device("infidelity: drops", drops, images, "images")
    require_finite(drops, "infidelity: drops")
    return drops.mT

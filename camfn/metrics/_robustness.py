"""Noise on the image: how well a map predicts the change of the score, and how far the map itself moves."""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import einsum
from torch import Tensor

from .._shared.checks import check_chunk_size, describe, function, number, progress_bar, shapes_agree, tensor, whole
from .._shared.devices import brought
from .._shared.errors import CamfnError
from .._shared.maps import safe_divide, widen
from .._shared.noise import one_source
from .._shared.rows import ChunkSize, Progress, row_of, run_in_chunks
from ..image._checks import require_finite
from ._order import as_images, on_images
from ._scores import ScoreOf, score_once, score_rows


def infidelity(
    score: ScoreOf,
    images: Tensor,
    attribution: Tensor,
    *,
    samples: int = 100,
    std: float = 0.2,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
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
        optimal_scale: multiply the map by beta.
        chunk_size: perturbations at once: a number, None for all, or "auto" for what memory allows.
        progress: called with (perturbations done, all perturbations) after each chunk.

    Returns:
        (B,), not negative, lower is better. Without `optimal_scale` in squared units of the score.

    Raises:
        CamfnError: neither or both of generator and noise, other shapes, NaN in the map or from `score`.

    Example:
        >>> images, weights = torch.ones(1, 1, 2, 2), torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
        >>> noise = torch.eye(4).reshape(4, 1, 2, 2)
        >>> infidelity(lambda x: (x * weights).sum((1, 2, 3)), images, 10 * weights, noise=noise)
        tensor([0.])
    """
    as_images("infidelity", images)
    tensor("infidelity: attribution", attribution)
    number("infidelity: std", std, "(0, inf)")
    perturbations = _perturbations(
        "infidelity", images, samples, generator, noise, lambda size, like: std * torch.randn(size, **like)
    )
    if attribution.ndim == images.ndim:
        shapes_agree("infidelity: attribution", attribution.shape, images.shape)
        require_finite(attribution, "infidelity: attribution")
        weights = attribution
    else:
        weights = on_images("infidelity", attribution, images)[:, None].expand_as(images)
    before = score_once("infidelity", score, images)
    rows = torch.arange(len(perturbations), device=images.device)
    after = score_rows(
        "infidelity",
        score,
        lambda row: images - row_of(perturbations, row),
        rows,
        chunk_size=chunk_size,
        progress=progress,
    )
    drop = before - after
    changes, slopes = widen(perturbations.flatten(1), weights.flatten(1))
    predicted = einsum(changes, slopes.to(changes), "n p, b p -> n b").to(drop)
    if optimal_scale:
        predicted = predicted * safe_divide((predicted * drop).sum(0), predicted.square().sum(0))
    error: Tensor = (predicted - drop).square().mean(0)
    return error


def max_sensitivity(
    explain: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    radius: float = 0.02,
    samples: int = 10,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    relative: bool = True,
    chunk_size: ChunkSize = 1,
    progress: Progress | None = None,
) -> Tensor:
    """Max-sensitivity: how far a map moves under noise on the image, `max_d |M(x + d) - M(x)| / |M(x)|`.

    The maximum is over uniform noise within the radius, so it is a lower bound of the true one. All samples get the
    same noise. It costs `samples + 1` explanations.

    Source: arXiv 1901.09392, eq. 5, and the authors' code, which divides by the norm; radius and samples are
    Captum's defaults.

    Args:
        explain: images (B, C, *T) to maps (B, *S), always for the same classes, such as
            `lambda x: explain(x, classes)`.
        images: x, (B, C, *T).
        radius: largest change of a pixel, in the units of the images.
        samples: number of perturbations to draw.
        generator: draws the noise, on its own device.
        noise: d, (n, C, *T): perturbations to use in place of a generator; `radius` then has no effect.
        relative: divide by the norm of the unperturbed map.
        chunk_size: perturbations at once, by `torch.vmap` over `explain`; 1 calls `explain` without `vmap`.
        progress: called with (perturbations done, all perturbations) after each chunk.

    Returns:
        (B,), not negative, lower is better. For a map of zeros: 0 if noise does not change it, otherwise infinite.

    Raises:
        CamfnError: neither or both of generator and noise, other shapes, NaN in a map.

    Example:
        >>> images = torch.ones(1, 1, 2, 2)
        >>> noise = torch.tensor([0.1, -0.3]).reshape(2, 1, 1, 1).expand(2, 1, 2, 2)
        >>> max_sensitivity(lambda x: x.sum(1), images, noise=noise)
        tensor([0.3000])
    """
    as_images("max_sensitivity", images)
    function("max_sensitivity: explain", explain, "from images to maps, such as lambda x: explainer(x, target)")
    number("max_sensitivity: radius", radius, "(0, inf)")
    check_chunk_size("max_sensitivity", chunk_size)
    progress_bar("max_sensitivity", progress)
    perturbations = _perturbations(
        "max_sensitivity",
        images,
        samples,
        generator,
        noise,
        lambda size, like: radius * (2 * torch.rand(size, **like) - 1),
    )
    plain = _map_of(explain, images)
    require_finite(plain, "max_sensitivity: the map of the images")

    def moved_by(perturbation: Tensor) -> Tensor:
        distance: Tensor = (_map_of(explain, images + perturbation) - plain).flatten(1).norm(dim=1)
        return distance

    if chunk_size == 1:
        parts = []
        for perturbation in perturbations:
            parts.append(moved_by(perturbation))
            if progress:
                progress(len(parts), len(perturbations))
        distances = torch.stack(parts)
    else:
        distances = run_in_chunks(moved_by, perturbations, chunk_size=chunk_size, progress=progress)
    require_finite(distances.mT, "max_sensitivity: a map of the noisy images")
    worst: Tensor = distances.amax(0)
    if not relative:
        return worst
    ratio: Tensor = worst / plain.flatten(1).norm(dim=1)
    return torch.where(worst == 0, worst, ratio)


def _map_of(explain: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return the maps of images; refuse anything but one map a sample."""
    maps = explain(images)
    if isinstance(maps, Tensor) and maps.ndim and maps.shape[0] == images.shape[0]:
        return maps.detach()
    raise CamfnError(
        f"max_sensitivity: explain: expected a function of images that returns maps (B, *S), B = {images.shape[0]}; it "
        f"returned {describe(maps)}"
    )


def _perturbations(
    what: str,
    images: Tensor,
    samples: int,
    generator: torch.Generator | None,
    noise: Tensor | None,
    draw: Callable[..., Tensor],
) -> Tensor:
    """Check or draw the perturbations (n, C, *T), which are the same for all samples of a batch."""
    source = one_source(what, generator, noise, arguments="...")
    shape = tuple(images.shape[1:])
    if isinstance(source, Tensor):
        if not source.ndim or not len(source) or tuple(source.shape[1:]) != shape:
            raise CamfnError(f"{what}: expected noise of shape (n, *{shape}), got {tuple(source.shape)}")
        return brought(source, images)
    whole(f"{what}: samples", samples)
    drawn = draw((samples, *shape), {"generator": source, "device": source.device, "dtype": torch.float32})
    return brought(drawn, images)

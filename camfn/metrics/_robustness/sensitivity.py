"""Noise on the image: how well a map predicts the change of the score, and how far the map itself moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from einops import einsum
from torch import Tensor

from ..._shared.checks import (
    check_chunk_size,
    describe,
    function,
    number,
    one_of,
    progress_bar,
    same_device,
    shapes_agree,
    tensor,
    whole,
)
from ..._shared.devices import brought
from ..._shared.errors import CamfnError
from ..._shared.levels import laid_out
from ..._shared.maps import safe_divide, widen
from ..._shared.noise import one_source
from ..._shared.rows import ChunkSize, Progress, finite, row_of, run_in_chunks
from ...image._checks import require_finite
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
    perturbations = _perturbations(
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
    perturbations = _perturbations("noise_drops", images, 1, None, noise, lambda size, like: noise)
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


def max_sensitivity(
    explain: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    radius: float = 0.02,
    samples: int = 10,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    relative: bool = True,
    reduce: Literal["max", "mean"] = "max",
    chunk_size: ChunkSize = 1,
    progress: Progress | None = None,
) -> Tensor:
    """Max-sensitivity: how far a map moves under noise on the image, `max_d |M(x + d) - M(x)| / |M(x)|`.

    The maximum is over uniform noise within the radius, so it is a lower bound of the true one. All samples get the
    same noise. With `reduce="mean"` it is the average sensitivity. It costs `samples + 1` explanations.

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
        reduce: over the perturbations, "max" or "mean".
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
    one_of("max_sensitivity: reduce", reduce, ("max", "mean"))
    perturbations = uniform_noise("max_sensitivity", images, radius, samples, generator, noise)
    plain = map_of("max_sensitivity", explain, images)

    def moved_by(perturbation: Tensor) -> Tensor:
        return euclidean(bare_map("max_sensitivity", explain, images + perturbation) - plain)

    distances = each_perturbation("max_sensitivity", moved_by, perturbations, chunk_size, progress)
    moved = distances.amax(0) if reduce == "max" else distances.mean(0)
    if not relative:
        return moved.to(plain.dtype)
    return torch.where(moved == 0, moved, moved / euclidean(plain)).to(plain.dtype)


def euclidean(x: Tensor) -> Tensor:
    """Euclidean norm of each sample, (B,), in float32 at least; squares of small or large numbers stay in range."""
    rows = widen(x.flatten(1))
    top = rows.abs().amax(1, keepdim=True)
    scaled: Tensor = (rows / torch.where(top == 0, 1, top)).norm(dim=1)
    return top[:, 0] * scaled


def each_perturbation(
    what: str,
    measure: Callable[[Tensor], Tensor],
    perturbations: Tensor,
    chunk_size: ChunkSize,
    progress: Progress | None,
) -> Tensor:
    """Measure how far maps move by each perturbation: (n, ...) to (n, B); NaN and infinity in a map are an error."""
    check_chunk_size(what, chunk_size)
    progress_bar(what, progress)
    if chunk_size != 1:
        found = run_in_chunks(measure, perturbations, chunk_size=chunk_size, progress=progress)
    else:
        parts: list[Tensor] = []
        for perturbation in perturbations:
            parts.append(measure(perturbation))
            if progress:
                progress(len(parts), len(perturbations))
        found = torch.stack(parts)
    require_finite(found.mT, f"{what}: a map of the noisy images")
    return found


def uniform_noise(
    what: str,
    images: Tensor,
    radius: float,
    samples: int,
    generator: torch.Generator | None,
    noise: Tensor | None,
) -> Tensor:
    """Check or draw perturbations (n, C, *T), uniform within the radius."""
    number(f"{what}: radius", radius, "(0, inf)")
    draw = lambda size, like: radius * (2 * torch.rand(size, **like) - 1)  # noqa: E731
    return _perturbations(what, images, samples, generator, noise, draw)


def map_of(what: str, explain: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return the maps of images; refuse anything but one finite map a sample."""
    as_images(what, images)
    function(f"{what}: explain", explain, "from images to maps, such as lambda x: explainer(x, target)")
    maps = bare_map(what, explain, images)
    require_finite(maps, f"{what}: the map of the images")
    return maps


def bare_map(what: str, explain: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return the maps of images; refuse anything but one map a sample."""
    maps = explain(laid_out(images))
    if isinstance(maps, Tensor) and maps.ndim and maps.shape[0] == images.shape[0]:
        return maps.detach()
    raise CamfnError(
        f"{what}: explain: expected a function of images that returns maps (B, *S), B = {images.shape[0]}; it "
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

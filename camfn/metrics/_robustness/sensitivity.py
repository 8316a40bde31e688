"""How far a map moves under noise on the image: max-sensitivity, and what its relatives share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ..._shared.checks import check_chunk_size, describe, function, number, one_of, progress_bar
from ..._shared.errors import CamfnError
from ..._shared.levels import laid_out
from ..._shared.maps import widen
from ..._shared.rows import ChunkSize, Progress, run_in_chunks
from ...image._checks import require_finite
from .._common.noise import perturbations_for
from .._common.order import as_images


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
    return perturbations_for(what, images, samples, generator, noise, draw)


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

"""How far a map moves, measured by how far something else does: the image, the output, a layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..._shared.checks import describe, function, number, seen_false
from ..._shared.errors import CamfnError
from ..._shared.maps import safe_divide
from ..._shared.rows import ChunkSize, Progress
from .sensitivity import bare_map, each_perturbation, euclidean, map_of, uniform_noise

Seen = Callable[[Tensor], Tensor]
"""Images (B, C, *T) to something of them, (B, ...)."""


def local_lipschitz(
    explain: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    radius: float = 0.02,
    samples: int = 10,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    chunk_size: ChunkSize = 1,
    progress: Progress | None = None,
) -> Tensor:
    """Local Lipschitz estimate: how far a map moves for each unit that the image does, `max |M(x') - M(x)| / |x' - x|`.

    Norms are Euclidean. The maximum is over uniform noise within the radius, so it is a lower bound of the true one. It
    depends on the scale of the map: compare maps of one scale only. It costs `samples + 1` explanations.

    Source: arXiv 1806.08049; radius and samples are those of `max_sensitivity`.

    Args:
        explain: images (B, C, *T) to maps (B, *S), always for the same classes, such as
            `lambda x: explain(x, classes)`.
        images: x, (B, C, *T).
        radius: largest change of a pixel, in the units of the images.
        samples: number of perturbations to draw.
        generator: draws the noise, on its own device.
        noise: x' - x, (n, C, *T): perturbations to use in place of a generator; `radius` then has no effect.
        chunk_size: perturbations at once, by `torch.vmap` over `explain`; 1 calls `explain` without `vmap`.
        progress: called with (perturbations done, all perturbations) after each chunk.

    Returns:
        (B,), not negative, lower is better; 0 for a map that does not move.

    Raises:
        CamfnError: neither or both of generator and noise, other shapes, NaN in a map.

    Example:
        >>> noise = torch.tensor([0.1, -0.3]).reshape(2, 1, 1, 1).expand(2, 1, 2, 2)
        >>> local_lipschitz(lambda x: 3 * x.sum(1), torch.ones(1, 1, 2, 2), noise=noise)
        tensor([3.0000])
    """
    what = "local_lipschitz"
    plain = map_of(what, explain, images)
    perturbations = uniform_noise(what, images, radius, samples, generator, noise)

    def slope(perturbation: Tensor) -> Tensor:
        near = images + perturbation
        return safe_divide(euclidean(bare_map(what, explain, near) - plain), euclidean(near - images))

    return each_perturbation(what, slope, perturbations, chunk_size, progress).amax(0).to(plain.dtype)


def relative_input_stability(
    explain: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    outputs: Seen | None = None,
    epsilon: float = 1e-6,
    radius: float = 0.02,
    samples: int = 10,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    chunk_size: ChunkSize = 1,
    progress: Progress | None = None,
) -> Tensor:
    """Relative input stability: how far a map moves in per cent for each per cent of the image.

    `max |(M(x') - M(x)) / M(x)| / max(|(x' - x) / x|, eps)`, entry by entry inside the norms. An entry that is 0 is
    divided by eps, so that a map with zeros, as a ReLU leaves, which then move, has a huge number: take such maps
    without ReLU. It costs `samples + 1` explanations, and as many forwards where `outputs` is given.

    Source: arXiv 2203.06877.

    Args:
        explain: images (B, C, *T) to maps (B, *S), always for the same classes.
        images: x, (B, C, *T).
        outputs: images to logits (B, K), such as the model: noise that changes the top class is then left out, as in
            the paper.
        epsilon: eps.
        radius: largest change of a pixel, in the units of the images.
        samples: number of perturbations to draw.
        generator: draws the noise, on its own device.
        noise: x' - x, (n, C, *T): perturbations to use in place of a generator; `radius` then has no effect.
        chunk_size: perturbations at once, by `torch.vmap` over `explain`; 1 calls `explain` without `vmap`.
        progress: called with (perturbations done, all perturbations) after each chunk.

    Returns:
        (B,), not negative, lower is better; 0 for a map that does not move.

    Raises:
        CamfnError: neither or both of generator and noise, other shapes, NaN in a map, or a sample whose top class all
            of the noise changes.

    Example:
        >>> noise = torch.full((1, 1, 2, 2), 0.5)
        >>> relative_input_stability(lambda x: x.sum(1) ** 2, torch.ones(1, 1, 2, 2), noise=noise)
        tensor([2.5000])
    """
    perturbations = uniform_noise("relative_input_stability", images, radius, samples, generator, noise)
    return _relative(
        "relative_input_stability",
        explain,
        images,
        lambda x: x,
        True,
        outputs,
        epsilon,
        perturbations,
        chunk_size,
        progress,
    )


def relative_output_stability(
    explain: Callable[[Tensor], Tensor],
    images: Tensor,
    outputs: Seen,
    *,
    epsilon: float = 1e-6,
    radius: float = 0.02,
    samples: int = 10,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    chunk_size: ChunkSize = 1,
    progress: Progress | None = None,
) -> Tensor:
    """Relative output stability: how far a map moves in per cent for each unit that the logits do.

    `max |(M(x') - M(x)) / M(x)| / max(|h(x') - h(x)|, eps)`, over noise that does not change the top class. It costs
    `samples + 1` explanations and forwards.

    Source: arXiv 2203.06877.

    Args:
        explain: as in `relative_input_stability`.
        images: x, (B, C, *T).
        outputs: h, images to logits (B, K), such as the model.
        epsilon: as in `relative_input_stability`.
        radius: as in `relative_input_stability`.
        samples: as in `relative_input_stability`.
        generator: as in `relative_input_stability`.
        noise: as in `relative_input_stability`.
        chunk_size: as in `relative_input_stability`.
        progress: as in `relative_input_stability`.

    Returns:
        (B,), not negative, lower is better; 0 for a map that does not move.

    Raises:
        CamfnError: as `relative_input_stability`.

    Example:
        >>> noise = torch.full((1, 1, 2, 2), 0.5)
        >>> relative_output_stability(lambda x: x.sum(1), torch.ones(1, 1, 2, 2), lambda x: x.sum((2, 3)), noise=noise)
        tensor([0.5000])
    """
    what = "relative_output_stability"
    function(f"{what}: outputs", outputs, "from images to logits (B, K), such as the model")
    perturbations = uniform_noise(what, images, radius, samples, generator, noise)
    return _relative(what, explain, images, outputs, False, outputs, epsilon, perturbations, chunk_size, progress)


def relative_representation_stability(
    explain: Callable[[Tensor], Tensor],
    images: Tensor,
    represent: Seen,
    *,
    outputs: Seen | None = None,
    epsilon: float = 1e-6,
    radius: float = 0.02,
    samples: int = 10,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    chunk_size: ChunkSize = 1,
    progress: Progress | None = None,
) -> Tensor:
    """Relative representation stability: how far a map moves in per cent for each per cent of a layer's output.

    `max |(M(x') - M(x)) / M(x)| / max(|(L(x') - L(x)) / L(x)|, eps)`. An entry of the layer that is 0 is divided by
    eps, so a layer after a ReLU makes the result small: take one before it. It costs `samples + 1` explanations and
    forwards.

    Source: arXiv 2203.06877.

    Args:
        explain: as in `relative_input_stability`.
        images: x, (B, C, *T).
        represent: L, images to (B, ...), such as `lambda x: observe(model, "layer4")(x)[0]`.
        outputs: as in `relative_input_stability`.
        epsilon: as in `relative_input_stability`.
        radius: as in `relative_input_stability`.
        samples: as in `relative_input_stability`.
        generator: as in `relative_input_stability`.
        noise: as in `relative_input_stability`.
        chunk_size: as in `relative_input_stability`.
        progress: as in `relative_input_stability`.

    Returns:
        (B,), not negative, lower is better; 0 for a map that does not move.

    Raises:
        CamfnError: as `relative_input_stability`.

    Example:
        >>> noise = torch.full((1, 1, 2, 2), 0.5)
        >>> relative_representation_stability(lambda x: x.sum(1), torch.ones(1, 1, 2, 2), lambda x: 9 * x, noise=noise)
        tensor([1.])
    """
    what = "relative_representation_stability"
    function(f"{what}: represent", represent, 'such as lambda x: observe(model, "layer4")(x)[0]')
    perturbations = uniform_noise(what, images, radius, samples, generator, noise)
    return _relative(what, explain, images, represent, True, outputs, epsilon, perturbations, chunk_size, progress)


def _relative(
    what: str,
    explain: Callable[[Tensor], Tensor],
    images: Tensor,
    look: Seen,
    divide: bool,
    outputs: Seen | None,
    epsilon: float,
    perturbations: Tensor,
    chunk_size: ChunkSize,
    progress: Progress | None,
) -> Tensor:
    """Return the largest relative change of a map over the change of what `look` shows, relative where `divide`."""
    number(f"{what}: epsilon", epsilon, "(0, inf)")
    plain = map_of(what, explain, images)
    if outputs is not None:
        function(f"{what}: outputs", outputs, "from images to logits (B, K), such as the model, or None")
    seen = _seen(what, look, images)
    top = None if outputs is None else _top(what, seen if outputs is look else _seen(what, outputs, images))

    def ratio(perturbation: Tensor) -> Tensor:
        near = images + perturbation
        shown = _seen(what, look, near)
        change = shown - seen
        by = euclidean(_over(change, seen, epsilon) if divide else change).clamp(min=epsilon)
        far = euclidean(_over(bare_map(what, explain, near) - plain, plain, epsilon)) / by
        if top is None or outputs is None:
            return far
        # the least of numbers stands for noise that does not count
        return torch.where(_top(what, shown if outputs is look else _seen(what, outputs, near)) == top, far, -1)

    worst = each_perturbation(what, ratio, perturbations, chunk_size, progress).amax(0)
    if seen_false(worst >= 0):
        raise CamfnError(
            f"{what}: all of the noise changes the top class of sample {int((worst < 0).int().argmax())}: give a "
            "smaller radius, or outputs=None to count all noise"
        )
    return worst.to(plain.dtype)


def _seen(what: str, look: Seen, images: Tensor) -> Tensor:
    """Return what a function shows of images; refuse anything but one floating-point tensor a sample."""
    with torch.no_grad():
        found = look(images)
    if (
        not isinstance(found, Tensor)
        or not found.ndim
        or found.shape[0] != len(images)
        or not found.is_floating_point()
    ):
        raise CamfnError(
            f"{what}: expected a function of images that returns one tensor (B, ...), B = {len(images)}; it returned "
            f"{describe(found)}"
        )
    return found


def _top(what: str, logits: Tensor) -> Tensor:
    """Return the top class of each image."""
    if logits.ndim != 2:
        raise CamfnError(f"{what}: outputs: expected logits (B, K), got {tuple(logits.shape)}")
    return logits.argmax(1)


def _over(change: Tensor, of: Tensor, epsilon: float) -> Tensor:
    """Divide a change by what changed, entry by entry; by epsilon where that is 0."""
    return change / torch.where(of == 0, epsilon, of)

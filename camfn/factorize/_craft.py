"""CRAFT: concepts of the crops of a class's photos, and how much each concept matters to the class."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from einops import einsum
from torch import Tensor, nn
from torch.nn import functional

from .._shared.checks import describe, function, number, one_of, progress_bar, same_device, tensor, whole
from .._shared.devices import brought
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.maps import largest, resize, safe_divide, spatial_mean, widen
from .._shared.rows import ChunkSize, Progress, finite, score_variants
from .._shared.sensitivity import points_of, total_indices, with_one_from_second
from .._shared.vocabulary import ScoreFn, Tail
from ..targets import as_score
from ._concepts import Negative, project
from ._nmf import nmf

_NONE = 1e-5
"""A crop has none of a concept whose strength there is no more than this share of the greatest of all."""


class Craft(NamedTuple):
    """Concepts of a class, the most important first.

    Attributes:
        concepts: (r, C), of unit norm.
        importance: (r,), the mean over the images of the total Sobol index of each concept.
        of_images: (B, r), the indices of each image.
        maps: (B, r, *S), how strong each concept is at each place of the images.
        crops: (n, channels, size, size), the crops that the concepts are from, image by image.
        strengths: (n, r), how strong each concept is in each crop.
        error: (B,), the norm of what the concepts leave of an image's activations over the norm of these.
    """

    concepts: Tensor
    importance: Tensor
    of_images: Tensor
    maps: Tensor
    crops: Tensor
    strengths: Tensor
    error: Tensor

    @property
    def explained(self) -> Tensor:
        """Share of the energy (the sum of squares) of each image's activations that the concepts make, (B,).

        `importance` is of this part alone: where the share is low, what the network reads may lie in the rest.
        """
        return 1 - self.error.square()

    def strongest(self, concept: int, count: int = 5) -> Tensor:
        """Return the crops with most of a concept, (count, channels, size, size), the first the strongest.

        They are fewer where fewer crops have any of it.
        """
        whole("strongest: concept", concept, 0)
        whole("strongest: count", count)
        if concept >= self.strengths.shape[1]:
            raise CamfnError(f"strongest: concept: expected one of {self.strengths.shape[1]}, from 0, got {concept}")
        own = self.strengths[:, concept]
        return self.crops[own.topk(min(count, int((own > _NONE * self.strengths.max()).sum()))).indices]


def crops(images: Tensor, size: int, *, overlap: float = 0.2) -> Tensor:
    """Cut images into square crops, row by row; what remains at the right and lower border is left out.

    Args:
        images: (B, channels, H, W).
        size: side of a crop, at most the sides of the images.
        overlap: share of a crop that the next one repeats, in [0, 1).

    Returns:
        (B n, channels, size, size), image by image.

    Raises:
        CamfnError: images of another shape, or smaller than a crop.

    Example:
        >>> import torch
        >>> crops(torch.arange(16.0).reshape(1, 1, 4, 4), 2, overlap=0.5).shape
        torch.Size([9, 1, 2, 2])
    """
    tensor("crops: images", images)
    whole("crops: size", size)
    number("crops: overlap", overlap, "[0, 1)")
    if not images.is_floating_point():
        raise ArgumentTypeError(f"crops: images: expected a floating-point tensor, got {images.dtype}")
    if images.ndim != 4 or min(images.shape[2:]) < size:
        raise CamfnError(
            f"crops: expected images (B, channels, H, W) with sides of {size} at least, got {tuple(images.shape)}"
        )
    step = max(1, int(size * (1 - overlap) + 1e-9))
    columns = functional.unfold(images, size, stride=step).mT
    return columns.reshape(-1, images.shape[1], size, size)


def concept_importance(
    maps: Tensor,
    concepts: Tensor,
    tail: Callable[[Tensor], Tensor],
    *,
    designs: int = 32,
    points: Tensor | None = None,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """Measure how much each concept matters to a score: the total Sobol index of its strength in the image.

    The strengths of the concepts are multiplied by numbers in [0, 1], everywhere alike, and the tail scores the
    activations that they make: `f(sum_k m_k maps_k concepts_k)`. The index is the share of the variance of these scores
    that a concept takes part in, alone and with others. It says nothing about the part of the activations that the
    concepts do not make, nor about the sign. `designs (r + 1)` runs of the tail. With 32 designs the indices are rough:
    of ten concepts that add alike they are from 0.7 to 2.5 of the right one; more designs order close ones better.

    Source: arXiv 2211.10154; Jansen's estimator with 32 designs as in the authors' package, xplique, where the points
    are a Halton sequence, and here those of a Sobol sequence.

    Args:
        maps: (B, r, *S), of `deep_feature_factorization`, `project` or `craft`.
        concepts: (r, C).
        tail: activations (B, C, *S) to scores (B,).
        designs: two or more.
        points: (n, 2, r) in [0, 1], two sets of points in place of the Sobol sequence.
        chunk_size: runs at once; None is all, "auto" as many as memory allows.
        progress: called with runs done and their number.

    Returns:
        (B, r).

    Raises:
        CamfnError: maps and concepts that do not fit, points of another shape, fewer than two designs, or scores that
            are not one finite number a sample.

    Example:
        >>> import torch
        >>> maps, concepts = torch.ones(1, 3, 2, 2), torch.eye(3)
        >>> tail = lambda a: a.mean((2, 3)) @ torch.tensor([3.0, 4.0, 0.0])
        >>> concept_importance(maps, concepts, tail, designs=4096).round(decimals=2)
        tensor([[0.3600, 0.6400, 0.0000]])
    """
    function("concept_importance: tail", tail, "from activations to one score a sample")
    for name, value in (("maps", maps), ("concepts", concepts)):
        tensor(f"concept_importance: {name}", value, "as craft gives them")
        if not value.is_floating_point():
            raise ArgumentTypeError(f"concept_importance: {name}: expected floats, got {value.dtype}")
    same_device("concept_importance: concepts", concepts, maps, "maps")
    whole("concept_importance: designs", designs, 2)
    rank = maps.shape[1] if maps.ndim > 1 else 0
    if not 3 <= maps.ndim <= 5 or concepts.ndim != 2 or concepts.shape[0] != rank:
        raise CamfnError(
            f"concept_importance: expected maps (B, r, *S) and concepts (r, C), got {tuple(maps.shape)} and "
            f"{tuple(concepts.shape)}"
        )
    points = points_of("concept_importance", points, designs, (rank,))
    count, drawn = points.shape[0], brought(points, widen(maps))

    def rebuilt(row: Tensor) -> Tensor:
        strengths = with_one_from_second(drawn, row).to(maps.dtype)
        return einsum(maps, strengths, concepts.to(maps.dtype), "b r ..., r, r c -> b c ...").contiguous()

    rows = torch.arange(count * (rank + 1), device=maps.device)
    what = "concept_importance: tail"
    scores = score_variants(what, tail, rebuilt, rows, chunk_size=chunk_size, progress=progress)
    finite(what, scores.mT, maps)
    return total_indices(scores, count).mT.to(maps.dtype)


def craft(
    images: Tensor,
    latent: Callable[[Tensor], Any],
    tail: Callable[[Tensor], Tail],
    target: int | ScoreFn,
    rank: int = 10,
    *,
    size: int = 64,
    overlap: float = 0.2,
    designs: int = 32,
    negative: Negative = "error",
    batch_size: int = 16,
    progress: Progress | None = None,
) -> Craft:
    """CRAFT: concepts that the crops of a class's images consist of, how much each matters, and where it is.

    Crops of the images are resized to the size of the images and run to the layer; their pooled activations are
    factored into concepts (`nmf`). `project` finds the concepts at each place of the images, and `concept_importance`
    says how much each matters to the score of the target. Hand over images that the model takes for the class.

    The authors find sub-concepts at lower layers by repeating this, which is not done here. Their package penalizes the
    strengths a little in the factorization; here nothing is.

    Source: arXiv 2211.10154 and the authors' package, xplique; its overlap and designs.

    Args:
        images: (B, channels, H, W), as the model takes them.
        latent: images to the activations of a layer, or to a tuple that they come first in: `observe(model, layer)`.
        tail: images to the rest of the network: `resume(model, layer)`.
        target: the class, or a function of the outputs that gives one score a sample.
        rank: number of concepts, at most the number of crops and of channels.
        size: side of a crop, in pixels of the images.
        overlap: share of a crop that the next one repeats.
        designs: as in `concept_importance`.
        negative: "error", or "relu" to set negative activations to 0.
        batch_size: crops at a time, and images at a time.
        progress: called with the crops and images done and their number.

    Returns:
        A `Craft`, detached.

    Raises:
        CamfnError: negative activations, too many concepts, images smaller than a crop, a network in training mode.

    Example:
        >>> import torch
        >>> from camfn import observe, resume
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1))
        >>> net = net.extend([torch.nn.Flatten(), torch.nn.Linear(6, 5)]).eval()
        >>> images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> found = craft(images, observe(net, "1"), resume(net, "1"), 2, rank=3, size=8)
        >>> found.maps.shape, found.strongest(0, 2).shape
        (torch.Size([4, 3, 14, 14]), torch.Size([2, 3, 8, 8]))
        >>> found.explained.shape
        torch.Size([4])
    """
    function("craft: latent", latent, "from images to activations, such as observe(model, layer)")
    function("craft: tail", tail, "from images to the rest of the network, such as resume(model, layer)")
    for run in (latent, tail):
        _in_evaluation(run)
    whole("craft: batch_size", batch_size)
    if not isinstance(target, int) and not callable(target):
        raise CamfnError(f"craft: target: expected one class or a function of the outputs, got {describe(target)}")
    progress_bar("craft", progress)
    tensor("craft: images", images)
    if not len(images) or not bool(images.isfinite().all()):
        raise CamfnError("craft: images: expected finite numbers of at least one image, got none, or NaN or infinity")
    with torch.no_grad():
        cut = crops(images, size, overlap=overlap)
        one_of("craft: negative", negative, ("error", "relu"))
        whole("craft: rank", rank)
        whole_work = len(cut) + len(images)
        pooled: list[Tensor] = []
        for part in torch.split(cut, batch_size):
            pooled.append(spatial_mean(_activations(latent, resize(part, images.shape[2:]), negative)))
            if progress is not None:
                progress(sum(map(len, pooled)), whole_work)
        features = torch.cat(pooled)
        _check_rank(features, rank, size, len(images))
        strengths, concepts, *_ = nmf(features, rank)
        score = as_score(target)
        maps, importance, error = [], [], []
        for part in torch.split(images, batch_size):
            own = _activations(latent, part, negative)
            maps.append(project(own, concepts))
            error.append(_left(own, maps[-1], concepts))
            rest = tail(part)
            function("craft: tail: what it returns", rest, "the rest of the network, as resume(model, layer) gives it")
            scored = partial(_scored, score, rest)
            importance.append(concept_importance(maps[-1], concepts, scored, designs=designs))
            if progress is not None:
                progress(len(cut) + sum(map(len, maps)), whole_work)
        of_images = torch.cat(importance)
        order = of_images.mean(0).argsort(descending=True)
        return Craft(
            concepts[order],
            of_images.mean(0)[order],
            of_images[:, order],
            torch.cat(maps)[:, order],
            cut,
            strengths[:, order],
            torch.cat(error),
        )


def _left(activations: Tensor, maps: Tensor, concepts: Tensor) -> Tensor:
    """Return the norm of what concepts leave of each image's activations over the norm of these, (B,); 0 of zeros."""
    values, unit = widen(activations), largest(widen(activations), tuple(range(1, activations.ndim)))
    made = einsum(widen(maps), widen(concepts), "b r ..., r c -> b c ...")
    rest, all_ = (safe_divide(x, unit).flatten(1) for x in (values - made, values))
    return safe_divide(torch.linalg.vector_norm(rest, dim=1), torch.linalg.vector_norm(all_, dim=1))


def _check_rank(features: Tensor, rank: int, size: int, count: int) -> None:
    """Refuse activations of crops, (n, C), of which no such number of concepts can be made."""
    if rank > min(features.shape):
        raise CamfnError(
            f"craft: rank: {count} images give {features.shape[0]} crops of {size} pixels, and the layer has "
            f"{features.shape[1]} channels: expected {min(features.shape)} concepts at most, got {rank}. Take more "
            "images, smaller crops (--size), or fewer concepts (--rank)"
        )


def _scored(score: ScoreFn, tail: Tail, activations: Tensor) -> Tensor:
    """Score activations."""
    return score(tail(activations))


def _in_evaluation(run: Any) -> None:
    """Refuse what runs a network in training mode, where crops of one batch depend on another, or on chance."""
    model = getattr(run, "model", None)
    # torch makes its quantized modules in training mode, which do not ask for it
    if isinstance(model, nn.Module) and any(
        m.training and "quantized" not in type(m).__module__ for m in model.modules()
    ):
        raise CamfnError(f"craft: this {type(model).__name__} is in training mode; call model.eval() first")


def _activations(latent: Callable[[Tensor], Any], images: Tensor, negative: Negative) -> Tensor:
    """Return the activations of images, the first of what `latent` returns; negative ones are refused, or set to 0."""
    given = latent(images)
    found: Tensor = given[0] if isinstance(given, tuple) else given
    tensor("craft: the activations of latent", found, "such as observe(model, layer) gives")
    if not bool(found.isfinite().all()):
        raise CamfnError(
            "craft: the layer's activations are NaN or infinite, of finite images: look at the network, whose weights "
            "may be NaN, and at half precision"
        )
    if negative == "error" and float(found.min()) < 0:
        raise CamfnError(
            f"craft: the layer's activations are negative, down to {float(found.min()):.4g}, and concepts are parts "
            "that add up: take a layer behind a ReLU, or set them to 0 by negative='relu' (--negative relu)"
        )
    return found.relu()

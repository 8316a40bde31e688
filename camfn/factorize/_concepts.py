"""Deep Feature Factorization: concepts that a layer's activations consist of, their maps, and their class scores.

The N pixels of C channels are one matrix, which is factored into nonnegative maps and nonnegative concepts. Neither a
class nor a gradient is needed; the class scores of a concept are the outputs of the network for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from einops import rearrange
from torch import Tensor

from .._shared.checks import (
    describe,
    function,
    is_concrete,
    length_matches,
    number,
    one_of,
    same_device,
    shapes_agree,
    tensor,
    whole,
)
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.maps import over_space
from .._shared.vocabulary import Tail
from ..targets import logits_of
from ._nmf import nmf, nnls, require_nonnegative

Negative: TypeAlias = Literal["error", "relu"]
"""How negative activations are treated: refused, or set to 0."""


class Concepts(NamedTuple):
    """Activations as concepts times their maps.

    Attributes:
        maps: (B, r, *S), how strong each concept is at each place.
        concepts: (r, C), or (B, r, C) where each image has its own; of unit norm, those of most energy first.
        error: relative error of the reconstruction, () or (B,).
        steps: the number of steps that the factorization took, () or (B,).
    """

    maps: Tensor
    concepts: Tensor
    error: Tensor
    steps: Tensor


class NamedClass(NamedTuple):
    """A class that a concept speaks for.

    Attributes:
        class_index: which of the K.
        name: its name, or "class INDEX" where none is known.
        score: the logit.
        probability: its softmax over the classes.
    """

    class_index: int
    name: str
    score: float
    probability: float


def deep_feature_factorization(
    activations: Tensor,
    rank: int,
    *,
    together: bool = True,
    negative: Negative = "error",
    steps: int = 500,
    tolerance: float = 1e-5,
) -> Concepts:
    """Deep Feature Factorization: nonnegative concepts, and a map of each in every image.

    `A_b(p) ~ sum_k maps_bk(p) concepts_k`, by `nmf`. With `together` the pixels of all images are one matrix, as in the
    paper, so that a concept means the same in all of them; without it each image is factored by itself, all at once.

    The paper factors the activations of a ReLU layer. Those of other layers may be negative: they are refused, unless
    `negative="relu"` sets them to 0. pytorch-grad-cam subtracts each channel's minimum instead, and
    reports concepts with that minimum added, which are factors of neither; it also stretches each map to [0, 1], which
    loses how strong the concepts are beside one another, and starts at random.

    Source: arXiv 1806.10206.

    Args:
        activations: (B, C, *S), one to three spatial dimensions; as of `observe(model, layer)(images)[0]`.
        rank: number r of concepts, at most C, and at most the number of pixels of the matrix.
        together: one set of concepts for all images, or one for each.
        negative: "error", or "relu" to set negative activations to 0.
        steps: as in `nmf`.
        tolerance: as in `nmf`.

    Returns:
        Maps, concepts, error and steps; the first two in the dtype of `activations`; detached.

    Raises:
        CamfnError: negative activations (not checked inside `vmap`), NaN or infinity, or a rank that cannot be.

    Example:
        >>> import torch
        >>> activations = torch.rand(4, 16, 7, 7, generator=torch.Generator().manual_seed(0))
        >>> found = deep_feature_factorization(activations, 3)
        >>> found.maps.shape, found.concepts.shape
        (torch.Size([4, 3, 7, 7]), torch.Size([3, 16]))
        >>> deep_feature_factorization(activations, 3, together=False).concepts.shape
        torch.Size([4, 3, 16])
    """
    values = _positive(_pixels(activations, together), negative)
    weights, concepts, error, steps_taken = nmf(values, rank, steps=steps, tolerance=tolerance)
    return Concepts(_maps(weights, activations), concepts, error, steps_taken)


def project(
    activations: Tensor,
    concepts: Tensor,
    *,
    negative: Negative = "error",
    steps: int = 200,
    tolerance: float = 1e-10,
) -> Tensor:
    """Find given concepts in other images: the nonnegative maps that reconstruct them best.

    Args:
        activations: (B, C, *S), of the layer that the concepts are from.
        concepts: (r, C), or (B, r, C) with an image's own.
        negative: as in `deep_feature_factorization`.
        steps: as in `nnls`.
        tolerance: as in `nnls`.

    Returns:
        Maps, (B, r, *S), in the dtype of `activations`; detached.

    Raises:
        CamfnError: as in `deep_feature_factorization`, or another number of channels or images.

    Example:
        >>> import torch
        >>> activations = torch.rand(2, 16, 7, 7, generator=torch.Generator().manual_seed(0))
        >>> found = deep_feature_factorization(activations[:1], 3)
        >>> project(activations[1:], found.concepts).shape
        torch.Size([1, 3, 7, 7])
    """
    _pixels(activations, True)
    tensor("project: concepts", concepts)
    one_set_per_image = concepts.ndim == 3
    if one_set_per_image:
        length_matches("concepts", concepts.shape[0], activations.shape[0])
    values = _positive(_pixels(activations, together=not one_set_per_image), negative)
    return _maps(nnls(values, concepts, steps=steps, tolerance=tolerance), activations)


def concept_scores(concepts: Tensor, head: Callable[[Tensor], Any], *, strength: float | Tensor = 1.0) -> Tensor:
    """Score concepts by the classifier: its logits for pooled features that are one concept and nothing else.

    A concept has no scale of its own (unit norm is a convention), and a head with a bias depends on one: `strength`
    multiplies it. With `maps.flatten(2).amax((0, 2))` a concept is taken as strong as it is at its strongest place.
    Without bias and over a linear head, the mean of a map times the scores of its concept is what the concept adds to
    the logits of a globally pooled image.

    Args:
        concepts: (..., r, C).
        head: (n, C) features to (n, K) logits: the classifier after the pooling, such as `model.fc`.
        strength: a number, or one for each concept, (..., r).

    Returns:
        (..., r, K).

    Raises:
        CamfnError: the head does not give one row of logits for each concept.

    Example:
        >>> import torch
        >>> concept_scores(torch.eye(2), torch.nn.Linear(2, 5)).shape
        torch.Size([2, 5])
    """
    function("concept_scores: head", head, "from pooled features (n, C) to logits, such as model.fc")
    rows = _scaled(concepts, strength).flatten(0, -2)
    logits = logits_of(head(rows))
    length_matches("head, on (concepts, channels)", logits.shape[0], rows.shape[0])
    return logits.reshape(*concepts.shape[:-1], -1)


def tail_scores(concepts: Tensor, tail: Tail, activations: Tensor, *, strength: float | Tensor = 1.0) -> Tensor:
    """Score concepts by the rest of the network: its logits for a map that is one concept everywhere.

    Every place of the layer is given `strength_k concepts_k`, and the tail is run on it; no pooling or linear head is
    assumed. Paths around the layer (skip connections, class tokens that a layout keeps) still carry the
    image. Over global pooling and a linear head this is `concept_scores`. Costs r runs of the tail.

    Args:
        concepts: (r, C) or (B, r, C).
        tail: activations to outputs, such as `resume(model, layer)(images)`.
        activations: (B, C, *S), those of the images that the tail was made with; only their shape and type are used.
        strength: a number, or one for each concept, (r,) or (B, r).

    Returns:
        (B, r, K).

    Raises:
        CamfnError: another number of channels or images, or outputs in which no logits are found.

    Example:
        >>> import torch
        >>> from camfn import resume
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5))
        >>> images = torch.ones(2, 3, 8, 8)
        >>> tail_scores(torch.eye(4), resume(net, "0")(images), net[0](images)).shape
        torch.Size([2, 4, 5])
    """
    function("tail_scores: tail", tail, "from activations to the network's outputs, as resume(model, layer)(inputs)")
    _pixels(activations, True)
    same_device("tail_scores: concepts", _scaled(concepts, strength), activations, "activations")
    rows = _scaled(concepts, strength).to(activations.dtype)
    if rows.ndim == 3:
        length_matches("concepts", rows.shape[0], activations.shape[0])
    rows = rows.expand(activations.shape[0], *rows.shape[-2:])
    shapes_agree("concepts, beyond the batch", rows.shape[2:], activations.shape[1:2])
    return torch.stack(
        [logits_of(tail(over_space(row, activations).expand_as(activations))) for row in rows.unbind(1)], 1
    )


def top_classes(scores: Tensor, names: Sequence[str] | None = None, *, count: int = 3) -> list[list[NamedClass]]:
    """Name the best classes of each concept.

    Args:
        scores: (r, K).
        names: of the K classes.
        count: how many for each concept, at most K.

    Returns:
        For each concept its classes, the best first.

    Raises:
        CamfnError: scores of another shape, or not one name for each class.

    Example:
        >>> import torch
        >>> top_classes(torch.tensor([[0.0, 2.0]]), ["dog", "cat"], count=1)[0][0].name
        'cat'
    """
    tensor("top_classes: scores", scores)
    whole("top_classes: count", count)
    if names is not None and (isinstance(names, str) or not isinstance(names, (list, tuple))):
        raise ArgumentTypeError(f"names: expected a list of the names of the classes, got {describe(names)}")
    if not is_concrete(scores) or scores.is_complex():
        raise CamfnError(f"scores: expected real numbers that can be read, got {scores.dtype} on {scores.device}")
    if scores.ndim != 2:
        raise CamfnError(f"scores: expected (concepts, classes), got {tuple(scores.shape)}; of one image: scores[0]")
    if names is not None and len(names) != scores.shape[1]:
        raise CamfnError(f"names: expected one for each of the {scores.shape[1]} classes, got {len(names)}")
    wide = scores.detach().float()
    best = wide.topk(min(count, scores.shape[1]))
    shares = wide.softmax(-1).gather(1, best.indices)
    return [
        [NamedClass(i, names[i] if names else f"class {i}", *pair) for i, *pair in zip(*row, strict=True)]
        for row in zip(best.indices.tolist(), best.values.tolist(), shares.tolist(), strict=True)
    ]


def _pixels(activations: Tensor, together: bool) -> Tensor:
    """Return the pixels of all images as one matrix (B N, C), or of each image as its own (B, N, C)."""
    tensor("activations", activations, "as capture(model, layer) gives them")
    if not activations.is_floating_point():
        raise ArgumentTypeError(f"activations: expected a floating-point tensor, got {activations.dtype}")
    if activations.ndim not in (3, 4, 5):
        raise CamfnError(
            f"activations: expected (B, C, *S) with one to three spatial dimensions, got {tuple(activations.shape)}"
        )
    return rearrange(activations, "b c ... -> (b ...) c" if together else "b c ... -> b (...) c")


def _maps(weights: Tensor, activations: Tensor) -> Tensor:
    """Return weights (B N, r) or (B, N, r) as maps (B, r, *S)."""
    batch, _, *spatial = activations.shape
    return weights.reshape(batch, -1, weights.shape[-1]).mT.reshape(batch, -1, *spatial)


def _positive(values: Tensor, negative: Negative) -> Tensor:
    """Refuse negative values, or set them to 0."""
    one_of("negative", negative, ("error", "relu"))
    if negative == "relu":
        return values.relu()
    require_nonnegative(values, "activations", "negative='relu' factors their positive part")
    return values


def _scaled(concepts: Tensor, strength: float | Tensor) -> Tensor:
    """Multiply each concept with its strength."""
    tensor("concepts", concepts, "as deep_feature_factorization gives them")
    if not concepts.is_floating_point() or concepts.ndim not in (2, 3) or not concepts.numel():
        raise CamfnError(
            f"concepts: expected (concepts, C) or (B, concepts, C) of floats, got {tuple(concepts.shape)} of "
            f"{concepts.dtype}"
        )
    if not isinstance(strength, Tensor):
        number("strength", strength)
        return concepts * strength
    same_device("strength", strength, concepts, "concepts")
    if strength.ndim > concepts.ndim - 1 or any(
        n not in (1, m) for n, m in zip(reversed(strength.shape), reversed(concepts.shape[:-1]))
    ):
        raise CamfnError(
            f"strength: expected a number, or one a concept, {tuple(concepts.shape[:-1])}; got {tuple(strength.shape)}"
        )
    return concepts * strength[..., None]

"""Several variants of the same images, explained as one larger batch, for one question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .._shared.errors import CamfnError
from .._shared.inputs import images_of
from .._shared.vocabulary import Inputs, ScoreFn, Target
from ..targets import Move, Score, as_score, moved, pin


class Variant(NamedTuple):
    """Images that were changed.

    Attributes:
        images: (B, C, *S), of the shape that all variants have.
        move: where a mask on the unchanged images ends up; None where nothing moves.
    """

    images: Tensor
    move: Move | None = None


def first_image(inputs: Inputs) -> Tensor:
    """Return the images among the inputs: the first floating-point tensor."""
    return images_of(inputs)[0]


def explain_variants(
    explain: Callable[..., Tensor],
    inputs: Inputs,
    target: Target,
    variants: Sequence[Variant],
    chunk_size: int | None = None,
) -> list[Tensor]:
    """Explain each variant, `chunk_size` of them at once.

    A target that leaves a choice to the outputs, such as the top class, makes it at the unchanged images, which are
    then a part of every batch.

    Returns:
        A map (B, *spatial) for each variant.
    """
    if chunk_size is not None and chunk_size < 1:
        raise CamfnError(f"chunk_size: expected at least 1 variant at once, or None for all, got {chunk_size}")
    images, rebuild = images_of(inputs)
    batch, size = images.shape[0], chunk_size or len(variants)
    found: list[Tensor] = []
    for start in range(0, len(variants), size):
        part = list(variants[start : start + size])
        added = _chooses(target) and all(variant.images is not images for variant in part)
        runs = [Variant(images), *part] if added else part
        own = next((i for i, variant in enumerate(runs) if variant.images is images), None)
        stacked = rebuild(torch.cat([variant.images for variant in runs]))
        cam = explain(stacked, _repeated(target, [variant.move for variant in runs], batch, own))
        if cam.shape[0] != len(runs) * batch:
            raise CamfnError(
                f"expected one map a sample, ({len(runs) * batch}, *spatial) for {len(runs)} variants of {batch}, got "
                f"{tuple(cam.shape)}; what is bound to its batch needs chunk_size=1 and a class as the target"
            )
        found += cam.reshape(len(runs), batch, *cam.shape[1:]).unbind(0)[added:]
    return found


def _chooses(target: Target) -> bool:
    """Whether the target may leave something to the outputs, as the top class does and classes given do not."""
    score = as_score(target)
    return not _are_classes(target) and isinstance(score, Score) and score.pinned is not None


def _are_classes(target: Target) -> bool:
    return (
        target is not None
        and not callable(target)
        and not (isinstance(target, (list, tuple)) and any(map(callable, target)))
    )


def _repeated(target: Target, moves: Sequence[Move | None], batch: int, own: int | None) -> Target:
    """Ask of each variant in a batch what the target asks of the images."""
    if not _are_classes(target):
        return _in_groups([as_score(target)] * len(moves), moves, batch, own)
    if isinstance(target, (list, tuple)):
        return list(target) * len(moves)
    each = torch.as_tensor(target)
    return each.repeat(len(moves)) if each.ndim else target


def _in_groups(scores: Sequence[ScoreFn], moves: Sequence[Move | None], batch: int, own: int | None) -> Score:
    """Score each group of a batch's samples by a target of its own."""

    def asked(groups: list[Any]) -> list[ScoreFn]:
        given = scores if own is None else [pin(scores[own], groups[own])] * len(moves)
        return [score if move is None else moved(score, move) for score, move in zip(given, moves)]

    def score(outputs: Any) -> Tensor:
        groups = _groups(outputs, len(moves), batch)
        return torch.cat([one(group) for one, group in zip(asked(groups), groups)])

    def pinned(outputs: Any) -> Score:
        groups = _groups(outputs, len(moves), batch)
        fixed = [pin(one, group) for one, group in zip(asked(groups), groups)]
        return _in_groups(fixed, [None] * len(moves), batch, None)

    return Score(score, pinned)


def _groups(outputs: Any, count: int, batch: int) -> list[Any]:
    """Split outputs along the batch; what has none belongs to every group."""
    if isinstance(outputs, list) and len(outputs) == count * batch and all(isinstance(one, dict) for one in outputs):
        # a dict for each image, as torchvision's detectors return
        return [outputs[start : start + batch] for start in range(0, len(outputs), batch)]
    leaves, spec = pytree.tree_flatten(outputs)
    split = [
        leaf.reshape(count, batch, *leaf.shape[1:]).unbind(0)
        if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == count * batch
        else (leaf,) * count
        for leaf in leaves
    ]
    return [pytree.tree_unflatten(list(group), spec) for group in zip(*split)]

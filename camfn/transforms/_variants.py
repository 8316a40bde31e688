"""Several variants of the same images, explained in one larger batch for one target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .._shared.checks import whole
from .._shared.errors import CamfnError
from .._shared.value import Value, frozen
from .._shared.vocabulary import Inputs, ScoreFn, Target
from ..targets import Arithmetic, Move, as_score, moved, pin


class Variant(NamedTuple):
    """Images after a change.

    Attributes:
        images: one or several inputs, each (B, C, *S), of the shapes that all variants have.
        move: maps a mask on the unchanged images to the mask on the changed ones; None if the change moves nothing.
    """

    images: Sequence[Tensor]
    move: Move | None = None


def explain_variants(
    explain: Callable[..., Tensor],
    target: Target,
    images: Sequence[Tensor],
    rebuild: Callable[[Sequence[Tensor]], Inputs],
    variants: Sequence[Variant],
    chunk_size: int | None = None,
) -> list[Tensor]:
    """Explain each variant, `chunk_size` of them at once.

    Some targets choose by the outputs, such as the top class. They choose by the outputs of the unchanged images, which
    are then a part of every batch.

    Args:
        explain: a function of inputs and a target.
        target: that of the unchanged images.
        images: the unchanged images, as `all_images_of` finds them.
        rebuild: puts others in their place.
        variants: what to explain.
        chunk_size: how many variants go in one batch.

    Returns:
        A map (B, *spatial) for each variant.
    """
    unchanged_too = Variant(images)
    batch, size = images[0].shape[0], chunk_size or len(variants)
    cams: list[Tensor] = []
    for start in range(0, len(variants), size):
        part = list(variants[start : start + size])
        added = _chooses(target) and not any(_same(variant, unchanged_too) for variant in part)
        runs = [unchanged_too, *part] if added else part
        unchanged = next((i for i, variant in enumerate(runs) if _same(variant, unchanged_too)), None)
        stacked = rebuild([torch.cat(together) for together in zip(*(variant.images for variant in runs))])
        cam = explain(stacked, repeated_target(target, [variant.move for variant in runs], batch, unchanged))
        cam = cam if isinstance(cam, Tensor) and cam.ndim else torch.empty(0)
        if cam.shape[0] != len(runs) * batch:
            raise CamfnError(
                f"expected one map a sample, ({len(runs) * batch}, *spatial) for {len(runs)} variants of {batch}, got "
                f"{tuple(cam.shape)}; an explainer of one batch size needs chunk_size=1 and a class as the target"
            )
        cams += cam.reshape(len(runs), batch, *cam.shape[1:]).unbind(0)[added:]
    return cams


def check_chunk_size(chunk_size: int | None) -> None:
    """Refuse a number of variants at once below 1."""
    if chunk_size is not None:
        whole("chunk_size: variants at once, None for all", chunk_size)


def _same(one: Variant, other: Variant) -> bool:
    """Say whether two variants hold the same tensors."""
    return all(a is b for a, b in zip(one.images, other.images))


def _chooses(target: Target) -> bool:
    """Say whether the target may choose by the outputs, as the top class does and a given class does not."""
    score = as_score(target)
    return not _are_classes(target) and getattr(score, "pinned", None) is not None


def _are_classes(target: Target) -> bool:
    """Say whether the target is a class or a class a sample, and no function."""
    return (
        target is not None
        and not callable(target)
        and not (isinstance(target, (list, tuple)) and any(map(callable, target)))
    )


def repeated_target(target: Target, moves: Sequence[Move | None], batch: int, unchanged: int | None) -> Target:
    """Repeat the target for each variant of a stacked batch.

    Args:
        target: the target of the unchanged images.
        moves: the `move` of each variant.
        batch: samples in each variant.
        unchanged: which variant has the unchanged images; None if none of them has.
    """
    if not _are_classes(target):
        return _Grouped((as_score(target),) * len(moves), tuple(moves), batch, unchanged)
    if isinstance(target, (list, tuple)):
        return list(target) * len(moves)
    classes = torch.as_tensor(target)
    return classes.repeat(len(moves)) if classes.ndim else target


@frozen
class _Both(Value):
    """Moves a mask twice."""

    first: Move
    second: Move

    def __call__(self, mask: Tensor) -> Tensor:
        return self.second(self.first(mask))


@frozen
class _Grouped(Arithmetic):
    """Scores the variants of a stacked batch, each by its own function.

    If one variant has the unchanged images, its outputs make the choices of the target (`pin`), and every variant
    is then scored by these choices, moved along with its images (`moved`).

    Attributes:
        scores: a function for each variant.
        moves: the `move` of each variant.
        batch: samples in each variant.
        unchanged: which variant has the unchanged images; None if none of them has.
    """

    scores: tuple[ScoreFn, ...]
    moves: tuple[Move | None, ...]
    batch: int
    unchanged: int | None

    def __call__(self, outputs: Any) -> Tensor:
        """Score each sample of each variant, (n B,)."""
        groups = groups_of(outputs, len(self.moves), self.batch)
        return torch.cat([one(group) for one, group in zip(self._functions(groups), groups)])

    @property
    def pinned(self) -> Callable[[Any], _Grouped]:
        """Make the choices of each variant; the moves are then in the functions."""
        return self._pin

    def _pin(self, outputs: Any) -> _Grouped:
        groups = groups_of(outputs, len(self.moves), self.batch)
        fixed = tuple(pin(one, group) for one, group in zip(self._functions(groups), groups))
        return _Grouped(fixed, (None,) * len(fixed), self.batch, None)

    @property
    def moved(self) -> Callable[[Move], _Grouped] | None:
        """Move each variant, which has moved already, once more; None where no score has places."""
        return self._move if any(getattr(one, "moved", None) for one in self.scores) else None

    def _move(self, move: Move) -> _Grouped:
        moves = tuple(move if own is None else _Both(own, move) for own in self.moves)
        return _Grouped(self.scores, moves, self.batch, self.unchanged)

    def _functions(self, groups: list[Any]) -> list[ScoreFn]:
        """Return the function of each variant, given its outputs."""
        same = self.scores
        if self.unchanged is not None:
            same = (pin(same[self.unchanged], groups[self.unchanged]),) * len(self.moves)
        return [score if move is None else moved(score, move) for score, move in zip(same, self.moves)]


def groups_of(outputs: Any, count: int, batch: int) -> list[Any]:
    """Split the outputs into those of each variant; a value without a batch dimension belongs to all of them."""
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

"""Whether the places of a map see their own parts of the image: what settles a layout that a count alone suggests."""

# tested in tests/layout/test_places.py

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._shared.checks import is_concrete
from .._shared.levels import level_of_func
from .._shared.vocabulary import Call, Inputs, Select
from .graft import bare
from .place_rules import Places
from .trial import Laid, Trial


def places_seen(
    model: nn.Module,
    laid: Mapping[str, Sequence[Laid]],
    inputs: Inputs,
    images: Sequence[Tensor],
    *,
    select: Select | None = None,
    call: Call | None = None,
    known: Mapping[str, Tensor] | None = None,
    thorough: bool = False,
) -> dict[str, list[Places | None]]:
    """Count the places that see their own parts of the image, for layers and for layouts of each that are in question.

    The parts of the image that belong to some places are overwritten with noise, and the network runs up to the layers
    once more. Where the layout is right, no place changes much more than these. One run with the parts of four places
    tells (`place_rules.at_once`); where it does not, as the layer mixes places or the layout is wrong, each part has a
    run of its own, six for each size of the maps, which end at the last layer that has a map of this size.
    Runs the first sample where the network allows it, in evaluation mode, without a gradient.

    Args:
        model: any module; left as it is.
        laid: the layouts in question, by the layer's name.
        inputs: arguments of the model.
        images: the tensors among the inputs, or tensors of their shapes, that are overwritten.
        select: which tensor, where a layer returns several.
        call: which of several runs of a layer; None and "all" take the first.
        known: what the layers gave for these inputs in evaluation mode, which saves a run.
        thorough: whether to give each place a run of its own in any case.

    Returns:
        For each layer and layout the places; None where no value can be read, or the network does not run.
    """
    found: dict[str, list[Places | None]] = {name: [None] * len(layouts) for name, layouts in laid.items()}
    for trial in trials(model, list(laid), inputs, images, select, call, known):
        if not thorough:
            _note_at_once(trial, laid, found)
        asked = {name: layouts for name, layouts in laid.items() if None in found[name]}
        if asked:
            trial.forget_known()
            trial.note(asked)
        for name, layouts in asked.items():
            for i, one in enumerate(layouts):
                found[name][i] = found[name][i] or trial.places(name, one)
        if all(one is not None for each in found.values() for one in each):
            break
    return found


def _note_at_once(trial: Trial, laid: Mapping[str, Sequence[Laid]], found: Mapping[str, list[Places | None]]) -> None:
    """Note what one run tells of the layers of which it shows one layout to be right, and so others to be wrong."""
    asked = {name: layouts for name, layouts in laid.items() if None in found[name]}
    trial.note(asked, together=True)
    for name, layouts in asked.items():
        seen = [trial.places(name, one, together=True) for one in layouts]
        if any(one is not None and one.right for one in seen):
            found[name][:] = [one or earlier for one, earlier in zip(seen, found[name])]


def trials(
    model: nn.Module,
    names: Sequence[str],
    inputs: Inputs,
    images: Sequence[Tensor],
    select: Select | None,
    call: Call | None,
    known: Mapping[str, Tensor] | None = None,
) -> Iterator[Trial]:
    """Yield a trial on the first sample, and one on the whole batch; none where no value can be read."""
    leaves = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    if not images or torch.compiler.is_compiling() or level_of_func() is not None or not all(map(is_concrete, leaves)):
        return
    batch = images[0].shape[0]
    first = pytree.tree_map(lambda leaf: leaf[:1] if _has_batch(leaf, batch) else leaf, inputs)
    for given in [first, inputs] if batch > 1 else [inputs]:
        # a network may take no single sample, and one that is cut from others may not run at all
        with suppress(Exception):
            yield Trial(bare(model), names, given, images, select, call, known if given is inputs else None)


def _has_batch(leaf: Any, batch: int) -> bool:
    return isinstance(leaf, Tensor) and leaf.ndim > 0 and leaf.shape[0] == batch

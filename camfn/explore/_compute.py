"""All maps of one input: every target and every layer from one forward, and methods as arithmetic on what it left."""

# tested in tests/explore/test_collect.py

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from .._cut.each import capture_levels
from .._cut.explainer import explain_each, explainer
from .._cut.head import find_head, head_rows
from .._cut.signature import read_signature
from .._shared.errors import CamfnError
from .._shared.vocabulary import Captured, ScoreFn
from ..catalogue import MethodInfo, info_of
from ._grid import MapOrReason

Methods: TypeAlias = "Mapping[str, Callable[..., Tensor]]"
Levels: TypeAlias = "Sequence[tuple[str, ...]]"
"""The layers of a page; the maps of an entry of several names are joined."""


def check_methods(methods: Methods) -> None:
    """Refuse methods that are not of one layer.

    Raises:
        CamfnError: a method of the whole network, or on attention.
    """
    for name, method in methods.items():
        if info_of(method).kind != "layer":
            whole = "on attention" if info_of(method).kind == "attention" else "of the whole network"
            raise CamfnError(f"explore: {name} is {whole}, and a page shows methods on a layer, as grad_cam")


def compute(
    model: nn.Module,
    inputs: Tensor,
    choose: Callable[[Any], Sequence[ScoreFn]],
    methods: Methods,
    levels: Levels,
    *,
    lenient: Collection[str] = (),
    join: Callable[[list[Tensor]], Tensor] | None = None,
    chunk_size: int | None = None,
) -> list[list[list[MapOrReason]]]:
    """Explain one input for all targets by all methods at all layers.

    Methods of activations and gradients, those of activations alone, and `cam` share one forward, with one backward for
    each target, whatever their number. A method that perturbs runs by itself, at each layer.

    Args:
        model: the network.
        inputs: (1, ...), one input.
        choose: makes the targets of the outputs; called again for each further forward.
        methods: by name, on a layer each.
        levels: names of layers.
        lenient: methods that may fail everywhere; of others the error of the first place is raised.
        join: makes one map of those of several names.
        chunk_size: number of perturbed forwards that run at once.

    Returns:
        maps[target][method][layer]; the reason in words where a method cannot explain at a layer.

    Raises:
        CamfnError: a method that is not lenient explains at no layer; the layers cannot be captured.
    """
    scores: list[ScoreFn] = []

    def chosen(outputs: Any) -> Tensor:
        scores[:] = choose(outputs)
        return torch.stack([score(outputs) for score in scores])

    names = list(dict.fromkeys(name for level in levels for name in level))
    captured = capture_levels(model, names)(inputs, chosen)
    columns: list[list[list[MapOrReason]]] = []
    for name, method in methods.items():
        at = {layer: _at(model, layer, inputs, choose, method, captured[layer], scores, chunk_size) for layer in names}
        rows = [[_one([at[layer] for layer in level], place, join) for level in levels] for place in range(len(scores))]
        errors = [found for found in at.values() if isinstance(found, CamfnError)]
        if len(errors) == len(at) and name not in lenient:
            raise errors[0]
        columns.append(rows)
    return [[rows[place] for rows in columns] for place in range(len(scores))]


def _at(
    model: nn.Module,
    layer: str,
    inputs: Tensor,
    choose: Callable[[Any], Sequence[ScoreFn]],
    method: Callable[..., Tensor],
    captured: Captured,
    scores: Sequence[ScoreFn],
    chunk_size: int | None,
) -> list[Tensor] | CamfnError:
    """Return the map of each target at one layer, or why there is none."""
    info = info_of(method)
    try:
        if info.perturbs:
            explain = explainer(method, model, layer, chunk_size=chunk_size)
            cams = [cam for cam, _ in explain_each(explain, inputs, lambda outputs: list(choose(outputs)))[0]]
        else:
            with torch.no_grad():
                cams = _arithmetic(model, layer, method, info, captured, scores)
    except CamfnError as error:
        return error
    if not info.explains_class:
        return [cams[0][0].detach().float().cpu()] * len(scores)
    return [cam[0].detach().float().cpu() for cam in cams]


def _arithmetic(
    model: nn.Module,
    layer: str,
    method: Callable[..., Tensor],
    info: MethodInfo,
    captured: Captured,
    scores: Sequence[ScoreFn],
) -> list[Tensor]:
    """Apply a method to what the one forward left; a method that asks for no class runs once."""
    needs = read_signature(method)
    if "weights" in needs.context:
        head = find_head(model, layer, captured.activations, captured.outputs, method)
        rows = [head_rows(head, score, captured.outputs) for score in scores]
        return [method(captured.activations, weights=weights) for weights in rows]
    if not info.explains_class:
        arguments = (captured.activations, captured.grads[0], captured.outputs)[: needs.positional]
        return [method(*arguments)]
    return [method(*(captured.activations, grads, captured.outputs)[: needs.positional]) for grads in captured.grads]


def _one(
    found: Sequence[list[Tensor] | CamfnError], place: int, join: Callable[[list[Tensor]], Tensor] | None
) -> MapOrReason:
    """Return the map of one target, joined of several layers, or why there is none."""
    cams = [each[place] for each in found if not isinstance(each, CamfnError)]
    if not cams:
        return next(" ".join(str(each).split()) for each in found if isinstance(each, CamfnError))
    cam = cams[0] if len(cams) == 1 or join is None else join([cam[None] for cam in cams])[0]
    return cam if bool(cam.isfinite().all()) else "the map holds values that are not finite"

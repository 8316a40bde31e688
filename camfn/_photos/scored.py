"""Maps of the targets that are found in a model's outputs, such as the boxes of a detector: one forward for all."""

# tested in tests/cli/jobs/test_task.py

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .. import explainer
from .._cut.explainer import explain_each
from .._shared.vocabulary import ScoreFn
from .layer import Layer

Facts = TypeVar("Facts")


class _NothingFound(Exception):
    """Ends a forward in whose outputs there is nothing to explain."""


def explain_found(
    method: Callable[..., Tensor],
    model: nn.Module,
    layer: Layer,
    inputs: Tensor,
    find: Callable[[Any], list[tuple[ScoreFn, Facts]]],
    *,
    chunk_size: int | None = None,
) -> list[tuple[ScoreFn, Facts, Tensor]]:
    """Explain what `find` finds in the outputs for one photo.

    A method of activations and gradients costs one forward, and a backward of the tail for each target; one that asks
    for the tail records it once.

    Args:
        method: a method on a layer.
        model: the network.
        layer: the layer to explain at.
        inputs: (1, C, H, W).
        find: a function of the outputs that returns targets, each with what a record says of it.
        chunk_size: number of perturbed forwards that run at once.

    Returns:
        Each target, what a record says of it, and its raw map, (h, w); empty if `find` found nothing.
    """
    kept: list[tuple[ScoreFn, Facts]] = []

    def choose(outputs: Any) -> list[ScoreFn]:
        with torch.no_grad():
            kept[:] = find(outputs)
        if not kept:
            raise _NothingFound
        return [target for target, _ in kept]

    explain = explainer(method, model, layer.name, layout=layer.layout, chunk_size=chunk_size)
    try:
        found, _ = explain_each(explain, inputs, choose)
    except _NothingFound:
        return []
    return [(target, facts, cam[0].float().cpu()) for (target, facts), (cam, _) in zip(kept, found, strict=True)]

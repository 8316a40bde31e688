"""Maps of the targets that are found in a model's outputs, such as the boxes of a detector: one forward for all."""

# tested in tests/cli/test_task_job.py

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .. import capture_each, explainer
from .._cut.signature import read_signature
from .._shared.vocabulary import ScoreFn
from ..catalogue import info_of
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
    """Explain what is found in the outputs for one photo.

    A method of activations and gradients costs one forward, and a backward of the tail for each target.

    Args:
        method: a method on a layer.
        model: the network.
        layer: the layer to explain at.
        inputs: (1, C, H, W).
        find: a function of the outputs that returns targets, each with what a record says of it.
        chunk_size: number of perturbed forwards that run at once.

    Returns:
        Each target, what was said of it, and its raw map, (h, w); empty if nothing was found.
    """
    if info_of(method).needs != {"gradients"}:
        with torch.no_grad():
            found = find(model(inputs))
        explain = explainer(method, model, layer.name, layout=layer.layout, chunk_size=chunk_size)
        return [(target, facts, explain(inputs, target)[0].float().cpu()) for target, facts in found]
    kept: list[tuple[ScoreFn, Facts]] = []

    def scores(outputs: Any) -> Tensor:
        with torch.no_grad():
            kept[:] = find(outputs)
        if not kept:
            raise _NothingFound
        return torch.stack([target(outputs) for target, _ in kept])

    try:
        activations, grads, outputs = capture_each(model, layer.name, layout=layer.layout)(inputs, scores)
    except _NothingFound:
        return []
    count = read_signature(method).positional
    with torch.no_grad():
        cams = [method(*(activations, gradient, outputs)[:count])[0].float().cpu() for gradient in grads]
    return [(target, facts, cam) for (target, facts), cam in zip(kept, cams, strict=True)]

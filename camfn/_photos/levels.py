"""Maps of the detections of one photo at the levels of a pyramid, joined: one forward for all."""

# tested in tests/cli/jobs/test_detect.py

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .. import Captured, capture_levels, explainer
from .._cut.signature import read_signature
from .._shared.value import Value, frozen
from .._shared.vocabulary import ScoreFn, Target
from ..catalogue import info_of
from ..transforms._fuse import fuse_maps
from .scored import Facts, _NothingFound


def explain_levels(
    method: Callable[..., Tensor],
    model: nn.Module,
    levels: tuple[str, ...],
    inputs: Tensor,
    find: Callable[[Any], list[tuple[ScoreFn, Facts]]],
    *,
    chunk_size: int | None = None,
) -> list[tuple[ScoreFn, Facts, Tensor]]:
    """Explain what `find` finds in the outputs for one photo at several levels; `joined` joins the maps.

    Arguments and result are those of `scored.explain_found`, but for the names of the levels. A method of activations
    and gradients costs one forward, and a backward of the tail for each target.
    """
    if info_of(method).needs != {"gradients"}:
        with torch.no_grad():
            found = find(model(inputs))
        explain = at_levels(method, model, levels, chunk_size)
        return [(target, facts, explain(inputs, target)[0].float().cpu()) for target, facts in found]
    kept: list[tuple[ScoreFn, Facts]] = []

    def scores(outputs: Any) -> Tensor:
        with torch.no_grad():
            kept[:] = find(outputs)
        if not kept:
            raise _NothingFound
        return torch.stack([target(outputs) for target, _ in kept])

    try:
        captured = capture_levels(model, levels)(inputs, scores)
    except _NothingFound:
        return []
    with torch.no_grad():
        cams = [_map_of(method, captured, place)[0].float().cpu() for place in range(len(kept))]
    return [(target, facts, cam) for (target, facts), cam in zip(kept, cams, strict=True)]


def _map_of(method: Callable[..., Tensor], captured: Mapping[str, Captured], place: int) -> Tensor:
    """Apply a method to what each level captured for one target, and join the maps."""
    count = read_signature(method).positional
    each = [(one.activations, one.grads[place], one.outputs)[:count] for one in captured.values()]
    return joined([method(*arguments) for arguments in each])


def joined(maps: list[Tensor]) -> Tensor:
    """Join the maps of several levels: the largest value at each place of the finest; one position alone is no map."""
    spread = [cam for cam in maps if cam[0].numel() > 1] or maps
    return spread[0] if len(spread) == 1 else fuse_maps(spread, how="max", scaling="none")


@frozen
class at_levels(Value):
    """A method at several levels of a network, as an explainer that may be given another network."""

    method: Callable[..., Any]
    model: nn.Module
    levels: tuple[str, ...]
    chunk_size: int | None = None

    def __call__(self, inputs: Tensor, target: Target = None) -> Tensor:
        """Explain the inputs, (B, *S)."""
        if info_of(self.method).needs == {"gradients"}:
            captured = capture_levels(self.model, self.levels)(inputs, [target])
            return _map_of(self.method, captured, 0)
        cams = [explainer(self.method, self.model, name, chunk_size=self.chunk_size) for name in self.levels]
        return joined([explain(inputs, target) for explain in cams])

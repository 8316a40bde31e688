"""Why a score has no gradient at a layer: found by running the network again, once something has already failed."""

# tested in tests/cut/test_lost.py

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .._shared.errors import CaptureError
from .._shared.inputs import replace_tensor, tensors_in
from .._shared.levels import inside_transform
from .._shared.vocabulary import Inputs, ScoreFn, Select
from .layer_checks import chosen_tensor
from .taps import planter

_INSTEAD = (
    "Take another layer, or a method without gradients (ablation_cam, recipro_cam, score_cam, eigen_cam); "
    "unused='zeros' gives a gradient of zeros"
)


_LEVELS = (
    ". Of a detector's levels, each box uses some: capture_levels(model, layers)(inputs, [target]) gives zeros at the "
    "others, and fuse_maps([method(c.activations, c.grads[0]) for c in captured.values()], how='max') joins their maps"
)


def no_gradient(
    model: nn.Module, name: str, inputs: Inputs, score: ScoreFn, select: Select | None, *, several: bool = False
) -> CaptureError:
    """Return the error of a layer, one of `several`, that the score's graph does not reach, and say where it ends."""
    why = _why(model, name, inputs, score, select)
    levels = _LEVELS if several else ""
    return CaptureError(f"the score has no gradient at layer {name!r}: {why}. {_INSTEAD}{levels}")


def _why(model: nn.Module, name: str, inputs: Inputs, score: ScoreFn, select: Select | None) -> str:
    if inside_transform():
        return "no_grad, inference_mode, detach or the target cuts it off, or the score does not use the layer"
    with torch.inference_mode(False), torch.enable_grad(), warnings.catch_warnings():
        # the run before has warned already
        warnings.simplefilter("ignore")
        parts = {name: part for name, part in model.named_modules() if not isinstance(part, torch.jit.ScriptModule)}
        cut = planter(model, lambda: parts)()
        runs = [_Run(name, select, change) for change in (lambda x: x, lambda x: 2 * x + 1)]
        scores = [score(cut.run(inputs, run.leave)) for run in runs]
    first = runs[0]
    if first.alive(tensors_in(first.outputs)) and scores[0].grad_fn is None:
        return "the target cuts the graph, as by detach, argmax or a conversion to numbers"
    if torch.equal(*scores):
        return "the score does not use this layer, for it stays the same whatever the layer returns"
    for module, mode, alive in first.seen:
        if mode and not alive:
            return (
                f"module {module!r} runs under {mode}, as in torch.{mode}() or in a checkpoint with use_reentrant=True"
            )
    living = [module for module, _, alive in first.seen if alive]
    after = f"after module {living[-1]!r}" if living else "right after it"
    return f"the model cuts the graph {after}, as by detach or a conversion to numbers"


class _Run:
    """A run that notes, for each module that ends after the layer, its mode and whether the graph reaches it."""

    def __init__(self, name: str, select: Select | None, change: Callable[[Tensor], Tensor]) -> None:
        self.name, self.select, self.change = name, select, change
        self.start: Any = None
        self.outputs: Any = None
        self.seen: list[tuple[str, str, bool]] = []

    def leave(self, name: str, output: Any) -> Any:
        self.outputs = output
        if name == self.name:
            picked = chosen_tensor(name, output, self.select)
            leaf = picked.detach().clone().requires_grad_()
            with torch.enable_grad():
                handed = self.change(leaf.clone())
            self.start = self.start or handed.grad_fn
            return replace_tensor(output, picked, handed)
        if self.start is not None:
            off = "" if torch.is_grad_enabled() else "no_grad"
            mode = "inference_mode" if torch.is_inference_mode_enabled() else off
            self.seen.append((name, mode, self.alive(tensors_in(output))))
        return output

    def alive(self, tensors: list[Tensor]) -> bool:
        """Whether the graph of one of these tensors reaches the layer."""
        waiting, met = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None], set()
        while waiting:
            node = waiting.pop()
            if node is self.start:
                return True
            if node not in met:
                met.add(node)
                waiting += [following for following, _ in node.next_functions if following is not None]
        return False

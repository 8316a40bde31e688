"""One run of a network that finds its head: the last module with parameters on which the score depends."""

# tested in tests/check/test_head.py

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._cut.graft import bare
from .._cut.taps import planter
from .._shared.vocabulary import Inputs, ScoreFn, Target
from ..targets import pin


@dataclass(frozen=True)
class Run:
    """What one forward tells.

    Attributes:
        outputs: of the model, detached.
        score: the target, its choices fixed at these outputs.
        head: the dotted name of the last module that ran and that the score depends on; None where none has parameters.
    """

    outputs: Any
    score: ScoreFn
    head: str | None


def run_once(model: nn.Module, inputs: Inputs, target: Target) -> Run:
    """Run the model on the inputs, once, in a private copy."""
    root = bare(model)
    owners = {
        name: part
        for name, part in root.named_modules()
        if not isinstance(part, torch.jit.ScriptModule) and any(True for _ in part.parameters(recurse=False))
    }
    varied = {name for name, part in owners.items() if any(map(_varies, part.parameters()))}
    ran: list[tuple[str, Tensor]] = []

    def leave(name: str, output: Any) -> Any:
        return pytree.tree_map(lambda leaf: _marked(name, leaf, ran), output)

    with torch.inference_mode(False), torch.enable_grad():
        outputs = planter(root, lambda: owners)().run(inputs, leave)
        score = pin(target, outputs)
        head = _last_used(ran, score(outputs), varied)
    detached = pytree.tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, outputs)
    return Run(detached, score, head)


def _marked(name: str, leaf: Any, ran: list[tuple[str, Tensor]]) -> Any:
    """Add a zero to a tensor, and keep it under the name of the module that returned the tensor."""
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or not leaf.numel():
        return leaf
    # a zero for each number: a target that compares classes does not change with all of them
    zero = torch.zeros_like(leaf, requires_grad=True)
    ran.append((name, zero))
    return leaf + zero


def _last_used(ran: list[tuple[str, Tensor]], value: Tensor, varied: set[str]) -> str | None:
    """Name the last module that the score depends on; where the score has no derivative, the last that ran.

    Modules whose parameters are all alike come last: there is nothing to draw other ones from.
    """
    # a module around others, such as one that holds positions beside its blocks, ends last and is no head
    names = [name for name, _ in ran]
    ran = [(name, zero) for name, zero in ran if not any(_inside(other, name) for other in names)]
    used = [name for name, _ in ran]
    if value.grad_fn is not None and ran:
        slopes = torch.autograd.grad(value.sum(), [zero for _, zero in ran], allow_unused=True)
        used = [name for name, slope in zip(used, slopes) if slope is not None and bool(slope.any())] or used
    return next((name for name in reversed(used) if name in varied), used[-1] if used else None)


def _inside(name: str, outer: str) -> bool:
    return name != outer and name.startswith(f"{outer}." if outer else "")


def _varies(parameter: Tensor) -> bool:
    return parameter.numel() > 0 and bool((parameter != parameter.flatten()[0]).any())

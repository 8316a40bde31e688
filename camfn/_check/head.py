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
from .._shared.inputs import floating_leaves
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
    ran: list[tuple[str, Tensor]] = []

    def leave(name: str, output: Any) -> Any:
        leaves = [leaf for leaf in floating_leaves(output) if leaf.numel()]
        if not leaves:
            return output
        zero = torch.zeros((), dtype=leaves[0].dtype, device=leaves[0].device, requires_grad=True)
        ran.append((name, zero))
        # `x + 0` is x to the bit, but for the sign of a zero
        return pytree.tree_map(
            lambda leaf: leaf + zero.to(leaf) if any(leaf is one for one in leaves) else leaf, output
        )

    with torch.inference_mode(False), torch.enable_grad():
        outputs = planter(root, lambda: owners)().run(inputs, leave)
        score = pin(target, outputs)
        head = _last_used(ran, score(outputs))
    detached = pytree.tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, outputs)
    return Run(detached, score, head)


def _last_used(ran: list[tuple[str, Tensor]], value: Tensor) -> str | None:
    """Name the last module that the score depends on; where the score has no derivative, the last that ran."""
    if not ran:
        return None
    if value.grad_fn is None:
        return ran[-1][0]
    # a module around others, such as one that holds positions beside its blocks, ends last and is no head
    names = [name for name, _ in ran]
    ran = [(name, zero) for name, zero in ran if not any(_inside(other, name) for other in names)]
    slopes = torch.autograd.grad(value.sum(), [zero for _, zero in ran], allow_unused=True)
    used = [name for (name, _), slope in zip(ran, slopes) if slope is not None]
    return used[-1] if used else ran[-1][0]


def _inside(name: str, outer: str) -> bool:
    return name != outer and name.startswith(f"{outer}." if outer else "")

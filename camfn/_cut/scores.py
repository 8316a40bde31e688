"""Scores of many perturbed batches at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._shared.vocabulary import ScoreFn


class _Scores:
    """A network, or the part after the cut, and the target: a batch (B, ...) to scores (B,)."""

    couples = True
    """Whether a sample's score may depend on the others of its batch."""

    def __init__(self, run: Callable[[Tensor], Any], score: ScoreFn) -> None:
        self.run, self.score = run, score

    def __call__(self, changed: Tensor) -> Tensor:
        return self.score(self.run(changed))


class _Folding(_Scores):
    """Scores of several batches at once, run as one larger batch."""

    couples = False

    def __init__(
        self, run: Callable[[Tensor], Any], score: ScoreFn, many: Callable[[Tensor], Any], *, convolves: bool
    ) -> None:
        super().__init__(run, score)
        self.many, self.convolves = many, convolves

    def fold(self, batches: Tensor) -> Tensor:
        """(n, B, ...) to (n, B)."""
        apart = batches.shape[:2]
        together = batches.flatten(0, 1)
        if self.convolves and together.ndim == 4 and together.device.type == "cpu":
            # oneDNN then reorders neither what goes into a convolution nor what comes out
            together = together.contiguous(memory_format=torch.channels_last)
        leaves, spec = pytree.tree_flatten(self.many(together))
        rows = [isinstance(leaf, Tensor) and leaf.ndim > 0 and leaf.shape[0] == together.shape[0] for leaf in leaves]
        split = [leaf.unflatten(0, apart) if row else leaf for leaf, row in zip(leaves, rows)]
        each = torch.vmap(
            lambda *one: self.score(pytree.tree_unflatten(one, spec)),
            in_dims=tuple(0 if row else None for row in rows),
        )
        return torch.as_tensor(each(*split))


def _scores(
    model: nn.Module,
    run: Callable[[Tensor], Any],
    score: ScoreFn,
    *,
    many: Callable[[Tensor], Any] | None = None,
    convolves: bool = True,
) -> _Scores:
    """A function of one batch, and of several unless the network is training: `many` then runs them as one."""
    # a BatchNorm in training would see the other batches, and a dropout would draw anew
    training = any(module.training for module in model.modules())
    return _Scores(run, score) if training else _Folding(run, score, many or run, convolves=convolves)

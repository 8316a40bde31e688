"""Scores of many perturbed batches at once."""

# tested in tests/cut/test_explainer.py

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .._shared.rows import score_as_one_batch
from .._shared.vocabulary import ScoreFn
from .folded import rows_at_once


class _Scores:
    """A network, or the part after the cut, and the target: a batch (B, ...) to scores (B,)."""

    samples_interact = True
    """Whether a sample's score may depend on the others of its batch."""

    def __init__(self, model: nn.Module, run: Callable[[Tensor], Any], score: ScoreFn) -> None:
        self.model, self.run, self.score = model, run, score

    def __call__(self, changed: Tensor) -> Tensor:
        return self.score(self.run(changed))

    def drawing(self) -> str:
        """Name a module in training mode that may draw random numbers; "" if all are in evaluation mode."""
        training = [(name, module) for name, module in self.model.named_modules() if module.training]
        if not training:
            return ""
        name, module = min(training, key=lambda pair: _never_draws(pair[1]))
        return f"{name!r}, a {type(module).__name__} in training mode"


def _never_draws(module: nn.Module) -> tuple[bool, bool]:
    """Order modules: those without parts first, and of these the ones named for dropout or stochastic depth."""
    name = type(module).__name__.lower()
    return next(module.children(), None) is not None, not ("drop" in name or "stochastic" in name)


class _Folding(_Scores):
    """Scores of one batch, and of several batches that run as one larger batch."""

    samples_interact = False

    def __init__(
        self,
        model: nn.Module,
        run: Callable[[Tensor], Any],
        score: ScoreFn,
        many: Callable[[Tensor], Any] | None,
        *,
        has_convolutions_left: bool,
    ) -> None:
        super().__init__(model, run, score)
        self.whole, self.many, self.has_convolutions_left = many is not None, many or run, has_convolutions_left

    def score_many(self, batches: Tensor) -> Tensor:
        """(n, B, ...) to (n, B)."""
        return score_as_one_batch(self._run_many, self.score, batches)

    def rows_at_once(self, batch: int) -> int | None:
        """How many batches fill a compiled network."""
        return rows_at_once(self.model, batch) if self.whole else None

    def _run_many(self, batch: Tensor) -> Any:
        """Run n batches that are joined to one."""
        if self.has_convolutions_left and batch.ndim == 4 and batch.device.type == "cpu":
            # oneDNN then reorders neither the input of a convolution nor its output
            batch = batch.contiguous(memory_format=torch.channels_last)
        return self.many(batch)


def _scores(
    model: nn.Module,
    run: Callable[[Tensor], Any],
    score: ScoreFn,
    *,
    many: Callable[[Tensor], Any] | None = None,
    has_convolutions_left: bool = True,
) -> _Scores:
    """A function of one batch, and of several unless the network is training: `many` then runs them as one."""
    # a BatchNorm in training would see the other batches, and a dropout would draw anew
    training = any(module.training for module in model.modules())
    return (
        _Scores(model, run, score)
        if training
        else _Folding(model, run, score, many, has_convolutions_left=has_convolutions_left)
    )

"""Scores of many perturbed batches at once."""

# tested in tests/cut/test_explainer.py

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .._shared.levels import is_differentiated
from .._shared.rows import score_as_one_batch
from .._shared.vocabulary import ScoreFn
from .folded import rows_at_once
from .graft import is_quantized, no_derivative


class _Scores:
    """A network, or the part after the cut, and the target: a batch (B, ...) to scores (B,)."""

    samples_interact = True
    """Whether a sample's score may depend on the others of its batch."""

    def __init__(self, model: nn.Module, run: Callable[[Tensor], Any], score: ScoreFn) -> None:
        self.model, self.run, self.score = model, run, score

    def __call__(self, changed: Tensor) -> Tensor:
        scores = self.score(self.run(changed))
        if _is_followed(changed) and not _is_followed(scores):
            # torch quantizes in silence what it cannot differentiate
            cut = next(filter(is_quantized, self.model.modules()), None)
            if cut is not None:
                raise no_derivative(cut, self.model)
        return scores

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
    return (
        _Scores(model, run, score)
        if _trains(model)
        else _Folding(model, run, score, many, has_convolutions_left=has_convolutions_left)
    )


def _trains(model: nn.Module) -> bool:
    """Whether a module is in training mode; torch makes its quantized modules so, which do not ask for it."""
    quantized = {id(part) for module in model.modules() if is_quantized(module) for part in module.modules()}
    return any(module.training and id(module) not in quantized for module in model.modules())


def _is_followed(x: Any) -> bool:
    """Whether a derivative is taken through a tensor."""
    return is_differentiated(x) or (isinstance(x, Tensor) and torch.is_grad_enabled() and x.requires_grad)

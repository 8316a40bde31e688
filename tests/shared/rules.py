"""Sums over the last dimension with a rule for `vmap` of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def sums(rule: Callable[[int, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a function that sums over the last dimension; under `vmap`, `rule(rows, x)` gives its result."""

    class Sum(torch.autograd.Function):
        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x.sum(-1)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            pass

        @staticmethod
        def vmap(info: Any, in_dims: Any, x: Tensor) -> tuple[Tensor, int]:
            return rule(info.batch_size, x), 0

    apply: Callable[[Tensor], Tensor] = Sum.apply
    return apply


def sums_of_at_most(limit: int) -> Callable[[Tensor], Tensor]:
    """Stand for a device on which no more than so many rows fit."""

    def rule(rows: int, x: Tensor) -> Tensor:
        if rows > limit:
            raise torch.OutOfMemoryError(f"{rows} rows")
        return x.sum(-1)

    return sums(rule)

"""`--check`: an explainer of what a command explains, and its check as a table and a record."""

# tested in tests/cli/files/test_records.py

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ... import check
from ..._photos.explain import Changes, compose
from ..._photos.layer import Layer
from ..._shared.value import Value, frozen
from ..._shared.vocabulary import Target


@frozen
class composed(Value):
    """A method with its layer and its transformations, as an explainer that may be given another network."""

    method: Callable[..., Any]
    model: nn.Module
    layer: Layer | None
    changes: Changes
    chunk_size: int | None = None

    def __call__(self, inputs: Tensor, target: Target = None) -> Tensor:
        """Explain the inputs, (B, *S)."""
        explain, _ = compose(self.method, self.model, self.layer, self.changes, self.chunk_size, None)
        return explain(inputs, target)


def checked(
    explain: Callable[..., Tensor],
    image: Tensor,
    target: Target,
    names: list[str] | None,
    seed: int,
    *,
    model: nn.Module | None = None,
    missing: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Check the map of one image, (1, C, *S), and return the table and the lines for the record.

    A function that holds no module comes with `model`, which scores, and with `missing`: why the check lacks a line.
    """
    found = check(explain, image, target, model=model, generator=torch.Generator().manual_seed(seed))
    found = replace(found, missing={**found.missing, **(missing or {})})
    return {
        "table": found.table(0, names),
        "lines": found.record(0, names),
        "maps": found.maps,
        "forwards": found.forwards,
    }

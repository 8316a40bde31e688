"""`Protocol`: generators seeded by their use, and errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from camfn._shared.errors import UsageError
from camfn.evaluate import Protocol


def test_a_generator_depends_on_the_seed_and_the_words_alone() -> None:
    def drawn(seed: int, *words: str) -> float:
        return torch.rand((), generator=Protocol(seed=seed).generator(*words)).item()

    assert drawn(0, "cat", "road") == drawn(0, "cat", "road")
    assert len({drawn(0, "cat", "road"), drawn(1, "cat", "road"), drawn(0, "road", "cat"), drawn(0, "catroad")}) == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": " "}, "expected target words"),
        ({"removed": "white"}, "removed mean or black"),
        ({"step": 0.0}, "step: expected a share"),
        ({"step": 1.5}, "step: expected a share"),
    ],
)
def test_a_protocol_refuses_values_out_of_range(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Protocol(**options)

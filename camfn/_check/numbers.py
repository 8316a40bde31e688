"""The numbers of a check."""

# tested in tests/check/test_words.py

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .._shared.value import Value, frozen


@frozen
class Numbers(Value):
    """What `check` found, for B images.

    `Checked` says what each is, and adds the words.
    """

    cam: Tensor
    score: Tensor
    classes: Tensor | None
    runner_up: Tensor | None
    head: str | None
    again: Tensor
    other_class: Tensor | None
    redrawn: Tensor | None
    noisy: Tensor
    kept: Tensor | None
    removed: Tensor | None
    border: Tensor
    together: Tensor
    marked: Tensor
    blank: Tensor
    share: float
    maps: int
    forwards: int
    missing: Mapping[str, str]

    @property
    def of_probability(self) -> bool:
        """Whether the scores are probabilities of a class."""
        return self.classes is not None

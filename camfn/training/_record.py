"""What one photo showed at one step."""

# tested in tests/training/test_recorder.py

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Record(NamedTuple):
    """What one photo showed at one step.

    Attributes:
        step: the step of the training.
        photo: the name of the photo.
        score: the target's score.
        correlation: Pearson's correlation of the raw map with that of the record before; None for the first record, NaN
            where one of the two maps is constant or not finite, or where they differ in size.
        cam: the raw map, (h, w), on the CPU.

    Example:
        >>> import torch
        >>> Record(100, "cat", 3.5, 0.93, torch.zeros(7, 7)).correlation
        0.93
    """

    step: int
    photo: str
    score: float
    correlation: float | None
    cam: Tensor

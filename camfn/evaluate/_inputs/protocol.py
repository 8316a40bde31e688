"""The settings of a measurement: one record, the same for every row of a run."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

import torch

from ..._shared.errors import UsageError


@dataclass(frozen=True)
class Protocol:
    """All settings that change the numbers of an evaluation; a folder of results has one protocol.

    Attributes:
        metrics: names from `METRICS`, words as in "file.py:mine:better=lower", what `metric` returns, or a function
            with `better`; None for all of `METRICS`.
        target: what to explain, in words, of which "label" is the class of the photo: "label", "top", "contrast:label",
            "probability:label", "rust", "lower:0", "text:a photo of a {label}".
        removed: the value of removed pixels: "mean" (0 after the normalization) or "black".
        step: share of the pixels in each step of insertion, deletion and pixel flipping.
        road_shares: shares of the pixels that ROAD removes.
        infidelity_samples: number of perturbations for infidelity.
        sensitivity_samples: number of perturbations for max-sensitivity.
        budget: forwards that a metric may spend on further explanations (coherency, max-sensitivity, randomization);
            if a method costs more, the row has no value of that metric.
        seed: seed of every random draw.
        chunk_size: perturbed forwards at once; it is fixed, since the last bit of a sum may depend on it.
    """

    metrics: tuple[Any, ...] | None = None
    target: str = "label"
    removed: Literal["mean", "black"] = "mean"
    step: float = 0.05
    road_shares: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
    infidelity_samples: int = 20
    sensitivity_samples: int = 5
    budget: int = 400
    seed: int = 0
    chunk_size: int = 16

    def __post_init__(self) -> None:
        if self.removed not in ("mean", "black") or not self.target.strip():
            raise UsageError(f"expected target words, removed mean or black; got {self.target!r}, {self.removed}")
        if not 0 < self.step <= 1:
            raise UsageError(f"step: expected a share of the pixels in (0, 1], got {self.step}")

    def generator(self, *words: str) -> torch.Generator:
        """Return a CPU generator seeded from (seed, words), so that results do not depend on the order of runs."""
        digest = sha256("\0".join([str(self.seed), *words]).encode("utf-8", "surrogatepass")).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))

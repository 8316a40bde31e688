"""How it is measured: one record, the same for every row of a run."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

import torch

from .._shared.errors import UsageError


@dataclass(frozen=True)
class Protocol:
    """What changes the numbers of an evaluation; a folder of results has one.

    Attributes:
        metrics: names from `METRICS`, or None for all.
        target: "label", the class that a photo is given, or "top", the class that the model says.
        removed: what stands where pixels are removed, "mean" (0 after the normalization) or "black".
        step: of insertion, deletion and pixel flipping, as a share of the pixels.
        road_shares: of ROAD.
        noise_samples: of infidelity.
        noise_maps: of max-sensitivity.
        budget: forwards that a metric may spend on explaining again (coherency, max-sensitivity, randomization); where
            a method would cost more, that metric has no value.
        seed: of everything that is drawn.
        chunk_size: perturbed forwards at once; fixed, since the last bit of a sum may depend on it.
    """

    metrics: tuple[str, ...] | None = None
    target: Literal["label", "top"] = "label"
    removed: Literal["mean", "black"] = "mean"
    step: float = 0.05
    road_shares: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
    noise_samples: int = 20
    noise_maps: int = 5
    budget: int = 400
    seed: int = 0
    chunk_size: int = 4

    def __post_init__(self) -> None:
        if self.target not in ("label", "top") or self.removed not in ("mean", "black"):
            raise UsageError(f"expected target label or top, removed mean or black; got {self.target}, {self.removed}")
        if not 0 < self.step <= 1:
            raise UsageError(f"step: expected a share of the pixels in (0, 1], got {self.step}")

    def generator(self, *words: str) -> torch.Generator:
        """A generator of its own for each use, whatever came before, on the CPU."""
        digest = sha256("\0".join([str(self.seed), *words]).encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))

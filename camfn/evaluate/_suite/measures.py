"""What the tracks measure of a map: a record for each measure, and the shared tables of a picture that they read."""

# tested in tests/evaluate/suite/test_laws.py

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ... import metrics
from ...image import normalize, upsample
from ...metrics import Ceiling
from .asked import Asked
from .protocol import Suite

SHARED = "/way"
"""Ending of the name of a vector that divides another: the measure is the ratio of the two means."""


class Measure(NamedTuple):
    """A measure of the suite, and what stands beside it in tables.

    Attributes:
        track: of `TRACKS`.
        better: 1 if higher is better, 0 if it only describes.
        about: the measure in a few words.
        chance: what a map that knows nothing has; None where that is not known.
        shared: forwards that a photo costs once, for all maps, as a function of the settings.
        own: forwards that each map costs.
    """

    track: str
    better: int
    about: str
    chance: float | None = None
    shared: Callable[[Suite], int] = lambda suite: 0
    own: Callable[[Suite], int] = lambda suite: 0


def _ceiling_cost(suite: Suite) -> int:
    """Greedy order of n cells, the random orders, and the picture itself."""
    count = suite.cells**2
    return count * (count + 1) // 2 + suite.orders * (count - 1)


def _question(score: str, asked: str = "") -> Measure:
    """One of RFxG's questions: what the loss is of, and what is asked."""
    about = f"RFxG: loss of {score} while the map's pixels go{asked}"
    return Measure("contrast", 1, about, own=lambda suite: 2 + len(suite.shares))


MEASURES: dict[str, Measure] = {
    "gridpg": Measure("grid", 1, "share of the map in the cell of its class; one network sees the whole grid"),
    "gridpg_native": Measure("grid", 1, "the same before the map is resized"),
    "dipart": Measure("grid", 1, "the same; head k pools cell k of the last features"),
    "dipart_native": Measure("grid", 1, "the same before the map is resized"),
    "difull": Measure("grid", 1, "the same; head k sees cell k alone, so that all of the rest is wrong"),
    "difull_native": Measure("grid", 1, "the same before the map is resized"),
    "twin": Measure("grid", 1, "one photo in two corners: own / (own + twin); 0.5 cannot know where", 0.5),
    "own_share": Measure("tiny", 1, "mass on the own digit over that on both", 0.5),
    "own_mass": Measure("tiny", 1, "mass on the own digit over all mass"),
    "pxap_own": Measure("tiny", 1, "average precision of the pixels against the own digit"),
    "completeness": Measure("tiny", 1, "FunnyBirds: the parts that it names are enough, needed, and no others"),
    "correctness": Measure("tiny", 1, "FunnyBirds: order of the parts as of their drops", 0.5),
    "contrastivity": Measure("tiny", 1, "FunnyBirds: each class on its own part", None),
    "single": Measure(
        "single", 1, "IDSDS: order of the cells as of their drops of the logit", 0.0, lambda s: 1 + s.cells**2
    ),
    "single_probability": Measure("single", 1, "the same by the probability", 0.0, lambda s: 1 + s.cells**2),
    "saco": Measure("groups", 1, "groups of higher value cost more", 0.0, own=lambda s: 1 + s.groups),
    "subsets": Measure(
        "groups", 1, "faithfulness correlation: sums over sets of cells as their drops", 0.0, lambda s: 1 + s.subsets
    ),
    "ceiling": Measure(
        "ceiling",
        1,
        "TRACE: share of the way from a random order of cells to the best",
        0.0,
        _ceiling_cost,
        lambda s: 1 + s.cells**2,
    ),
    "contrast": _question("p(a) - p(b)", ", a against the next class"),
    "group": _question("the probability of a group"),
    "class_group": _question("p(a) - p(the others of its group)"),
    "two_groups": _question("p(a group) - p(another group)"),
}
"""The measures in the order of the tables."""

GROUPED = ("class_group", "two_groups")
"""Measures of the unit `groupings`, which rows of earlier versions lack."""

LEAD = {
    "grid": "gridpg",
    "tiny": "own_share",
    "single": "single",
    "groups": "subsets",
    "ceiling": "ceiling",
    "contrast": "contrast",
}
"""The measure that orders the table of a track."""


def heatmaps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize raw maps with their sign, then clip at 0 and scale the maximum to 1."""
    return normalize(upsample(maps, size))


def on_parts(maps: Tensor, masks: Tensor) -> Tensor:
    """Return the positive mass on each mask, (B, n), of maps at the size of the masks, (n, H, W) or (B, n, H, W)."""
    positive = maps.double().clamp(min=0)
    return (positive[:, None] * masks.to(positive)).sum((2, 3))


def tiny_measures(maps: Tensor, inside: Tensor, outside: Tensor) -> dict[str, Tensor]:
    """Measure maps (B, h, w) against the pixels of the own object and of the others, (B, H, W), bool."""
    resized = upsample(maps, inside.shape[1:])
    own, other = on_parts(resized, torch.stack([inside, outside], 1)).unbind(1)
    total = resized.double().clamp(min=0).sum((1, 2))
    both = own + other
    return {
        "own_share": torch.where(both > 0, own / both.clamp(min=1e-12), 0.5),
        "own_mass": torch.where(total > 0, own / total.clamp(min=1e-12), 0.0),
        "pxap_own": metrics.pxap(normalize(resized), inside),
    }


class Tables:
    """What a picture's tracks share: perturbations that do not look at a map run once, whatever the number of maps.

    Args:
        model: the network.
        asked: the questions of the picture.
        suite: settings.
        name: of the picture, for the seeds.
        ceilings: best orders that other units of the same pictures found, by name; a new one is added.
    """

    def __init__(
        self, model: nn.Module, asked: Asked, suite: Suite, name: str, ceilings: dict[str, Ceiling] | None = None
    ) -> None:
        self.model, self.asked, self.suite, self.name = model, asked, suite, name
        self.ceilings = {} if ceilings is None else ceilings
        self.size = (asked.images.shape[2], asked.images.shape[3])
        self.removed: dict[str, Any] = {"baseline": asked.removed, "chunk_size": suite.chunk_size}
        self.score = asked.score(model)

    @cached_property
    def cells(self) -> Tensor:
        """The cells of single deletions, (n, H, W)."""
        return metrics.grid_cells(self.size, self.suite.cells).to(self.asked.images.device)

    @cached_property
    def drops(self) -> Tensor:
        """What the score that is explained loses without each cell, (B, n)."""
        return metrics.drops(
            self.asked.score(self.model, self.asked.explained), self.asked.images, self.cells, **self.removed
        )

    @cached_property
    def probability_drops(self) -> Tensor:
        """What the score that is measured loses without each cell, (B, n)."""
        return metrics.drops(self.score, self.asked.images, self.cells, **self.removed)

    @cached_property
    def sets(self) -> Tensor:
        """Random sets of cells, (n, H, W), the same for every map of the picture."""
        suite = self.suite
        cells = metrics.grid_cells(self.size, suite.subset_cells)
        generator = suite.generator(self.name, "subsets")
        drawn = metrics.random_cells(cells, suite.subset, suite.subsets, generator=generator)
        return drawn.to(self.asked.images.device)

    @cached_property
    def set_drops(self) -> Tensor:
        """What the score loses without each set, (B, n)."""
        return metrics.drops(self.score, self.asked.images, self.sets, **self.removed)

    @cached_property
    def ceiling(self) -> Ceiling:
        """The best order of the cells, and the mean over random ones."""
        if self.name not in self.ceilings:
            generator, orders = self.suite.generator(self.name, "orders"), self.suite.orders
            self.ceilings[self.name] = metrics.trace_ceiling(
                self.score, self.asked.images, self.cells, generator=generator, orders=orders, **self.removed
            )
        return self.ceilings[self.name]

    def measures(self, maps: Tensor, tracks: tuple[str, ...]) -> dict[str, Tensor]:
        """Measure raw maps (B, h, w) by tracks that remove parts; a vector that ends in `SHARED` divides another."""
        maps = upsample(maps.to(self.asked.images), self.size)
        images, found = self.asked.images, dict[str, Tensor]()
        if "single" in tracks:
            found["single"] = metrics.single_deletion(maps, self.drops, self.cells)
            found["single_probability"] = metrics.single_deletion(maps, self.probability_drops, self.cells)
        if "groups" in tracks:
            chunk, groups = self.suite.chunk_size, self.suite.groups
            found["saco"] = metrics.saco(self.score, images, maps, groups=groups, chunk_size=chunk)
            found["subsets"] = metrics.faithfulness_correlation(maps, self.set_drops, self.sets)
        if "ceiling" in tracks:
            area = metrics.region_curve(self.score, images, maps, self.cells, **self.removed).auc
            found["ceiling"] = self.ceiling.random - area
            found[f"ceiling{SHARED}"] = self.ceiling.random - self.ceiling.best.auc
        return found

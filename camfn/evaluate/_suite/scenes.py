"""Scenes of the tiny world as the data of the suite: everything about them is known."""

# tested in tests/evaluate/suite/test_sources.py

from __future__ import annotations

from functools import cache
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import tiny
from ..._shared.errors import UsageError
from ...targets import Head
from ...zoo import Loaded
from .asked import Asked, Weighted, head_of, is_tiny, one_hot, scores_for, sigmoids
from .protocol import Suite
from .sources import Cell

PARTS = 4
"""Digits of a scene whose parts are taken away."""

BLOCK = 10
"""Scenes that are measured at once."""

PART_SCENES = 50
"""Scenes whose parts are taken away."""


@cache
def drawn(count: int, seed: int, digits: int, without: tuple[int, ...] = ()) -> tiny.Scenes:
    """Draw scenes, the same for the same arguments."""
    return tiny.scenes(count, generator=torch.Generator().manual_seed(seed), digits=digits, without=without)


class Scenes(NamedTuple):
    """Scenes of the tiny world, for its own models and for any that takes 64 x 64 and gives ten logits.

    Attributes:
        suite: number and seed of the scenes.
        head: of a detector of one's own.
    """

    suite: Suite
    head: Head | None = None

    def record(self) -> dict[str, Any]:
        """Name the world and its seed."""
        return {"kind": "scenes", "scenes": self.suite.scenes, "seed": self.suite.drawn, "removed": "mean color"}

    def pictures(self) -> list[str]:
        """Return scene-000 and so on."""
        return [f"scene-{i:03}" for i in range(self.suite.scenes)]

    def blocks(self, most: int | None = None) -> list[str]:
        """Return scene-000-009 and so on."""
        return _blocks("scene", self.suite.scenes if most is None else min(most, self.suite.scenes))

    def parts(self) -> list[str]:
        """List blocks of the scenes of four digits whose parts are taken away."""
        return _blocks("parts", min(PART_SCENES, self.suite.scenes))

    def clusters(self, block: str) -> list[str]:
        """List the scenes of a block."""
        return scenes_of(block)

    def cells(self, loaded: Loaded) -> list[Cell]:
        """Return scenes of one digit: twice as many as the grids take, so that none is used twice."""
        count = 2 * self.suite.grids * self.suite.side**2
        world = drawn(count, self.suite.drawn + 1, 1)
        return [
            Cell(f"one-{i:04}", int(label), image)
            for i, (label, image) in enumerate(zip(world.labels[:, 0], world.images, strict=True))
        ]

    def cell(self, name: str, loaded: Loaded) -> Cell:
        """Return a scene of one digit."""
        return self.cells(loaded)[_index(name)]

    def probabilities(self, outputs: Any) -> Tensor:
        """Read the sigmoid of each digit."""
        return sigmoids(outputs)

    def picture(self, name: str, loaded: Loaded, most: int = 2) -> Asked:
        """Ask for both digits of each scene, or for two of four."""
        at, world = torch.tensor(_indices(name)), self._world(name)
        labels, boxes = world.labels[at, :most].flatten(), world.boxes[at, :most].flatten(0, 1)
        own, other = self.truth(name, most)
        head = head_of(loaded, self.head)
        explained, measured = scores_for(loaded, labels, boxes, own, head, exclusive=False)
        images = world.images[at].repeat_interleave(most, 0)
        names = [str(label) for label in labels.tolist()]
        clusters = [scene for scene in self.clusters(name) for _ in range(most)]
        return Asked(images, explained, measured, names, clusters, own, other, self.mean_color())

    def truth(self, name: str, most: int = 2) -> tuple[Tensor, Tensor]:
        """Return the pixels of each digit that is asked for, and of the other digits of its scene, (n * most, H, W)."""
        masks = self._world(name).masks[torch.tensor(_indices(name))]
        own = masks[:, :most].flatten(0, 1)
        return own, masks.any(1).repeat_interleave(most, 0) & ~own

    def questions(self, name: str, loaded: Loaded) -> Asked:
        """Ask of each scene why the one digit and not the other, and why either."""
        _classifier(loaded, self.head)
        at, world = torch.tensor(_indices(name)), drawn(self.suite.scenes, self.suite.drawn, 2)
        masks, (a, b) = world.masks[at], world.labels[at].T
        first, second = one_hot(a, 10), one_hot(b, 10)
        weights = torch.cat([first - second, (first + second) / 2])
        names = [f"contrast: {i} not {k}" for i, k in zip(a.tolist(), b.tolist(), strict=True)]
        names += [f"group: {i} or {k}" for i, k in zip(a.tolist(), b.tolist(), strict=True)]
        own = torch.cat([masks[:, 0], masks.any(1)])
        other = torch.cat([masks[:, 1], ~masks.any(1)])
        images, scenes = world.images[at].repeat(2, 1, 1, 1), self.clusters(name) * 2
        scores = Weighted(weights), Weighted(weights, sigmoids)
        return Asked(images, *scores, names, scenes, own, other, self.mean_color())

    def kinds(self, loaded: Loaded) -> list[str]:
        """List blocks of the scenes of four digits: two of them are a group, and two another."""
        most = PART_SCENES if self.suite.measured is None else min(self.suite.measured, PART_SCENES)
        return _blocks("parts", min(most, self.suite.scenes))

    def groupings(self, name: str, loaded: Loaded) -> Asked:
        """Ask why the first of four digits and not the others, and why the first two and not the last two."""
        _classifier(loaded, self.head)
        at, world = torch.tensor(_indices(name)), self._parts_world()
        masks, labels = world.masks[at], world.labels[at]
        digits = torch.stack([one_hot(each, 10) for each in labels.T])
        weights = torch.cat([digits[0] - digits[1:].mean(0), digits[:2].mean(0) - digits[2:].mean(0)])
        names = [f"class_group: {a} not {b}, {c}, {d}" for a, b, c, d in labels.tolist()]
        names += [f"two_groups: {a}, {b} not {c}, {d}" for a, b, c, d in labels.tolist()]
        own = torch.cat([masks[:, 0], masks[:, :2].any(1)])
        other = masks.any(1).repeat(2, 1, 1) & ~own
        images, scenes = world.images[at].repeat(2, 1, 1, 1), self.clusters(name) * 2
        scores = Weighted(weights), Weighted(weights, sigmoids)
        return Asked(images, *scores, names, scenes, own, other, self.mean_color())

    def truth_of_parts(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        """Return scenes without each set of their digits, (n, 16, 3, 64, 64), labels (n, 4) and masks (n, 4, 64, 64).

        Set k leaves out digit i where bit i of k is 1.
        """
        at, world = torch.tensor(_indices(name)), self._parts_world()
        found = torch.empty(len(at), 2**PARTS, *world.images.shape[1:])
        for size in range(PARTS + 1):
            for gone in combinations(range(PARTS), size):
                found[:, sum(1 << k for k in gone)] = self._parts_world(gone).images[at]
        return found, world.labels[at], world.masks[at]

    def mean_color(self) -> Tensor:
        """Return the mean color of the scenes, (1, 3, 1, 1): the value of removed pixels."""
        return drawn(self.suite.scenes, self.suite.drawn, 2).images.mean((0, 2, 3)).view(1, 3, 1, 1)

    def _world(self, name: str) -> tiny.Scenes:
        return self._parts_world() if name.startswith("parts") else drawn(self.suite.scenes, self.suite.drawn, 2)

    def _parts_world(self, without: tuple[int, ...] = ()) -> tiny.Scenes:
        return drawn(min(PART_SCENES, self.suite.scenes), self.suite.drawn + 2, PARTS, without)


def _classifier(loaded: Loaded, head: Head | None) -> None:
    """Refuse a model that gives no classes of the picture."""
    if head_of(loaded, head) is not None or is_tiny(loaded, "segmenter"):
        raise UsageError(f"{loaded.name}: the questions why one class and not another are asked of classifiers")


def _blocks(kind: str, count: int) -> list[str]:
    """Name the blocks of so many scenes, as in scene-000-009."""
    return [f"{kind}-{first:03}-{min(first + BLOCK, count) - 1:03}" for first in range(0, count, BLOCK)]


def scenes_of(block: str) -> list[str]:
    """List the scenes of a block, or of one scene.

    Example:
        >>> scenes_of("scene-008-010")
        ['scene-008', 'scene-009', 'scene-010']
    """
    kind, _, _ = block.partition("-")
    return [f"{kind}-{i:03}" for i in _indices(block)]


def _indices(name: str) -> list[int]:
    """Read the scenes of scene-005, or of scene-000-009."""
    _, first, *last = name.split("-")
    return list(range(int(first), int(last[0] if last else first) + 1))


def _index(name: str) -> int:
    return int(name.rpartition("-")[2])

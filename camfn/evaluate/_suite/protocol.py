"""The frozen parameters of the suite, the id of a track, and the hash behind it."""

# tested in tests/evaluate/suite/test_run.py

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import pairwise
from typing import Any

import torch

from ..._shared.errors import UsageError

VERSION = 1
"""A change of any default, or of any number that a default gives, is a new version."""

TRACKS = ("grid", "tiny", "single", "groups", "ceiling", "contrast", "grade")
"""The tracks, in the order of the tables."""


def is_grade(unit: str) -> bool:
    """Whether a unit grades metrics: grade/NAME, partial/NAME, or grade_KIND/NAME for a unit of a track.

    Example:
        >>> is_grade("grade_questions/scene-000"), is_grade("questions/scene-000-009")
        (True, False)
    """
    kind = unit.partition("/")[0]
    return kind in ("grade", "partial") or kind.startswith("grade_")


@dataclass(frozen=True)
class Suite:
    """All settings of the suite that change its numbers; the defaults are version 1.

    Attributes:
        tracks: which tracks run, of `TRACKS`.
        side: cells of a grid along each side.
        grids: number of grids.
        stitched: how many of the grids DiFull, DiPart and the twin take, and methods of a whole network.
        costly: how many of the grids a method takes that runs the network many times.
        costly_questions: of how many photos such a method takes the questions of the contrast; it takes all scenes.
        sure: probability from which a photo may enter a grid.
        scenes: scenes of two digits of the tiny world, where that is the data.
        drawn: seed of these scenes.
        measured: how many of the pictures have the tracks that remove parts, and the contrast; None for all.
        graded: how many of the pictures the grades take.
        cells: cells along each side of a picture for single deletions and for the ceiling.
        groups: groups of pixels of SaCo.
        subset_cells: cells along each side of a picture for faithfulness correlation.
        subset: how many of these cells a subset has.
        subsets: number of subsets.
        orders: random orders of cells that the ceiling is measured from.
        shares: shares of the pixels that a question removes.
        levels: how much of a map the grades replace by its shuffle.
        seed: seed of every draw but the scenes.
        chunk_size: perturbed forwards at once; it is fixed, since the last bit of a sum may depend on it.

    Example:
        >>> Suite().grids, Suite().tracks[0]
        (30, 'grid')
    """

    tracks: tuple[str, ...] = TRACKS
    side: int = 2
    grids: int = 30
    stitched: int = 8
    costly: int = 4
    costly_questions: int = 8
    sure: float = 0.7
    scenes: int = 200
    drawn: int = 2
    measured: int | None = 30
    graded: int = 20
    cells: int = 4
    groups: int = 10
    subset_cells: int = 7
    subset: int = 12
    subsets: int = 30
    orders: int = 10
    shares: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    levels: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    seed: int = 0
    chunk_size: int = 16

    def __post_init__(self) -> None:
        unknown = [track for track in self.tracks if track not in TRACKS]
        if unknown or not self.tracks:
            raise UsageError(f"tracks: expected some of {', '.join(TRACKS)}, got {', '.join(unknown) or 'none'}")
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise UsageError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        if self.side < 2:
            raise UsageError(f"side: expected 2 or more cells along each side of a grid, got {self.side}")
        _check_shares(self)

    def generator(self, *words: str) -> torch.Generator:
        """Return a CPU generator seeded from (seed, words), so that results do not depend on the order of runs."""
        digest = sha256("\0".join([str(self.seed), *words]).encode("utf-8", "surrogatepass")).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _check_shares(suite: Suite) -> None:
    """Refuse shares of pixels, of cells and of pictures that would be read as others."""
    if suite.measured is not None and suite.measured < 1:
        raise UsageError(f"measured: expected 1 or more, or None for all, got {suite.measured}")
    if suite.subset >= suite.subset_cells**2:
        every = f"{suite.subset_cells} x {suite.subset_cells}"
        raise UsageError(f"subset: expected fewer than {every}, got {suite.subset}")
    count = len(suite.shares)
    if not count or any(abs(share - k / (count + 1)) > 1e-6 for k, share in enumerate(suite.shares, 1)):
        raise UsageError(f"shares: expected equal steps between 0 and 1, as (0.25, 0.5, 0.75), got {suite.shares}")
    rising = all(a < b for a, b in pairwise(suite.levels))
    if len(suite.levels) < 2 or not rising or min(suite.levels) < 0 or max(suite.levels) > 1:
        raise UsageError(f"levels: expected two or more rising shares from 0 to 1, got {suite.levels}")


_COMMON = ("seed", "chunk_size")
_COUNTS = [
    "grids",
    "stitched",
    "costly",
    "costly_questions",
    "scenes",
    "graded",
    "groups",
    "subsets",
    "orders",
    "chunk_size",
]
_PARAMETERS = {
    "grid": ("side", "grids", "stitched", "costly", "sure"),
    "tiny": ("scenes", "drawn"),
    "single": ("measured", "cells"),
    "groups": ("measured", "groups", "subset_cells", "subset", "subsets"),
    "ceiling": ("measured", "cells", "orders"),
    "contrast": ("measured", "costly_questions", "shares"),
    "grade": ("graded", "levels"),
}
"""What changes the numbers of a track, beside the data and the model; a layer is of a row, as a method is."""


def record_of(suite: Suite, track: str, data: dict[str, Any]) -> dict[str, Any]:
    """Collect all that the numbers of a track depend on, as JSON holds it.

    Args:
        suite: the settings.
        track: of `TRACKS`.
        data: what the source of the pictures says of itself and of the model.
    """
    settings = asdict(suite)
    own = {name: settings[name] for name in (*_PARAMETERS[track], *_COMMON)}
    if "scenes" not in data.get("source", {}).get("kind", ""):
        own = {name: value for name, value in own.items() if name not in ("scenes", "drawn")}
    if track != "grid":
        data = {name: value for name, value in data.items() if name != "grids"}
    record = {"suite": "truth", "version": VERSION, "track": track, "parameters": own, **data}
    made: dict[str, Any] = json.loads(canonical(record))
    return made


def canonical(record: Any) -> str:
    """Write JSON in one way: keys sorted, no spaces, floats by repr."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def id_of(record: dict[str, Any]) -> str:
    """Return the id of a record, as in `camfn-truth/1:grid2x2@lite0#3f9c2a71`.

    Example:
        >>> id_of({"track": "tiny", "version": 1, "parameters": {}, "model": {"spec": "tiny:cnn"}})
        'camfn-truth/1:tiny@tiny:cnn#65798e96'
    """
    digest = sha256(canonical(record).encode()).hexdigest()[:8]
    return f"camfn-truth/{record['version']}:{_words(record)}@{record['model']['spec']}#{digest}"


def _words(record: dict[str, Any]) -> str:
    """Name a track with the parameter that a reader has to know."""
    track, own = record["track"], record["parameters"]
    if track == "grid":
        scale = "" if record.get("grids", {}).get("scale", 1) == 1 else "s"
        return f"grid{own['side']}x{own['side']}{scale}"
    if track in ("single", "ceiling"):
        return f"{track}{own['cells']}x{own['cells']}"
    return str(track)

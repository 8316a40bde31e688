"""AggAtt's strips (2205.10435): mean maps of GridPG from the best to the worst, and both corners of the twin."""

# tested in tests/evaluate/suite/test_strips.py

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from ..._shared.embed import data_address
from ..._shared.errors import UsageError
from ...image import normalize, upsample
from ...image._paint import stops
from .._measures.row import Row
from .._store.store import Store
from .figures import Line
from .grids import LEAST, cell_of

BINS = (0.0, 0.02, 0.05, 0.5, 0.95, 0.98, 1.0)
"""The ends of the bins, as shares of all maps, the best first."""

NAMES = ("best 2 %", "to 5 %", "to 50 %", "to 95 %", "to 98 %", "worst 2 %")
"""The bins in words."""

MOST = 50
"""Methods and layers that a page shows: those that the table has first."""

_SIDE = 40
"""Pixels along each side of a tile, which the page shows larger: maps have some 14 values along a side."""

_GAP = 2
"""Pixels to the right of each tile, through which the page shows."""


class Bin(NamedTuple):
    """The maps of one bin.

    Attributes:
        share: the mean share in the cell of the class.
        mean: the mean map, (h, w), each map over its sum.
    """

    share: float
    mean: Tensor


def turned(cam: Tensor, cell: int, side: int, size: int = _SIDE) -> Tensor:
    """Clip a map, turn its cell to the upper left and divide it by its sum, (size, size); a blank map stays 0.

    Clipped first, so that a map of pixels keeps its mass when it is made smaller.

    Args:
        cam: (h, w), raw.
        cell: the cell of the class.
        side: cells along each side.
        size: made a multiple of `side`, so that a border of cells lies between two pixels.
    """
    size = -(-size // side) * side
    positive = cam.clamp(min=0)[None, None]
    (resized,) = nn.functional.interpolate(positive, (size, size), mode="bilinear", antialias=True)[0]
    row, column = divmod(cell, side)
    return _over_sum(resized.roll((-row * size // side, -column * size // side), (0, 1)))


def binned(maps: Sequence[tuple[float, Tensor]]) -> list[Bin]:
    """Sort maps by their shares, the best first, and take the mean of each bin.

    Where a bin would be empty, it has the one map that lies there, which another bin may have too.

    Args:
        maps: share and map, (h, w), of each.

    Example:
        >>> [bin.share for bin in binned([(0.25, torch.zeros(1, 1)), (0.5, torch.ones(1, 1))])]
        [0.5, 0.5, 0.5, 0.25, 0.25, 0.25]
    """
    ordered = sorted(maps, key=lambda pair: -pair[0])
    ends = [round(share * len(ordered)) for share in BINS]
    found = []
    for start, end in pairwise(ends):
        first = min(start, len(ordered) - 1)
        chosen = ordered[first : max(end, first + 1)]
        share = sum(share for share, _ in chosen) / len(chosen)
        found.append(Bin(share, torch.stack([cam for _, cam in chosen]).mean(0)))
    return found


def bins_of(store: Store, rows: Sequence[Row], *, size: int = _SIDE) -> list[Bin]:
    """Take the mean maps of GridPG of one method; none where no row has a map.

    Args:
        store: the folder of the rows.
        rows: of one method and layer.
        size: pixels along each side of a map.
    """
    side = _side(store)
    maps = []
    for row, cams in _stored(store, rows, "gridpg"):
        shares = row.vectors.get("gridpg", [])
        if len(cams) == len(shares):
            maps += [
                (share, turned(cam, cell, side, size))
                for cell, (share, cam) in enumerate(zip(shares, cams, strict=True))
            ]
    return binned(maps) if maps else []


def corners_of(store: Store, rows: Sequence[Row]) -> tuple[Tensor, Tensor] | None:
    """Take the mean map of the corner that the twin asks for, and that of its twin; None where no row has a map.

    Args:
        store: the folder of the rows.
        rows: of one method and layer.
    """
    side = _side(store)
    maps = [turned(cams[0], 0, side, side * _SIDE) for _, cams in _stored(store, rows, "twin") if len(cams) == 1]
    if not maps:
        return None
    mean = torch.stack(maps).mean(0)
    size = (mean.shape[0], mean.shape[1])
    return mean[cell_of(size, side, 0)], mean[cell_of(size, side, side**2 - 1)]


def strips_of(store: Store, lines: Sequence[Line]) -> dict[str, Any] | None:
    """Return what the template reads: a strip and a pair of corners for each line; None for a folder without maps.

    Args:
        store: a folder of the suite.
        lines: of the table of the track `grid`; equal ones are one line, and share a strip.
    """
    methods = [line for line in lines if not line.control]
    drawn = []
    for line in methods[:MOST]:
        rows = [row for row in store.rows if (row.method, row.layer) == (line.names[0], line.layer)]
        bins, corners = bins_of(store, rows), corners_of(store, rows)
        if bins or corners:
            name = line.label
            drawn.append({"name": name, "strip": _strip(bins, name), "twin": _pair(corners, rows, name)})
    if not drawn:
        return None
    left = len(methods) - len(drawn)
    note = (
        f"{left} line{'s' * (left != 1)} of the table {'have' if left != 1 else 'has'} no strip here." if left else ""
    )
    return {"heads": NAMES, "rows": drawn, "note": note}


def _stored(store: Store, rows: Sequence[Row], kind: str) -> Iterator[tuple[Row, Tensor]]:
    """Read the maps of a kind of unit, (B, h, w); of a damaged one `camfn suite verify` says so."""
    for row in rows:
        if not row.photo.startswith(f"{kind}/"):
            continue
        try:
            cams = store.cam(row)
        except UsageError:
            continue
        if cams is not None and cams.ndim == 3 and cams.numel() and bool(cams.isfinite().all()):
            yield row, cams


def _side(store: Store) -> int:
    """Read the cells along each side of a grid."""
    side: int = store.header["protocols"]["grid"]["record"]["parameters"]["side"]
    return side


def _over_sum(cam: Tensor) -> Tensor:
    """Divide a map by its sum; a blank one stays 0."""
    total = cam.sum()
    return cam / total if total > LEAST else torch.zeros_like(cam)


def _strip(bins: Sequence[Bin], name: str) -> dict[str, Any] | None:
    """Draw the bins side by side, each up to its own maximum."""
    if not bins:
        return None
    shares = ", ".join(f"{each.share:.2f}" for each in bins)
    tiles = normalize(upsample(torch.stack([each.mean for each in bins]), (_SIDE, _SIDE)))
    alt = f"{name}: mean maps from the best 2 % to the worst 2 %; share in the upper left {shares}"
    return _picture(tiles, alt)


def _pair(corners: tuple[Tensor, Tensor] | None, rows: Sequence[Row], name: str) -> dict[str, Any] | None:
    """Draw both corners of the twin side by side, up to the maximum of both."""
    if corners is None:
        return None
    both = torch.cat(corners, 1)[None]
    shares = [share for row in rows if row.photo.startswith("twin/") for share in row.vectors.get("twin", [])]
    said = f"; the own one has {sum(shares) / len(shares):.2f} of both" if shares else ""
    return _picture(torch.cat(normalize(both).chunk(2, 2)), f"{name}: mean map of the own corner and of its twin{said}")


def _picture(tiles: Tensor, alt: str) -> dict[str, Any]:
    """Color maps (n, H, W) in [0, 1] side by side, as a part of the page: 64 colors are a small file without loss."""
    colors = stops("turbo")
    levels = (tiles * (len(colors) - 1)).round()
    shown = torch.cat(list(nn.functional.pad(levels, (0, _GAP), value=len(colors))), 1)
    picture = Image.fromarray(shown.to(torch.uint8).numpy())
    picture.putpalette([*colors.round().to(torch.uint8).flatten().tolist(), 0, 0, 0])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True, transparency=len(colors))
    source = data_address(buffer.getvalue(), "image/png")
    return {"source": source, "alt": alt, "width": picture.width, "height": picture.height}

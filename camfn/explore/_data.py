"""The data of a page: pictures as data addresses, maps as 16-bit floats with a scale, equal maps found and folded."""

# tested in tests/explore/test_page.py

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .._shared.embed import data_address
from .._shared.errors import CamfnError
from .._shared.optional import extra
from ..image._paint import slice_numbers, stops
from ._grid import Grid, MapOrReason, ShownPhoto

COLORS = ("turbo", "viridis", "cividis", "hot", "bone", "jet")
SIGNED = "seismic"
"""Color scales that a page offers, and the one of both signs."""

_EQUAL = 1e-4
"""Largest difference of two maps, each over its largest value, that are equal but for rounding."""

_SLICES = 64
"""Slices of a volume that a page holds at most, spread evenly."""

_SIDE = 768
"""Longer side of a picture, in pixels."""

_SMALL = 128
"""Pictures up to this side are stored without loss."""

_BYTES = 48_000_000
"""Letters of all maps of a page."""


def data_of(explored: Grid, title: str = "", command: str = "") -> dict[str, Any]:
    """Return what the viewer reads, for JSON.

    Args:
        explored: the maps.
        title: of the page.
        command: that made it.

    Raises:
        CamfnError: the maps take more than a browser likes to open.
    """
    store = _Store()
    photos = [_photo(photo, name, store) for photo, name in zip(explored.photos, _names(explored.photos))]
    size = sum(len(one["b64"]) for one in store.maps)
    if size > _BYTES:
        raise CamfnError(
            f"the maps take {size / 1e6:.0f} MB, more than the {_BYTES / 1e6:.0f} MB that a page holds: take deeper "
            "layers, whose maps are smaller, or fewer targets, methods or photos"
        )
    return {
        "title": title,
        "command": command,
        "photos": photos,
        "methods": [each._asdict() for each in explored.methods],
        "layers": [each._asdict() for each in explored.layers],
        "start": explored.start,
        "maps": store.maps,
        "problems": list(store.problems),
        "colors": {name: stops(name).round().int().tolist() for name in (*COLORS, SIGNED)},
    }


class _Store:
    """Maps and reasons, each once."""

    def __init__(self) -> None:
        self.maps: list[dict[str, Any]] = []
        self.problems: dict[str, int] = {}
        self._places: dict[tuple[Any, ...], int] = {}

    def place(self, cam: MapOrReason) -> int:
        """Keep a map or a reason; return the index of the map, or -1 - the index of the reason."""
        if isinstance(cam, str):
            return -1 - self.problems.setdefault(cam, len(self.problems))
        key = (tuple(cam.shape), cam.double().numpy().tobytes())
        if key not in self._places:
            self._places[key] = len(self.maps)
            self.maps.append(packed(cam))
        return self._places[key]


def packed(cam: Tensor) -> dict[str, Any]:
    """Pack a map as 16-bit floats: its values over the largest magnitude, `scale`, to 1/4096 of that at most."""
    wide = cam.detach().double().cpu()
    scale = float(wide.abs().max())
    halves = (wide / scale if scale else wide).numpy().astype("<f2")
    return {
        "shape": list(cam.shape),
        "scale": scale,
        "low": float(wide.min()),
        "high": float(wide.max()),
        "b64": base64.b64encode(halves.tobytes()).decode(),
    }


def _names(photos: Sequence[ShownPhoto]) -> list[str]:
    """Give each photo a name of its own: cat.png, cat.png-2."""
    seen: dict[str, int] = {}
    names = []
    for photo in photos:
        seen[photo.name] = seen.get(photo.name, 0) + 1
        names.append(photo.name if seen[photo.name] == 1 else f"{photo.name}-{seen[photo.name]}")
    return names


def _photo(photo: ShownPhoto, name: str, store: _Store) -> dict[str, Any]:
    layers = range(len(photo.maps[0][0]))
    depth = len(photo.picture) if photo.is_volume else 0
    return {
        "id": name,
        "width": photo.picture.shape[-1],
        "height": photo.picture.shape[-2],
        "depth": depth,
        "slices": _slices(photo),
        "targets": [each._asdict() for each in photo.targets],
        "cells": [[[store.place(cam) for cam in row] for row in rows] for rows in photo.maps],
        "same": [[groups([row[layer] for row in rows], signed=False) for layer in layers] for rows in photo.maps],
        "twins": [[groups([row[layer] for row in rows], signed=True) for layer in layers] for rows in photo.maps],
    }


def groups(cams: Sequence[MapOrReason], *, signed: bool) -> list[int]:
    """Return for each map the index of the first map that gives the same picture.

    Maps are compared up to a factor; with `signed` as they are, else by their positive parts. One that shows nothing is
    like no other.
    """
    found: list[int] = []
    plain = [_normal(cam, signed) for cam in cams]
    for place, cam in enumerate(plain):
        first = place
        for before in dict.fromkeys(found):
            other = plain[before]
            if cam is not None and other is not None and _near(cam, other):
                first = before
                break
        found.append(first)
    return found


def _near(cam: Tensor, other: Tensor) -> bool:
    return cam.shape == other.shape and bool((cam - other).abs().max() <= _EQUAL)


def _normal(cam: MapOrReason, signed: bool) -> Tensor | None:
    """Divide a map by its largest value; None where it shows nothing."""
    if isinstance(cam, str):
        return None
    shown = cam.double() if signed else cam.double().clamp_min(0)
    top = float(shown.abs().max())
    return shown / top if top else None


def _slices(photo: ShownPhoto) -> list[dict[str, Any]]:
    """Return the picture, or slices of a volume with their numbers, as addresses that hold the picture."""
    if not photo.is_volume:
        return [{"n": 0, "src": _address(photo.picture)}]
    numbers = slice_numbers(len(photo.picture), _SLICES).tolist()
    return [{"n": number, "src": _address(photo.picture[number][None])} for number in numbers]


def _address(picture: Tensor) -> str:
    """Encode a picture, (3, H, W) or (1, H, W) in [0, 1], as JPEG, a small one as PNG."""
    with extra("pillow", "camfn.explore"):
        from PIL import Image
    rows = (picture.detach().float().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    drawn = Image.fromarray(rows[..., 0].numpy() if rows.shape[-1] == 1 else rows.numpy())
    kind = "PNG" if max(drawn.size) <= _SMALL else "JPEG"
    drawn.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    drawn.save(file, kind, **({"quality": 88} if kind == "JPEG" else {}))
    return data_address(file.getvalue(), f"image/{kind.lower()}")

"""What a page shows: photos, each with its targets, and a map for each target, method and layer."""

# tested in tests/explore/test_page.py

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from .._shared.errors import CamfnError

MOST = 2000
"""Maps of one page: more are no longer looked at, and take a browser long to open."""

MapOrReason = Tensor | str
"""A raw map, (h, w) or (d, h, w), or the reason why there is none."""


class ShownTarget(NamedTuple):
    """A target as a page shows it.

    Attributes:
        id: what the page's address calls it; each target of a photo has its own.
        label: for people.
        score: a number in words, as "97.1%"; empty for none.
        box: left, top, right and bottom of a detection as parts of the picture, in 0..1; None for no box.
    """

    id: str
    label: str
    score: str = ""
    box: tuple[float, float, float, float] | None = None


class ShownMethod(NamedTuple):
    """A method as a page shows it.

    Attributes:
        id: its name, with options.
        note: what it does, in one line.
        asks: whether its map depends on the target.
    """

    id: str
    note: str = ""
    asks: bool = True


class ShownLayer(NamedTuple):
    """A layer as a page shows it.

    Attributes:
        id: its name.
        note: why the page has it, or what it is.
    """

    id: str
    note: str = ""


class ShownPhoto(NamedTuple):
    """A photo, its targets and its maps.

    Attributes:
        name: of the photo.
        picture: what the maps lie over: (3, H, W) or (1, H, W) in [0, 1]; of a volume gray slices, (D, H, W).
        targets: at least one.
        maps: for each target, each method and each layer, in this order, the raw map or the reason why there is none.
        is_volume: whether `picture` holds the slices of a volume, and the maps are (d, h, w).
    """

    name: str
    picture: Tensor
    targets: tuple[ShownTarget, ...]
    maps: tuple[tuple[tuple[MapOrReason, ...], ...], ...]
    is_volume: bool = False


@dataclass(frozen=True, eq=False, repr=False)
class Grid:
    """The fields of `Explored`, checked."""

    photos: tuple[ShownPhoto, ...]
    methods: tuple[ShownMethod, ...]
    layers: tuple[ShownLayer, ...]
    start: int = 0

    def __post_init__(self) -> None:
        if not self.photos or not self.methods or not self.layers or not all(one.targets for one in self.photos):
            raise CamfnError("Explored: expected at least one photo, method and layer, and a target of each photo")
        refuse_many(sum(len(one.targets) for one in self.photos), len(self.methods), len(self.layers))
        shape = len(self.methods), len(self.layers)
        for photo in self.photos:
            found = {(len(rows), len(row)) for rows in photo.maps for row in rows}
            if len(photo.maps) != len(photo.targets) or found != {shape}:
                raise CamfnError(
                    f"Explored: {photo.name}: expected maps[target][method][layer] for {len(photo.targets)} targets, "
                    f"{shape[0]} methods and {shape[1]} layers"
                )
            _check_maps(photo)

    def __repr__(self) -> str:
        targets = sum(len(photo.targets) for photo in self.photos)
        return (
            f"Explored({len(self.photos)} photos, {targets} targets, {len(self.methods)} methods, "
            f"{len(self.layers)} layers)"
        )


def _check_maps(photo: ShownPhoto) -> None:
    """Refuse maps that do not lie over their picture."""
    dimensions = 3 if photo.is_volume else 2
    if photo.picture.ndim != 3 or (not photo.is_volume and len(photo.picture) not in (1, 3)):
        raise CamfnError(
            f"Explored: {photo.name}: expected a picture (3, H, W) or (1, H, W), or slices (D, H, W) of a volume; got "
            f"{tuple(photo.picture.shape)}"
        )
    for cam in (cam for rows in photo.maps for row in rows for cam in row if isinstance(cam, Tensor)):
        if cam.ndim != dimensions:
            raise CamfnError(
                f"a page shows maps (h, w) over a photo and (d, h, w) over a volume; {photo.name} has one of shape "
                f"{tuple(cam.shape)}"
            )


def refuse_many(targets: int, methods: int, layers: int) -> None:
    """Refuse more maps than a page holds, and say what to leave out.

    Args:
        targets: of all photos together.
        methods: of each.
        layers: of each.

    Raises:
        CamfnError: there are more than `MOST`.
    """
    if targets * methods * layers <= MOST:
        return
    fewer = max(1, MOST // (methods * layers))
    hint = "fewer methods, as grad_cam,layer_cam, one layer" if fewer * methods * layers > MOST else "one layer"
    raise CamfnError(
        f"{targets * methods * layers} maps ({targets} targets of all photos x {methods} methods x {layers} layers) "
        f"are more than the {MOST} that a page holds: take at most {fewer} targets with these methods and layers, or "
        f"{hint}, or write a page for each photo"
    )

"""The gallery of the report: photos on which the first method does best and worst, with maps of several methods."""

# tested in tests/evaluate/tables/test_report.py

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw

from ... import image
from ..._shared.embed import data_address
from ..._shared.errors import PhotoError
from ...zoo import Loaded
from .._inputs.photos import Photo, boxes_in_view
from .._measures.own import known_metric, short
from .._measures.row import Row
from .._store.store import Store
from .shown import fold
from .standing import Standing, Standings, labels

_SIDE = 260
"""Height of a picture, in pixels."""


def gallery_of(store: Store, ranking: Standings, photos: Sequence[Photo], loaded: Loaded, shown: int) -> dict[str, Any]:
    """Return what the template reads: heads, and a strip of pictures for each photo."""
    lead, called = ranking.by, labels(ranking)
    methods = [s for s in ranking if not s.is_baseline and lead in s.estimates]
    if not methods:
        return {}
    columns = {s.case: called[s.case] for s in _chosen(ranking, methods)}
    best = methods[0]
    numbers = {row.photo: row.values[lead] for row in store.rows if row.case == best.case and lead in row.values}
    order = sorted(numbers, key=lambda name: -(known_metric(lead).better or 1) * numbers[name])
    by_name = {photo.name: photo for photo in photos}
    count = min(shown, len(order) // 2) or 1
    ends = [("best", order[:count]), ("worst", order[-count:][::-1] if len(order) > 1 else [])]
    strips = [
        _strip(store, by_name[name], columns, loaded, lead, end)
        for end, names in ends
        for name in names
        if name in by_name
    ]
    return {
        "gallery": strips,
        "heads": ["photo", *columns.values()],
        "lead": called[best.case],
        "metric": short(lead).replace("_", " "),
    }


def _chosen(ranking: Standings, methods: Sequence[Standing]) -> list[Standing]:
    """Choose columns, none equal to another: the best method, Grad-CAM, one in the middle, the last, the center."""
    grad_cam = [s for s in methods if s.method.partition(" ")[0] == "grad_cam"][:1]
    center = [s for s in ranking if s.method == "center"]
    wanted = [methods[0], *grad_cam, methods[len(methods) // 2], methods[-1], *center]
    row = {s.case: number for number, group in enumerate(fold(ranking)) for s in group}
    return list({row[s.case]: s for s in reversed(wanted)}.values())[::-1]


def _strip(
    store: Store, photo: Photo, columns: Mapping[str, str], loaded: Loaded, lead: str, end: str
) -> dict[str, Any]:
    """Show one photo with its boxes, and the maps of several methods over it."""
    rows = {row.case: row for row in store.rows if row.photo == photo.name}
    asked = next((row.target for case, row in rows.items() if case in columns and row.target is not None), "")
    label = photo.label or str(asked)
    if label.isdecimal() and int(label) < len(loaded.classes or ()):
        label = (loaded.classes or ())[int(label)]
    note = f"{end}, {photo.name}" if label else end
    found: dict[str, Any] = {"title": label or photo.name, "note": note, "pictures": []}
    try:
        whole = photo.read()
    except PhotoError as error:
        return found | {"note": str(error)}
    view = loaded.view(whole)
    view = view.resize((max(1, round(_SIDE * view.width / view.height)), _SIDE))
    found["pictures"].append(_picture(_boxed(view, photo, whole, loaded), "photo", f"photo of {found['title']}"))
    for case, name in columns.items():
        row = rows.get(case)
        found["pictures"].append(_map(store, row, view, name, lead, found["title"]))
    return found


def _boxed(view: Image.Image, photo: Photo, whole: Image.Image, loaded: Loaded) -> Image.Image:
    """Draw the boxes of a photo."""
    boxed = view.copy()
    for x0, y0, x1, y1 in boxes_in_view(photo.boxes, whole.size, loaded.view):
        corners = (x0 * view.width, y0 * view.height, x1 * view.width - 1, y1 * view.height - 1)
        ImageDraw.Draw(boxed).rectangle(corners, outline=(255, 235, 0), width=2)
    return boxed


def _map(store: Store, row: Row | None, view: Image.Image, name: str, lead: str, title: str) -> dict[str, Any]:
    """Draw a map over its photo; a cell without one says why."""
    cam = None if row is None else store.cam(row)
    if row is None or cam is None or not bool(cam.isfinite().all()):
        why = "no map" + (f": {row.problem}" if row is not None and row.problem else "")
        return {"source": "", "name": name, "alt": why, "score": ""}
    drawn = image.to_pil(image.overlay(image.read(view), image.normalize(cam[None])))
    value = row.values.get(lead)
    score = "" if value is None else f"{value:.3f}"
    return _picture(drawn, name, f"map of {name} over {title}" + (f", {short(lead)} {score}" if score else ""), score)


def _picture(picture: Image.Image, name: str, alt: str, score: str = "") -> dict[str, Any]:
    """Return a picture as part of the file."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    source = data_address(buffer.getvalue(), "image/jpeg")
    return {
        "source": source,
        "name": name,
        "alt": alt,
        "score": score,
        "width": picture.width,
        "height": picture.height,
    }

"""Records of photos, classes and boxes in a file: the readers check each, and refuse a bad one by its line."""

# tested in tests/evaluate/inputs/test_photos.py

from __future__ import annotations

import csv
import json
import math
from bisect import bisect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..._shared.errors import UsageError

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 as fractions of the upright photo."""


class Record(NamedTuple):
    """One line of a CSV, or one annotation of COCO.

    Attributes:
        place: the file and the line.
        path: of the photo, relative to the file.
        label: the class.
        corners: x0, y0, x1, y1 in pixels of the photo; None without a box.
        size: width and height of the photo; None if the file does not say.
    """

    place: str
    path: str
    label: str
    corners: tuple[float, ...] | None
    size: tuple[float, float] | None = None


class Listed(NamedTuple):
    """The records of a file, and a line for each refused one."""

    records: list[Record]
    refused: list[str]


def read_table(file: Path) -> Listed:
    """Read a CSV with the columns path and class, and x0, y0, x1, y1 for boxes."""
    records, refused = [], []
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            reader = csv.DictReader(opened)
            if not {"path", "class"} <= set(reader.fieldnames or ()):
                got = ", ".join(reader.fieldnames or ()) or "nothing"
                raise UsageError(f"{file}: expected the columns path and class, got {got}")
            for line in reader:
                place = f"{file}, line {reader.line_num}"
                try:
                    records.append(_of_line(place, line))
                except UsageError as error:
                    refused.append(f"{place}: {error}")
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise UsageError(f"{file}: expected a CSV file in UTF-8: {error}") from error
    return Listed(records, refused)


def read_coco(file: Path) -> Listed:
    """Read COCO annotations; crowds, whose boxes hold many objects, count like any other."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
        parts = _parts(text)
    except (ValueError, RecursionError, OSError) as error:
        raise UsageError(f"{file}: expected COCO's images, annotations and categories: {error}") from error
    if parts is None or not {"images", "annotations", "categories"} <= set(parts):
        raise UsageError(f"{file}: expected COCO's images, annotations and categories, each a list")
    starts = [i for i, letter in enumerate(text) if letter == "\n"]
    refused: list[str] = []

    def checked(name: str, check: Callable[[str, Any], Any]) -> Iterator[Any]:
        for number, (item, at) in enumerate(parts[name]):
            place = f"{file}, line {bisect(starts, at) + 1}, {name}[{number}]"
            try:
                yield check(place, item)
            except UsageError as error:
                refused.append(f"{place}: {error}")

    names = dict(checked("categories", _category))
    images = dict(checked("images", _image))
    records = list(checked("annotations", lambda place, item: _annotation(place, item, images, names)))
    return Listed(records, refused)


def box_in(corners: tuple[float, ...], size: tuple[float, float]) -> Box:
    """Return a box as fractions of a photo, cut at its border.

    Raises:
        UsageError: it has no area in the photo.
    """
    x0, y0, x1, y1 = corners
    shown, (width, height) = ", ".join(f"{corner:g}" for corner in corners), size
    if not all(map(math.isfinite, corners)):
        raise UsageError(f"box {shown}: expected finite numbers")
    if not (x0 < x1 and y0 < y1):
        raise UsageError(f"box {shown}: expected x0 < x1 and y0 < y1")
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        raise UsageError(f"box {shown} lies outside of the photo, {width:g} x {height:g}")
    left, top, right, bottom = (
        min(1.0, max(0.0, corner / side)) for corner, side in zip(corners, (width, height, width, height), strict=True)
    )
    return (left, top, right, bottom)


def _of_line(place: str, line: dict[Any, Any]) -> Record:
    """Check one line of a CSV."""
    path, label = (_text(line.get(name), name) for name in ("path", "class"))
    given: list[Any] = [line.get(corner) for corner in ("x0", "y0", "x1", "y1")]
    if not any(given):
        return Record(place, path, label, None)
    if not all(given):
        raise UsageError("expected all of x0, y0, x1, y1, or none")
    try:
        return Record(place, path, label, tuple(map(float, given)))
    except ValueError as error:
        raise UsageError(f"box {', '.join(map(str, given))}: expected numbers") from error


def _category(_: str, item: Any) -> tuple[Any, str]:
    """Return the id and the name of a category."""
    name = _field(item, "name", "category")
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    return _id(_field(item, "id", "category")), _text(name, "name")


def _image(_: str, item: Any) -> tuple[Any, tuple[str, tuple[float, float] | None]]:
    """Return the id, the file name and the size of an image; None for a size that is none, which its photo says."""
    name = _text(_field(item, "file_name", "image"), "file_name")
    width, height = item.get("width"), item.get("height")
    known = _is_number(width) and _is_number(height) and width > 0 and height > 0
    return _id(_field(item, "id", "image")), (name, (float(width), float(height)) if known else None)


def _annotation(place: str, item: Any, images: dict[Any, Any], names: dict[Any, str]) -> Record:
    """Check one annotation."""
    image, category = (_id(_field(item, name, "annotation")) for name in ("image_id", "category_id"))
    if image not in images:
        raise UsageError(f"there is no image {image!r}")
    if category not in names:
        raise UsageError(f"there is no category {category!r}")
    path, size = images[image]
    box = item.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise UsageError(f"bbox {json.dumps(box)[:80]}: expected four numbers: x, y, width, height")
    x, y, width, height = map(float, box)
    if not (width > 0 and height > 0):
        raise UsageError(f"bbox {json.dumps(box)[:80]}: expected a width and a height above 0")
    return Record(place, path, names[category], (x, y, x + width, y + height), size)


def _field(item: Any, name: str, what: str) -> Any:
    """Return a field of an object of JSON."""
    if not isinstance(item, dict):
        raise UsageError(f"expected an {what} as an object, got {json.dumps(item)[:60]}")
    if name not in item:
        raise UsageError(f"it has no {name}")
    return item[name]


def _id(value: Any) -> Any:
    """Refuse an id that is no number and no text."""
    if isinstance(value, bool) or not isinstance(value, (int, str, float)):
        raise UsageError(f"expected an id, got {json.dumps(value)[:60]}")
    return value


def _text(value: Any, name: str) -> str:
    """Refuse what is no text, or empty."""
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{name}: expected a text, got {json.dumps(value)[:60]}")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


_DECODER = json.JSONDecoder()


def _parts(text: str) -> dict[str, list[tuple[Any, int]]] | None:
    """Read the lists of an object of JSON, each item with the place where it begins; None if it is no object.

    Raises:
        ValueError: it is no JSON.
    """
    at = _space(text, 0)
    if text[at : at + 1] != "{":
        _DECODER.decode(text)
        return None
    parts: dict[str, list[tuple[Any, int]]] = {}
    at = _space(text, at + 1)
    while text[at : at + 1] != "}":
        name, at = _DECODER.raw_decode(text, at)
        at = _space(text, _expect(text, _space(text, at), ":"))
        if text[at : at + 1] == "[":
            parts[name] = []
            at = _space(text, at + 1)
            while text[at : at + 1] != "]":
                item, end = _DECODER.raw_decode(text, at)
                parts[name].append((item, at))
                at = _next(text, end, "]")
            at += 1
        else:
            _, at = _DECODER.raw_decode(text, at)
        at = _next(text, at, "}")
    return parts


def _next(text: str, at: int, end: str) -> int:
    """Go behind a comma, or to the end of a list or an object."""
    at = _space(text, at)
    return at if text[at : at + 1] == end else _space(text, _expect(text, at, ","))


def _expect(text: str, at: int, letter: str) -> int:
    """Go behind a letter."""
    if text[at : at + 1] != letter:
        raise json.JSONDecodeError(f"expected {letter!r}", text, at)
    return at + 1


def _space(text: str, at: int) -> int:
    """Go behind white space."""
    while text[at : at + 1] in (" ", "\t", "\n", "\r") and at < len(text):
        at += 1
    return at

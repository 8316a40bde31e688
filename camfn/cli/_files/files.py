"""Names of the files that a run writes, and the check that the run may write them."""

# tested in tests/cli/test_cli.py

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..._photos.classes import ClassChoice
from ..._shared.errors import UsageError
from ..._shared.files import check_place, write_whole
from .records import RECORD, Record


class PhotoFiles(NamedTuple):
    """A photo, and the paths of the files to write for it, without their endings: one a class."""

    photo: Path
    bases: list[Path]


def plan_files(
    photos: Sequence[Path],
    out: Path,
    method: str,
    choice: ClassChoice,
    force: bool,
    *,
    endings: Sequence[str] = ("png", "npy"),
    record: str | None = None,
) -> list[PhotoFiles]:
    """Choose the files to write, and check that each may be written.

    A photo's files have the stem of the photo. If several photos have the same stem, in any case of letters, the later
    ones get a number: cat, cat-2, cat-3.

    Args:
        photos: the photos.
        out: the folder to write to.
        method: a part of the names.
        choice: the targets, whose suffixes are a part of the names.
        force: whether existing files may be replaced.
        endings: of the files of each map.
        record: a file of the run that must not exist either; the record that runs append to may.

    Raises:
        UsageError: a file exists and `force` is not set, a file would replace a photo, or the folder is not writable.
    """
    plans = [
        PhotoFiles(photo, [out / f"{stem}.{method}{suffix}" for suffix in choice.suffixes])
        for photo, stem in zip(photos, _unique(photo.stem for photo in photos), strict=True)
    ]
    files = [with_ending(base, end) for item in plans for base in item.bases for end in endings]
    files += [out / record] if record else []
    keep_photos(files, photos)
    for file in files:
        if os.path.lexists(file) and not force:
            raise UsageError(f"{file} exists already: give --force to replace it, or choose another --out")
    check_place(out, "--out", folder=True)
    lines = out / RECORD
    if os.path.lexists(lines) and not (lines.is_file() and os.access(lines, os.W_OK)):
        raise UsageError(f"cannot append to {lines}: choose another --out")
    return plans


def keep_photos(files: Iterable[Path], photos: Sequence[Path], *, option: str = "--out") -> None:
    """Refuse files that are photos of the run, which --force would replace."""
    inputs = {os.path.realpath(photo) for photo in photos}
    for file in files:
        if os.path.realpath(file) in inputs:
            raise UsageError(f"the output {file} would replace a photo given: choose another {option}")


def check_writable(
    file: Path,
    force: bool,
    endings: Sequence[str] = (".png", ".jpg", ".jpeg"),
    *,
    option: str = "--out",
) -> None:
    """Check that one file, which an option names, may be written."""
    if file.suffix.lower() not in endings:
        raise UsageError(f"{option} {file}: expected a name in {', '.join(endings)}")
    if file.is_dir():
        raise UsageError(f"{option} {file} is a folder: give the name of a file")
    if os.path.lexists(file) and not force:
        raise UsageError(f"{file} exists already: give --force to replace it, or choose another {option}")
    check_place(file, option)


def with_ending(base: Path, end: str) -> Path:
    """Append an ending to a path; `Path.with_suffix` would replace the method's name."""
    return base.with_name(f"{base.name}.{end}")


def _unique(stems: Iterable[str]) -> list[str]:
    """Number the stems that occur again, in any case of letters."""
    taken: set[str] = set()
    names = []
    for stem in stems:
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


def save_record(file: Path, content: Record) -> None:
    """Write the record of a run, and replace an older record in one step."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=2, allow_nan=False)
    write_whole(file, lambda path: path.write_text(text + "\n", encoding="utf-8"))

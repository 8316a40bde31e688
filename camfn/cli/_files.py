"""Files that a run writes: their names, and whether they may be written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .._photos.classes import Wanted
from .._shared.errors import UsageError
from .._shared.files import write_whole

RECORD = "explanations.json"


class Plan(NamedTuple):
    """A photo and the files to be made of it, without their ending: one a class."""

    photo: Path
    bases: list[Path]


def plan(
    photos: Sequence[Path], out: Path, method: str, wanted: Wanted, force: bool, record: str = RECORD
) -> list[Plan]:
    """Choose the files to write, and see that they may be written.

    A photo's files are named after its stem. Where several photos have one stem, in any case of letters, the later ones
    are numbered: cat, cat-2, cat-3.
    """
    plans = [
        Plan(photo, [out / f"{stem}.{method}{suffix}" for suffix in wanted.suffixes])
        for photo, stem in zip(photos, _unique(photo.stem for photo in photos), strict=True)
    ]
    files = [with_ending(base, end) for item in plans for base in item.bases for end in ("png", "npy")] + [out / record]
    inputs = {photo.resolve() for photo in photos}
    for file in files:
        if file.resolve() in inputs:
            raise UsageError(f"the output {file} would replace a photo given: choose another --out")
        if os.path.lexists(file) and not force:
            raise UsageError(f"{file} exists already: give --force to replace it, or choose another --out")
    _may_hold_files(out)
    return plans


def writable(file: Path, force: bool) -> None:
    """See that one picture may be written."""
    if file.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UsageError(f"--out {file}: expected a name in .png or .jpg")
    if os.path.lexists(file) and not force:
        raise UsageError(f"{file} exists already: give --force to replace it, or choose another --out")
    _may_hold_files(file.parent)


def _may_hold_files(out: Path) -> None:
    folder = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(f"cannot write to {out}: {folder} is not a folder that may be written to")


def with_ending(base: Path, end: str) -> Path:
    """Append an ending; `Path.with_suffix` would replace the method's name."""
    return base.with_name(f"{base.name}.{end}")


def _unique(stems: Iterable[str]) -> list[str]:
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


Record = dict[str, Any]


def save_record(file: Path, content: Record) -> None:
    """Replace the record of a run as a whole, so that it is never seen half written."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=2, allow_nan=False)
    write_whole(file, lambda path: path.write_text(text + "\n", encoding="utf-8"))

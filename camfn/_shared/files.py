"""Writing of files as a whole, their hashes, and why the system failed."""

# tested in tests/cli/test_cli.py, tests/cli/files/test_records.py and tests/evaluate/store/test_store.py

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from .errors import UsageError
from .spelling import near


def write_whole(file: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name, then rename it: an interruption leaves the old file, or none.

    The content is on the disk before the name is, so that a loss of power leaves no empty file under the name.
    """
    unfinished = file.with_name(f"{file.stem}.unfinished{file.suffix}")
    try:
        write(unfinished)
        _sync(unfinished, os.O_RDWR)
        os.replace(unfinished, file)
        if os.name == "posix":
            with suppress(PermissionError):  # a folder that may be written to, and not be read
                _sync(file.parent, os.O_RDONLY)
    finally:
        unfinished.unlink(missing_ok=True)


def check_place(path: Path, option: str, *, folder: bool = False) -> None:
    """Refuse a file, or a folder, that cannot be written, by writing it beside its place; nothing of it stays.

    Permissions do not tell: root may do anything, and yet not write to a disk that is mounted to be read.

    Args:
        path: what is to be written; folders above it that do not exist are made when it is.
        option: the name of the option that it is from, for the message.
        folder: whether `path` becomes a folder.

    Raises:
        UsageError: names the folder that exists, and why the system failed.
    """
    place = path.absolute()
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        return  # a pipe or a terminal
    if folder or os.path.isdir(path):
        place /= "name"
    above = next(each for each in place.parents if os.path.lexists(each))
    try:
        with TemporaryDirectory(prefix=".camfn-", dir=above) as trial:
            written = Path(trial, place.relative_to(above))
            written.parent.mkdir(parents=True, exist_ok=True)
            written.with_name(f"{written.stem}.unfinished{written.suffix}").touch()
    except OSError as error:
        what = option.rpartition(" ")[2]
        reason = (error.strerror or str(error)).lower() if os.path.isdir(above) else "it is no folder"
        raise UsageError(f"{option} {path}: cannot write to {above}: {reason}; choose another {what}") from error


def _sync(path: Path, flags: int) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    opened = os.open(path, flags)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def hash_of_file(path: Path) -> str | None:
    """Return the sha256 of a file; None if it cannot be read."""
    digest = sha256()
    try:
        if not path.is_file():  # no pipe, whose bytes are gone once they were read
            return None
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                digest.update(part)
    except OSError:
        return None
    return digest.hexdigest()


def no_file(path: Path) -> str:
    """Say that there is no such file, and which files beside it have a name like it."""
    if path.is_dir():
        return f"{path} is a folder, expected a file"
    with suppress(OSError):
        beside = [other.name for other in path.parent.iterdir() if other.suffix == path.suffix and other.is_file()]
        hint = near(path.name, beside, show=lambda name: str(path.with_name(name)), instead="")
        return f"there is no file {path}{'. ' * bool(hint)}{hint}"
    return f"there is no file {path}"


def reason_of(error: Exception) -> str:
    """Say in a few words why the system could not read or write."""
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(words.split()) or type(error).__name__

"""Writing of files as a whole, and the versions of the packages that results depend on."""

# tested in tests/cli/test_cli.py and tests/evaluate/test_store.py

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


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


def _sync(path: Path, flags: int) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    opened = os.open(path, flags)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on, of those that are installed."""
    found = {}
    for name in ("camfn", "torch", "torchvision", "timm"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found

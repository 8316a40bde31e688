"""Writing of files as a whole, and the versions of the packages that results depend on."""

# tested in tests/cli/test_cli.py and tests/evaluate/test_store.py

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path


def write_whole(file: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name, then rename it: an interruption leaves the old file, or none."""
    unfinished = file.with_name(f"{file.stem}.unfinished{file.suffix}")
    try:
        write(unfinished)
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)


def versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on."""
    return {name: version(name) for name in ("camfn", "torch", "torchvision", "timm")}

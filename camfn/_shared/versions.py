"""The versions that results depend on, also where camfn is imported from a source folder and was never installed."""

from __future__ import annotations

import re
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_SOURCE = Path(__file__).parents[2] / "pyproject.toml"
"""The file that names the version, where this code lies in a source folder."""


def own_version() -> str:
    """Return the version of this code.

    Code in a source folder has the version that the folder's pyproject.toml names, whatever other copy of camfn is
    installed, with "+source" where that version is not the installed one. Without either, "0+unknown".
    """
    try:
        installed = version("camfn")
    except PackageNotFoundError:
        installed = None
    written = _written()
    if written is None:
        return installed or "0+unknown"
    return written if written == installed else f"{written}+source"


def versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on, of those that are installed."""
    found = {"camfn": own_version()}
    for name in ("torch", "torchvision", "timm"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _written() -> str | None:
    """Return the version in the source folder's pyproject.toml; None where the code lies in no such folder."""
    try:
        text = _SOURCE.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    found = dict(re.findall(r'^(name|version) *= *"([^"]+)"', text, re.MULTILINE))
    return found.get("version") if found.get("name") == "camfn" else None

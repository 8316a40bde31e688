"""Optional packages, imported on use; one that is missing is named with its extra."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from .._shared.errors import MissingPackageError
from .errors import LoadError


@contextmanager
def extra(package: str, call: str) -> Iterator[None]:
    """Say how to install an optional package when an import in the block fails."""
    try:
        yield
    except ImportError as error:
        raise MissingPackageError(f"{call} needs {package}: pip install 'camfn[cli]'") from error


def library(name: str, *, extra: str = "cli") -> Any:
    """Import a library that camfn does without until a model is asked for.

    Raises:
        LoadError: it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise LoadError(f"models are loaded through {name}: pip install 'camfn[{extra}]'") from error

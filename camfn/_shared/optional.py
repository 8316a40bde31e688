"""Optional packages: imported on use, and named with the extra that installs them where they are missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import CamfnError, MissingPackageError


@contextmanager
def extra(
    package: str, user: str, *, name: str = "cli", error: type[CamfnError] = MissingPackageError
) -> Iterator[None]:
    """Say how to install an optional package if an import in the block fails.

    Args:
        package: the package that the block imports.
        user: what needs the package, as the message says it: "image.save".
        name: the extra of camfn that installs the package.
        error: the class of the error.
    """
    try:
        yield
    except ImportError as cause:
        raise error(f"{user} needs {package}: pip install 'camfn[{name}]'") from cause

"""Optional packages that a run needs: asked for before it begins, and named with the extra that installs them."""

# tested in tests/evaluate/runs/test_run.py

from __future__ import annotations

from importlib.util import find_spec

from ..._shared.errors import MissingPackageError


def require(package: str, user: str, what: str) -> None:
    """Refuse to begin where a package is missing; it is not imported.

    Args:
        package: the package.
        user: what needs it.
        what: what it is needed for.

    Raises:
        MissingPackageError: names the extra.
    """
    if find_spec(package) is None:
        raise MissingPackageError(f"{user} needs {package} for {what}: pip install 'camfn[evaluate]'")

"""A page for each method, from one table."""

from __future__ import annotations

from typing import Any


def setup(app: Any) -> None:
    """Register."""

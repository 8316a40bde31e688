"""`llms.txt` and `llms-full.txt`: the site as text for language models, from the same pages."""

from __future__ import annotations

from typing import Any


def setup(app: Any) -> None:
    """Register."""

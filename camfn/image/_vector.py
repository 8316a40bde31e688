"""Figures of matplotlib as the bytes of a file: the same bytes for the same figure, letters as letters."""

# tested in tests/image/test_figure.py

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from .._shared.errors import CamfnError

KINDS = ("pdf", "svg", "png")

_SETTINGS: dict[str, Any] = {
    "pdf.fonttype": 42,  # TrueType, embedded: what journals ask for; matplotlib's own choice, Type 3, they refuse
    "pdf.compression": 6,
    "svg.hashsalt": "camfn",  # else the names of its parts are drawn anew for each file
    "svg.fonttype": "path",  # outlines, which look the same where the font is missing
    "savefig.bbox": None,
}
_METADATA = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {"Software": None}}
_LOCK = Lock()


def written(figure: Any, kind: str, dpi: int = 300) -> bytes:
    """Draw a figure as the bytes of a file, without the date.

    Args:
        figure: a `matplotlib.figure.Figure`.
        kind: one of `KINDS`.
        dpi: dots per inch of its pictures, and of a PNG.

    Raises:
        CamfnError: another kind.
    """
    if kind not in KINDS:
        raise CamfnError(f"figure: expected a file that ends in .pdf, .svg or .png, got {kind!r}")
    buffer = io.BytesIO()
    with settings():
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=_METADATA[kind], facecolor="white", transparent=False)
    return buffer.getvalue()


@contextmanager
def settings() -> Iterator[None]:
    """Set what matplotlib reads from its global settings alone, and put back what the user has there."""
    from matplotlib import rcParams

    with _LOCK:
        before = {name: rcParams[name] for name in _SETTINGS}
        rcParams.update(_SETTINGS)
        try:
            yield
        finally:
            rcParams.update(before)

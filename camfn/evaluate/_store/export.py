"""What people and other programs read of a folder of results: rows.csv, run.json, and accidents.txt."""

# tested in tests/evaluate/store/test_export.py

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..._shared.files import write_whole
from .._measures.row import Row

HEADER, ROWS, ACCIDENTS = "run.json", "rows.csv", "accidents.txt"
FIXED = (
    "photo",
    "case",
    "layer",
    "target",
    "probability",
    "forwards",
    "seconds",
    "problem",
    "kind",
    "tries",
    "model",
    "method",
    "map",
)
"""Columns of rows.csv in front of those of the metrics."""


def write_exports(folder: Path, header: dict[str, Any], rows: Sequence[Row]) -> None:
    """Write all three files, each whole or not at all; accidents.txt only if there was one."""
    metrics = list(header["protocol"]["metrics"])
    write_file(folder / ROWS, table(rows, metrics))
    write_file(folder / HEADER, json.dumps(header, indent=2) + "\n")
    accidents = [row for row in rows if row.kind == "accident"]
    if accidents:
        write_file(folder / ACCIDENTS, "\n".join(_accident(row) for row in accidents))
    else:
        (folder / ACCIDENTS).unlink(missing_ok=True)


def write_file(file: Path, text: str) -> None:
    """Write a text as a whole; what no UTF-8 can say of a name is written as an escape, as in `\\udcff`."""
    write_whole(file, lambda unfinished: unfinished.write_bytes(text.encode("utf-8", "backslashreplace")))


def table(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """Write rows as CSV that a spreadsheet may open."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*FIXED, *map(safe, metrics), "vectors"])
    for row in rows:
        numbers = [_cell(row.values.get(name)) for name in metrics]
        vectors = json.dumps(row.vectors, separators=(",", ":")) if row.vectors else ""
        writer.writerow([*(_cell(getattr(row, name)) for name in FIXED), *numbers, vectors])
    return buffer.getvalue()


def safe(text: str) -> str:
    """Put a `'` before a text that a spreadsheet would take for a formula, and write what ends a line as an escape.

    A spreadsheet, and `csv` of Python, end a line at a carriage return; `csv` of Python 3.10 refuses a 0.

    Example:
        >>> safe("=HYPERLINK(1).jpg"), safe("cat.jpg")
        ("'=HYPERLINK(1).jpg", 'cat.jpg')
    """
    text = text.replace("\r", "\\r").replace("\0", "\\0")
    return f"'{text}" if text.lstrip(" \n")[:1] in ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠") else text


def _cell(value: str | float | None) -> str:
    """Write a text or a number; nine digits give a float32 back to the bit."""
    if isinstance(value, str):
        return safe(value)
    return "" if value is None or math.isnan(value) else str(value) if isinstance(value, int) else f"{value:.9g}"


def _accident(row: Row) -> str:
    """Write an accident with its traceback."""
    return f"{row.photo} | {row.case} | {row.tries} tries\n{row.traceback.rstrip() or row.problem}\n"

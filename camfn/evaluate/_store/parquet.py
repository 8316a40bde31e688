"""The rows as a Parquet file, for pandas, Polars, DuckDB, R and others: numbers as they are, a list for each curve."""

# tested in tests/evaluate/store/test_parquet.py

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..._shared.files import write_whole
from ..._shared.optional import extra
from .._measures.row import Row
from .export import FIXED

_NUMBERS = {"target": int, "tries": int, "probability": float, "forwards": float, "seconds": float}


def write_parquet(file: Path, header: dict[str, Any], rows: Sequence[Row]) -> None:
    """Write a column for each field of a row, each metric, and each vector, METRIC.vector; the header is metadata.

    A number that was not measured is null. What no UTF-8 can say of a name is written as an escape, as in rows.csv.

    Raises:
        MissingPackageError: pyarrow is missing.
    """
    with extra("pyarrow", "to_parquet", name="evaluate"):
        import pyarrow
        from pyarrow import parquet
    metrics = list(header["protocol"]["metrics"])
    columns: dict[str, Any] = {name: _column(pyarrow, name, rows) for name in FIXED}
    columns["traceback"] = _column(pyarrow, "traceback", rows)
    for name in metrics:
        values = [_finite(row.values.get(name)) for row in rows]
        columns[_text(name)] = pyarrow.array(values, pyarrow.float64())
    for name in metrics:
        vectors = [row.vectors.get(name) for row in rows]
        if any(vectors):
            columns[f"{_text(name)}.vector"] = pyarrow.array(vectors, pyarrow.list_(pyarrow.float64()))
    table = pyarrow.table(columns).replace_schema_metadata({"camfn": json.dumps(header)})
    write_whole(file, lambda unfinished: parquet.write_table(table, unfinished))


def _column(pyarrow: Any, name: str, rows: Sequence[Row]) -> Any:
    """Return a column of a field of the rows."""
    values = [getattr(row, name) for row in rows]
    kind = _NUMBERS.get(name)
    if kind is None:
        return pyarrow.array([_text(value) for value in values], pyarrow.string())
    if kind is int:
        return pyarrow.array(values, pyarrow.int64())
    return pyarrow.array([_finite(value) for value in values], pyarrow.float64())


def _finite(value: float | None) -> float | None:
    """Return a number that was measured, None for another one."""
    return None if value is None or math.isnan(value) else value


def _text(value: str) -> str:
    """Write a text as UTF-8 can."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8")

"""The ranked table as records: a CSV, and a data frame; and the names of the files."""

# tested in tests/evaluate/tables/test_grid.py and tests/evaluate/tables/test_report.py

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..._shared.files import write_whole
from ..._shared.optional import extra
from .._measures.own import in_order
from .._store.export import safe, write_file
from .standing import Standing, labels


def records_of(standings: Sequence[Standing]) -> list[dict[str, Any]]:
    """List the lines of a ranked table, with a value, an interval and a verdict for each metric."""
    names = in_order({name for s in standings for name in s.estimates})
    records = []
    for s in standings:
        record: dict[str, Any] = {
            "case": s.case,
            "forwards": s.forwards,
            "seconds": s.seconds,
            "photos": max((e.photos for e in s.estimates.values()), default=0),
        }
        for name in names:
            e = s.estimates.get(name)
            numbers = (None, None, None, "") if e is None else (e.value, e.low, e.high, e.verdict)
            record |= dict(zip((name, f"{name}_low", f"{name}_high", f"{name}_beside_center"), numbers))
        records.append(record)
    return records


def frame_of(standings: Sequence[Standing]) -> Any:
    """Return a data frame of a ranked table."""
    with extra("pandas", "to_pandas", name="evaluate"):
        import pandas
    called = labels(standings)
    frame = pandas.DataFrame(records_of(standings))
    frame.insert(1, "method", [called[s.case] for s in standings])
    return frame


def write_table(standings: Sequence[Standing], path: str | os.PathLike[str]) -> None:
    """Write a ranked table as CSV: for each metric its value, its interval, and its verdict beside the center baseline.

    Args:
        standings: the result of `rank`.
        path: the file.

    Example:
        >>> import tempfile
        >>> from camfn.evaluate import Row, rank
        >>> rows = [Row(photo, "net auto x", values={"iou": 0.5}) for photo in "ab"]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_table(rank(rows, "net"), Path(folder, "table.csv"))
        ...     Path(folder, "table.csv").read_text().splitlines()[1]
        'net auto x,,,2,0.5,0.5,0.5,'
    """
    records = records_of(standings)

    def write(unfinished: Path) -> None:
        with unfinished.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(map(safe, records[0]))
            writer.writerows([safe(record.pop("case")), *map(_cell, record.values())] for record in records)

    write_whole(Path(path), write)


def write_text(text: str, path: str | os.PathLike[str] | None) -> str:
    """Write text to a file, if there is one, and return it."""
    if path is not None:
        write_file(Path(path), text)
    return text


def file_names(models: Sequence[str]) -> dict[str, str]:
    """Name a file for each model, without what no file system takes; no two models have one name."""
    found: dict[str, str] = {}
    for model in models:
        name = slug(model)
        if len(name) > 100 or name.casefold() in {other.casefold() for other in found.values()}:
            name = f"{name[:100]}-{sha256(model.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
        found[model] = name
    return found


def _cell(value: object) -> object:
    """Write a number with four digits; None and NaN are empty."""
    return "" if value is None or value != value else f"{value:.4g}" if isinstance(value, float) else value


def slug(model: str) -> str:
    """Write a model's name with letters, digits, dots and dashes alone."""
    return re.sub(r"[^A-Za-z0-9_.+]", "-", model) or "model"

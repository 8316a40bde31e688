"""Folders of earlier versions, whose rows are lines of rows.csv: `Store` reads and continues them."""

# tested in tests/evaluate/store/test_former.py

from __future__ import annotations

import csv
import json
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any

from ..._shared.errors import UsageError
from .._measures.row import Row
from .export import HEADER, ROWS
from .header import current

FIXED = ("photo", "case", "layer", "target", "probability", "forwards", "seconds", "problem")


def read_former(folder: Path) -> tuple[dict[str, Any], list[Row]] | None:
    """Read a folder of an earlier version; None if it is none.

    Raises:
        UsageError: its files are damaged, or one is missing.
    """
    if not (folder / ROWS).is_file():
        return None
    with (folder / ROWS).open("rb") as file:
        columns, first = file.readline().rstrip(b"\n").split(b","), file.readline()
    if b"kind" in columns or not first:  # made of a database that is gone, or of a run that died before its first row
        return None
    if not (folder / HEADER).is_file():
        raise UsageError(f"{folder / ROWS} has no {HEADER} beside it: choose another --out, or give --force")
    try:
        header: dict[str, Any] = current(json.loads((folder / HEADER).read_text(encoding="utf-8")))
    except (ValueError, AttributeError) as error:
        raise UsageError(f"{folder / HEADER} is damaged: {error}") from error
    try:
        text = (folder / ROWS).read_bytes().decode("utf-8")
        whole_lines = text[: text.rfind("\n") + 1]
        return header, [_row(folder, line) for line in csv.DictReader(StringIO(whole_lines, newline=""))]
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise UsageError(
            f"{folder / ROWS} is damaged: {error}. Choose another --out, or give --force to begin anew"
        ) from error


def _row(folder: Path, line: dict[str, str]) -> Row:
    """Make a row of a line of rows.csv."""
    photo, case = line["photo"], line["case"]
    digest = sha256("\0".join([photo, case]).encode()).hexdigest()
    file = f"{digest[:24]}.npy"
    model, _, rest = case.partition(" ")
    return Row(
        photo=photo,
        case=case,
        layer=line["layer"],
        target=int(line["target"]) if line["target"] else None,
        probability=_number(line["probability"]),
        forwards=_number(line["forwards"]),
        seconds=_number(line["seconds"]),
        problem=line["problem"],
        values={name: float(cell) for name, cell in line.items() if cell and name not in (*FIXED, "vectors")},
        vectors=json.loads(line["vectors"]) if line["vectors"] else {},
        # what refused and what was an accident was one then: it is tried again
        kind="accident" if line["problem"] and not line["forwards"] else "",
        model=model,
        method=rest.partition(" ")[2],
        map=file if (folder / "maps" / file).is_file() else "",
    )


def _number(cell: str) -> float | None:
    return float(cell) if cell else None

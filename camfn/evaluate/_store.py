"""Results as they come: one line a row, on the disk before the next is begun, and read again after a run was killed."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .._shared.errors import UsageError
from .._shared.files import versions
from ._core import Row
from ._measures import METRICS, measured
from ._protocol import Protocol

HEADER, ROWS, MAPS, LOCK = "run.json", "rows.csv", "maps", ".lock"
FIXED = ("photo", "case", "layer", "target", "probability", "forwards", "seconds", "problem")


class Store:
    """A folder of results.

    run.json says how they were measured, rows.csv has a line for each photo and case, maps/ the raw maps. A line is
    written whole or not at all: a rest without an end, of a run that was killed, is cut off when the folder is opened.

    Args:
        folder: made if it is not there.
        header: what all rows have in common; None to read only.
        force: throw away what is there.

    Raises:
        UsageError: the rows there were measured in another way, or there are none to read.
    """

    def __init__(
        self, folder: str | os.PathLike[str], header: dict[str, Any] | None = None, *, force: bool = False
    ) -> None:
        self.folder = Path(folder)
        self.file = self.folder / ROWS
        if header is None:
            if not (self.folder / HEADER).is_file():
                raise UsageError(f"no results in {self.folder}: it has no {HEADER}")
            self.header = self._read_header()
            self.rows = self._read()
            return
        self.header = header
        self._see_that_it_fits(force)
        self.rows = [] if force else self._read()

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics, in the order of the columns."""
        return list(self.header["protocol"]["metrics"])

    @property
    def done(self) -> set[tuple[str, str]]:
        """Photos and cases that there are rows of; (photo, "") for a photo that cannot be read."""
        return {(row.photo, row.case) for row in self.rows}

    @contextmanager
    def writing(self, *, force: bool = False) -> Iterator[Store]:
        """Hold the folder for one process at a time; the lock goes with the process, however it ends.

        Raises:
            UsageError: another process writes there.
        """
        from filelock import FileLock, Timeout

        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.folder / LOCK, timeout=0):
                self._begin(force)
                yield self
        except Timeout as error:
            raise UsageError(
                f"another run is writing to {self.folder}: wait for it, or choose another --out"
            ) from error

    def append(self, row: Row) -> None:
        """Write one row and its map, and wait for the disk."""
        if row.cam is not None:
            _whole(self.map_file(row.photo, row.case), _npy(row))
        cells = [row.photo, row.case, row.layer, *map(_cell, row[3:7]), row.problem]
        cells += [_cell(row.values.get(name)) for name in self.metrics]
        cells.append(json.dumps(row.vectors, separators=(",", ":")) if row.vectors else "")
        _append(self.file, _line(cells))
        self.rows.append(row)

    def map_file(self, photo: str, case: str) -> Path:
        """Where the raw map of a row is, by a digest, since names hold slashes."""
        digest = sha256("\0".join([photo, case]).encode()).hexdigest()
        return self.folder / MAPS / f"{digest[:24]}.npy"

    def cam(self, row: Row) -> torch.Tensor | None:
        """The raw map of a row, (h, w)."""
        path = self.map_file(row.photo, row.case)
        if not path.is_file():
            return None
        try:
            return torch.from_numpy(np.load(path)).float()
        except ValueError as error:
            raise UsageError(f"{path} is damaged: {error}. Choose another --out, or give --force") from error

    def _begin(self, force: bool) -> None:
        """Mend the rows of a killed run, and write the header where it is new."""
        (self.folder / MAPS).mkdir(exist_ok=True)
        if force or not self.file.exists():
            _whole(self.file, _line([*FIXED, *self.metrics, "vectors"]).encode())
            self.rows = []
        else:
            content = self.file.read_bytes()
            kept = content[: content.rfind(b"\n") + 1]
            if kept != content:
                with self.file.open("r+b") as file:
                    file.truncate(len(kept))
            self.rows = self._read()
        _whole(self.folder / HEADER, (json.dumps(self.header, indent=2) + "\n").encode())

    def _see_that_it_fits(self, force: bool) -> None:
        if force or not (self.folder / HEADER).is_file():
            if not force and self.file.exists():
                raise UsageError(f"{self.file} has no {HEADER} beside it: choose another --out, or give --force")
            return
        before = self._read_header()
        now = json.loads(json.dumps(self.header))
        for key in now:
            if key != "photos" and before.get(key) != now[key]:
                what = _difference(key, before.get(key), now[key])
                raise UsageError(
                    f"the results in {self.folder} were measured in another way: {what}. Choose another --out, or give "
                    "--force to begin anew"
                )

    def _read_header(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.folder / HEADER).read_text(encoding="utf-8"))
        except ValueError as error:  # no JSON, or no UTF-8
            raise UsageError(f"{self.folder / HEADER} is damaged: {error}") from error
        return found

    def _read(self) -> list[Row]:
        if not self.file.is_file():
            return []
        try:
            text = self.file.read_text(encoding="utf-8")
            lines = text[: text.rfind("\n") + 1].splitlines()
            return [_row(line) for line in csv.DictReader(lines)]
        except (ValueError, csv.Error) as error:
            raise UsageError(f"{self.file} is damaged: {error}. Choose another --out, or give --force") from error


def header_of(protocol: Protocol, device: str) -> dict[str, Any]:
    """What all rows of a folder have in common."""
    record = asdict(protocol) | {"metrics": measured(protocol)}
    return {"protocol": record, "versions": versions(), "device": device, "threads": torch.get_num_threads()}


def _row(line: dict[str, str]) -> Row:
    values = {name: float(line[name]) for name in METRICS if line.get(name)}
    optional = [float(line[name]) if line[name] else None for name in ("probability", "forwards", "seconds")]
    vectors = json.loads(line["vectors"]) if line["vectors"] else {}
    target = int(line["target"]) if line["target"] else None
    probability, forwards, seconds = optional
    where = (line["photo"], line["case"], line["layer"], target)
    return Row(*where, probability, forwards, seconds, line["problem"], values, vectors)


def _cell(value: float | None) -> str:
    # nine digits are a float32, to the bit
    return "" if value is None or math.isnan(value) else str(value) if isinstance(value, int) else f"{value:.9g}"


def _line(cells: list[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow([" ".join(cell.splitlines()) for cell in cells])
    return buffer.getvalue()


def _append(path: Path, line: str) -> None:
    with path.open("ab") as file:
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def _npy(row: Row) -> bytes:
    assert row.cam is not None
    buffer = io.BytesIO()
    np.save(buffer, row.cam.numpy())
    return buffer.getvalue()


def _whole(path: Path, content: bytes) -> None:
    """Replace a file as a whole, so that it is never seen half written."""
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


def _difference(key: str, before: Any, now: Any) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in now:
            if before.get(name) != now[name]:
                return _difference(name, before.get(name), now[name])
    return f"{key} was {json.dumps(before)}, now it is {json.dumps(now)}"

"""A folder of results: each row is on the disk before the next one begins, and a run that was killed goes on."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .._shared.errors import UsageError
from .._shared.files import versions, write_whole
from ._core import Row
from ._own import measured
from ._protocol import Protocol

HEADER, ROWS, MAPS, LOCK = "run.json", "rows.csv", "maps", ".lock"
FIXED = ("photo", "case", "layer", "target", "probability", "forwards", "seconds", "problem")


class Store:
    """A folder of results.

    run.json stores the protocol and the versions, rows.csv has a line for each photo and case, and maps/ the raw maps.
    A folder accepts one protocol. `writing` removes the unfinished last line that a killed run may leave in rows.csv.

    Args:
        folder: the folder; `writing` creates it.
        header: protocol, versions, device and threads, the same for all rows; None to read only.
        force: delete the rows of the folder.

    Raises:
        UsageError: the folder has another protocol, or no rows to read.
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
            self.rows = self._read_rows()
            return
        self.header = header
        self._check_header(force)
        self.rows = [] if force else self._read_rows()

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics, in the order of the columns."""
        return list(self.header["protocol"]["metrics"])

    @property
    def done(self) -> set[tuple[str, str]]:
        """The (photo, case) of each row; (photo, "") for a photo that cannot be read."""
        return {(row.photo, row.case) for row in self.rows}

    @contextmanager
    def writing(self, *, force: bool = False) -> Iterator[Store]:
        """Lock the folder for this process; the lock ends with the process, also when it is killed.

        Raises:
            UsageError: another process holds the lock.
        """
        from filelock import FileLock, Timeout

        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.folder / LOCK, timeout=0):
                self._repair_files(force)
                yield self
        except Timeout as error:
            raise UsageError(
                f"another run is writing to {self.folder}: wait for it, or choose another --out"
            ) from error

    def append(self, row: Row) -> None:
        """Write one row and its map, and wait until they are on the disk."""
        if row.cam is not None:
            _write_whole(self.map_file(row.photo, row.case), _npy(row.cam))
        numbers = (row.target, row.probability, row.forwards, row.seconds)
        cells = [row.photo, row.case, row.layer, *map(_cell, numbers), row.problem]
        cells += [_cell(row.values.get(name)) for name in self.metrics]
        cells.append(json.dumps(row.vectors, separators=(",", ":")) if row.vectors else "")
        _append(self.file, _line(cells))
        self.rows.append(row)

    def map_file(self, photo: str, case: str) -> Path:
        """Path of a row's raw map; its name is a digest, since photos and cases contain slashes."""
        digest = sha256("\0".join([photo, case]).encode()).hexdigest()
        return self.folder / MAPS / f"{digest[:24]}.npy"

    def cam(self, row: Row) -> torch.Tensor | None:
        """Read the raw map of a row, (h, w), or None."""
        path = self.map_file(row.photo, row.case)
        if not path.is_file():
            return None
        try:
            return torch.from_numpy(np.load(path)).float()
        except ValueError as error:
            raise UsageError(f"{path} is damaged: {error}. Choose another --out, or give --force") from error

    def _repair_files(self, force: bool) -> None:
        """Create missing files, remove the unfinished last line of a killed run, and write the header."""
        (self.folder / MAPS).mkdir(exist_ok=True)
        if force or not self.file.exists():
            _write_whole(self.file, _line([*FIXED, *self.metrics, "vectors"]).encode())
            self.rows = []
        else:
            content = self.file.read_bytes()
            whole_lines = content[: content.rfind(b"\n") + 1]
            if whole_lines != content:
                with self.file.open("r+b") as file:
                    file.truncate(len(whole_lines))
            self.rows = self._read_rows()
        _write_whole(self.folder / HEADER, (json.dumps(self.header, indent=2) + "\n").encode())

    def _check_header(self, force: bool) -> None:
        """Refuse a folder whose rows have another protocol, other versions, another device or number of threads."""
        if force or not (self.folder / HEADER).is_file():
            if not force and self.file.exists():
                raise UsageError(f"{self.file} has no {HEADER} beside it: choose another --out, or give --force")
            return
        before = self._read_header()
        now = json.loads(json.dumps(self.header))
        for key in now:
            if key != "photos" and before.get(key, {}) != now[key]:
                difference = _difference(key, before.get(key), now[key])
                raise UsageError(
                    f"the results in {self.folder} have other settings: {difference}. Choose another --out, or give "
                    "--force to begin anew"
                )

    def _read_header(self) -> dict[str, Any]:
        """Read run.json."""
        try:
            header: dict[str, Any] = json.loads((self.folder / HEADER).read_text(encoding="utf-8"))
        except ValueError as error:  # no JSON, or no UTF-8
            raise UsageError(f"{self.folder / HEADER} is damaged: {error}") from error
        return header

    def _read_rows(self) -> list[Row]:
        """Read the whole lines of rows.csv, without the maps."""
        if not self.file.is_file():
            return []
        try:
            text = self.file.read_text(encoding="utf-8")
            lines = text[: text.rfind("\n") + 1].splitlines()
            return [_row(line) for line in csv.DictReader(lines)]
        except (ValueError, csv.Error) as error:
            raise UsageError(f"{self.file} is damaged: {error}. Choose another --out, or give --force") from error


def header_of(protocol: Protocol, device: str, loader: Callable[..., Any] | None = None) -> dict[str, Any]:
    """Make the header of a folder: protocol, versions, device, threads, and what is said of the model."""
    record = asdict(protocol) | {"metrics": measured(protocol)}
    header = {"protocol": record, "versions": versions(), "device": device, "threads": torch.get_num_threads()}
    return header | {"model": _said_of_models(loader)}


def _said_of_models(loader: Callable[..., Any] | None) -> dict[str, str]:
    """List the options of a loader, and what its weights are: others under the same name are another model."""
    if not isinstance(loader, partial):
        return {}
    said = {key: getattr(value, "__qualname__", None) or str(value) for key, value in loader.keywords.items()}
    text = said.get("weights", "")
    file = Path(text) if Path(text).is_file() else Path(text.rpartition(":")[0])
    if file.is_file():
        with file.open("rb") as opened:
            digest = sha256()
            while block := opened.read(1 << 20):
                digest.update(block)
        said["weights"] += f", sha256 {digest.hexdigest()[:16]}"
    return said


def _row(line: dict[str, str]) -> Row:
    """Make a row of a line of rows.csv."""
    return Row(
        photo=line["photo"],
        case=line["case"],
        layer=line["layer"],
        target=int(line["target"]) if line["target"] else None,
        probability=_number(line["probability"]),
        forwards=_number(line["forwards"]),
        seconds=_number(line["seconds"]),
        problem=line["problem"],
        values={name: float(cell) for name, cell in line.items() if cell and name not in (*FIXED, "vectors")},
        vectors=json.loads(line["vectors"]) if line["vectors"] else {},
    )


def _number(cell: str) -> float | None:
    return float(cell) if cell else None


def _cell(value: float | None) -> str:
    """Write a number for rows.csv; nine digits give a float32 back to the bit."""
    return "" if value is None or math.isnan(value) else str(value) if isinstance(value, int) else f"{value:.9g}"


def _line(cells: list[str]) -> str:
    """Write cells as one line of CSV."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow([" ".join(cell.splitlines()) for cell in cells])
    return buffer.getvalue()


def _append(path: Path, line: str) -> None:
    """Append a line to a file, and wait until it is on the disk."""
    with path.open("ab") as file:
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def _npy(cam: torch.Tensor) -> bytes:
    """Write a map in NumPy's file format."""
    buffer = io.BytesIO()
    np.save(buffer, cam.numpy())
    return buffer.getvalue()


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file as a whole, so that no reader finds half of it."""
    write_whole(path, lambda unfinished: unfinished.write_bytes(content))


def _difference(key: str, before: Any, now: Any) -> str:
    """Name the first setting that differs, with both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in now:
            if before.get(name) != now[name]:
                return _difference(name, before.get(name), now[name])
    return f"{key} was {json.dumps(before)}, now it is {json.dumps(now)}"

"""A folder of results: each row is on the disk before the next one begins, and a run that was killed goes on."""

from __future__ import annotations

import io
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..._shared.errors import StoppedError, UsageError
from ..._shared.files import reason_of, write_whole
from ..._shared.seen import facts_table
from .._measures.row import Row
from . import database
from .export import write_exports
from .former import read_former
from .header import current, difference
from .header import header_of as header_of
from .lock import locked
from .names import folded, map_name
from .parquet import write_parquet

DATABASE, MAPS = "results.sqlite", "maps"


class Store:
    """A folder of results.

    `results.sqlite` has the rows and the settings, `maps/` the raw maps as PHOTO.METHOD.LAYER.npy. `writing` exports
    rows.csv, run.json and accidents.txt from the database when it ends; `to_parquet` exports the rows to a Parquet
    file. A folder accepts one protocol.

    Args:
        folder: the folder; `writing` creates it.
        header: protocol, versions, device and threads, the same for all rows; None to read only.
        force: delete the rows of the folder.

    Raises:
        UsageError: the folder has another protocol, no rows to read, or is damaged.

    Example:
        >>> Store("nothing")
        Traceback (most recent call last):
            ...
        camfn._shared.errors.UsageError: no results in nothing: it has no results.sqlite
    """

    def __init__(
        self, folder: str | os.PathLike[str], header: dict[str, Any] | None = None, *, force: bool = False
    ) -> None:
        self.folder = Path(folder)
        self.file = self.folder / DATABASE
        self.rows: list[Row] = []
        self._connection: sqlite3.Connection | None = None
        self._index: dict[tuple[str, str], int] = {}
        self._names: set[str] = set()
        found = None if force else self._read()
        if header is None:
            if found is None:
                raise UsageError(f"no results in {self.folder}: it has no {DATABASE}")
            header = found[0]
        elif found is not None:
            self._check_header(found[0], header)
        self.header = header
        self._take(found[1] if found else [])

    def __repr__(self) -> str:
        return f"Store({str(self.folder)!r}, {len(self.rows)} rows)"

    def _repr_html_(self) -> str:
        """Show in a notebook what the folder holds; `evaluate.tables` shows its numbers."""
        cases = {row.case for row in self.rows if row.case}
        facts = {"folder": str(self.folder), "rows": f"{len(self.rows)}, of {len(cases)} cases"}
        facts |= {"photos": str(len({row.photo for row in self.rows})), "metrics": ", ".join(self.metrics)}
        facts |= {"problems": f"{sum(bool(row.problem) for row in self.rows)} rows"}
        facts |= {"tables": f"evaluate.tables(Store({str(self.folder)!r}))"}
        return facts_table(facts)

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics, in the order of the columns."""
        return list(self.header["protocol"]["metrics"])

    @property
    def by_key(self) -> dict[tuple[str, str], Row]:
        """The rows by photo and case; (photo, "") for a photo that cannot be read."""
        return {row.key: row for row in self.rows}

    @contextmanager
    def writing(self, *, force: bool = False) -> Iterator[Store]:
        """Lock the folder for this process, and read it again; the lock ends with the process, also by a kill.

        Raises:
            UsageError: another process holds the lock, or the folder cannot be written to.
            StoppedError: the disk is full, or the folder is gone; the rows before are kept.
        """
        with ExitStack() as stack:
            try:
                (self.folder / MAPS).mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(self.folder))
                self._connection = stack.enter_context(database.opened(self.file))
                self._begin(force)
            except (OSError, sqlite3.Error) as error:
                raise UsageError(
                    f"cannot write results to {self.folder}: {reason_of(error)}: choose another --out"
                ) from error
            try:
                yield self
            except BaseException:
                with suppress(Exception):
                    write_exports(self.folder, self.header, self.rows)
                raise
            finally:
                self._connection = None
            with self._kept():
                write_exports(self.folder, self.header, self.rows)

    def append(self, row: Row) -> None:
        """Write one row and its map, and wait until they are on the disk; an earlier row of its key is replaced.

        Raises:
            StoppedError: they cannot be written; the rows before are kept.
        """
        if self._connection is None:
            raise UsageError("append: expected a store inside of `with store.writing():`")
        at = self._index.get(row.key)
        before = None if at is None else self.rows[at]
        row = row._replace(tries=before.tries + row.tries if before and before.kind else row.tries)
        if row.cam is not None:
            name = (before.map if before else "") or map_name(row, self._names)
            row = row._replace(map=name)
        with self._kept():
            if row.cam is not None:
                content = _npy(row.cam)
                write_whole(self.folder / MAPS / row.map, lambda unfinished: unfinished.write_bytes(content))
            with database.transaction(self._connection):
                database.put(self._connection, row)
                if row.case:
                    database.remove(self._connection, (row.photo, ""))
        row = row._replace(cam=None)
        unread = self._index.get((row.photo, "")) if row.case else None
        if unread is not None:
            self._take([other for i, other in enumerate(self.rows) if i != unread])
        self._put(row)

    def remove(self, key: tuple[str, str]) -> None:
        """Delete the row of a key, and its map.

        Raises:
            StoppedError: the system cannot delete it; the store keeps the rows.
        """
        if self._connection is None:
            raise UsageError("remove: expected a store inside of `with store.writing():`")
        with self._kept():
            with database.transaction(self._connection):
                database.remove(self._connection, key)
            for row in self.rows:
                if row.key == key and row.map:
                    (self.folder / MAPS / row.map).unlink(missing_ok=True)
        self._take([row for row in self.rows if row.key != key])

    def arrange(self, order: Mapping[tuple[str, str], int]) -> None:
        """Sort the rows by their places in a plan, those without one first: an interruption leaves no trace."""
        rows = sorted(self.rows, key=lambda row: order.get(row.key, -1))
        if rows != self.rows and self._connection is not None:
            with self._kept(), database.transaction(self._connection):
                database.arrange(self._connection, rows)
            self._take(rows)

    def cam(self, row: Row) -> torch.Tensor | None:
        """Read the raw map of a row, (h, w), or None."""
        path = self.folder / MAPS / row.map
        if not row.map or not path.is_file():
            return None
        try:
            return torch.from_numpy(np.load(path, allow_pickle=False)).float()
        except (ValueError, EOFError, OSError) as error:
            raise UsageError(f"{path} is damaged: {error}. Choose another --out, or give --force") from error

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write the rows to a Parquet file: a column for each field and metric, a list for each curve.

        A number that was not measured is null. The metadata hold the header as JSON, under "camfn".

        Args:
            path: the file.

        Raises:
            MissingPackageError: pyarrow is missing: pip install 'camfn[evaluate]'.
            StoppedError: the file cannot be written.

        Example:
            >>> import tempfile
            >>> import pandas
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     store = Store(folder, {"protocol": {"metrics": ["iou"]}})
            ...     with store.writing():
            ...         store.append(Row("cat.png", "lite0 auto grad_cam", values={"iou": 0.5}))
            ...     store.to_parquet(f"{folder}/rows.parquet")
            ...     pandas.read_parquet(f"{folder}/rows.parquet")[["photo", "iou"]].values.tolist()
            [['cat.png', 0.5]]
        """
        try:
            write_parquet(Path(path), self.header, self.rows)
        except OSError as error:
            raise StoppedError(f"cannot write {os.fspath(path)}: {reason_of(error)}") from error

    def _read(self) -> tuple[dict[str, Any], list[Row]] | None:
        """Read the header and the rows of the folder; None if it has none."""
        try:
            if not self.file.is_file():
                if self.folder.exists() and not self.folder.is_dir():
                    raise UsageError(f"{self.folder} is a file: --out takes a folder")
                return read_former(self.folder)
            with database.opened(self.file) as connection:
                found = database.read(connection)
        except (OSError, sqlite3.OperationalError) as error:
            raise UsageError(f"cannot read {self.file}: {reason_of(error)}") from error
        except (sqlite3.Error, ValueError, TypeError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(
                f"{self.file} is damaged: {error}. Choose another --out, or give --force to begin anew"
            ) from error
        if found is None:  # a run that was killed before it had written the header
            return read_former(self.folder)
        header, rows = found
        if header.pop("schema", 0) > database.SCHEMA:
            raise UsageError(f"{self.file} is of a later version of camfn: update camfn, or choose another --out")
        return current(header), rows

    def _begin(self, force: bool) -> None:
        """Read the rows again, under the lock, and write the header."""
        assert self._connection is not None
        if force:
            self._take([])
            for file in (self.folder / MAPS).glob("*.npy"):
                file.unlink()
            with database.transaction(self._connection):
                database.clear(self._connection)
                database.create(self._connection, self.header)
            return
        found = self._read()
        if found is not None:
            self._check_header(found[0], self.header)
        self._take(found[1] if found else [])
        with database.transaction(self._connection):
            rows = () if database.has_header(self._connection) else self.rows
            database.create(self._connection, self.header, rows)

    def _check_header(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        """Refuse a folder whose rows have another protocol, other versions, another device or number of threads."""
        differs = difference(before, now)
        if differs:
            raise UsageError(
                f"the results in {self.folder} have other settings: {differs}. Choose another --out, or give "
                "--force to begin anew"
            )

    def _take(self, rows: list[Row]) -> None:
        """Take rows in the place of those before."""
        self.rows, self._index, self._names = [], {}, set()
        for row in rows:
            self._put(row)

    def _put(self, row: Row) -> None:
        """Take one row, in the place of one of the same key."""
        at = self._index.setdefault(row.key, len(self.rows))
        self.rows[at : at + 1] = [row]
        if row.map:
            self._names.add(folded(row.map))

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Say in one line that the disk failed, what the folder keeps, and how to go on."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise StoppedError(
                f"cannot write to {self.folder}: {reason_of(error)}. The rows so far are kept; the same command "
                "again adds the missing ones"
            ) from error


def _npy(cam: torch.Tensor) -> bytes:
    """Write a map in NumPy's file format."""
    buffer = io.BytesIO()
    np.save(buffer, cam.numpy())
    return buffer.getvalue()

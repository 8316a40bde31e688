"""Rows in a file of SQLite: each is written whole or not at all, under a key of any characters, once."""

# tested in tests/evaluate/store/test_store.py

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from .._measures.row import Row

SCHEMA = 1
"""Version of the tables; `Store` refuses a folder of a later one."""

_TABLES = """
CREATE TABLE IF NOT EXISTS header (name TEXT PRIMARY KEY, content TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rows (
    place INTEGER, photo BLOB NOT NULL, "case" BLOB NOT NULL, layer BLOB NOT NULL, target INTEGER,
    probability REAL, forwards REAL, seconds REAL, problem BLOB NOT NULL, "values" TEXT NOT NULL, vectors TEXT NOT NULL,
    kind TEXT NOT NULL, tries INTEGER NOT NULL, traceback BLOB NOT NULL, model BLOB NOT NULL, method BLOB NOT NULL,
    map BLOB NOT NULL, PRIMARY KEY (photo, "case")
);
"""
_FIELDS = tuple(name for name in Row._fields if name != "cam")
_COLUMNS = ", ".join(f'"{name}"' for name in _FIELDS)
_TEXTS = {"photo", "case", "layer", "problem", "traceback", "model", "method", "map"}
"""Columns whose text is stored as bytes, since names of files need not be valid Unicode."""


@contextmanager
def opened(file: Path) -> Iterator[sqlite3.Connection]:
    """Open a database for the time of a block; what is committed outlives a kill and a loss of power."""
    with closing(sqlite3.connect(file, isolation_level=None, timeout=30)) as connection:
        connection.execute("PRAGMA synchronous = EXTRA")
        yield connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what a block writes as a whole, or take it back."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def create(connection: sqlite3.Connection, header: dict[str, Any], rows: Iterable[Row] = ()) -> None:
    """Write the header, and the first rows of a database that has none; inside of a transaction."""
    for statement in filter(str.strip, _TABLES.split(";")):
        connection.execute(statement)
    for name, content in {"schema": SCHEMA, **header}.items():
        connection.execute("INSERT OR REPLACE INTO header VALUES (?, ?)", (name, json.dumps(content)))
    for row in rows:
        put(connection, row)


def clear(connection: sqlite3.Connection) -> None:
    """Delete the header and all rows; inside of a transaction."""
    connection.execute("DROP TABLE IF EXISTS header")
    connection.execute("DROP TABLE IF EXISTS rows")


def put(connection: sqlite3.Connection, row: Row) -> None:
    """Write a row in the place of an earlier one of its key, or behind all others."""
    changed = ", ".join(f'"{name}" = excluded."{name}"' for name in _FIELDS)
    connection.execute(
        f"INSERT INTO rows ({_COLUMNS}) VALUES ({', '.join('?' * len(_FIELDS))}) "
        f'ON CONFLICT (photo, "case") DO UPDATE SET {changed}',
        [_stored(name, getattr(row, name)) for name in _FIELDS],
    )


def remove(connection: sqlite3.Connection, key: tuple[str, str]) -> None:
    """Delete the row of a key, if there is one."""
    connection.execute('DELETE FROM rows WHERE photo = ? AND "case" = ?', [_bytes(word) for word in key])


def arrange(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """Store the order of the rows."""
    connection.executemany(
        'UPDATE rows SET place = ? WHERE photo = ? AND "case" = ?',
        [(place, *map(_bytes, row.key)) for place, row in enumerate(rows)],
    )


def has_header(connection: sqlite3.Connection) -> bool:
    """Whether a run has written the header: one that was killed before has not."""
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'header'").fetchone() is not None


def read(connection: sqlite3.Connection) -> tuple[dict[str, Any], list[Row]] | None:
    """Read the header and the rows; None without a header."""
    if not has_header(connection):
        return None
    header = {name: json.loads(content) for name, content in connection.execute("SELECT name, content FROM header")}
    found = connection.execute(f"SELECT {_COLUMNS} FROM rows ORDER BY COALESCE(place, rowid)").fetchall()
    return header, [
        Row(**{name: _read(name, value) for name, value in zip(_FIELDS, cells, strict=True)}) for cells in found
    ]


def _stored(name: str, value: Any) -> Any:
    """Write a field of a row as SQLite stores it."""
    if name in _TEXTS:
        return _bytes(value)
    return json.dumps(value) if isinstance(value, dict) else value


def _read(name: str, value: Any) -> Any:
    """Undo `_stored`."""
    if name in _TEXTS:
        return bytes(value).decode("utf-8", "surrogatepass")
    return json.loads(value) if name in ("values", "vectors") else value


def _bytes(text: str) -> bytes:
    """Encode any text, lone surrogates too: Python has them for bytes of a file's name that are no UTF-8."""
    return text.encode("utf-8", "surrogatepass")

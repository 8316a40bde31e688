"""A lock of a folder that ends with its process, also when that is killed."""

# tested in tests/evaluate/store/test_store.py

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ..._shared.errors import UsageError

LOCK = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder: a transaction of SQLite that is never committed.

    Raises:
        UsageError: another run holds it.
    """
    with closing(sqlite3.connect(folder / LOCK, isolation_level=None, timeout=0)) as connection:
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            raise UsageError(f"another run is writing to {folder}: wait for it, or choose another --out") from error
        yield

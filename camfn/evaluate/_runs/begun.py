"""The row that a run in this process has begun: a row that ends the whole process does not stop the others."""

# tested in tests/evaluate/runs/test_spoiled.py

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from .work import TRIES

BEGUN = ".begun"
Key = tuple[str, str]


class Begun:
    """A small file with the rows in which processes died, and how many; a kill leaves it behind.

    Nobody can tell whether a row ended its process or a user did, in the middle of it. So a row in which three
    processes died is not blamed: `run` makes it last, in a process of its own, whose end it sees.

    Args:
        folder: the folder of results.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / BEGUN
        self.key: Key | None = None
        self.deaths: dict[Key, int] = {}
        try:
            for photo, case, deaths in json.loads(self.file.read_text(encoding="ascii")):
                self.deaths[str(photo), str(case)] = int(deaths)
        except (OSError, ValueError, TypeError):
            pass

    def is_suspect(self, key: Key) -> bool:
        """Whether so many processes died in a row as a row is tried."""
        return self.deaths.get(key, 0) >= TRIES

    def begin(self, photo: str, case: str) -> None:
        """Note that a row begins, and that the one before has ended."""
        self.deaths.pop(self.key or ("", ""), None)
        self.key = (photo, case)
        self.deaths[self.key] = self.deaths.get(self.key, 0) + 1
        self._write()

    def leave(self) -> None:
        """Note that the row under way ended, and that its process did not."""
        self.deaths.pop(self.key or ("", ""), None)
        self.key = None
        self._write()

    def _write(self) -> None:
        """Write the file. Nothing waits for the disk: what is written outlives the process."""
        with suppress(OSError):  # the row itself says what is wrong with the folder
            if self.deaths:
                said = [[*key, deaths] for key, deaths in self.deaths.items()]
                self.file.write_text(json.dumps(said), encoding="ascii")
            else:
                self.file.unlink(missing_ok=True)

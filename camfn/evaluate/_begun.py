"""The row that a run in this process has begun: a row that ends the whole process is not tried for ever."""

# tested in tests/evaluate/test_run.py

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from ._work import TRIES

BEGUN = ".begun"


class Begun:
    """A small file that names the row under way, and how many processes died in it; a kill leaves it behind.

    Args:
        folder: the folder of results.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / BEGUN
        self.key: tuple[str, str] | None = None
        self.deaths = 0
        try:
            photo, case, deaths = json.loads(self.file.read_text(encoding="ascii"))
            self.key, self.deaths = (str(photo), str(case)), int(deaths)
        except (OSError, ValueError, TypeError):
            pass

    @property
    def given_up(self) -> tuple[str, str] | None:
        """The row in which as many processes died as a row is tried; None if there is none."""
        return self.key if self.deaths >= TRIES else None

    def begin(self, photo: str, case: str) -> None:
        """Note that a row begins. Nothing waits for the disk: what is written outlives the process."""
        self.deaths = self.deaths + 1 if self.key == (photo, case) else 1
        self.key = (photo, case)
        with suppress(OSError):  # the row itself says what is wrong with the folder
            self.file.write_text(json.dumps([photo, case, self.deaths]), encoding="ascii")

    def end(self) -> None:
        """Note that no row is under way."""
        self.key, self.deaths = None, 0
        with suppress(OSError):
            self.file.unlink(missing_ok=True)

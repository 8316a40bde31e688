"""Where the strips go: PNG files and a CSV in a folder, or a writer of TensorBoard."""

# tested in tests/training/test_output.py

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from .. import image
from .._shared.errors import CamfnError
from .._shared.files import reason_of, write_whole
from .._shared.optional import extra
from ._record import Record


class Output(Protocol):
    """Takes strips and records."""

    def write(self, strips: dict[str, Tensor], records: Sequence[Record], step: int) -> None:
        """Write the strips of all photos, by name; `records` are all so far, those of `step` among them."""


class Folder:
    """NAME.png for each photo, and maps.csv, each written whole.

    A disk that fails is a warning, for it is no reason to end a training. What an earlier training wrote of the steps
    before the first record stays: its lines of maps.csv, and its strips as NAME-to-STEP.png.

    Raises:
        CamfnError: the folder cannot be made, or its maps.csv is another's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.table = folder, folder / "maps.csv"
        self.written: str | None = None
        self.earlier: list[list[str]] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lines()
        except OSError as error:
            raise CamfnError(f"MapRecorder: out: cannot make the folder {folder}: {reason_of(error)}") from error

    def write(self, strips: dict[str, Tensor], records: Sequence[Record], step: int) -> None:
        """Write the files anew."""
        try:
            if self.written is None:
                self._keep(records[0].step, list(strips))
            elif self.table.is_file() and self.table.read_text(encoding="utf-8") != self.written:
                warnings.warn(
                    f"MapRecorder: another recorder writes to {self.folder} too, and each replaces the other's files: "
                    "give each a folder of its own",
                    stacklevel=2,
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            text = self.written = _table([*self.earlier, *map(_line, records)])
            for name, strip in strips.items():
                write_whole(self.folder / f"{name}.png", partial(image.save, strip))
            write_whole(self.table, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))
        except OSError as error:
            _warn(f"cannot write to {self.folder}", error)

    def _keep(self, first: int, names: Sequence[str]) -> None:
        """Keep what an earlier training wrote of the steps before `first`."""
        self.earlier = [line for line in self._lines()[1:] if int(line[0]) < first]
        if self.earlier:
            last = self.earlier[-1][0]
            for name in names:
                if (strip := self.folder / f"{name}.png").is_file():
                    strip.replace(self.folder / f"{name}-to-{last}.png")

    def _lines(self) -> list[list[str]]:
        """Return the lines of maps.csv; none if there is no such file.

        Raises:
            CamfnError: it has other columns.
        """
        if not self.table.is_file():
            return []
        lines = list(csv.reader(io.StringIO(self.table.read_text(encoding="utf-8", errors="replace"))))
        if lines and not (lines[0] == _HEADER and all(re.fullmatch(r"-?\d+", "".join(line[:1])) for line in lines[1:])):
            raise CamfnError(f"MapRecorder: out: {self.table} is no table of a MapRecorder: take another folder")
        return lines


_HEADER = ["step", "photo", "score", "correlation"]


def _line(record: Record) -> list[str]:
    """Return the line of a record."""
    correlation = "" if record.correlation is None else f"{record.correlation:.6g}"
    return [str(record.step), record.photo, f"{record.score:.6g}", correlation]


def _table(lines: Sequence[Sequence[str]]) -> str:
    """Return lines as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_HEADER, *lines])
    return text.getvalue()


def _warn(what: str, error: OSError) -> None:
    """Say what could not be done."""
    warnings.warn(f"MapRecorder: {what}: {reason_of(error)}", stacklevel=3)


class Board:
    """Images camfn/NAME and scalars camfn/NAME/correlation, by `add_image` and `add_scalar` of a writer."""

    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def write(self, strips: dict[str, Tensor], records: Sequence[Record], step: int) -> None:
        """Hand the strips and the numbers of this step to the writer; a disk that fails is a warning."""
        try:
            self._add(strips, records, step)
        except OSError as error:
            _warn("the writer cannot write", error)

    def _add(self, strips: dict[str, Tensor], records: Sequence[Record], step: int) -> None:
        for name, strip in strips.items():
            self.writer.add_image(f"camfn/{name}", strip, step)
        for record in records:
            if record.step == step:
                self.writer.add_scalar(f"camfn/{record.photo}/score", record.score, step)
                if record.correlation is not None:
                    self.writer.add_scalar(f"camfn/{record.photo}/correlation", record.correlation, step)


def output_of(out: Any) -> Output | None:
    """Return where strips go: a folder for a path, a board for a writer of TensorBoard, None for None.

    Raises:
        CamfnError: anything else.
        MissingPackageError: Pillow is missing, which writes captions.
    """
    if out is None:
        return None
    with extra("Pillow", "MapRecorder: out", name="training"):
        import PIL  # noqa: F401
    if isinstance(out, (str, Path)):
        return Folder(Path(out))
    if callable(getattr(out, "add_image", None)) and callable(getattr(out, "add_scalar", None)):
        return Board(out)
    raise CamfnError(
        f"MapRecorder: out: expected a folder, or a torch.utils.tensorboard.SummaryWriter, got {type(out).__name__}"
    )

"""Where the strips go: PNG files and a CSV in a folder, or a writer of TensorBoard."""

# tested in tests/training/test_output.py

from __future__ import annotations

import csv
import io
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

    A disk that fails is a warning, for it is no reason to end a training.

    Raises:
        CamfnError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CamfnError(f"MapRecorder: out: cannot make the folder {folder}: {reason_of(error)}") from error

    def write(self, strips: dict[str, Tensor], records: Sequence[Record], step: int) -> None:
        """Write the files anew."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["step", "photo", "score", "correlation"])
        for record in records:
            correlation = "" if record.correlation is None else f"{record.correlation:.6g}"
            writer.writerow([record.step, record.photo, f"{record.score:.6g}", correlation])
        try:
            for name, strip in strips.items():
                write_whole(self.folder / f"{name}.png", partial(image.save, strip))
            write_whole(self.folder / "maps.csv", lambda unfinished: unfinished.write_text(text.getvalue()))
        except OSError as error:
            warnings.warn(f"MapRecorder: cannot write to {self.folder}: {reason_of(error)}", stacklevel=2)


class Board:
    """Images camfn/NAME and scalars camfn/NAME/correlation, by `add_image` and `add_scalar` of a writer."""

    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def write(self, strips: dict[str, Tensor], records: Sequence[Record], step: int) -> None:
        """Hand the strips and the numbers of this step to the writer."""
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

"""The command `camfn`, and the options that its commands share."""

# tested in tests/cli/test_cli.py

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..._shared.versions import own_version
from .options import ModelOptions
from .spellings import App

if TYPE_CHECKING:
    import torch

    from ...zoo import Loaded


app = App(
    help="Class activation maps: where in a photo a network sees a class.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

MODELS = (
    "lite0, torchvision:NAME, timm:NAME, hf:NAME, tiny:NAME, yolo:FILE.pt, rfdetr:SIZE; a function of yours, "
    "file.py:function or package.module:function; or an exported program, FILE.pt2."
)
PHOTOS = "Image files (DICOM too), folders, patterns as 'scans/*.png', a .csv with a column path, or - for a list."
ModelOption = Annotated[str, typer.Option("--model", help=MODELS)]
TargetOption = Annotated[
    str | None,
    typer.Option(
        help="What to explain: a class name or index, top, top:K, contrast:A or contrast:A,B, probability:A, rest:A, "
        "higher:N or lower:N of a regression, labels A+B, or 'text:WORDS' with CLIP.",
        show_default="top",
    ),
]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")]


def _version(requested: bool) -> None:
    """Print the version and exit, if a user gives --version."""
    if requested:
        typer.echo(f"camfn {own_version()}")
        raise typer.Exit


@app.callback()
def _common(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Class activation maps: where in a photo a network sees a class."""


def header(model: str, options: ModelOptions, loaded: Loaded, device: torch.device, **others: Any) -> dict[str, Any]:
    """Return the part of a run's record that describes the model, the options, the device and the versions."""
    import numpy

    from ..._shared.versions import versions

    own = {key: value for key, value in options._asdict().items() if value is not None and key != "weights"}
    record = {"model": model, "weights": options.weights or "default"} | own | others
    made_by = versions() | {"numpy": numpy.__version__}
    return record | {"about": loaded.about, "device": str(device), "versions": made_by}

"""The command `camfn`, and the options that its commands share."""

# tested in tests/cli/test_cli.py

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import torch


app = typer.Typer(
    help="Class activation maps: where in a photo a network sees a class.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

MODELS = "lite0, torchvision:NAME, timm:NAME, hf:NAME or tiny:NAME."
ModelOption = Annotated[str, typer.Option("--model", help=MODELS)]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        help="A local state dict (.pth, .safetensors), or `none` for random weights. [default: the library's own]",
        show_default=False,
    ),
]

TargetOption = Annotated[
    str,
    typer.Option(
        help="What to explain: a class name or index, top, top:K, contrast:A or contrast:A,B, probability:A, rest:A, "
        "higher:N or lower:N of a regression, labels A+B, or 'text:WORDS' with CLIP."
    ),
]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")]


def _version(requested: bool) -> None:
    """Print the version and exit, if a user gives --version."""
    if requested:
        typer.echo(f"camfn {version('camfn')}")
        raise typer.Exit


@app.callback()
def _common(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Class activation maps: where in a photo a network sees a class."""


def header(model: str, weights: str | None, device: torch.device, **options: Any) -> dict[str, Any]:
    """Return the part of a run's record that describes the model, the options, the device and the versions."""
    from .._shared.files import versions

    return {"model": model, "weights": weights or "default", **options, "device": str(device), "versions": versions()}

"""Commands and what they print."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from ._job import Job

app = typer.Typer(
    help="Class activation maps: where in a photo a network sees a class.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ModelOption = Annotated[str, typer.Option("--model", help="lite0, torchvision:NAME or timm:NAME.")]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        help="A local state dict (.pth, .safetensors), or `none` for random weights. [default: the library's own]",
        show_default=False,
    ),
]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"camfn {version('camfn')}")
        raise typer.Exit


@app.callback()
def _common(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Class activation maps: where in a photo a network sees a class."""


@app.command()
def explain(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help="Image files.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder to write to.", show_default=False)],
    model: ModelOption = "lite0",
    method: Annotated[str, typer.Option(help="See: camfn methods.")] = "grad_cam",
    layer: Annotated[str, typer.Option(help="A dotted name (see: camfn layers), or auto.")] = "auto",
    target: Annotated[str, typer.Option(help="A class index, a class name, top, or top:K for the K best.")] = "top",
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Photos at a time.")] = 8,
    chunk_size: Annotated[int | None, typer.Option(min=1, help="Perturbed forwards at a time.")] = None,
    seed: Annotated[int, typer.Option(help="Of random_cam.")] = 0,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Opacity of the overlay.")] = 0.5,
    colormap: Annotated[str, typer.Option(help="Of the overlay; seismic keeps the map's sign.")] = "turbo",
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
) -> None:
    """Explain photos: an overlay, the raw map, and a record of the run.

    Writes STEM.METHOD.png (the overlay, on the part of the photo that the network sees), STEM.METHOD.npy (the raw map at
    the layer's resolution) and one explanations.json. With a class given, its index comes before the ending, as in
    cat.grad_cam.281.png; with top:K, the rank: cat.grad_cam.top1.png. Photos of one stem are numbered: cat, cat-2.

    Ends with 0 if all went well, with 1 if a photo could not be read or a map shows nothing (the others' results are kept),
    and with 2, before any forward, if what was asked for cannot be done.
    """
    with _refusals():
        from . import image
        from ._ask import pick_device, pick_layer, pick_method, pick_target, plan
        from ._job import Job
        from .zoo import load

        chosen, place = pick_method(method, seed), pick_device(device)
        image.check_colormap(colormap)
        loaded = load(model, weights=weights)
        wanted = pick_target(target, loaded)
        job = Job(
            plans=plan(photos, out, method, wanted, force),
            out=out,
            loaded=loaded,
            method=chosen,
            wanted=wanted,
            layer_name=pick_layer(loaded.model, layer),
            device=place,
            batch_size=batch_size,
            chunk_size=chunk_size,
            alpha=alpha,
            colormap=colormap,
            header={},
        )
        problems = _run(job)
    raise typer.Exit(1 if problems else 0)

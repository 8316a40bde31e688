"""The command `camfn words`: where in a photo a multimodal language model looked when it said each word."""

# tested in tests/cli/commands/test_words.py

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .._options.command import DeviceOption, app
from .._terminal.terminal import refusals


@app.command()
def words(
    photo: Annotated[Path, typer.Argument(metavar="PHOTO", help="An image file.", show_default=False)],
    model: Annotated[
        str, typer.Option(help="hf:FOLDER or hf:NAME of a model for images and text: LLaVA, Qwen-VL, ...")
    ],
    ask: Annotated[str, typer.Option(help="The question.")] = "Describe the image.",
    out: Annotated[Path, typer.Option(help="The picture to write, .png or .jpg.")] = Path("words.png"),
    method: Annotated[
        str,
        typer.Option(
            help="tam, grad_cam, layer_cam, hires_cam, raw_attention, gradient_rollout, le_grad, grad_eclip, drops, ..."
        ),
    ] = "tam",
    layer: Annotated[
        str | None, typer.Option(help="tower, projector, language, or a dotted name.", show_default="projector")
    ] = None,
    count: Annotated[int, typer.Option("--words", min=1, help="How many tokens the model may say.")] = 24,
    answer: Annotated[
        str | None, typer.Option(help="An answer to explain, in place of the model's own.", show_default="greedy")
    ] = None,
    maps: Annotated[Path | None, typer.Option(help="Write the raw maps and numbers too, .npz.")] = None,
    least: Annotated[
        float, typer.Option(help="A word is read from the photo where its probability rises by more than this.")
    ] = 0.2,
    font: Annotated[
        Path | None,
        typer.Option(help="A font file, for words in other letters.", show_default="one of the system's that has them"),
    ] = None,
    device: DeviceOption = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
) -> None:
    """Explain each word that a multimodal language model says of a photo.

    The picture shows the words in a row, each over its map. Words that the model says as surely without the photo are
    gray, in brackets: they are not read from it, and their maps mean nothing.

    The model comes from a folder that save_pretrained wrote, with its processor, or from the cache of the Hub; only
    weights in safetensors are read.

    Ends with 0 if all went well, and with 2 if the command cannot do what the options ask.
    """
    with refusals():
        from .._files.files import check_writable, keep_photos
        from .._jobs.words import WordsJob
        from .._options.options import pick_device

        check_writable(out, force)
        keep_photos([out], [photo])
        if maps is not None:
            check_writable(maps, force, (".npz",), option="--maps")
        job = WordsJob(model, ask, method, layer, count, answer, least, font, pick_device(device))
        for line in job.run(photo, out, maps):
            print(line)

"""Draw the pictures of the README and of the methods' overview: `make hero`. Some ten seconds, no network.

The photos are in the public domain or CC0: `astronaut` (NASA), `camera` (Lav Varshney) and `coffee` (Rachel Michetti)
of scikit-image. Each map is of a class that this file names; at this size lite0 gives 0.1 to 5 % to each.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import matplotlib
import method_pages
import torch
from PIL import Image, ImageDraw, ImageFont
from strips import view_of
from torch import Tensor

from camfn import capture, image, methods
from camfn.targets import class_score
from camfn.zoo import load

FOLDER = Path(__file__).parents[1] / "_static"
INKS = {"light": ("#1f2328", "#59636e", "#0b5cad"), "dark": ("#e6edf3", "#9198a1", "#58a6ff")}
"""Ink, quiet ink and accent, those of GitHub's two themes; the paper is that of the page."""
MONO = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSansMono.ttf"
CELL, GAP = 380, 16


def tile(view: Tensor, cam: Tensor | None = None) -> Image.Image:
    """A photo, or a map over it, as a square."""
    shown = view[0] if cam is None else image.overlay(view, image.normalize(cam), alpha=0.6)[0]
    picture = Image.fromarray((shown.permute(1, 2, 0).clamp(0, 1) * 255).byte().numpy())
    return picture.resize((CELL, CELL), Image.Resampling.LANCZOS)


def rows(run: Any, index: Any) -> list[tuple[str, list[tuple[Image.Image, str, str]]]]:
    """Two questions: one photo asked for three classes, and what sets one class apart from another."""

    def ask(view: Tensor, target: Any) -> Tensor:
        return methods.grad_cam(*run((view * 255 - 127) / 128, target))

    pilot, walk = view_of("astronaut"), view_of("camera")
    first = [(tile(pilot), "the photo", 'run = capture(model, "bn2")')]
    first += [
        (tile(pilot, ask(pilot, index(name))), name, f"grad_cam(*run(x, {index(name)}))")
        for name in ("space shuttle", "crash helmet", "flagpole")
    ]
    tripod, reflex = index("tripod"), index("reflex camera")
    apart = class_score(tripod) - class_score(reflex)
    second = [
        (tile(walk), "the photo", "score = targets.class_score"),
        (tile(walk, ask(walk, tripod)), "tripod", f"grad_cam(*run(x, {tripod}))"),
        (tile(walk, ask(walk, reflex)), "reflex camera", f"grad_cam(*run(x, {reflex}))"),
        (
            tile(walk, ask(walk, apart)),
            "tripod, rather than camera",
            f"grad_cam(*run(x, score({tripod}) - score({reflex})))",
        ),
    ]
    return [
        ("One photo, one forward: ask for any class", first),
        ("Two classes alike: ask what tells them apart", second),
    ]


def draw(
    path: Path, listed: list[tuple[str, list[tuple[Image.Image, str, str]]]], colors: tuple[str, ...], columns: int = 4
) -> None:
    """Set the rows with their titles, captions and calls; a phone has two columns."""
    ink, quiet, accent = colors
    title, caption, code = ImageFont.load_default(32), ImageFont.load_default(27), ImageFont.truetype(MONO, 21)
    head, foot = 62, 110
    deep = -(-4 // columns) * (CELL + foot)
    canvas = Image.new("RGBA", (columns * (CELL + GAP) + GAP, len(listed) * (head + deep)), (0, 0, 0, 0))
    pen = ImageDraw.Draw(canvas)
    for y, (words, tiles) in enumerate(listed):
        top = y * (head + deep)
        pen.text((GAP, top + 10), words, ink, title)
        for x, (picture, name, call) in enumerate(tiles):
            left, up = GAP + x % columns * (CELL + GAP), top + head + x // columns * (CELL + foot)
            canvas.paste(picture, (left, up))
            last = (y, x) == (len(listed) - 1, len(tiles) - 1)
            pen.text((left, up + CELL + 6), name, accent if last else ink, caption)
            pen.multiline_text((left, up + CELL + 42), "\n".join(textwrap.wrap(call, 29)), quiet, code)
    canvas.save(path, quality=86, method=6)


def asked(loaded: Any) -> Image.Image:
    """One photo, two classes, seven methods, on nothing."""
    words = method_pages.table()
    chosen = [methods.grad_cam, methods.xgrad_cam, methods.hires_cam, methods.layer_cam, methods.grad_cam_plusplus]
    chosen += [methods.eigen_cam, methods.fem]
    cell, gap, head = 200, 8, 44
    canvas = Image.new("RGBA", (7 * (cell + gap) - gap, 40 + 2 * (cell + head)), (0, 0, 0, 0))
    pen, font, view = ImageDraw.Draw(canvas), ImageFont.load_default(28), view_of("coffee")
    gray = "#808890"  # readable on light and on dark
    for x, method in enumerate(chosen):
        pen.text((x * (cell + gap), 0), words[method.__name__]["title"], gray, font)
    for y, name in enumerate(("espresso", "wooden spoon")):
        captured = capture(loaded.model, "bn2")((view * 255 - 127) / 128, loaded.classes.index(name))
        top = 40 + y * (cell + head)
        pen.text((0, top), f"asked for: {name}", gray, font)
        for x, method in enumerate(chosen):
            canvas.paste(tile(view, method(*captured)).resize((cell, cell)), (x * (cell + gap), top + head - 4))
    return canvas


def main() -> None:
    """Draw all of them."""
    torch.set_num_threads(1)
    loaded = load("lite0")
    assert loaded.classes is not None
    listed = rows(capture(loaded.model, "bn2"), loaded.classes.index)
    for theme, colors in INKS.items():
        draw(FOLDER / f"hero-{theme}.webp", listed, colors)
        draw(FOLDER / f"hero-{theme}-phone.webp", listed, colors, columns=2)
    asked(loaded).save(FOLDER / "methods-asked.webp", quality=84, method=6)


if __name__ == "__main__":
    main()

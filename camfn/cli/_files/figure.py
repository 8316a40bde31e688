"""`--figure`: the maps of a run as one figure for a paper, by matplotlib without its global state."""

# tested in tests/cli/files/test_figure.py

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ... import image
from ..._shared.errors import UsageError
from ..._shared.files import write_whole
from ..._shared.optional import extra
from ...image._vector import settings, written

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENDINGS = (".pdf", ".svg", ".png")
ROWS = 4
"""Maps on one page of a PDF."""

_SIDE, _BAR, _TEXT, _GAP = 2.5, 1.4, 0.3, 0.1
"""In inches: the longer side of a picture, the room of the bar and its words, a line of text, and a gap."""


class Panel(NamedTuple):
    """One row of a figure.

    Attributes:
        view: the part of the photo that the network sees, (3, H, W) in [0, 1].
        cam: the raw map, (h, w); None where it shows nothing.
        title: method, class and score.
        name: of the photo.
        drawn: the map over the photo, where the figure is not to draw it.
    """

    view: Tensor
    cam: Tensor | None
    title: str
    name: str
    drawn: Tensor | None = None


def check_figure(file: Path) -> None:
    """Check the ending of a figure, and that matplotlib is there, before any work begins."""
    if file.suffix.lower() not in ENDINGS:
        raise UsageError(f"--figure {file}: expected a name in {', '.join(ENDINGS)}")
    require_figures("--figure")


def require_figures(user: str) -> None:
    """Name the extra that brings matplotlib where it is missing; `user` is what needs it."""
    with extra("matplotlib", user, name="figure"):
        import matplotlib.figure  # noqa: F401


def save_figure(file: Path, panels: Sequence[Panel], alpha: float, colormap: str) -> None:
    """Write the figure whole: a PDF has four maps a page, other formats have all maps on one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = list(panels)
    if file.suffix.lower() != ".pdf":
        data = written(page(whole, alpha, colormap), file.suffix.lower()[1:], dpi=200)
        write_whole(file, lambda path: path.write_bytes(data))
        return
    from matplotlib.backends.backend_pdf import PdfPages

    def write(path: Path) -> None:
        with settings(), PdfPages(path, metadata={"CreationDate": None}) as pdf:
            for start in range(0, len(whole), ROWS):
                pdf.savefig(page(whole[start : start + ROWS], alpha, colormap), dpi=300)

    write_whole(file, write)


def page(panels: Sequence[Panel], alpha: float, colormap: str) -> Figure:
    """Draw one page: a row a map, the photo, the overlay and the bar of its colors."""
    from matplotlib.figure import Figure

    sizes = [_inches(panel.view) for panel in panels]
    width = 2 * max(wide for wide, _ in sizes) + _BAR + 3 * _GAP
    height = sum(high + _TEXT + _GAP for _, high in sizes) + _GAP
    figure = Figure(figsize=(width, height), facecolor="white")
    top = height - _GAP
    for panel, (wide, high) in zip(panels, sizes):
        top -= _TEXT
        figure.text(_GAP / width, (top + 0.08) / height, _fitted(panel, width), fontsize=10, va="bottom")
        for place, picture in enumerate((panel.view, _overlay(panel, alpha, colormap))):
            left = _GAP + place * (wide + _GAP)
            axes = figure.add_axes((left / width, (top - high) / height, wide / width, high / height))
            axes.imshow(picture.permute(1, 2, 0).numpy(), aspect="auto", interpolation="antialiased")
            axes.set_axis_off()
        bar = (2 * (wide + _GAP) + _GAP) / width, (top - high) / height, 0.1 / width, high / height
        if panel.cam is not None:
            _draw_bar(figure, bar, panel.cam, colormap)
        else:
            figure.text(bar[0], (top - high / 2) / height, "shows nothing", fontsize=9, va="center")
        top -= high + _GAP
    return figure


def _inches(view: Tensor) -> tuple[float, float]:
    """Return width and height of a picture in inches; none is thinner than a sixth of its longer side."""
    high, wide = view.shape[1:]
    longer = max(high, wide)
    return max(_SIDE * wide / longer, _SIDE / 6), max(_SIDE * high / longer, _SIDE / 6)


def _fitted(panel: Panel, width: float) -> str:
    """Return the text above a row, cut where it would leave the page; a letter is some 0.078 inches wide."""
    text = f"{panel.name}   {panel.title}".replace("$", r"\$")  # matplotlib reads formulas between dollars
    most = int((width - 2 * _GAP) / 0.078)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _overlay(panel: Panel, alpha: float, colormap: str) -> Tensor:
    """Draw the map over the photo, as the overlay's own file has it."""
    if panel.cam is None:
        return panel.view
    if panel.drawn is not None:
        return panel.drawn
    heatmap = image.normalize(panel.cam[None], signed=colormap == "seismic")
    return image.overlay(panel.view, heatmap, alpha=alpha, colormap=colormap)[0]


def _draw_bar(figure: Figure, place: tuple[float, float, float, float], cam: Tensor, colormap: str) -> None:
    """Draw the bar of colors, its ends named: what `normalize` does to a raw map."""
    axes: Any = figure.add_axes(place)
    colors = image.colorize(torch.linspace(1, 0, 256)[None, :, None], colormap)[0]
    axes.imshow(colors.permute(1, 2, 0).numpy(), aspect="auto", extent=(0, 1, 0, 1))
    axes.set_xticks([])
    largest = float(cam.abs().max() if colormap == "seismic" else cam.max())
    if colormap == "seismic":
        ends = {0.0: f"-{largest:.3g}\nspeaks against", 0.5: "0", 1.0: f"{largest:.3g}\nspeaks for"}
    else:
        lowest = max(0.0, float(cam.min()))
        ends = {
            0.0: "0 and below" if lowest == 0 else f"{lowest:.3g}\nsmallest value",
            1.0: f"{largest:.3g}\nlargest value",
        }
    axes.yaxis.tick_right()
    axes.set_yticks(list(ends), list(ends.values()), fontsize=9)
    for label, where in zip(axes.get_yticklabels(), ends):
        label.set_verticalalignment({0.0: "bottom", 1.0: "top"}.get(where, "center"))
    axes.tick_params(length=2, width=0.4)
    for spine in axes.spines.values():
        spine.set_linewidth(0.4)

"""Where the cells, words and bar of a figure lie, in inches, and how they are drawn."""

# tested in tests/image/test_figure.py

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from .._shared.errors import CamfnError
from ._words import POINT, breadth, broken

Scale: TypeAlias = "Literal['each', 'row', 'column', 'all'] | float"
"""Which maps have one scale of colors; a number is the scale itself."""

_DPI = 300
_GAP, _EDGE, _BAR, _TICKS = 0.03, 0.02, 0.08, 0.24
_NARROWEST = 0.25
_FLATTEST, _TALLEST = 0.25, 2.0
_LINE = 1.2
_DARKEST, _GROUND = 0.35, 0.675
_LABELS = {
    "each": ("share of the map's maximum", "share of maximum", "share of max."),
    "row": ("share of the row's maximum", "share of row's max.", "share of max."),
    "column": ("share of the column's maximum", "share of column's max.", "share of max."),
    "all": ("value of the map", "value"),
}


class Look(NamedTuple):
    """How maps become colors; the fields are the arguments of `figure`."""

    signed: bool
    scale: Scale
    colormap: str
    alpha: float


def draw(
    pictures: Sequence[Tensor],
    cams: Sequence[Sequence[Tensor | None]],
    columns: Sequence[str],
    rows: Sequence[str] | None,
    corners: Sequence[Tensor],
    largest: Sequence[Sequence[float]],
    width: float,
    look: Look,
) -> Any:
    """Draw a figure of matplotlib; `camfn.image.figure` has checked all of it."""
    from matplotlib.figure import Figure

    count = len(columns) + 1
    size = 8.0 if width > 4 else 7.0
    heights = [min(max(p.shape[1] / p.shape[2], _FLATTEST), _TALLEST) for p in pictures]
    left, cell, names = _EDGE, 0.0, [[""]] * len(pictures)
    for _ in range(2):  # the room for the names of rows depends on their breaks, and these on the height of the rows
        cell = (width - left - count * _GAP - _BAR - _TICKS - size * _LINE * POINT - _EDGE) / count
        if cell < _NARROWEST:
            raise CamfnError(
                f"figure: width={width:g} inches leave {max(cell, 0):.2f} for each of {count} columns, expected "
                f"{_NARROWEST} or more: a greater width, as width=6.75, or fewer columns"
            )
        if rows is not None:
            names = [broken(name, cell * height, size) for name, height in zip(rows, heights)]
            left = _EDGE + max(map(len, names)) * size * _LINE * POINT + 0.03
    small, heads = _heads(columns, cell, size)
    top = max(map(len, heads)) * small * _LINE * POINT + 0.04
    tops, end = [], top
    for height in heights:
        tops.append(end)
        end += cell * height + _GAP
    total = end - _GAP + _EDGE
    figure = Figure(figsize=(width, total), dpi=_DPI, facecolor="white", layout=None)
    figure.set_layout_engine("none")  # whatever the user has for other figures

    def axes(x: float, y: float, wide: float, high: float) -> Any:
        return figure.add_axes((x / width, 1 - (y + high) / total, wide / width, high / total))

    for column, lines in enumerate(heads):
        x = left + column * (cell + _GAP) + cell / 2
        for line, words in enumerate(reversed(lines)):
            y = 1 - (top - 0.05 - line * small * _LINE * POINT) / total
            _write(figure, words, x / width, y, small, va="baseline")
    for r, picture in enumerate(pictures):
        high = cell * heights[r]
        if rows is not None:
            y = 1 - (tops[r] + high / 2) / total
            _write(figure, "\n".join(names[r]), (left - 0.03) / width, y, size, rotation=90, ha="right", va="center")
        for column in range(count):
            place = axes(left + column * (cell + _GAP), tops[r], cell, high)
            cam, peak = (cams[r][column - 1], largest[r][column - 1]) if column else (None, 0.0)
            shown = _cell(picture, cam, peak, cell, look) if column else _fitted(picture, cell)
            _show(place, shown, picture.shape[1:], corners[r])
            if column and (cam is None or not peak):
                _say(place, "no map" if cam is None else _nothing(cam), size)
    _bar(
        figure,
        axes,
        left + count * (cell + _GAP) + 0.01,
        top,
        total - _EDGE,
        size,
        largest,
        look,
    )
    return figure


def _heads(columns: Sequence[str], cell: float, size: float) -> tuple[float, list[list[str]]]:
    """Break the names of columns, in letters up to a point smaller where that saves lines."""
    found = [
        (each, [broken(name, cell, each) for name in ("photo", *columns)]) for each in (size, size - 0.5, size - 1)
    ]
    return min(found, key=lambda one: max(map(len, one[1])))


def _fitted(photo: Tensor, inches: float) -> Tensor:
    """Scale a photo down to what a cell prints."""
    pixels = max(2, round(inches * _DPI))
    height, width = photo.shape[1:]
    share = min(1.0, pixels / width, _TALLEST * pixels / height)
    if share == 1:
        return photo
    size = [max(1, round(share * side)) for side in (height, width)]
    return functional.interpolate(photo[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)


def _cell(photo: Tensor, cam: Tensor | None, peak: float, inches: float, look: Look) -> Tensor:
    """Draw a map over its photo in gray, (3, H, W)."""
    small = _fitted(photo, inches)
    # light, so that no color drowns in it
    gray = _DARKEST + (1 - _DARKEST) * (small * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0, keepdim=True)
    gray = gray.expand(3, -1, -1)
    if cam is None or not peak:
        return gray
    most = max(2, round(inches * _DPI))
    size = [max(side, min(most, 4 * side)) for side in gray.shape[1:]]
    gray = functional.interpolate(gray[None], size, mode="bilinear", align_corners=False)[0]
    values = functional.interpolate(cam[None, None].double(), size, mode="bilinear", align_corners=False)[0, 0] / peak
    return _mixed(gray, values, look)


def _mixed(gray: Tensor, values: Tensor, look: Look) -> Tensor:
    """Lay colors over gray, (3, H, W); as in `overlay` they are full from half of the largest value on."""
    from matplotlib import colormaps

    share = (0.5 + 0.5 * values if look.signed else values).clamp(0, 1)
    colors = torch.from_numpy(colormaps[look.colormap](share.numpy())[..., :3]).permute(2, 0, 1).to(gray)
    opacity = look.alpha * (2 * values.abs() if look.signed else 2 * values).clamp(0, 1).to(gray)
    return torch.lerp(gray, colors, opacity.expand_as(gray))


def _show(axes: Any, pixels: Tensor, size: Sequence[int], corners: Tensor) -> None:
    """Put pixels into a cell, with the boxes of the photo as lines."""
    from matplotlib.patches import Rectangle

    height, width = size
    bytes_ = (255 * pixels).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    axes.imshow(bytes_, extent=(0, width, height, 0), interpolation="none", aspect="equal")
    for x0, y0, x1, y1 in corners.tolist():
        for color, line in (("black", 1.6), ("white", 0.8)):
            axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec=color, lw=line, joinstyle="miter"))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()


def _nothing(cam: Tensor) -> str:
    """Say why a map shows nothing."""
    return "nothing\nabove 0" if bool((cam < 0).any()) else "all zero"


def _say(axes: Any, text: str, size: float) -> None:
    """Write words over a cell."""
    axes.text(
        0.5,
        0.5,
        text,
        transform=axes.transAxes,
        ha="center",
        va="center",
        fontsize=size - 1,
        color="black",
        parse_math=False,
        bbox={"facecolor": "white", "alpha": 0.85, "linewidth": 0, "pad": 1.5},
    )


def _write(figure: Any, text: str, x: float, y: float, size: float, **look: Any) -> None:
    """Write words outside of the cells; a dollar is a dollar."""
    look = {"ha": "center", "linespacing": 1.1} | look
    figure.text(x, y, text, fontsize=size, parse_math=False, multialignment="center", **look)


def _bar(
    figure: Any,
    axes: Any,
    x: float,
    top: float,
    bottom: float,
    size: float,
    largest: Sequence[Sequence[float]],
    look: Look,
) -> None:
    """Draw the bar of colors, its ends and what they are."""
    high = min(bottom - top, 2.2)
    y = (top + bottom - high) / 2
    place = axes(x, y, _BAR, high)
    low, scale = -1.0 if look.signed else 0.0, look.scale
    pixels = _mixed(torch.full((3, 256, 1), _GROUND), torch.linspace(1, low, 256)[:, None], look)
    place.imshow(pixels.permute(1, 2, 0).numpy(), extent=(0, 1, low, 1), aspect="auto", interpolation="none")
    common = scale if not isinstance(scale, str) else max(map(max, largest)) if scale == "all" else None
    end = "1" if common is None else f"{common:.2g}"
    ends = {-1.0: f"\N{MINUS SIGN}{end}", 0.0: "0", 1.0: end} if look.signed else {0.0: "0", 1.0: end}
    place.set_xticks([])
    place.yaxis.tick_right()
    place.set_yticks(list(ends), list(ends.values()), fontsize=size - 1)
    for label, where in zip(place.get_yticklabels(), ends):
        label.set_verticalalignment({min(ends): "bottom", 1.0: "top"}.get(where, "center"))
    place.tick_params(length=2, width=0.4, pad=1)
    for spine in place.spines.values():
        spine.set_linewidth(0.4)
    words = _LABELS[scale if isinstance(scale, str) else "all"]
    label = next((text for text in words if breadth(text, size - 1) <= bottom - top), "")
    width, total = figure.get_size_inches()
    longest = max(breadth(text, size - 1) for text in ends.values())
    _write(
        figure,
        label,
        (x + _BAR + 0.05 + longest) / width,
        1 - (top + bottom) / 2 / total,
        size - 1,
        rotation=90,
        ha="left",
        va="center",
    )

"""Figures for papers: photos by columns of maps, one bar of colors, as PDF, SVG and PNG."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._shared.checks import describe, is_concrete, number, one_of
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.files import write_whole
from .._shared.optional import extra
from ._checks import as_float
from ._layout import Look, Scale, draw
from ._read import read
from ._vector import KINDS, written
from ._words import unknown

if TYPE_CHECKING:
    from ._read import Picture


class Figure:
    """A figure: `save` and `to_bytes` write it, a notebook shows it.

    Attributes:
        drawn: the `matplotlib.figure.Figure`, for changes of your own.
    """

    def __init__(self, drawn: Any) -> None:
        self.drawn = drawn

    def save(self, path: str | PathLike[str]) -> None:
        """Write a file, .pdf, .svg or .png, whole: its text is vector, its fonts are embedded, it has no date.

        The same figure gives the same bytes.

        Raises:
            CamfnError: another ending.
        """
        place = Path(path)
        data = self.to_bytes(place.suffix)
        write_whole(place, lambda unfinished: unfinished.write_bytes(data))

    def to_bytes(self, kind: str = "pdf", *, dpi: int = 300) -> bytes:
        """Return the bytes of such a file; `dpi` are the dots per inch of a PNG."""
        return written(self.drawn, str(kind).lower().lstrip("."), dpi)

    def _repr_png_(self) -> bytes:
        """Show the figure in a notebook."""
        return self.to_bytes("png", dpi=160)


def figure(
    photos: Sequence[Picture] | Tensor,
    maps: Sequence[Sequence[Tensor | None]] | Tensor,
    columns: Sequence[str],
    rows: Sequence[str] | None = None,
    *,
    width: float = 3.25,
    signed: bool = False,
    scale: Scale = "each",
    boxes: Sequence[Tensor | None] | None = None,
    colormap: str | None = None,
    alpha: float = 0.8,
) -> Figure:
    """Lay photos and their maps out as a figure for a paper: a row a photo, a column a method, one bar of colors.

    Maps lie over the photo in gray, so that a color stands for a number alone; as in `overlay`, they are clear at zero.
    Color-blind readers can tell the colors apart: inferno, whose strongest color is the lightest in gray print too; and
    blue below zero, red above, where `signed`.

    Args:
        photos: R pictures, each what `read` takes: the part of a photo that the network saw.
        maps: for each photo M raw maps (h, w), or (1, h, w); None where there is none, which its cell says.
        columns: M names, of methods or classes.
        rows: R names, written along the left side.
        width: inches: 3.25 is one column of a paper, 6.75 are two.
        signed: keep negative values; zero is the middle of the colors.
        scale: what the strongest color stands for: the maximum of "each" map, of the maps of a "row", of a "column", of
            "all"; or a number that no map exceeds. A common scale is for raw maps of one unit, as those of one method.
        boxes: for each photo (n, 4), x0 y0 x1 y1 in its pixels, or None; they are drawn on the photo and on its maps.
        colormap: a name that matplotlib knows.
        alpha: opacity of strong colors, 0 to 1.

    Returns:
        A `Figure`.

    Raises:
        CamfnError: not one map a column and one row a photo; a map with NaN or of another shape; a common scale of maps
            that were normalized one by one; a width that leaves no room; letters that matplotlib's font lacks.
        ImportError: matplotlib is missing.

    Example:
        >>> import torch
        >>> from camfn.image import figure
        >>> photos, maps = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 7, 7)
        >>> drawn = figure(photos, maps, ["Grad-CAM", "LayerCAM", "FEM"], ["cat", "dog"])
        >>> drawn.to_bytes("pdf")[:5]
        b'%PDF-'
    """
    with extra("matplotlib", "image.figure", name="figure"):
        import matplotlib

    _check_names(columns, rows)
    number("figure: width", width, "(0, 30]", "Inches")
    number("figure: alpha", alpha, "[0, 1]", "An opacity")
    pictures = _pictures(photos)
    cams = _maps(maps, len(pictures), columns)
    if rows is not None and len(rows) != len(pictures):
        raise CamfnError(f"figure: rows: expected one name for each of {len(pictures)} photos, got {len(rows)}")
    chosen = colormap if colormap is not None else ("RdBu_r" if signed else "inferno")
    if not isinstance(chosen, str) or chosen not in matplotlib.colormaps:
        raise CamfnError(f"figure: colormap: expected a name of matplotlib's, as 'viridis', got {colormap!r}")
    largest = _largest(cams, signed, scale)
    corners = _boxes(boxes, len(pictures))
    lacking = unknown((*columns, *(rows or ())))
    if lacking:
        raise CamfnError(
            f"figure: the font has no letter for {lacking[:20]!r}: matplotlib.rcParams['font.family'] = ['sans-serif', "
            "NAME], where NAME is a font that has it; or the line font.family in a file matplotlibrc"
        )
    look = Look(signed, scale, chosen, alpha)
    return Figure(draw(pictures, cams, columns, rows, corners, largest, width, look))


def check_kind(path: str | PathLike[str], name: str) -> None:
    """Refuse a file that no figure can be written to, before any work."""
    if Path(path).suffix.lower().lstrip(".") not in KINDS:
        raise CamfnError(f"{name} {path}: expected a name in .pdf, .svg or .png")


def _check_names(columns: Any, rows: Any) -> None:
    """Refuse names that are no lists of texts."""
    for name, given in (("columns", columns), ("rows", rows)):
        if name == "rows" and given is None:
            continue
        if not isinstance(given, (list, tuple)) or not all(isinstance(one, str) for one in given):
            raise ArgumentTypeError(f"figure: {name}: expected a list of texts, got {describe(given)}")
    if not columns:
        raise CamfnError("figure: columns: expected at least one name")


def _pictures(photos: Any) -> list[Tensor]:
    """Read the photos, (3, H, W) each, on the CPU."""
    several = isinstance(photos, Tensor) and photos.ndim == 4
    if not several and not isinstance(photos, (list, tuple)):
        raise ArgumentTypeError(f"figure: photos: expected a list of pictures, got {describe(photos)}; one: [photo]")
    if not len(photos):
        raise CamfnError("figure: photos: expected at least one picture")
    found = []
    for r, photo in enumerate(photos):
        try:
            found.append(read(_at_hand(photo, "picture").cpu() if isinstance(photo, Tensor) else photo).float())
        except CamfnError as error:  # noqa: PERF203  names the photo
            raise type(error)(f"figure: photos[{r}]: {error}") from error
    return found


def _maps(maps: Any, count: int, columns: Sequence[str]) -> list[list[Tensor | None]]:
    """Check a map, (h, w) and finite, or None for each photo and column."""
    expected = f"figure: maps: expected for each of {count} photos a list of {len(columns)} maps (h, w)"
    grid = isinstance(maps, Tensor) and maps.ndim == 4
    if not grid and (isinstance(maps, (Tensor, str)) or not isinstance(maps, (list, tuple))):
        raise ArgumentTypeError(f"{expected}, got {describe(maps)}")
    if len(maps) != count:
        raise CamfnError(f"{expected}, got {len(maps)} lists")
    found: list[list[Tensor | None]] = []
    for r, row in enumerate(maps):
        if not isinstance(row, (list, tuple, Tensor)) or len(row) != len(columns):
            raise CamfnError(f"{expected}, got maps[{r}]: {describe(row)}")
        found.append([_map(cam, f"figure: {name}: maps[{r}][{m}]") for m, (cam, name) in enumerate(zip(row, columns))])
    if all(cam is None for row in found for cam in row):
        raise CamfnError(f"{expected}, got no map at all")
    return found


def _map(cam: Any, name: str) -> Tensor | None:
    """Check one map, and take it to the CPU."""
    if cam is None:
        return None
    work = as_float(cam, name)
    one = work[0] if work.ndim == 3 and len(work) == 1 else work
    if one.ndim != 2 or 0 in one.shape:
        advice = "; slices of a volume: image.slices" if one.ndim == 3 else ""
        raise CamfnError(f"{name}: expected a map (h, w), got {tuple(cam.shape)}{advice}")
    one = _at_hand(one, name).cpu()
    if not bool(one.isfinite().all()):
        raise CamfnError(f"{name}: expected finite numbers, but it holds NaN or infinity; pass None for no map")
    return one


def _at_hand(x: Tensor, name: str) -> Tensor:
    """Return a tensor without its graph; refuse one that holds no numbers that can be read."""
    if not is_concrete(x) or x.layout != torch.strided:
        raise CamfnError(f"{name}: expected numbers that can be read, got {x.layout} on {x.device}, or under vmap")
    return x.detach()


def _largest(cams: Sequence[Sequence[Tensor | None]], signed: bool, scale: Scale) -> list[list[float]]:
    """Return for each map the value that its strongest color stands for; 0 where it shows nothing."""
    one_of("figure: signed", signed, [True, False])
    known = isinstance(scale, str) and scale in ("each", "row", "column", "all")
    if not known and (isinstance(scale, (bool, str)) or not isinstance(scale, (int, float)) or not 0 < scale < 1e30):
        raise CamfnError(f"figure: scale: expected 'each', 'row', 'column', 'all' or a number above 0, got {scale!r}")
    peaks = torch.tensor([[_peak(cam, signed) for cam in row] for row in cams], dtype=torch.float64)
    if scale != "each":
        _refuse_normalized(cams, scale)
    shows = peaks > 0
    if not isinstance(scale, str):
        if peaks.max() > scale:
            raise CamfnError(f"figure: scale: a map reaches {peaks.max().item():.4g}, beyond the scale of {scale:.4g}")
        peaks = torch.full_like(peaks, float(scale))
    elif scale != "each":
        dims = {"row": (1,), "column": (0,), "all": (0, 1)}[scale]
        peaks = peaks.amax(dims, keepdim=True).expand_as(peaks)
    return [[float(peak) if show else 0.0 for peak, show in zip(*row)] for row in zip(peaks, shows)]


def _peak(cam: Tensor | None, signed: bool) -> float:
    """Return the largest value that a map shows; 0 for none."""
    return 0.0 if cam is None else float(cam.abs().max() if signed else cam.max().clamp(min=0))


def _refuse_normalized(cams: Sequence[Sequence[Tensor | None]], scale: Scale) -> None:
    """Refuse a common scale of heatmaps, of which each was stretched to [0, 1] by itself: their units are lost."""
    given = [
        cam for row in cams for cam in row if cam is not None and cam.numel() > 1 and bool((cam != cam.max()).any())
    ]
    if len(given) > 1 and all(float(cam.min()) == 0 and float(cam.max()) == 1 for cam in given):
        raise CamfnError(
            f"figure: scale={scale!r} puts maps on one scale, but each of these was stretched to [0, 1] by itself, as "
            "image.normalize does: pass the raw maps, or scale='each'"
        )


def _boxes(boxes: Any, count: int) -> list[Tensor]:
    """Check the boxes of each photo."""
    if boxes is None:
        return [torch.zeros(0, 4)] * count
    if not isinstance(boxes, (list, tuple)) or len(boxes) != count:
        raise CamfnError(f"figure: boxes: expected for each of {count} photos (n, 4) or None, got {describe(boxes)}")
    try:
        found = [torch.zeros(0, 4) if each is None else torch.as_tensor(each).detach().cpu().float() for each in boxes]
    except (TypeError, ValueError, RuntimeError) as error:
        raise CamfnError(f"figure: boxes: expected numbers, (n, 4) for each photo, got {describe(boxes)}") from error
    for r, each in enumerate(found):
        if each.ndim != 2 or each.shape[1] != 4 or not bool((each[:, 2:] >= each[:, :2]).all()):
            raise CamfnError(
                f"figure: boxes[{r}]: expected x0 y0 x1 y1 in pixels of the photo, (n, 4), with x0 <= x1 and y0 <= y1, "
                f"got {describe(each)}"
            )
    return found

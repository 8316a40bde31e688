"""One HTML file: settings, ranked tables, plots, and photos on which the best method does best and worst."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from html import escape
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from ... import image
from ..._shared.errors import PhotoError, UsageError
from ...zoo import Loaded, load
from .._inputs.photos import Photo, boxes_in_view
from .._measures.own import known_metric, short
from .._measures.row import Row
from .._store.export import write_file
from .._store.store import Store
from .grid import Cell
from .plots import cost_plot, curve_plot, diagram, rank_plot
from .rank import Ranking, rankings
from .standing import labels
from .table import grid_of
from .versus import friedman

_SIDE = 220
"""Height of a picture in the gallery, in pixels."""

_STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; max-width: 1250px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; font-size: 12px; display: block; overflow-x: auto }
th, td { padding: 2px 7px; text-align: right; border-bottom: 1px solid #eee; white-space: nowrap }
th { text-align: right; vertical-align: bottom; background: #fafafa }
th:first-child, td:first-child { text-align: left }
td.baseline { color: #c0392b } small { color: #777 } img { max-width: 100% }
figure { display: inline-block; margin: 0 12px 14px 0; vertical-align: top } figcaption { font-size: 12px }
.plus { color: #1a7f37 } .minus { color: #c0392b }
"""


def write_report(
    store: Store,
    photos: Sequence[Photo] = (),
    *,
    by: str | None = None,
    loader: Callable[[str], Loaded] = load,
    shown: int = 4,
) -> Path:
    """Write report.html into the folder of a run: one file that contains its pictures.

    A report of these rows, photos and options that is there already stays as it is, and no model is loaded.

    Args:
        store: the folder of a run.
        photos: photos for the gallery; empty for a report without one.
        by: the metric that orders the table and chooses the photos of the gallery.
        loader: a function of a model's name that returns a `zoo.Loaded`, whose `view` cuts the photos of the gallery.
        shown: number of best and of worst photos in the gallery.

    Returns:
        The file.

    Raises:
        UsageError: the rows have no numbers.
        LoadError: matplotlib is missing.

    Example:
        >>> import tempfile
        >>> from camfn.evaluate import Protocol, Row
        >>> from camfn.evaluate._store.store import header_of
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = Store(folder, header_of(Protocol(metrics=("iou",)), "cpu"))
        ...     with store.writing():
        ...         for case, value in (("net auto grad_cam", 0.5), ("net auto center", 0.25)):
        ...             store.append(Row("cat", case, forwards=1.0, values={"iou": value}))
        ...     "grad_cam" in write_report(store).read_text()
        True
    """
    path = store.folder / "report.html"
    of = _fingerprint(store, photos, by, shown)
    if path.is_file() and of in path.read_bytes()[:300].decode(errors="replace"):
        return path
    parts = [f"<!doctype html><meta charset=utf-8><meta name=camfn content={of}><title>camfn evaluate</title>"]
    parts.append(f"<style>{_STYLE}</style><h1>Evaluation</h1>{_about(store)}")
    found, without = rankings(store.rows, by=by)
    for ranking in found:
        model = ranking.model
        parts.append(f"<h2>{escape(model)}</h2>{_table(ranking)}")
        rows = [row for row in store.rows if row.case.startswith(f"{model} ")]
        step = store.header["protocol"]["step"]
        for title, plot in (
            ("Metrics against cost", cost_plot(ranking)),
            ("Curves", curve_plot(rows, ranking, step)),
            (f"Method against method, by {short(ranking.by)}", _diagram(rows, ranking)),
            ("Ranks by each metric", rank_plot(ranking)),
        ):
            if plot is not None:
                parts.append(f"<h3>{escape(title)}</h3>{_picture(plot)}")
        if photos:
            parts.append(_gallery(store, ranking, photos, loader(model), shown))
    parts += [f"<p>{escape(reason)}</p>" for reason in without]
    parts.append(_problems(store))
    write_file(path, "\n".join(parts) + "\n")
    return path


def _fingerprint(store: Store, photos: Sequence[Photo], by: str | None, shown: int) -> str:
    """Digest the rows and settings of a report, so that `write_report` does not make it again."""
    made_of = [repr((store.header, [photo[:4] for photo in photos], by, shown))]
    for row in sorted(store.rows, key=lambda row: (row.photo, row.case)):
        values = [f"{name} {value:.6g}" for name, value in sorted(row.values.items())]
        made_of.append(repr((row.photo, row.case, row.problem, values)))
    return sha256("\n".join(made_of).encode(errors="backslashreplace")).hexdigest()


def _about(store: Store) -> str:
    """Describe the settings and how to read the tables."""
    protocol = store.header["protocol"]
    count = len({row.photo for row in store.rows if row.case})
    settings = ", ".join(f"{key} {escape(json.dumps(value))}" for key, value in protocol.items() if key != "metrics")
    versions = ", ".join(f"{escape(name)} {escape(version)}" for name, version in store.header["versions"].items())
    return (
        f"<p>{count} photos. Values are means over photos. The two baselines, in red, take no part in the ranks. "
        "forwards: operations of an explanation over those of one forward of the network.</p>"
        f"<p><small>{settings}. {versions}; {escape(str(store.header['device']))}, {store.header['threads']} "
        "thread(s).</small></p>"
    )


def _table(ranking: Ranking) -> str:
    """Write the ranked table, its order, and how to read it."""
    grid = grid_of(ranking, wide=True)
    arrows = {"higher": " ↑", "lower": " ↓", "": ""}
    lines = ["".join(f"<th>{escape(name)}{arrows[direction]}</th>" for name, direction in grid.heads)]
    for cells, is_baseline in zip(grid.lines, grid.dim):
        line = "".join(f"<td>{_cell(cell)}</td>" for cell in cells)
        lines.append(line if not is_baseline else line.replace("<td>", "<td class=baseline>"))
    rows = "".join(f"<tr>{line}</tr>" for line in lines)
    notes = " ".join(escape(note) for note in grid.notes).replace("* best", "<b>Bold</b>: best", 1)
    return f"<p>{escape(grid.title)}.</p><table>{rows}</table><p><small>{notes}</small></p>"


def _cell(cell: Cell) -> str:
    """Write a cell of the ranked table."""
    marks = {"=": "=", "+": "<b class=plus>+</b>", "-": "<b class=minus>−</b>"}
    number = f"<b>{escape(cell.text)}</b>" if cell.best else escape(cell.text)
    mark = "".join(marks[mark] for mark in cell.mark)
    return number + (f" {mark}" if mark else "") + (f"<br><small>{cell.interval}</small>" if cell.interval else "")


def _diagram(rows: Sequence[Row], ranking: Ranking) -> bytes | None:
    """Draw the mean ranks over photos; None where Friedman's test has too few methods or photos, or no ranks."""
    try:
        return diagram(friedman(rows, ranking.model, ranking.by), called=labels(ranking))
    except UsageError:
        return None


def _gallery(store: Store, standings: Ranking, photos: Sequence[Photo], loaded: Loaded, shown: int) -> str:
    """Show photos on which the first method of the table does best and worst, with the maps of other methods."""
    lead, called = standings.by, labels(standings)
    methods = [s for s in standings if not s.is_baseline and lead in s.estimates]
    if not methods:
        return ""
    best, last = methods[0], methods[-1]
    grad_cam = [s for s in methods if s.method.partition(" ")[0] == "grad_cam" and s is not best][:1]
    center = [s for s in standings if s.method == "center"]
    columns = {s.case: called[s.case] for s in [best, *grad_cam, last, *center]}
    numbers = {row.photo: row.values[lead] for row in store.rows if row.case == best.case and lead in row.values}
    order = sorted(numbers, key=lambda name: -known_metric(lead).better * numbers[name])
    by_name = {photo.name: photo for photo in photos}
    count = min(shown, len(order) // 2) or 1
    parts = []
    for title, names in (("best", order[:count]), ("worst", order[-count:][::-1])):
        parts.append(f"<h3>Where {escape(called[best.case])} does {title}, by {lead}</h3>")
        parts += [_strip(store, by_name[name], columns, loaded, lead) for name in names if name in by_name]
    return "".join(parts)


def _strip(store: Store, photo: Photo, columns: Mapping[str, str], loaded: Loaded, lead: str) -> str:
    """Show one photo with its boxes, and the overlays of several methods."""
    try:
        picture = photo.read()
    except PhotoError as error:
        return f"<p>{escape(str(error))}</p>"
    view = loaded.view(picture)
    view = view.resize((round(_SIDE * view.width / view.height), _SIDE))
    boxed = view.copy()
    for x0, y0, x1, y1 in boxes_in_view(photo.boxes, picture.size, loaded.view):
        corners = (x0 * view.width, y0 * view.height, x1 * view.width - 1, y1 * view.height - 1)
        ImageDraw.Draw(boxed).rectangle(corners, outline=(255, 235, 0), width=2)
    label = photo.label or ""
    if label.isdecimal() and int(label) < len(loaded.classes or ()):
        label = (loaded.classes or ())[int(label)]
    figures = [_figure(boxed, f"{photo.name}: {label}")]
    rows = {row.case: row for row in store.rows if row.photo == photo.name}
    tensor = torch.from_numpy(np.array(view)).permute(2, 0, 1) / 255
    for case, name in columns.items():
        cam = store.cam(rows[case]) if case in rows else None
        if cam is not None and bool(cam.isfinite().all()):
            overlay = image.overlay(tensor, image.normalize(cam[None]))[0]
            drawn = Image.fromarray((255 * overlay).round().byte().permute(1, 2, 0).numpy())
            value = rows[case].values.get(lead)
            figures.append(_figure(drawn, name + ("" if value is None else f": {value:.3f}")))
    return f"<div>{''.join(figures)}</div>"


def _figure(picture: Image.Image, caption: str) -> str:
    """Write a picture with its caption."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return f"<figure>{_picture(buffer.getvalue(), 'jpeg')}<figcaption>{escape(caption)}</figcaption></figure>"


def _picture(content: bytes, kind: str = "png") -> str:
    """Write a picture as part of the HTML file."""
    return f'<img alt="" src="data:image/{kind};base64,{base64.b64encode(content).decode()}">'


def _problems(store: Store) -> str:
    """List the problems of the rows, the most frequent first."""
    rows_by_problem: dict[str, list[str]] = {}
    for row in store.rows:
        if row.problem:
            rows_by_problem.setdefault(row.problem, []).append(f"{row.photo} {row.case}".strip())
    if not rows_by_problem:
        return "<h2>Problems</h2><p>None.</p>"
    lines = []
    for problem, names in sorted(rows_by_problem.items(), key=lambda item: -len(item[1])):
        some = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
        lines.append(f"<li>{escape(problem)} <small>({len(names)}: {escape(some)})</small></li>")
    return f"<h2>Problems</h2><ul>{''.join(lines)}</ul>"

"""One HTML file: settings, ranked tables, plots, and photos on which the best method does best and worst."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from .. import image
from .._shared.errors import PhotoError
from ..zoo import Loaded, load
from ._own import in_order, known_metric
from ._photos import Photo, boxes_in_view
from ._plots import cost_plot, curve_plot, rank_plot
from ._rank import Standing, lead_of, models_of, rank
from ._store import Store

_SIDE = 220
"""Height of a picture in the gallery, in pixels."""

_STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; max-width: 1250px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; font-size: 12px; display: block; overflow-x: auto }
th, td { padding: 2px 7px; text-align: right; border-bottom: 1px solid #eee; white-space: nowrap }
th { text-align: right; vertical-align: bottom; background: #fafafa }
th:first-child, td:first-child { text-align: left }
tr.baseline { color: #c0392b } small { color: #777 } img { max-width: 100% }
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
        >>> from camfn.evaluate._store import header_of
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = Store(folder, header_of(Protocol(metrics=("iou",)), "cpu"))
        ...     with store.writing():
        ...         for case, value in (("net auto grad_cam", 0.5), ("net auto center", 0.25)):
        ...             store.append(Row("cat", case, forwards=1.0, values={"iou": value}))
        ...     "grad_cam" in write_report(store).read_text()
        True
    """
    parts = [f"<!doctype html><meta charset=utf-8><title>camfn evaluate</title><style>{_STYLE}</style>"]
    parts.append(f"<h1>Evaluation</h1>{_about(store)}")
    for model in models_of(store.rows):
        standings = rank(store.rows, model, by=by)
        parts.append(f"<h2>{escape(model)}</h2>{_table(standings)}")
        rows = [row for row in store.rows if row.case.startswith(f"{model} ")]
        step = store.header["protocol"]["step"]
        for title, plot in (
            ("Metrics against cost", cost_plot(standings)),
            ("Curves", curve_plot(rows, standings, step)),
            ("Ranks", rank_plot(standings)),
        ):
            if plot is not None:
                parts.append(f"<h3>{title}</h3>{_picture(plot)}")
        if photos:
            parts.append(_gallery(store, standings, photos, loader(model), by, shown))
    parts.append(_problems(store))
    path = store.folder / "report.html"
    path.write_text("\n".join(parts) + "\n", encoding="utf-8")
    return path


def _about(store: Store) -> str:
    """Describe the settings and how to read the tables."""
    protocol = store.header["protocol"]
    count = len({row.photo for row in store.rows if row.case})
    settings = ", ".join(f"{key} {escape(json.dumps(value))}" for key, value in protocol.items() if key != "metrics")
    versions = ", ".join(f"{escape(name)} {escape(version)}" for name, version in store.header["versions"].items())
    return (
        f"<p>{count} photos. Values are means over photos; in brackets the 95 % interval of a bootstrap over photos. "
        "<b class=plus>+</b> and <b class=minus>−</b>: better or worse than the center baseline on the same photos, "
        "beyond the interval of the difference. The two baselines, in red, take no part in the ranks. Cost: operations "
        "of an explanation over those of one forward.</p>"
        f"<p><small>{settings}. {versions}; {escape(str(store.header['device']))}, {store.header['threads']} "
        "thread(s).</small></p>"
    )


def _table(standings: Sequence[Standing]) -> str:
    """Write the ranked table."""
    names = in_order({name for s in standings for name in s.estimates})
    arrows = {1: "↑", -1: "↓", 0: ""}
    head = "".join(
        f'<th title="{escape(known_metric(name).about)}">{name} {arrows[known_metric(name).better]}</th>'
        for name in names
    )
    lines = [f"<tr><th>method</th><th>mean rank</th><th>forwards</th><th>seconds</th>{head}</tr>"]
    for s in standings:
        cells = [escape(s.method), *(_number(value) for value in (s.rank, s.forwards, s.seconds))]
        for name in names:
            e = s.estimates.get(name)
            mark = "" if e is None else {"+": " <b class=plus>+</b>", "-": " <b class=minus>−</b>"}.get(e.verdict, "")
            cells.append("" if e is None else f"{e.value:.3f}{mark}<br><small>[{e.low:.3f}, {e.high:.3f}]</small>")
        style = " class=baseline" if s.is_baseline else ""
        lines.append(f"<tr{style}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<table>{''.join(lines)}</table>"


def _gallery(
    store: Store, standings: Sequence[Standing], photos: Sequence[Photo], loaded: Loaded, by: str | None, shown: int
) -> str:
    """Show photos on which the first method of the table does best and worst, with the maps of other methods."""
    measured = in_order({name for s in standings for name in s.estimates})
    lead = lead_of(measured, by)
    methods = [s for s in standings if not s.is_baseline and lead in s.estimates]
    if not methods:
        return ""
    best, last = methods[0], methods[-1]
    grad_cam = [s for s in methods if s.method.partition(" ")[0] == "grad_cam" and s is not best][:1]
    columns = [
        *dict.fromkeys(s.case for s in [best, *grad_cam, last]),
        *(s.case for s in standings if s.method == "center"),
    ]
    numbers = {row.photo: row.values[lead] for row in store.rows if row.case == best.case and lead in row.values}
    order = sorted(numbers, key=lambda name: -known_metric(lead).better * numbers[name])
    by_name = {photo.name: photo for photo in photos}
    count = min(shown, len(order) // 2) or 1
    parts = []
    for title, names in (("best", order[:count]), ("worst", order[-count:][::-1])):
        parts.append(f"<h3>Where {escape(best.method)} does {title}, by {lead}</h3>")
        parts += [_strip(store, by_name[name], columns, loaded, lead) for name in names if name in by_name]
    return "".join(parts)


def _strip(store: Store, photo: Photo, columns: Iterable[str], loaded: Loaded, lead: str) -> str:
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
    for case in columns:
        cam = store.cam(rows[case]) if case in rows else None
        if cam is not None and bool(cam.isfinite().all()):
            overlay = image.overlay(tensor, image.normalize(cam[None]))[0]
            drawn = Image.fromarray((255 * overlay).round().byte().permute(1, 2, 0).numpy())
            value = rows[case].values.get(lead)
            figures.append(_figure(drawn, case.split(" ", 2)[2] + ("" if value is None else f": {value:.3f}")))
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


def _number(value: float | None) -> str:
    """Write a number with three digits; None is empty."""
    return "" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"

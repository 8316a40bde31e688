"""One HTML file: settings, sorted tables, plots, and photos on which the best method does best and worst."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from shlex import join
from typing import Any
from urllib.parse import quote

from ..._shared.embed import policy_of
from ..._shared.optional import extra
from ...image._paint import stops
from ...zoo import Loaded, load
from .._inputs.photos import Photo
from .._measures.own import short
from .._store.export import ACCIDENTS, HEADER, ROWS, write_file
from .._store.store import DATABASE, Store
from .gallery import gallery_of
from .rank import rankings
from .records import file_names
from .shown import model_of, readable
from .standing import models_of

_ABOUT = (
    "Each map is clipped at zero, stretched to [0, 1] and resized to the input. Values are means over photos. The two "
    "baselines never ask the network and take no part in ranks. Forwards: operations of one explanation over those of "
    "one forward."
)


def write_report(
    store: Store,
    photos: Sequence[Photo] = (),
    *,
    by: str | None = None,
    loader: Callable[[str], Loaded] = load,
    shown: int = 4,
    command: str = "",
) -> Path:
    """Write report.html into the folder of a run: one file that contains its pictures and opens no connection.

    Tables are sorted by a click; the plots follow the sorted column. A report of these rows, photos and options that is
    there already stays as it is, and no model is loaded.

    Args:
        store: the folder of a run.
        photos: photos for the gallery; empty for a report without one.
        by: the metric that orders the table and chooses the photos of the gallery.
        loader: a function of a model's name that returns a `zoo.Loaded`, whose `view` cuts the photos of the gallery.
        shown: number of best and of worst photos in the gallery.
        command: the command that made the run, to be copied.

    Returns:
        The file.

    Raises:
        UsageError: the rows have no numbers.
        MissingPackageError: jinja2 is missing.

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
    fingerprint = _fingerprint(store, photos, by, shown)
    if path.is_file() and fingerprint in path.read_bytes()[:300].decode(errors="replace"):
        return path
    found, without = rankings(store.rows, by=by)
    models = []
    for ranking in found:
        rows = [row for row in store.rows if row.case.startswith(f"{ranking.model} ")]
        models.append(model_of(ranking, rows, store.header["protocol"]["step"]))
        if photos:
            models[-1] |= gallery_of(store, ranking, photos, loader(ranking.model), shown)
    made: dict[str, Any] = {
        "fingerprint": fingerprint,
        "models": models,
        "without": without,
        "problems": problems_of(store),
    }
    made |= {"title": "Which method?", "facts": facts_of(store), "protocol": _protocol(store), "links": _links(store)}
    made["about"] = _ABOUT
    made |= {"commands": [*([command] if command else []), _table_again(store, found[0].by)]}
    write_file(path, rendered(made))
    return path


def rendered(made: dict[str, Any]) -> str:
    """Fill the template. Every text is escaped; the page's policy names its one script and style by their hashes."""
    with extra("jinja2", "the report", name="evaluate"):
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup

    style, script = _part("report.css"), _part("report.js")
    packed = json.dumps([model["data"] for model in made["models"]], separators=(",", ":"), allow_nan=False)
    # in JSON, < occurs in strings alone, and \u003c is the same letter: no name can end the element
    data = Markup(packed.replace("<", "\\u003c"))

    def seen(value: Any) -> Any:
        """Leave nothing hidden in a text: neither in a name nor in a command that is copied."""
        return readable(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(autoescape=True, trim_blocks=True, undefined=StrictUndefined, finalize=seen)
    scale = [f"rgb({r:.0f},{g:.0f},{b:.0f})" for r, g, b in stops("turbo").tolist()]
    return environment.from_string(_part("report.html.j2")).render(
        **made, policy=policy_of(script, style), style=Markup(style), script=Markup(script), data=data, scale=scale
    )


def _part(name: str) -> str:
    """Return one file of the page."""
    return (files(__package__) / "web" / name).read_text(encoding="utf-8")


def _fingerprint(store: Store, photos: Sequence[Photo], by: str | None, shown: int) -> str:
    """Digest all that a report is made of, so that `write_report` does not make it again."""
    made_of = [repr((store.header, [photo[:4] for photo in photos], by, shown))]
    made_of += [_part(name) for name in ("report.html.j2", "report.css", "report.js")]
    for row in sorted(store.rows, key=lambda row: (row.photo, row.case)):
        values = [f"{name} {value:.6g}" for name, value in sorted(row.values.items())]
        made_of.append(repr((row.photo, row.case, row.problem, values)))
    return sha256("\n".join(made_of).encode(errors="backslashreplace")).hexdigest()


def facts_of(store: Store) -> list[tuple[str, object]]:
    """Name what holds for all models: photos, date, versions, machine."""
    header, database = store.header, store.folder / DATABASE
    found: list[tuple[str, object]] = [("photos", len({row.photo for row in store.rows if row.case}))]
    if database.is_file():
        measured = datetime.fromtimestamp(database.stat().st_mtime, tz=timezone.utc)
        found.append(("measured", f"{measured:%Y-%m-%d}"))
    found += list(header["versions"].items())
    threads = header["threads"]
    return [*found, ("on", f"{header['device']}, {threads} thread{'s' * (threads != 1)}")]


def _protocol(store: Store) -> list[tuple[str, str]]:
    """List the settings of the measurement."""
    protocol = dict(store.header["protocol"])
    known: dict[str, Any] = {"metrics": ", ".join(map(short, protocol.pop("metrics"))), **protocol}
    known |= {f"model: {key}": value for key, value in store.header.get("model", {}).items()}
    return [
        (key.replace("_", " "), value if isinstance(value, str) else json.dumps(value)) for key, value in known.items()
    ]


def _links(store: Store) -> list[tuple[str, str]]:
    """Link the other files of the folder, those that are there."""
    names = file_names(models_of(row.case for row in store.rows))
    listed = [ROWS, *(f"table-{name}.csv" for name in names.values()), HEADER, "maps/", ACCIDENTS]
    return [(name, quote(name)) for name in listed if (store.folder / name).exists()]


def _table_again(store: Store, by: str) -> str:
    """Write the command that prints the tables."""
    return join(["camfn", "table", store.folder.name, "--by", by, "--wide"])


def problems_of(store: Store) -> list[tuple[str, int, str]]:
    """List the problems of the rows, the most frequent first, each with its number of rows and some of them."""
    counts = Counter(row.problem for row in store.rows if row.problem)
    found = []
    for problem, count in counts.most_common():
        names = [f"{row.photo} {row.case}".strip() for row in store.rows if row.problem == problem]
        found.append((problem, count, ", ".join(names[:3]) + (" ..." if count > 3 else "")))
    return found

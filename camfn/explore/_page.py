"""One HTML file with the viewer and all data in it."""

from __future__ import annotations

import html
import json
import os
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from .._shared.embed import policy_of
from .._shared.errors import CamfnError
from .._shared.files import check_place, write_whole
from ._data import data_of
from ._grid import Grid

_HEIGHT = 760
"""Height of the frame in a notebook, in pixels."""


def page(
    explored: Grid, path: str | os.PathLike[str], *, title: str = "What did the network look at?", command: str = ""
) -> Path:
    """Write maps as one HTML file that opens by a double click and opens no connection.

    The file holds the pictures, the maps as 16-bit floats with a scale each, and the viewer; its
    Content-Security-Policy makes the browser refuse every address. The address of the page (after the #) names the
    photo, target, method, layer and slice in view, so that a link leads to one map.

    Args:
        explored: the maps, of `collect`.
        path: a file that ends in `.html`; one that exists is replaced.
        title: heading of the page.
        command: the command or call that made the page, which its foot shows.

    Returns:
        The path.

    Raises:
        CamfnError: `path` has another ending, or its folder does not exist.

    Example:
        >>> import tempfile, camfn.explore
        >>> from camfn import tiny
        >>> scene = tiny.scenes(1, generator=__import__("torch").Generator().manual_seed(0)).images
        >>> found = camfn.explore.collect(tiny.load("cnn"), scene, [3, 7], methods=["grad_cam"], layers="body")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     camfn.explore.page(found, f"{folder}/explore.html").name
        'explore.html'
    """
    place = Path(path)
    check_page(place)
    text = whole(data_of(explored, title, command), title)
    write_whole(place, lambda file: file.write_text(text, encoding="utf-8"))
    return place


def check_page(place: Path) -> None:
    """Refuse a path that is no page.

    Raises:
        CamfnError: another ending, or a folder that does not exist.
    """
    if place.suffix.lower() not in (".html", ".htm") or place.is_dir():
        raise CamfnError(f"explore: {place}: expected a file that ends in .html, as explore.html")
    if not place.parent.is_dir():
        raise CamfnError(f"explore: there is no folder {str(place.parent)!r}")
    check_place(place, "explore: path")


def part(name: str) -> str:
    """Return one file of the viewer."""
    return (resources(__package__) / "viewer" / name).read_text(encoding="utf-8")


def whole(data: dict[str, Any], title: str) -> str:
    """Return the page of data; its policy names its one script and its one style by their hashes."""
    script = part("viewer.js").replace("export default { render };", "") + part("page.js")
    style = part("viewer.css") + part("page.css")
    # in JSON, < occurs in strings alone, and \u003c is the same letter: no name can end the element
    packed = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    parts = {
        "policy": policy_of(script, style),
        "title": html.escape(title),
        "style": style,
        "data": packed,
        "script": script,
    }
    head = part("page.html")
    text = ""
    for piece in head.split("{{"):
        name, found, after = piece.partition("}}")
        text += parts[name] + after if found else piece
    return text


def framed(explored: Grid) -> str:
    """Return the page inside of a frame, for a notebook: its script sees nothing of the notebook's own page."""
    inner = html.escape(whole(data_of(explored), "Maps"), quote=True)
    return (
        f'<iframe title="Maps to explore" srcdoc="{inner}" sandbox="allow-scripts" width="100%" height="{_HEIGHT}" '
        'style="border:0"></iframe>'
    )

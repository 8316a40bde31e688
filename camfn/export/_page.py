"""A web page that explains photos in the browser: a folder to serve, or one file that opens by a double click."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
from collections.abc import Sequence
from functools import partial
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from .._shared.embed import policy_source
from .._shared.errors import CamfnError
from .._shared.files import check_place, write_whole
from .._shared.versions import own_version
from ..image._paint import stops
from ._networks import Networks, read_networks
from ._runtime import VERSION, runtime_files

COLORS = ("turbo", "viridis", "plasma", "cividis", "hot", "bone", "jet", "seismic")
"""Color scales that the page offers; the last is for signed values."""

SCRIPTS = ("pixels", "exif", "png", "photo", "map", "network", "combobox", "camera", "app")
"""The page's own code, in its order."""

_LONGEST = 2**29 - 25
"""Letters of the longest text in Chromium."""

_WASM = "'wasm-unsafe-eval'"
_POLICY = (
    "default-src 'none'; script-src {scripts}; style-src {styles}; connect-src {own}; worker-src {own}; img-src data:; "
    "form-action 'none'; base-uri 'none'"
)
"""What a browser lets the page open: nothing but its own files."""


def page(
    path: str | os.PathLike[str],
    files: Sequence[str | os.PathLike[str]],
    *,
    runtime: str | os.PathLike[str] | None = None,
) -> Path:
    """Write a page that explains photos with exported models, in a browser, without a server.

    The user drops, pastes or chooses a photo, or takes the camera's. The page makes the network's input of it, equal
    to Pillow's to the bit. The photo never leaves the machine: the page has no server, and its Content-Security-Policy
    makes the browser refuse every address but its own files.

    Args:
        path: a file that ends in `.html`, which holds everything and opens by a double click; or a folder, new or
            empty or a page of before, to put on any web server (`python -m http.server`).
        files: files of `camfn.export.onnx` with `target="input"` and the preprocessing in numbers. Several offer
            several methods, layers or models; weights that they share are stored once.
        runtime: a folder or tarball of npm's package onnxruntime-web; None for the one that `fetch_runtime` fetched.

    Returns:
        The path.

    Example:
        >>> import tempfile
        >>> from camfn.export import page
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page(f"{folder}/one.html", ["missing.onnx"], runtime=folder)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        camfn._shared.errors.CamfnError: ... has no ort.wasm.bundle.min.mjs and ort-wasm-simd-threaded.wasm: ...

    Raises:
        CamfnError: the page cannot run a file, the runtime is missing, or `path` holds something else.
        MissingPackageError: onnx is not installed.
    """
    place = Path(path)
    single = is_single(place)
    if isinstance(files, (str, os.PathLike)) or not files:
        raise CamfnError(f"page: expected a list of ONNX files, got {files!r}")
    wasm = runtime_files(runtime)
    networks = read_networks([Path(file) for file in files])
    content = _content(networks, wasm)
    if single:
        html = _single(content)
        write_whole(place, lambda file: file.write_bytes(html))
        return place
    for name, data in (_static() | content).items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        write_whole(place / name, partial(Path.write_bytes, data=data))
    _drop_old(place, content)
    return place


def is_single(place: Path) -> bool:
    """Refuse to write into what is no page; say whether the page is one file."""
    single = place.suffix.lower() in (".html", ".htm")
    if single and place.is_dir():
        raise CamfnError(f"page: {place} is a folder: name a file that ends in .html, or another folder")
    if not place.parent.is_dir():
        raise CamfnError(f"page: there is no folder {str(place.parent)!r}")
    if not single and place.exists() and not place.is_dir():
        raise CamfnError(f"page: {place} is a file: expected a folder, or a file that ends in .html")
    check_place(place, "page: path", folder=not single)
    if single or not place.exists():
        return single
    if any(place.iterdir()) and not (place / "page.json").is_file():
        raise CamfnError(f"page: {place} holds other files: give a new or empty folder, or one of a page to renew")
    return single


def _drop_old(place: Path, content: dict[str, bytes]) -> None:
    """Remove the graphs of a page of before."""
    for old in (place / "networks").glob("*.onnx"):
        if f"networks/{old.name}" not in content:
            old.unlink()


def _content(networks: Networks, wasm: dict[str, bytes]) -> dict[str, bytes]:
    """Return the files that differ from page to page, by their names in it."""
    graphs = {f"networks/{k}.onnx": graph for k, graph in enumerate(networks.graphs)}
    runtime = {f"ort/{name}": data for name, data in wasm.items()}
    loaded = [networks.weights, *networks.graphs, *(data for name, data in wasm.items() if name.endswith(".wasm"))]
    about = _about(networks.facts, list(graphs), sum(map(len, loaded)))
    weights = {"weights.bin": networks.weights}
    return {"page.json": json.dumps(about).encode(), **weights, **graphs, **runtime}


def _about(facts: list[dict[str, Any]], graphs: list[str], size: int) -> dict[str, Any]:
    """Return what the page knows of its networks; names of classes that several share stand there once."""
    import PIL

    names: list[list[str] | None] = []
    rows = []
    for fact, file in zip(facts, graphs):
        if fact["classes"] not in names:
            names.append(fact["classes"])
        preparation = fact["preprocessing"] | {"rowsFirst": pillow_goes_down_first()}
        rows.append(fact | {"file": file, "classes": names.index(fact["classes"]), "preprocessing": preparation})
    versions = {"camfn": own_version(), "pillow": PIL.__version__, "runtime": VERSION}
    return {
        **versions,
        "networks": rows,
        "classes": [given or [] for given in names],
        "colors": _colors(),
        "bytes": size,
    }


def pillow_goes_down_first() -> bool:
    """Say whether this Pillow shrinks tall pictures along their columns first, as it does from version 13."""
    from PIL import Image

    tall = Image.frombytes("L", (8, 40), bytes(k * k * 37 % 251 for k in range(320)))
    small, filter_ = (6, 5), Image.Resampling.BICUBIC
    across_first = tall.resize((6, 40), filter_).resize(small, filter_)
    return tall.resize(small, filter_).tobytes() != across_first.tobytes()


def _colors() -> dict[str, list[list[int]]]:
    """Return the colors of each scale, as `camfn.image.colorize` has them, in 0..255."""
    return {name: stops(name).tolist() for name in COLORS}


def _text(name: str) -> str:
    return (resources(__package__) / "page" / name).read_text(encoding="utf-8")


def _policy(scripts: str, styles: str, own: str) -> str:
    return _POLICY.format(scripts=scripts, styles=styles, own=own)


def _static() -> dict[str, bytes]:
    """Return the files that every folder has."""
    policy = _policy(f"'self' {_WASM}", "'self'", "'self'")
    texts = {f"{name}.js": _text(f"{name}.js") for name in SCRIPTS} | {"style.css": _text("style.css")}
    texts["index.html"] = _text("index.html").replace("{policy}", policy)
    return {name: text.encode() for name, text in texts.items()}


def _single(content: dict[str, bytes]) -> bytes:
    """Return one page that holds everything; its policy names its one script and its one style by their hashes."""
    style, script = _text("style.css"), "\n".join(_text(f"{name}.js") for name in SCRIPTS)
    if "</script" in script or "</style" in style:
        raise CamfnError("page: a file of its own would end its element early")  # a mistake in camfn
    html = _text("index.html")
    html = html.replace("{policy}", _policy(f"{policy_source(script)} blob: {_WASM}", policy_source(style), "'none'"))
    html = html.replace('<link rel="stylesheet" href="style.css">', f"<style>{style}</style>")
    head, *_ = re.split(r'<script src="\w+\.js" defer></script>\n', html)
    parts = [head.encode()]
    for name, data in content.items():
        packed = base64.b64encode(gzip.compress(data, 6, mtime=0))
        if len(packed) > _LONGEST:
            raise CamfnError(
                f"page: {name} has {len(packed) / 1e6:.0f} MB in one file, more than a browser holds as one text "
                f"({_LONGEST / 1e6:.0f} MB): write a folder instead, as in page('site', files)"
            )
        parts.append(b'<script type="text/plain" id="file:' + name.encode() + b'">' + packed + b"</script>\n")
    parts.append(f"<script>{script}</script>\n</body>\n</html>\n".encode())
    return b"".join(parts)

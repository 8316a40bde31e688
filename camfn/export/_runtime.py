"""The runtime of the page: two files of npm's package onnxruntime-web, fetched once and known by their hashes."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from .._shared.errors import CamfnError
from .._shared.files import write_whole

VERSION = "1.30.0"
"""Of onnxruntime-web; its package has the MIT license."""

_FILES = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
"""SHA-256 of the files that the page needs."""

_PLACES = ("", "dist", "package/dist", "onnxruntime-web/dist", "node_modules/onnxruntime-web/dist", "ort")
"""Where the files lie in a folder that a user gives."""


def fetch_runtime(
    source: str | os.PathLike[str] | None = None, *, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Fetch the runtime of `page`, onnxruntime's WebAssembly, and keep it in the user's cache.

    The package comes from npm's registry, or from the one that the variable `npm_config_registry` names. Every file is
    checked by its SHA-256, wherever it came from.

    Args:
        source: instead of the registry: npm's tarball, as `npm pack onnxruntime-web@1.30.0` writes it, or a folder that
            has the package or its two files.
        progress: called with the bytes that came and the bytes to come, as a download goes on.

    Returns:
        The folder of the two files.

    Raises:
        CamfnError: the registry cannot be reached, a file is missing, or its hash is another.

    Example:
        >>> from camfn.export import fetch_runtime
        >>> fetch_runtime("no-such-folder")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        camfn._shared.errors.CamfnError: there is no no-such-folder: expected a folder or a tarball of npm's package ...
    """
    contents = _download(progress) if source is None else contents_of(Path(source))
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_whole(folder / name, partial(Path.write_bytes, data=content))
    return folder


def cache() -> Path:
    """Return the folder in which `fetch_runtime` keeps the runtime, whether it is there or not."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "camfn" / f"onnxruntime-web-{VERSION}"


def contents_of(source: Path) -> dict[str, bytes]:
    """Read the two files out of a folder or a tarball, and check them.

    Raises:
        CamfnError: no such place, a file is missing, or its hash is another.
    """
    if source.is_dir():
        places = [source / place for place in _PLACES]
        folder = next((place for place in places if all((place / name).is_file() for name in _FILES)), None)
        if folder is None:
            raise CamfnError(f"{source} has no {' and '.join(_FILES)}: {_HOW}")
        return _checked({name: (folder / name).read_bytes() for name in _FILES}, str(folder))
    if not source.is_file():
        raise CamfnError(f"there is no {source}: {_HOW}")
    return _checked(_unpacked(source.read_bytes(), str(source)), str(source))


def runtime_files(source: str | os.PathLike[str] | None) -> dict[str, bytes]:
    """Return the runtime's files, of a place that a user gives or of the cache.

    Raises:
        CamfnError: the runtime was not fetched.
    """
    if source is None and not all((cache() / name).is_file() for name in _FILES):
        raise CamfnError(
            f"the page needs onnxruntime-web {VERSION}, which is not here yet: run camfn export --fetch-runtime once "
            "(33 MB from npm's registry), or camfn export --fetch-runtime FOLDER for a package that you have"
        )
    return contents_of(cache() if source is None else Path(source))


_HOW = f"expected a folder or a tarball of npm's package onnxruntime-web {VERSION} (npm pack onnxruntime-web@{VERSION})"


def _download(progress: Callable[[int, int], None] | None) -> dict[str, bytes]:
    """Fetch the tarball from a registry of npm's kind."""
    from urllib.request import urlopen

    registry = os.environ.get("npm_config_registry") or "https://registry.npmjs.org"  # noqa: SIM112  # npm's spelling
    address = f"{registry.rstrip('/')}/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
    if not address.startswith(("https://", "http://")):
        raise CamfnError(f"npm_config_registry: expected an address of http or https, got {registry!r}")
    parts: list[bytes] = []
    come = 0
    try:
        with urlopen(address, timeout=60) as answer:
            total = int(answer.headers.get("Content-Length") or 0)
            while part := answer.read(1 << 20):
                parts.append(part)
                come += len(part)
                if progress:
                    progress(come, total)
    except OSError as error:
        raise CamfnError(
            f"cannot fetch {address}: {error}. Fetch it elsewhere (npm pack onnxruntime-web@{VERSION}), then run camfn "
            f"export --fetch-runtime onnxruntime-web-{VERSION}.tgz"
        ) from error
    return _checked(_unpacked(b"".join(parts), address), address)


def _unpacked(tarball: bytes, name: str) -> dict[str, bytes]:
    """Read the two files out of npm's tarball, in memory."""
    found = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(tarball), mode="r:gz") as archive:
            for file in _FILES:
                member = archive.extractfile(f"package/dist/{file}")
                found[file] = member.read() if member else b""
    except (tarfile.TarError, KeyError, OSError, EOFError) as error:
        raise CamfnError(f"{name} cannot be read: {error}; {_HOW}") from error
    return found


def _checked(contents: dict[str, bytes], name: str) -> dict[str, bytes]:
    """Refuse files that are not those of the version that was tried."""
    for file, content in contents.items():
        found = hashlib.sha256(content).hexdigest()
        if found != _FILES[file]:
            raise CamfnError(
                f"{name}: {file} is not that of onnxruntime-web {VERSION} (SHA-256 {found[:16]}..., expected "
                f"{_FILES[file][:16]}...); {_HOW}"
            )
    return contents

"""Names of the files of maps, which a person finds: PHOTO.METHOD.LAYER.npy."""

# tested in tests/evaluate/store/test_store.py

from __future__ import annotations

import re
import unicodedata
from collections.abc import Container
from hashlib import sha256
from pathlib import PurePosixPath

from ..._photos.find import PHOTOS
from .._measures.row import Row

_LONGEST = 180
"""Bytes of a name, of the 255 that file systems allow: an unfinished file has a longer one."""


def map_name(row: Row, taken: Container[str]) -> str:
    """Return the name of a row's map: of its photo without the ending, its method and its layer.

    Characters that a system does not allow in names become `-`. Where this, a second model, or the case of letters
    would give two maps one name, or where a name is too long, a digest of the row's key ends it.

    Args:
        row: a row with a map.
        taken: names of other rows, as `folded` writes them.

    Example:
        >>> map_name(Row("tabby/cat.jpg", method="grad_cam", layer="layer4"), ())
        'tabby-cat.grad_cam.layer4.npy'
    """
    photo = PurePosixPath(row.photo)
    stem = row.photo[: -len(photo.suffix)] if photo.suffix.lower() in PHOTOS else row.photo
    layer = "" if row.layer == "*" else row.layer
    name = ".".join(part for part in map(_plain, (stem, row.method, layer)) if part)
    if len(name.encode()) <= _LONGEST and folded(f"{name}.npy") not in taken:
        return f"{name}.npy"
    digest = sha256("\0".join(row.key).encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{name.encode()[:_LONGEST].decode('utf-8', 'ignore')}~{digest}.npy"


def folded(name: str) -> str:
    """Return a name as a file system compares it that knows no difference of letters' case or of composed accents."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _plain(text: str) -> str:
    """Replace what a file's name cannot have on some system."""
    text = re.sub(r"[^\w.=,+()@ -]", "-", unicodedata.normalize("NFC", text)).strip(" ")
    return re.sub(r"^[.-]+|\.$", "_", text)

"""Pictures out: as PIL images, arrays, bytes and files, and on the screen."""

from __future__ import annotations

import io
import os
import sys
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .._shared.checks import is_concrete
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.optional import extra
from ._figure import Figure
from ._read import read

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from ._read import Picture

_QUALITY: dict[str, dict[str, Any]] = {
    # a photo compresses hardly better at a higher level, which takes three times as long
    "PNG": {"compress_level": 1},
    "JPEG": {"quality": 95},
    "WEBP": {"quality": 95},
    "AVIF": {"quality": 95},
}
"""Options of the formats that have them."""


def to_numpy(picture: Picture | Figure) -> NDArray[np.uint8]:
    """Return a picture as an array of bytes.

    Args:
        picture: whatever `read` takes, or what `figure` returns.

    Returns:
        (H, W, 3), uint8, RGB; for OpenCV, which has blue first, take `[..., ::-1]`.

    Raises:
        CamfnError: as `read`.

    Example:
        >>> import torch
        >>> from camfn.image import to_numpy
        >>> to_numpy(torch.ones(3, 2, 4)).shape
        (2, 4, 3)
    """
    if isinstance(picture, Figure):
        picture = picture.to_bytes("png")
    if isinstance(picture, torch.Tensor):
        if not is_concrete(picture):
            raise CamfnError(f"picture: expected a tensor that can be read, got one on {picture.device}, or under vmap")
        picture = picture.cpu()  # where it is checked, and not only marked with NaN
    pixels = read(picture).detach()
    return np.ascontiguousarray(pixels.mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def to_pil(picture: Picture | Figure) -> Image:
    """Return a picture as a PIL image, which a notebook shows.

    Args:
        picture: whatever `read` takes; a path is read upright; or what `figure` returns.

    Returns:
        An image of mode "RGB".

    Raises:
        CamfnError: as `read`.
        ImportError: Pillow is missing.

    Example:
        >>> import torch
        >>> from camfn.image import to_pil
        >>> to_pil(torch.ones(3, 2, 4)).size
        (4, 2)
    """
    with extra("Pillow", "image.to_pil"):
        from PIL import Image

    return Image.fromarray(to_numpy(picture))


def to_bytes(picture: Picture | Figure, kind: str = "png") -> bytes:
    """Encode a picture, as a service sends it.

    Args:
        picture: whatever `read` takes, or what `figure` returns.
        kind: "png", "jpg", "webp" or another format that Pillow writes, with or without a dot; JPEG, WebP and AVIF have
            quality 95.

    Returns:
        The bytes of the file.

    Raises:
        CamfnError: no such format; as `read`.
        ImportError: Pillow is missing.

    Example:
        >>> import torch
        >>> from camfn.image import to_bytes
        >>> to_bytes(torch.ones(3, 2, 4), "jpg")[:2]
        b'\\xff\\xd8'
    """
    if not isinstance(kind, str):
        raise ArgumentTypeError(f"to_bytes: kind: expected the ending of a file, as 'png', got {kind!r}")
    if isinstance(picture, Figure):
        return picture.to_bytes(kind)
    return _encoded(picture, f".{kind.lower().lstrip('.')}", "to_bytes", kind)


def save(picture: Picture | Figure, path: str | PathLike[str]) -> None:
    """Write a picture to a file, in the format its name ends in; a file already there is replaced.

    Args:
        picture: whatever `read` takes: a tensor (3, H, W), an array (H, W, 3), a PIL image, bytes; also what `figure`
            returns, then in .pdf, .svg or .png.
        path: a name in .png, .jpg or another format Pillow writes; JPEG is written at quality 95.

    Raises:
        CamfnError: no such format, or `picture` is no picture.
        ImportError: Pillow is missing.

    Example:
        >>> import tempfile, torch
        >>> from camfn.image import save
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(torch.rand(3, 8, 8), f"{folder}/noise.png")
    """
    place = Path(path)
    if isinstance(picture, Figure):
        picture.save(place)
        return
    place.write_bytes(_encoded(picture, place.suffix.lower(), "save", str(path)))


def show(picture: Picture | Figure, title: str | None = None) -> None:
    """Show a picture: in a notebook below the cell, elsewhere in the viewer of the system.

    Args:
        picture: whatever `read` takes, or what `figure` returns.
        title: for viewers that have one.

    Raises:
        CamfnError: there is no screen; as `read`.
        ImportError: Pillow is missing.

    Example:
        >>> import torch
        >>> from camfn.image import show
        >>> show(torch.rand(3, 8, 8))  # doctest: +SKIP
    """
    shown = to_pil(picture)
    kernel = getattr(getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)(), "kernel", None)
    if kernel is not None:
        from IPython.display import display

        display(shown)  # type: ignore[no-untyped-call]
        return
    from PIL import ImageShow

    screen = sys.platform in ("win32", "darwin") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    if not screen or not ImageShow.show(shown, title):
        raise CamfnError("show: there is no screen, or no viewer: image.save(picture, 'picture.png') writes a file")


def _encoded(picture: Picture | Figure, ending: str, name: str, given: str) -> bytes:
    """Encode a picture in the format of an ending."""
    with extra("Pillow", f"image.{name}"):
        from PIL import Image

    kind = Image.registered_extensions().get(ending)
    if kind not in Image.SAVE:
        raise CamfnError(f"{name}: expected a name in .png or .jpg, got {given!r}")
    buffer = io.BytesIO()
    to_pil(picture).save(buffer, kind, **_QUALITY.get(kind, {}))
    return buffer.getvalue()

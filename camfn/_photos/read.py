"""Read a photo of any kind that Pillow can decode as upright 8-bit RGB."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .._shared.errors import PhotoError

_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


def read_photo(path: str | os.PathLike[str]) -> Image.Image:
    """Read one photo as a viewer would show it.

    Gray images of any depth are scaled to 0..255, transparent images are laid on white, CMYK and palette images are
    converted, and the image is turned as its EXIF orientation says. Of several frames the first is read.

    Args:
        path: An image file.

    Returns:
        An image of mode "RGB", upright, at its own size.

    Raises:
        PhotoError: The file is missing, truncated, or not an image that Pillow can decode.

    Example:
        >>> import tempfile, pathlib
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "gray.png")
        ...     Image.new("L", (4, 3), 128).save(path)
        ...     photo = read_photo(path)
        >>> photo.mode, photo.size, photo.getpixel((0, 0))
        ('RGB', (4, 3), (128, 128, 128))
    """
    return decode_photo(Path(path).read_bytes, os.fspath(path))


def decode_photo(data: Callable[[], bytes], name: str) -> Image.Image:
    """Decode the bytes that `data()` returns, as `read_photo` does; error messages call the photo `name`."""
    try:
        # from memory: Pillow (since #8390) maps an uncompressed rotated TIFF file with its sides swapped
        with Image.open(io.BytesIO(data())) as image:
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))
    except _UNREADABLE as error:
        raise PhotoError(f"cannot read the photo {name}: {_reason(error)}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to 8-bit RGB; transparent pixels become white."""
    if image.mode == "F" or image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale gray values of more than 8 bits to 0..255, since Pillow's `convert` would clip them.

    The scale is that of `_white`, or the range of the values if `_white` knows none.
    """
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise PhotoError("it has values that are not finite")
    low, high = float(values.min()), float(values.max())
    white = _white(image.mode, low, high)
    start, span = (0.0, white) if white else (low, (high - low) or 1.0)
    return Image.fromarray(np.rint((values - start) * (255 / span)).astype(np.uint8))


def _white(mode: str, low: float, high: float) -> float | None:
    """Guess the value of white: 65535 for integers, 1 or 255 for floats; None if the values fit none of these."""
    if low < 0:
        return None
    if mode != "F":
        return 65535.0 if high <= 65535 else None
    if high <= 1:
        return 1.0
    # A maximum a little above 1 is an overshoot on the scale 0..1; on the scale 0..255 the photo would be black.
    return 255.0 if 2 <= high <= 255 else None


def _reason(error: Exception) -> str:
    """Say in a few words why Pillow or the system could not read a photo."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or of a kind that Pillow cannot decode"
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def read_or_error(path: Path) -> Image.Image | PhotoError:
    """Read a photo; return the error instead of raising it."""
    try:
        return read_photo(path)
    except PhotoError as error:
        return error

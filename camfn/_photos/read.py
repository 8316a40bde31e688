"""Read a photo as upright 8-bit RGB: any kind that Pillow can decode in this process, and DICOM."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .._shared.errors import MissingPackageError, PhotoError
from .._shared.files import reason_of
from .dicom import decode_dicom, is_dicom
from .reading import noted, reading_of
from .window import Window, shown

_COMMON = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""Formats that any photo may be of, whatever its name ends in: names are often wrong."""

_BY_ENDING = {"JPEG2000", "PPM", "TGA", "ICO", "DDS", "PCX", "QOI", "SGI", "DIB"}
"""Formats that only a photo with an ending of theirs may be of."""

_PROGRAMS = {".eps", ".ps", ".ai", ".pdf", ".wmf", ".emf", ".svg"}


class ReadAs(NamedTuple):
    """How deep gray values and several frames are read.

    Attributes:
        window: the range of gray values that is shown: (low, high), "full", "auto", or None for the file's own, or else
            the full one if the values use a quarter of it.
        frame: the frame, counted from 1; None for the first.
    """

    window: Window | None = None
    frame: int | None = None


DEFAULT = ReadAs()


def read_photo(path: str | os.PathLike[str], read_as: ReadAs = DEFAULT) -> Image.Image:
    """Read one photo as a viewer would show it.

    Gray images of any depth are scaled to 0..255, transparent images are laid on white, CMYK and palette images are
    converted, and the image is turned as its EXIF orientation says. Of several frames it reads the first; `reading_of`
    says how many there are, and which window of gray values the picture shows. It starts no program, whatever the file
    says it is.

    Args:
        path: An image file.
        read_as: The window of deep gray values, and the frame.

    Returns:
        An image of mode "RGB", upright, at its own size.

    Raises:
        PhotoError: The file is missing, truncated, not an image, or shows nothing without a window.

    Example:
        >>> import tempfile, pathlib
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "gray.png")
        ...     Image.new("L", (4, 3), 128).save(path)
        ...     photo = read_photo(path)
        >>> photo.mode, photo.size, photo.getpixel((0, 0))
        ('RGB', (4, 3), (128, 128, 128))
    """
    return decode_photo(lambda: bytes_of(Path(path)), os.fspath(path), read_as)


def bytes_of(path: Path) -> bytes:
    """Read a file; a pipe or a device, which may never end, is refused."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise PhotoError("it is a pipe or a device, and no file")
    return path.read_bytes()


def decode_photo(data: Callable[[], bytes], name: str, read_as: ReadAs = DEFAULT) -> Image.Image:
    """Decode the bytes that `data()` returns, as `read_photo` does; error messages call the photo `name`."""
    try:
        content = data()
        if is_dicom(content[:132], Path(name).suffix.lower()):
            shown = decode_dicom(content, *read_as)
            return noted(shown.convert("RGB"), **reading_of(shown)._asdict())
        # from memory: Pillow (since #8390) maps an uncompressed rotated TIFF file with its sides swapped
        with Image.open(io.BytesIO(content), formats=_formats(name)) as image:
            _seek(image, read_as.frame)
            deep_color = image.mode.startswith(("RGB", "LA")) and ";16" in _raw_mode(image)
            image.load()
            picture = to_rgb(ImageOps.exif_transpose(image), read_as.window)
            if deep_color:
                if read_as.window != "full":
                    _refuse_dark(picture)
                noted(picture, window=(0.0, 65535.0), window_reason="the full range of its kind; no window of colors")
            return noted(picture, frame=read_as.frame or 1, frames=_frames(image))
    except MissingPackageError:
        raise
    except Exception as error:
        # decoders raise what they like: RuntimeError (AVIF), NotImplementedError (DDS), MemoryError (TIFF)
        raise PhotoError(f"cannot read the photo {name}: {_reason(error)}") from error


def _formats(name: str) -> list[str]:
    """List the formats of Pillow that a photo with this name may be of."""
    suffix = Path(name).suffix.lower()
    if name.lower().endswith((".nii", ".nii.gz")):
        raise PhotoError("it is a volume, of which only camfn explain makes maps, with a network of volumes")
    if suffix in _PROGRAMS:
        raise PhotoError(f"{suffix} is a drawing, which only a program could turn into a photo: save it as .png")
    Image.init()
    own = Image.registered_extensions().get(suffix)
    wanted = [*_COMMON, *([own] if own in _BY_ENDING else [])]
    return [name for name in wanted if name in Image.OPEN]


def _raw_mode(image: Image.Image) -> str:
    """Return how the file stores its pixels, as "RGB;16B"; empty where Pillow does not say."""
    tiles: Any = getattr(image, "tile", None) or [(None, None, None, "")]
    given = tiles[0][3]
    return str(given[0] if isinstance(given, tuple) and given else given)


def _seek(image: Image.Image, frame: int | None) -> None:
    """Go to a frame, counted from 1."""
    if frame is not None and frame > 1:
        count = getattr(image, "n_frames", 1)
        if frame > count:
            raise PhotoError(f"it has {count} frame{'s' * (count > 1)}, and --frame {frame} was asked for")
        image.seek(frame - 1)


def _frames(image: Image.Image) -> int | None:
    """Count the frames, after Pillow read the one to show; None where those behind it are damaged."""
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # as decoders raise what they like
        return None


def _refuse_dark(picture: Image.Image) -> None:
    """Refuse colors of 16 bits that use less than a quarter of them, of which Pillow keeps the upper 8 only."""
    pixels = np.asarray(picture)
    if int(pixels.max()) - int(pixels.min()) < 64:
        raise PhotoError(
            "its colors of 16 bits use less than a quarter of their range: save it with 8 bits, or give --window full "
            "to take it as it is"
        )


def to_rgb(image: Image.Image, window: Window | None = None) -> Image.Image:
    """Convert an image of any mode to 8-bit RGB; transparent pixels become white."""
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        white = _white(image.mode, float(values.min()), float(values.max()))
        image = shown(values, None if white is None else (0.0, white), window)
    elif image.mode == "L" and window not in (None, "full"):
        image = shown(np.asarray(image), (0.0, 255.0), window)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white_paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white_paper, image).convert("RGB")
    return image.convert("RGB")


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
    if isinstance(error, MemoryError):
        return "it is too large for the memory"
    return reason_of(error)


def read_or_error(path: Path, read_as: ReadAs = DEFAULT) -> Image.Image | PhotoError:
    """Read a photo; return the error instead of raising it."""
    try:
        return read_photo(path, read_as)
    except PhotoError as error:
        return error

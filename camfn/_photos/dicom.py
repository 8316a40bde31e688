"""DICOM images as 8-bit RGB: modality values, the window that the file asks for, inverted photometric."""

# tested in tests/photos/test_medical.py

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from .._shared.errors import PhotoError
from .._shared.optional import extra
from .reading import noted, reading_of
from .window import Window, shown

SUFFIXES = {".dcm", ".dicom", ".ima"}


def is_dicom(head: bytes, suffix: str) -> bool:
    """Say whether a file that begins with these bytes is DICOM."""
    return head[128:132] == b"DICM" or suffix in SUFFIXES


def decode_dicom(content: bytes, window: Window | None, frame: int | None) -> Image.Image:
    """Decode one frame as a viewer would show it.

    The values are those of the modality (rescale slope and intercept, or its table), shown through the first window of
    the file; without one, through the range of the stored bits. MONOCHROME1 is inverted.

    Raises:
        PhotoError: no image, no such frame, or a window that shows nothing.
        MissingPackageError: pydicom is not installed.
    """
    with extra("pydicom", "a DICOM image", name="medical"):
        import pydicom

    data = pydicom.dcmread(io.BytesIO(content), force=content[128:132] != b"DICM")
    if "PixelData" not in data:
        raise PhotoError("it holds no image")
    picture = _decoded(data, window, frame)
    return noted(picture, frame=frame or 1, frames=int(data.get("NumberOfFrames") or 1))


def _decoded(data: Any, window: Window | None, frame: int | None) -> Image.Image:
    """Show one frame of a dataset that holds an image."""
    from pydicom.pixels import apply_color_lut, apply_modality_lut, convert_color_space

    pixels, kind = _one_frame(data.pixel_array, data, frame), str(data.PhotometricInterpretation)
    if kind == "PALETTE COLOR":
        table = apply_color_lut(pixels, data)
        bits = int(data.RedPaletteColorLookupTableDescriptor[2])
        return Image.fromarray((table >> (bits - 8)).astype(np.uint8) if bits > 8 else table.astype(np.uint8))
    if pixels.ndim == 3:
        if pixels.dtype != np.uint8:
            raise PhotoError(f"its colors are of {pixels.dtype}, expected 8 bits: convert it")
        in_rgb = convert_color_space(pixels, kind, "RGB") if kind.startswith("YBR") else pixels
        return Image.fromarray(np.ascontiguousarray(in_rgb))
    values = apply_modality_lut(pixels, data).astype(np.float64)
    picture = _through_own_window(values, data) if window is None else None
    if picture is None:
        picture = shown(values, _full_range(data), window)
    if kind != "MONOCHROME1":
        return picture
    read = reading_of(picture)
    inverted = Image.fromarray(255 - np.asarray(picture))
    return noted(inverted, window=read.window, window_reason=f"{read.window_reason}; MONOCHROME1, so low is white")


def _one_frame(pixels: np.ndarray[Any, Any], data: Any, frame: int | None) -> np.ndarray[Any, Any]:
    """Take the first frame, or the one that is asked for, counted from 1."""
    count = int(data.get("NumberOfFrames") or 1)
    wanted = frame or 1
    if wanted > count:
        raise PhotoError(f"it has {count} frame{'s' * (count > 1)}, and --frame {wanted} was asked for")
    many = pixels.ndim == (4 if int(data.get("SamplesPerPixel", 1)) > 1 else 3)
    return pixels[wanted - 1] if many else pixels


def _through_own_window(values: np.ndarray[Any, Any], data: Any) -> Image.Image | None:
    """Show modality values through the file's own table or first window; None without one."""
    from pydicom.pixels import apply_voi_lut

    if "VOILUTSequence" in data:
        table = apply_voi_lut(values.astype(np.int64), data, prefer_lut=True)
        bits = int(data.VOILUTSequence[0].LUTDescriptor[2])
        picture = Image.fromarray(np.rint(table * (255.0 / (2**bits - 1))).clip(0, 255).astype(np.uint8))
        return noted(picture, window_reason="the file's own table, VOILUTSequence")
    center, width = (_first(data.get(key)) for key in ("WindowCenter", "WindowWidth"))
    if center is None or width is None:
        return None
    function, (low, high) = str(data.get("VOILUTFunction") or "LINEAR"), (center - width / 2, center + width / 2)
    if width <= 0 or (function == "LINEAR" and width < 1):
        raise PhotoError(f"its window has a width of {width:g}: give --window LOW,HIGH")
    if function == "SIGMOID":
        share = 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    elif function == "LINEAR_EXACT":
        share = (values - center) / width + 0.5
    else:  # the standard's LINEAR counts from the middle of the first value to the middle of the last
        low, high = center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
        share = (values - (center - 0.5)) / max(width - 1, 1e-9) + 0.5
    picture = np.rint(share.clip(0, 1) * 255).astype(np.uint8)
    if picture.min() == picture.max() and values.min() < values.max():
        raise PhotoError(
            f"its own window, {center:g} +- {width / 2:g}, shows nothing of its values, {values.min():g} to "
            f"{values.max():g}: give --window LOW,HIGH or --window auto"
        )
    count = len(data.WindowCenter) if hasattr(data.WindowCenter, "__len__") else 1
    reason = f"the file's WindowCenter {center:g} and WindowWidth {width:g}, {function}"
    reason += f"; the first of {count}" if count > 1 else ""
    return noted(Image.fromarray(picture), window=(low, high), window_reason=reason)


def _first(value: Any) -> float | None:
    """Return the first of several numbers."""
    if value is None or value == "":
        return None
    return float(value[0]) if hasattr(value, "__len__") and not isinstance(value, str) else float(value)


def _full_range(data: Any) -> tuple[float, float]:
    """Return the modality values of the least and the greatest stored value."""
    from pydicom.pixels import apply_modality_lut

    bits, signed = int(data.BitsStored), int(data.PixelRepresentation)
    ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1])
    low, high = sorted(apply_modality_lut(ends, data).astype(float).tolist())
    return low, high

"""Gray values of more than 8 bits as 0..255: the range that is shown, and the refusal of one that shows nothing."""

# tested in tests/photos/test_read.py

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image

from .._shared.errors import PhotoError, UsageError
from .reading import noted

Window = tuple[float, float] | str
"""(low, high), "full" or "auto"."""

_LEAST = 0.25
"""Share of the full range that values have to span to be shown without a window."""


def read_window(text: str | None) -> Window | None:
    """Read LOW,HIGH, full or auto.

    Raises:
        UsageError: none of these.
    """
    if text is None or text in ("full", "auto"):
        return text
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(f"--window {text!r}: expected LOW,HIGH, the lower first, as 0,4095; or full, or auto")
    return low, high


def shown(values: np.ndarray[Any, Any], full: tuple[float, float] | None, window: Window | None) -> Image.Image:
    """Scale gray values to 0..255.

    Args:
        values: (H, W), of any kind of number.
        full: the values of black and white; None where they are not known, and the range of the values stands for them.
        window: the range to show; by default the full one.

    Returns:
        The picture, which knows the window that was used (`reading_of`).

    Raises:
        PhotoError: values that are not finite, or that use less than a quarter of the full range without a window.
    """
    exact = values.astype(np.float64)
    if not np.isfinite(exact).all():
        raise PhotoError("it has values that are not finite")
    least, most = float(exact.min()), float(exact.max())
    if isinstance(window, tuple):
        (low, high), reason = window, "--window"
    elif window == "auto" or full is None:
        low, high = least, most
        reason = "--window auto: the photo's own range" if window else "the photo's own range; its white is not known"
    else:
        (low, high), reason = full, "--window full" if window else "the full range of its kind"
        if window is None and most - least < _LEAST * (high - low):
            raise PhotoError(
                f"its values, {least:g} to {most:g} of {low:g} to {high:g}, use less than a quarter of their range, "
                f"and would show as almost one gray: give --window {_guess(least, most)} or another LOW,HIGH, "
                "--window auto for the range of each photo, or --window full to take it as it is"
            )
    scaled = np.clip((exact - low) * (255 / ((high - low) or 1.0)), 0, 255)
    picture = Image.fromarray(np.rint(scaled).astype(np.uint8))
    return noted(picture, window=(float(low), float(high)), window_reason=reason)


def _guess(least: float, most: float) -> str:
    """Name the range of the camera: the least power of two above integer values from 0."""
    if least >= 0 and most == int(most) and most > 1:
        return f"0,{2 ** math.ceil(math.log2(most + 1)) - 1}"
    return f"{least:g},{most:g}"

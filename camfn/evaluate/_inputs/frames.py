"""Which frame of files with several a run reads."""

# tested in tests/evaluate/inputs/test_frames.py

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from PIL import Image

from ..._photos.reading import frames_told, reading_of
from ..._shared.errors import CamfnError
from .photos import Photo

_IN_THE_HEAD = (".gif", ".png", ".apng", ".webp", ".tif", ".tiff", ".avif")
"""Endings of files in which Pillow counts the frames without a decoded pixel."""

_ONE = (".jpg", ".jpeg", ".jfif", ".bmp", ".ppm", ".pgm", ".jp2")
"""Endings of files with one frame."""


def frames_of(photos: Sequence[Photo]) -> list[str]:
    """Write a line for each photo whose file has several frames, as "scan.tif, frame 1 of 30".

    A photo that cannot be read has no line: its row says why.
    """
    lines = []
    for photo in photos:
        name = Path(photo.member or photo.path).suffix.lower()
        if name in _ONE:
            continue
        with suppress(CamfnError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            if name in _IN_THE_HEAD and photo.member is None:
                with Image.open(photo.path) as image:
                    if getattr(image, "n_frames", 1) == 1:
                        continue
            told = frames_told(reading_of(photo.read()).record())
            if told:
                lines.append(f"{photo.name}{told}")
    return lines

"""A font that has the letters of what a picture says."""

# tested in tests/cli/files/test_fonts.py

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import ImageFont

from ..._shared.errors import UsageError

_KNOWN = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "NotoSansCJKjp-Regular.otf",
    "wqy-microhei.ttc", "DroidSansFallbackFull.ttf", "unifont.otf", "FreeSans.ttf", "Arial Unicode.ttf",
    "ArialHB.ttc", "Hiragino Sans GB.ttc", "AppleSDGothicNeo.ttc", "arial.ttf", "msyh.ttc", "YuGothM.ttc",
    "malgun.ttf", "Nirmala.ttf",
)  # fmt: skip
"""Names of fonts that many systems have; Pillow looks for them in the system's folders."""

_NONE = "\uffff"
"""No letter of any script: a font draws its sign of a missing letter."""


def font_for(texts: Iterable[str]) -> tuple[str | None, str]:
    """Choose a font for texts, Pillow's own if it has all their letters.

    Returns:
        The path of the font, None for Pillow's own, and the letters that it does not have.
    """
    letters = _letters(texts)
    best, least = None, missing(ImageFont.load_default(16), letters)
    for name in _KNOWN if least else ():
        try:
            font = ImageFont.truetype(name, 16)
        except OSError:
            continue
        lacking = missing(font, letters)
        if len(lacking) < len(least):
            best, least = str(font.path), lacking
    return best, least


def missing_of(path: Path, texts: Iterable[str]) -> str:
    """Return the letters of texts that a font file does not have."""
    try:
        font = ImageFont.truetype(str(path), 16)
    except OSError as error:
        raise UsageError(f"--font {path}: expected a TrueType or OpenType file: {error}") from None
    return missing(font, _letters(texts))


def missing(font: Any, letters: Iterable[str]) -> str:
    """Return the letters that a font draws as it draws what is no letter."""
    none = _drawn(font, _NONE)
    return "".join(letter for letter in letters if _drawn(font, letter) == none)


def _letters(texts: Iterable[str]) -> list[str]:
    """Return each letter of texts once; spaces are drawn by nothing."""
    return sorted({letter for text in texts for letter in text if not letter.isspace()})


def _drawn(font: Any, letter: str) -> tuple[Any, bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)

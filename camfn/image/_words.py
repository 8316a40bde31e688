"""Words of a figure: how wide they are, and where they break."""

# tested in tests/image/test_figure.py

from __future__ import annotations

from collections.abc import Iterable

POINT = 1 / 72
"""A point in inches."""


def breadth(text: str, size: float) -> float:
    """Return how wide a line of text is, in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    if not text:
        return 0.0
    wide, _, _ = TextToPath().get_text_width_height_descent(text, FontProperties(size=size), False)
    return float(wide) * POINT


def unknown(texts: Iterable[str]) -> str:
    """Return the letters that no font of matplotlib's settings has: they would be drawn as empty boxes."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    known: set[int] = set()
    for family in FontProperties().get_family():
        known |= set(get_font(findfont(FontProperties(family=[family]))).get_charmap())
    return "".join(sorted({c for text in texts for c in text if c != "\n" and ord(c) not in known}))


def broken(text: str, inches: float, size: float) -> list[str]:
    """Break a name into lines that fit: behind spaces, `_`, `-` and `:`, and inside of a word that is too long."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for part in _parts(paragraph):
            if line and breadth((line + part).rstrip(), size) > inches:
                lines.append(line.rstrip())
                line = ""
            line += part
            while len(line) > 1 and breadth(line.rstrip(), size) > inches:
                fit = next((n for n in range(len(line) - 1, 0, -1) if breadth(line[:n], size) <= inches), 1)
                lines.append(line[:fit])
                line = line[fit:]
        lines.append(line.rstrip())
    return lines


def _parts(text: str) -> list[str]:
    """Cut a text behind each place where it may break."""
    parts = [""]
    for letter in text:
        parts[-1] += letter
        if letter in " _-:/=":
            parts.append("")
    return [part for part in parts if part]

"""What `check` returns."""

# tested in tests/check/test_words.py

from __future__ import annotations

from typing import Any

from .._shared.seen import picture, sheet, table, visible, words
from .._shared.value import frozen
from .numbers import Numbers
from .words import Line, lines_of, table_of


@frozen
class Checked(Numbers):
    """What `check` found, for B images; `str` is a table of all of them.

    The rank correlations are those of `metrics.spearman`, in [-1, 1], with the map of the image itself.

    Attributes:
        cam: the map that was checked, (B, *S).
        score: of the whole images, (B,): for a class its probability, else the target's own number.
        classes: the explained classes, (B,); None where the target is not the score of a class.
        runner_up: the class of each image with the largest logit among the others, (B,), or None.
        head: the dotted name of the module whose parameters were drawn anew, or None.
        again: correlation with a second call, (B,).
        other_class: correlation with the map of the runner-up, (B,), or None.
        redrawn: correlations with the maps of networks with new heads, (B, redraws), or None.
        noisy: correlations with the maps of noisy images, (B, copies).
        kept: scores where only a part of the image is kept, (B, 1 + parts), the marked part first; or None.
        removed: scores where a part is removed, (B, 1 + parts), the marked part first; or None.
        border: distance of the peak to the nearest edge, as a share of that side, (B,); NaN without a positive value.
        together: share of the strong values (at least half of the peak) in one piece with the peak, (B,), or NaN.
        marked: share of the positions whose value is strong, (B,), or NaN.
        blank: whether a map is constant or not finite, (B,), bool; its numbers mean nothing.
        share: of the image that the marked part is.
        maps: number of explanations made, each of all B images.
        forwards: number of forwards beside those, each of all B images.
        missing: by the name of a line, why it was left out.
    """

    def lines(self, i: int = 0, names: list[str] | None = None) -> tuple[Line, ...]:
        """Answer the questions for image i, each with a number, a verdict and a sentence.

        Args:
            i: which image of the batch.
            names: of the classes; without them a class is a number.
        """
        return lines_of(self, i, names)

    def table(self, i: int = 0, names: list[str] | None = None, *, width: int = 120) -> str:
        """Lay out the lines of image i as text: verdict, question, number, interval, sentence; `width` in letters."""
        return table_of(self.lines(i, names), width)

    def record(self, i: int = 0, names: list[str] | None = None) -> list[dict[str, Any]]:
        """Return the lines of image i as plain dicts, for JSON."""
        return [line._asdict() | {"interval": line.interval and list(line.interval)} for line in self.lines(i, names)]

    def __str__(self) -> str:
        tables = [self.table(i) for i in range(len(self.blank))]
        return tables[0] if len(tables) == 1 else "\n\n".join(f"image {i}\n{text}" for i, text in enumerate(tables))

    def _repr_html_(self) -> str:
        """Show the map and the table of each image in a notebook."""
        return "".join(self._shown(i) for i in range(len(self.blank)))

    def _shown(self, i: int) -> str:
        """Lay out image i in HTML."""
        maps = visible(self.cam[i : i + 1, None])
        drawn = picture(sheet([maps]), f"map of image {i}: red above zero, blue below") if maps else ""
        rows = []
        for line in self.lines(i):
            number = "" if line.value is None else f"{line.value:.2f}"
            ends = "" if line.interval is None else f" [{line.interval[0]:.2f}, {line.interval[1]:.2f}]"
            rows.append([line.name, line.verdict, number + ends, words(line.sentence)])
        return drawn + table(["", "verdict", "number", ""], rows)

    def _repr_png_(self) -> bytes | None:
        """Draw the maps in a row."""
        maps = [cam for i in range(len(self.blank)) for cam in visible(self.cam[i : i + 1, None])]
        return sheet([maps]) if maps else None

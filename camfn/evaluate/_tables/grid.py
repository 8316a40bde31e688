"""A table of text, written for a terminal, for LaTeX and for Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from textwrap import wrap
from typing import NamedTuple

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
_SIDES = ("left", "right")
"""Where the text of a name stands in its cell, and that of a number."""
FIT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}"
"""What shrinks a table of LaTeX that is wider than a line."""
_LONGEST = 44
"""Characters of a name in a terminal; a longer one loses its middle."""


class Cell(NamedTuple):
    """One cell.

    Attributes:
        text: a name or a number.
        best: whether it is the best of its column.
        mark: `=`, `+`, `-`, or several of these.
        interval: as in "[0.68, 0.85]".
        gray: whether it counts for nothing: gray in LaTeX, dim on a terminal.
    """

    text: str
    best: bool = False
    mark: str = ""
    interval: str = ""
    gray: bool = False


class Grid(NamedTuple):
    """A table.

    Attributes:
        title: what the table shows, and by what it is ordered.
        heads: name and direction ("higher", "lower" or empty) of each column.
        lines: the cells; the first of each line is a name.
        dim: for each line, whether it is a baseline.
        notes: how to read it: sentences, in which *, =, +, - are the marks.
        label: of the LaTeX table.
        gray: columns whose heads are gray.
    """

    title: str
    heads: Sequence[tuple[str, str]]
    lines: Sequence[Sequence[Cell]]
    dim: Sequence[bool]
    notes: Sequence[str]
    label: str
    gray: Sequence[int] = ()

    @property
    def width(self) -> int:
        """Characters of a line of `to_text`."""
        return sum(self._widths()) + 2 * (len(self.heads) - 1)

    def to_text(self) -> str:
        """Write the table in plain characters: title, heads, lines, notes."""
        return "\n".join("".join(text for text, _ in line).rstrip() for line in self.to_pieces()) + "\n"

    def to_pieces(self) -> list[list[tuple[str, bool]]]:
        """Write the lines of `to_text` in pieces, each with whether it is gray."""
        widths = self._widths()
        heads = [[_cut(name) for name, _ in self.heads], [direction for _, direction in self.heads]]
        lines = [[(_plain(self.title), False)], []]
        gray = [i in self.gray for i in range(len(self.heads))]
        lines += [_joined(head, widths, gray) for head in heads if any(head)]
        for line in self.lines:
            cells = [_terminal(cell, i, self._has_marks(i)) for i, cell in enumerate(line)]
            lines.append(_joined(cells, widths, [cell.gray for cell in line]))
        notes = [part for note in self.notes for part in wrap(_plain(note), 100, subsequent_indent="  ")]
        return [*lines, [], *([(note, False)] for note in notes)]

    def to_latex(self) -> str:
        """Write the table in LaTeX with booktabs, graphicx to fit the line, and xcolor for gray.

        Baselines come last, below a rule.
        """
        arrows = {"higher": r" $\uparrow$", "lower": r" $\downarrow$", "": ""}
        named = [escape(name) + arrows[direction] for name, direction in self.heads]
        heads = " & ".join(_grayed(name, i in self.gray) for i, name in enumerate(named))
        methods = [_row(line) for line, dim in zip(self.lines, self.dim) if not dim]
        baselines = [_row(line) for line, dim in zip(self.lines, self.dim) if dim]
        body = [*methods, *(["\\midrule"] if methods and baselines else []), *baselines]
        caption = " ".join([f"{escape(self.title)}.", *(_sentence(note) for note in self.notes)])
        return "\n".join(
            [
                r"\begin{table}",
                r"  \centering",
                rf"  \caption{{{caption}}}",
                rf"  \label{{{self.label}}}",
                r"  \smallskip",
                f"  {FIT}{{%",
                rf"  \begin{{tabular}}{{l{'r' * (len(self.heads) - 1)}}}",
                r"    \toprule",
                f"    {heads} \\\\",
                r"    \midrule",
                *(f"    {line}" for line in body),
                r"    \bottomrule",
                r"  \end{tabular}}",
                r"\end{table}",
                "",
            ]
        )

    def to_markdown(self) -> str:
        """Write the table in Markdown, the best in bold, baselines in italics."""
        arrows = {"higher": " ↑", "lower": " ↓", "": ""}
        heads = " | ".join(_pipe(name) + arrows[direction] for name, direction in self.heads)
        lines = [_pipe(self.title) + ".", "", f"| {heads} |", "|---" + "|---:" * (len(self.heads) - 1) + "|"]
        for cells, dim in zip(self.lines, self.dim):
            name = f"*{_pipe(cells[0].text)}*" if dim else _pipe(cells[0].text)
            lines.append("| " + " | ".join([name, *map(_markdown, cells[1:])]) + " |")
        return "\n".join([*lines, "", " ".join(_pipe(note) for note in self.notes), ""])

    def to_html(self) -> str:
        """Write the table in HTML: the best in bold, baselines in italics, gray what counts for nothing."""
        arrows = {"higher": " ↑", "lower": " ↓", "": ""}
        heads = [html.escape(_plain(name)) + arrows[direction] for name, direction in self.heads]
        top = "".join(
            f'<th scope="col"{_style(_SIDES[i > 0], i in self.gray)}>{head}</th>' for i, head in enumerate(heads)
        )
        lines = []
        for cells, dim in zip(self.lines, self.dim):
            name = html.escape(_plain(cells[0].text))
            name = f"<i>{name}</i>" if dim else name
            row = f'<th scope="row"{_style(_SIDES[0], cells[0].gray)}>{name}</th>'
            lines.append(f"<tr>{row}{''.join(map(_hypertext, cells[1:]))}</tr>")
        notes = "<br>".join(html.escape(_plain(note)) for note in self.notes)
        said = html.escape(_plain(self.title))
        title = f'<p style="margin:.8em 0 .3em;overflow-wrap:anywhere"><b>{said}</b></p>'
        scrolled = f'<div role="region" aria-label="{said}" tabindex="0" style="overflow-x:auto">'
        return (
            f'{title}{scrolled}<table style="margin:0"><thead><tr>{top}</tr></thead>'
            f'<tbody>{"".join(lines)}</tbody></table></div><p style="max-width:60em"><small>{notes}</small></p>'
        )

    def _repr_html_(self) -> str:
        """Show the table in a notebook."""
        return self.to_html()

    def _has_marks(self, column: int) -> bool:
        return any(line[column].best or line[column].mark for line in self.lines)

    def _widths(self) -> list[int]:
        """Return the characters of each column."""
        return [
            max(
                [len(_cut(name)), len(direction)]
                + [len(_terminal(line[i], i, self._has_marks(i))) for line in self.lines]
            )
            for i, (name, direction) in enumerate(self.heads)
        ]


def latex_of(grids: Sequence[Grid]) -> str:
    """Write tables for one file of LaTeX, which says at its top what packages it needs."""
    tables = [grid.to_latex() for grid in grids]
    packages = "booktabs,graphicx" + ",xcolor" * any(r"\textcolor" in table for table in tables)
    return "\n".join([f"% made by camfn; needs \\usepackage{{{packages}}}\n", *tables])


def markdown_of(grids: Sequence[Grid]) -> str:
    """Write tables for one file of Markdown."""
    return "\n".join(grid.to_markdown() for grid in grids)


def escape(text: str) -> str:
    """Write text for LaTeX, so that pdfLaTeX takes it: letters that its fonts lack are written as U+4E2D."""
    escaped = (_LATEX.get(c, c if c.isascii() or 0xC0 <= ord(c) <= 0x17F else f"U+{ord(c):04X}") for c in _plain(text))
    return "".join(escaped)


def _plain(text: str) -> str:
    """Put text on one line, without what a terminal would obey."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _cut(text: str) -> str:
    """Leave out the middle of a long name."""
    text = _plain(text)
    half = (_LONGEST - 2) // 2
    return text if len(text) <= _LONGEST else f"{text[:half]}..{text[-half:]}"


def _terminal(cell: Cell, column: int, marked: bool) -> str:
    """Write a cell for a terminal; the marks of a column stand below each other."""
    mark = ("*" if cell.best else "") + cell.mark
    if column == 0:
        return _cut(cell.text)
    return cell.text + (f"{mark:<2}" if marked else "") + (f" {cell.interval}" if cell.interval else "")


def _joined(cells: Sequence[str], widths: Sequence[int], gray: Sequence[bool]) -> list[tuple[str, bool]]:
    """Put cells beside each other, the first to the left of its column and the others to the right."""
    aligned = (f"{c:<{w}}" if i == 0 else f"  {c:>{w}}" for i, (c, w) in enumerate(zip(cells, widths)))
    return list(zip(aligned, gray, strict=True))


def _row(cells: Sequence[Cell]) -> str:
    """Write a line in LaTeX. A first `[` or `*` would be an option of the line break before it."""
    name = escape(cells[0].text)
    name = _grayed(f"{{}}{name}" if name[:1] in ("[", "*") else name, cells[0].gray)
    return " & ".join([name, *map(_latex, cells[1:])]) + r" \\"


def _latex(cell: Cell) -> str:
    """Write a number in LaTeX."""
    number = re.sub(r"-(?=[\d.])", "$-$", escape(cell.text))
    number = rf"\textbf{{{number}}}" if cell.best else number
    interval = re.sub(r"-(?=[\d.])", "$-$", cell.interval)
    number += f"$^{{{cell.mark}}}$" if cell.mark else ""
    return _grayed(number + (rf" {{\scriptsize {interval}}}" if interval else ""), cell.gray)


def _grayed(text: str, gray: bool) -> str:
    """Color text of LaTeX gray."""
    return rf"\textcolor{{gray}}{{{text}}}" if gray and text else text


def _sentence(note: str) -> str:
    """Write a note in LaTeX, with its marks as in the cells."""
    note = escape(note)
    note = re.sub(r"^\* (: )?", r"Bold: ", note)
    return re.sub(r"(?<!\S)([=+-])(?: (?=:))?(?=[ ,:])", r"$^{\1}$", note)


def _pipe(text: str) -> str:
    """Write text for a cell of Markdown."""
    return re.sub(r"([\\|*_`\[\]<>])", r"\\\1", _plain(text))


def _markdown(cell: Cell) -> str:
    """Write a number in Markdown."""
    number = f"**{cell.text}**" if cell.best else cell.text
    return number + cell.mark + (f" {cell.interval}" if cell.interval else "")


def _hypertext(cell: Cell) -> str:
    """Write a number as a cell of HTML."""
    number = html.escape(cell.text)
    number = f"<b>{number}</b>" if cell.best else number
    number += f'<sup style="line-height:0">{html.escape(cell.mark)}</sup>' if cell.mark else ""
    number += f" <small>{html.escape(cell.interval)}</small>" if cell.interval else ""
    return f"<td{_style(_SIDES[1], cell.gray)}>{number}</td>"


def _style(side: str, gray: bool) -> str:
    """Align a cell of HTML on one line; what counts for nothing is faint, and takes the color of the page."""
    return f' style="text-align:{side};white-space:nowrap{";opacity:.65" if gray else ""}"'

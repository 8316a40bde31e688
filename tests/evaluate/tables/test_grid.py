"""Tables in text, LaTeX and Markdown: width, marks, order, and names that would break them."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from camfn._shared.errors import UsageError
from camfn.evaluate import METRICS, Ranking, Row, differences, rank, write_table
from camfn.evaluate._tables.grid import FIT, Cell, Grid, escape
from camfn.evaluate._tables.records import file_names
from camfn.evaluate._tables.table import grid_of, grid_of_differences

NAMES = ("grad_cam", "score_cam:top_k=0.05", "smooth_full_grad:samples=5 @ features.7.0", "is_cam:steps=4,top_k=0.02")


def results(names: tuple[str, ...] = NAMES, model: str = "net", photos: int = 8, scale: float = 1.0) -> list[Row]:
    generator = np.random.default_rng(0)
    hard = generator.uniform(0.2, 0.6, photos)
    rows = []
    for place, name in enumerate((*names, "center", "random")):
        method, _, layer = name.partition(" @ ")
        for i in range(photos):
            value = scale * float(hard[i] - 0.04 * place + generator.normal(0, 0.01))
            values = {metric: value for metric, info in METRICS.items() if info.join is None}
            values["/home/me/my metrics.py:border:better=lower"] = value
            rows.append(Row(f"p{i}", f"{model} {layer or 'auto'} {method}", forwards=1.0, seconds=0.1, values=values))
    return rows


def check_latex(text: str) -> None:
    """Hold LaTeX to what pdfLaTeX asks: groups and dollars close, & are as many as columns, no bare special."""
    assert text.count(FIT + "{%\n") == text.count(r"\begin{table}")
    plain = re.sub(r"\\[\\&%$#_{}]", "", text.replace(FIT, ""))
    depth = 0
    for character in plain:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    assert plain.count("$") % 2 == 0
    outside = re.sub(r"\$[^$]*\$", "", plain)
    assert not re.search(r"[_^~#<>|\"]", outside), outside
    assert all(ord(c) < 0x180 for c in text)
    assert [re.findall(r"\\(begin|end)\{(\w+)\}", text)][0] == [
        ("begin", "table"), ("begin", "tabular"), ("end", "tabular"), ("end", "table"),
    ] * text.count(r"\begin{table}")  # fmt: skip
    for part in text.split(r"\begin{table}")[1:]:
        (columns,) = map(len, re.findall(r"\\begin\{tabular\}\{(\w+)\}", part))
        lines = [line for line in re.sub(r"\\&", "", part).splitlines() if line.endswith(r"\\")]
        assert len(lines) > 1
        assert {line.count("&") for line in lines} == {columns - 1}
        assert not any(line.strip().startswith(("[", "*")) for line in lines)
        assert [part.count(rf"\{rule}rule") for rule in ("top", "bottom")] == [1, 1]


@pytest.mark.parametrize("width", [100, 80])
def test_the_narrow_table_fits(width: int) -> None:
    text = rank(results(), "net").to_text(width=width)
    table = text[: text.index("\n\n", text.index("method"))].splitlines()
    assert max(map(len, table)) <= width
    assert table[0] == "net: 8 photos, best first by energy_in_box (higher is better)"
    assert all(any(line.startswith(name) for line in table) for name in (*NAMES, "center", "random"))
    assert text.isascii()


def test_the_wide_table_has_all() -> None:
    ranking = rank(results(), "net")
    text = ranking.to_text(wide=True)
    assert all(name in text for name in (*(n for n, info in METRICS.items() if info.join is None), "border", "seconds"))
    assert "--wide" not in text
    assert "--wide" in ranking.to_text()
    assert "--wide" not in ranking.to_latex() + ranking.to_markdown()


def test_marks_and_columns() -> None:
    ranking = rank(results(), "net", by="deletion")
    text = ranking.to_text()
    first = text.splitlines()[4].split()
    # `deletion` is lower at the end of the list, where the baselines are; the best of the methods is the last one
    assert "deletion (lower is better)" in text
    assert first[0] == "random"
    assert next(line for line in text.splitlines() if "*" in line).startswith("is_cam")
    with pytest.raises(UsageError, match="no numbers of 'max_box_acc'"):
        ranking.to_latex(metrics=["max_box_acc"])
    two = ranking.to_markdown(metrics=["iou"])
    assert two.splitlines()[2].startswith("| method | deletion ↓ | iou ↑ | forwards |")


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_numbers_keep_their_digits_at_any_scale(scale: float) -> None:
    ranking = rank(results(scale=scale), "net")
    cells = [line[1].text for line in grid_of(ranking).lines]
    assert all(
        float(cell) == pytest.approx(s.estimates["energy_in_box"].value, rel=0.02) for cell, s in zip(cells, ranking)
    )


HOSTILE = (
    "a&b_c%d#e$f.py:x", "{open.py:cam:k='}'", r"back\slash~^", "*star", "[red]bold[/red]", "x" * 120, "tab\there\nline",
    "pipe|`code`", "eins<zwei>\"", "\x1b[31mred", "日本.py:cam:name='é日本'",
)  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_names_break_no_table(name: str, tmp_path: Path) -> None:
    rows = results((name, "grad_cam", "fem"), model="net")
    ranking = rank(rows, "net")
    latex = ranking.to_latex(tmp_path / "table.tex")
    assert (tmp_path / "table.tex").read_text(encoding="utf-8") == latex
    found = differences(rows, "net", "iou", against="grad_cam")
    for text in (latex, ranking.to_latex(wide=True), grid_of_differences(found, "iou", ranking, "net").to_latex()):
        check_latex(text)
    markdown = ranking.to_markdown(tmp_path / "table.md").splitlines()
    table = [line for line in markdown if line.startswith("|")]
    assert len(table) == 2 + 5
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    text = ranking.to_text()
    assert "\x1b" not in text
    assert max(len(line) for line in text.splitlines()) <= 100
    write_table(ranking, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as file:
        assert {line["case"] for line in csv.DictReader(file)} == {s.case for s in ranking}


def test_a_table_is_safe_in_a_spreadsheet(tmp_path: Path) -> None:
    rows = results(("grad_cam",), model="=HYPERLINK(1)")
    write_table(rank(rows, "=HYPERLINK(1)"), tmp_path / "table.csv")
    lines = (tmp_path / "table.csv").read_text().splitlines()[1:]
    assert len(lines) == 3
    assert all(line.startswith("'=HYPERLINK(1) ") for line in lines)


def test_no_table_has_a_mean_rank_over_everything() -> None:
    found = rank(results(), "net")
    for text in (found.to_text(), found.to_text(wide=True), found.to_latex(), found.to_markdown()):
        assert "mean rank" not in text
    assert "mean_rank" not in found.to_pandas().columns


def test_latex_by_hand() -> None:
    assert escape("a_b & 50 % #1 \\x {y} é 日") == r"a\_b \& 50 \% \#1 \textbackslash{}x \{y\} é U+65E5"
    assert escape("~ ^ <z>") == r"\textasciitilde{} \textasciicircum{} \textless{}z\textgreater{}"


def test_differences_are_a_table() -> None:
    rows = results()
    ranking = rank(rows, "net")
    grid = grid_of_differences(differences(rows, "net", "iou", against="grad_cam"), "iou", ranking, "net")
    text = grid.to_text()
    assert len(grid.lines) == 5
    assert max(map(len, text.splitlines())) <= 100
    assert {line.split()[-1] for line in text.splitlines() if line.startswith(("center", "random"))} == {"better"}


def test_each_model_has_a_file_of_its_own() -> None:
    models = ["hf:a/b", "hf-a-b", "hf:A/B", "n" * 300, "n" * 301, "../x", "é.py:f", "con*?"]
    names = file_names(models)
    assert len({name.casefold() for name in names.values()}) == len(models)
    assert all(re.fullmatch(r"[A-Za-z0-9_.+-]{1,120}", name) for name in names.values())


def test_a_ranking_is_a_sequence() -> None:
    ranking = rank(results(), "net")
    assert isinstance(ranking, Ranking)
    assert [s.method for s in ranking][:1] == [ranking[0].method] == [ranking.standings[0].method]


def test_every_column_marks_what_is_not_told_apart_from_its_best() -> None:
    near = [0.9, 0.8, 0.85, 0.9, 0.95, 0.8, 0.9, 0.85, 0.9, 0.8, 0.9, 0.95]
    other = [0.88, 0.82, 0.85, 0.89, 0.96, 0.79, 0.9, 0.86, 0.88, 0.8, 0.91, 0.94]
    far = [0.3, 0.2, 0.25, 0.3, 0.35, 0.2, 0.3, 0.25, 0.3, 0.2, 0.3, 0.35]
    # by iou a and b lead, by deletion, where less is better, c and b
    table = {"a": (near, near), "b": (other, [v - 0.6 for v in other]), "c": (far, far)}
    rows = [
        Row(str(i), f"net auto {name}", values={"iou": iou[i], "deletion": deletion[i]})
        for name, (iou, deletion) in table.items()
        for i in range(12)
    ]
    ranking = rank(rows, "net", by="iou")
    assert {s.method: s.level for s in ranking} == {"a": (), "b": ("iou",), "c": ("deletion",)}
    for text, best, equal in (
        (ranking.to_latex(), r"\textbf{", "$^{=}$"),
        (ranking.to_markdown(), "**", "="),
        (ranking.to_text(), "*", "="),
    ):
        lines = {line.strip(" |")[0]: line for line in text.splitlines() if line.strip(" |")[:2] in ("a ", "b ", "c ")}
        assert (best in lines["a"], equal in lines["a"]) == (True, False)
        assert (best in lines["b"], equal in lines["b"]) == (True, True)
        assert (best in lines["c"], equal in lines["c"]) == (False, True)
    assert "not told apart from the best of its column" in ranking.to_text()


def test_what_counts_for_nothing_is_gray_and_says_the_same() -> None:
    heads = [("method", ""), ("(blind)", "higher"), ("sees", "higher")]
    lines = [[Cell("cam"), Cell("-.1", mark="=", interval="[-.2, .1]", gray=True), Cell(".9", True)]]
    grid = Grid("a", heads, lines, [False], ["Gray."], "tab:a", gray=[1])
    latex = grid.to_latex()
    assert r"method & \textcolor{gray}{(blind) $\uparrow$} & sees $\uparrow$ \\" in latex
    assert r"cam & \textcolor{gray}{$-$.1$^{=}$ {\scriptsize [$-$.2, .1]}} & \textbf{.9} \\" in latex
    pieces = grid.to_pieces()
    assert [[text.strip() for text, gray in line if gray] for line in pieces[2:5]] == [
        ["(blind)"],
        ["higher"],
        ["-.1=  [-.2, .1]"],
    ]
    assert grid.to_text() == grid._replace(gray=()).to_text()
    assert "\x1b" not in grid.to_text()


def test_a_notebook_shows_the_ranked_table() -> None:
    ranking = rank(results(), "net")
    shown = ranking._repr_html_()
    assert shown.count("<tr>") == 1 + len(ranking)
    assert shown.count("<b>") >= 1
    assert shown.count("<i>") == 2  # the baselines
    assert all(f">{name.split(' @')[0]}" in shown for name in NAMES)


def test_names_are_no_markup_in_html() -> None:
    grid = Grid(
        "<b>",
        [("<i>", ""), ("x", "lower")],
        [[Cell("<u>"), Cell("1", True, "=", "[0, 1]", True)]],
        [False],
        ["<s>"],
        "t",
    )
    shown = grid._repr_html_()
    assert not re.search(r"<[ius]>", shown)
    assert 'opacity:.65"><b>1</b><sup style="line-height:0">=</sup> <small>[0, 1]</small></td>' in shown
    assert "x ↓" in shown


def test_marks_of_notes_are_those_of_cells_in_latex() -> None:
    notes = [
        "* : best, and told from all others. = : best, or not told.",
        "* best. + better, - worse: [ ] the interval.",
    ]
    text = Grid("t", [("a", "")], [[Cell("x")]], [False], notes, "t").to_latex()
    assert "Bold: best, and told from all others. $^{=}$: best, or not told." in text
    assert "Bold: best. $^{+}$ better, $^{-}$ worse: [ ] the" in text


@pytest.mark.sweep
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex with booktabs")
def test_tables_compile(tmp_path: Path) -> None:
    rows = results((*NAMES, 'a_$1{}%&#~^<>|\\"é中'))
    ranking = rank(rows, "net")
    pair = differences(rows, "net", "insertion")
    notes = [
        "* : best, and told from all others. = : best, or not told from it.",
        "+ better, - worse: [ ] the interval.",
    ]
    cells = [Cell("[x]", gray=True), Cell("-.21", True, "=+", "[-.30, .10]", True)]
    hard = Grid("grid@tiny:cnn#1, by a_b", [("method", ""), ("(x_y)", "lower")], [cells], [False], notes, "tab:x", [1])
    listed = [grid_of(ranking, None, True), grid_of_differences(pair, "insertion", ranking, "net"), hard]
    head = [
        r"\documentclass{article}",
        r"\usepackage{booktabs,graphicx,xcolor}",
        r"\usepackage[T1]{fontenc}",
        r"\begin{document}",
    ]
    lines = [*head, *(grid.to_latex() for grid in listed), r"\end{document}"]
    (tmp_path / "a.tex").write_text("\n".join(lines), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode("latin-1")[-2000:]
    assert b"Missing character" not in (tmp_path / "a.log").read_bytes()

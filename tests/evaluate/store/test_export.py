"""rows.csv, run.json and accidents.txt: for people, spreadsheets and other programs."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from camfn.evaluate import Row
from camfn.evaluate._store.export import safe, table, write_exports

TEXTS = ["=HYPERLINK(1).jpg", "+1.jpg", "-1.jpg", "@SUM(A1)", "\t=1", "\r=1", " =1", "\n=1", "＝1", "'=1"]


@pytest.mark.parametrize("text", TEXTS)
def test_no_cell_is_a_formula(text: str) -> None:
    row = Row(text, f"{text} auto cam", text, problem=text, model=text, method=text, values={"iou": -0.5})
    header, cells = csv.reader(io.StringIO(table([row], ["iou"])))
    for name, cell in zip(header, cells, strict=True):
        if name != "iou":
            assert not cell.strip(" \n\t\r").startswith(("=", "+", "-", "@", "＝"))
    assert cells[header.index("iou")] == "-0.5"  # a number stays one


def test_plain_texts_stay_as_they_are() -> None:
    assert [safe(text) for text in ("cat.jpg", "a=b", "0.5", "")] == ["cat.jpg", "a=b", "0.5", ""]


@pytest.mark.parametrize("name", ["a\nb", "a\r\nb", "a\rb", 'a"b', "a,b", "a\x0cb", "a\x1cb", "a\x85b", "a\u2028b"])
def test_every_row_is_one_line_of_a_reader(name: str) -> None:
    rows = list(csv.DictReader(io.StringIO(table([Row(name, "c"), Row("x", "c")], []), newline="")))
    assert len(rows) == 2
    assert rows[0]["photo"].replace("\\r", "\r") == name


def test_tracebacks_are_kept_beside(tmp_path: Path) -> None:
    header = {"protocol": {"metrics": ["iou"]}}
    bad = Row("a\udcff.png", "m auto cam", kind="accident", tries=2, traceback="Traceback: x\nMemoryError\n")
    write_exports(tmp_path, header, [bad, Row("b", "m auto cam")])
    told = (tmp_path / "accidents.txt").read_text()
    assert told == "a\\udcff.png | m auto cam | 2 tries\nTraceback: x\nMemoryError\n"
    assert json.loads((tmp_path / "run.json").read_text()) == header
    assert (tmp_path / "rows.csv").read_text(encoding="utf-8").count("\n") == 3
    write_exports(tmp_path, header, [Row("b", "m auto cam")])
    assert not (tmp_path / "accidents.txt").exists()

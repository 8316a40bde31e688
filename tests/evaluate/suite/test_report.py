"""The page of a run of the suite: its tables are those of the terminal, names are text, nothing is asked for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from camfn.cli._app import app
from camfn.evaluate import Store, Suite, truth
from camfn.evaluate._suite.report import sentence, write_suite_report
from camfn.evaluate._suite.tables import grids_of, tables_of


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("suite")
    suite = Suite(tracks=("tiny", "single"), scenes=4, measured=2, graded=2)
    (made,) = truth("tiny:cnn", "grad_cam,hires_cam,eigen_cam", folder, suite=suite)
    return made


def test_the_page_has_all_tables(store: Store, tmp_path: Path) -> None:
    text = write_suite_report([store, store], tmp_path, command="camfn evaluate <b>").read_text()
    assert "camfn evaluate &lt;b&gt;" in text
    for grid in grids_of(store):
        assert text.count(f"<h3><bdi>{grid.title}</bdi></h3>") == 2
        for line in grid.lines:
            assert f"<bdi>{line[0].text}</bdi>" in text
            assert all(cell.interval in text for cell in line)
    assert not re.search(r'(?:src|href)="(?!data:|#|[\w.%-]+/)', text)
    assert "default-src &#39;none&#39;" in text


def test_the_sentence_is_made_of_the_rows(store: Store) -> None:
    said = {table.track: sentence(table) for table in tables_of(store)}
    assert said["tiny"].startswith("grad_cam and hires_cam do best by own_share: 0.99")
    assert re.search(r"own_share tells \d of 1 pair apart\.$", said["tiny"])
    (table,) = (table for table in tables_of(store) if table.track == "tiny")
    assert "ranks no method" in sentence(table._replace(lead=None))
    shown = sentence(table._replace(like_best=[True] * 2 + [False] * (len(table.lines) - 2)))
    assert "1 other is not told from the best" in shown


def test_the_command_writes_it(store: Store) -> None:
    done = CliRunner().invoke(app, ["suite", "table", str(store.folder)])
    assert done.exit_code == 0, done.output
    page = store.folder / "report.html"
    assert str(page) in done.output.replace("\n", "")
    assert 'href="rows.csv"' in page.read_text()

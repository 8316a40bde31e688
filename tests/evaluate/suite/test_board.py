"""Lines of a leaderboard, and the sources."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from camfn._shared.errors import UsageError
from camfn.evaluate import Store
from camfn.evaluate._suite.board import COLUMNS, SOURCES, bibtex_of, board_of, write_board
from camfn.evaluate._suite.protocol import TRACKS


def test_a_board_keeps_other_protocols_and_replaces_its_own(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "board.csv"
    lines = board_of(store, by="somebody", date="2026-01-01")
    lines[0] |= {"value": "-0.5", "low": "-0.7", "high": "-0.25"}
    write_board([{**lines[0], "protocol": "camfn-truth/1:other@net#00000000"}], path)
    write_board(lines, path)
    write_board(lines, path)
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert tuple(found[0]) == COLUMNS
    assert len(found) == len(lines) + 1
    assert [line["low"] for line in found if line["value"] == "-0.5"] == ["-0.7"] * 2
    assert {line["by"] for line in found} == {"somebody"}
    methods = {line["method"] for line in found if line["measure"] == "single"}
    assert methods == {"grad_cam", "hires_cam", "eigen_cam", "truth", "both", "center", "random"}
    digests = {line["method"]: line["maps_sha256"] for line in found if line["measure"] == "gridpg"}
    assert len(digests["grad_cam"]) == 64
    assert digests["grad_cam"] != digests["eigen_cam"]
    assert not digests["truth"]


def test_every_track_has_its_sources() -> None:
    assert set(SOURCES) == set(TRACKS)
    text = bibtex_of(TRACKS)
    assert text.count("@") == len({key for keys in SOURCES.values() for key in keys})
    assert text.count("{") == text.count("}")


@pytest.mark.parametrize("text", ["path,class\na,cat\n", "\0", '"', ",".join(COLUMNS) + "\na,b\n"])
def test_another_table_stays_as_it_is(store: Store, tmp_path: Path, text: str) -> None:
    path = tmp_path / "board.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match="is no leaderboard"):
        write_board(board_of(store), path)
    assert path.read_text() == text

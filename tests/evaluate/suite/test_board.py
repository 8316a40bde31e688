"""Lines of a leaderboard, and the sources."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from camfn._shared.errors import UsageError
from camfn.evaluate import Store
from camfn.evaluate._suite.board import COLUMNS, SOURCES, Made, bibtex_of, board_of, read_board, write_board
from camfn.evaluate._suite.protocol import TRACKS


def test_a_board_keeps_other_protocols_and_replaces_its_own(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "board.csv"
    lines = board_of(store, Made("somebody", "2026-01-01", "0123abc"))
    lines[0] |= {"value": "-0.5", "low": "-0.7", "high": "-0.25"}
    write_board([{**lines[0], "protocol": "camfn-truth/1:other@net#00000000"}], path)
    write_board(lines, path)
    write_board(lines, path)
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert tuple(found[0]) == COLUMNS
    assert len(found) == len(lines) + 1
    assert [line["low"] for line in found if line["value"] == "-0.5"] == ["-0.7"] * 2
    assert {(line["by"], line["date"], line["commit"]) for line in found} == {("somebody", "2026-01-01", "0123abc")}
    methods = {line["method"] for line in found if line["measure"] == "single"}
    assert methods == {"grad_cam", "hires_cam", "eigen_cam", "truth", "both", "center", "random"}
    digests = {line["method"]: line["maps_sha256"] for line in found if line["measure"] == "gridpg"}
    assert len(digests["grad_cam"]) == 64
    assert digests["grad_cam"] != digests["eigen_cam"]
    assert not digests["truth"]


def test_a_board_of_an_earlier_version_has_no_commit(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "board.csv"
    names = [name for name in COLUMNS if name != "commit"]
    lines = board_of(store)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerow(lines[0] | {"protocol": "camfn-truth/1:other@net#00000000"})
    write_board(lines, path)
    assert [line["commit"] for line in read_board(path)] == [""] * (len(lines) + 1)


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

"""The tables of folders as one value, of both evaluations, and what a notebook shows of folders and results."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from camfn._shared.errors import UsageError
from camfn.evaluate import Protocol, Records, Row, Store, Submissions, differences, friedman, rank, tables, verify
from camfn.evaluate._inputs.photos import Photo
from camfn.evaluate._store.store import header_of
from camfn.evaluate._suite.tables import grids_of
from camfn.evaluate._suite.verify import Verified

ROWS = [
    Row(f"{i}.png", f"net auto {name}", values={"iou": 0.1 * k + 0.01 * i, "insertion": 0.5})
    for k, name in enumerate(("grad_cam", "<b>", "fem", "center"))
    for i in range(8)
]


@pytest.fixture
def folder(tmp_path: Path) -> Store:
    """A folder of the other evaluation."""
    store = Store(tmp_path / "<i>", header_of(Protocol(metrics=("iou", "insertion")), "cpu"))
    with store.writing():
        for row in ROWS:
            store.append(row)
    return store


def test_the_tables_of_a_suite_are_those_of_the_command(store: Store, tmp_path: Path) -> None:
    found = tables(store)
    assert list(found) == grids_of(store)
    assert str(found) == "\n".join(grid.to_text() for grid in grids_of(store))
    assert [len(grid.lines) for grid in tables([store, store])] == 2 * [len(grid.lines) for grid in found]
    assert "[" not in tables(store, intervals=False).grids[0].to_markdown().split("\n\n")[1]
    shown = Submissions([store])._repr_html_()
    assert shown == found._repr_html_()
    assert shown.count("<table") == len(found)
    assert found.to_latex(tmp_path / "a.tex") == (tmp_path / "a.tex").read_text()
    assert found.to_markdown(tmp_path / "a.md") == (tmp_path / "a.md").read_text()


def test_the_tables_of_another_folder_are_the_ranked_methods(folder: Store) -> None:
    (grid,) = tables(folder, by="iou")
    assert grid.to_html() == rank(folder.rows, "net", by="iou")._repr_html_()
    assert repr(folder) == f"Store({str(folder.folder)!r}, 32 rows)"
    assert "32, of 4 cases" in folder._repr_html_()
    assert "<i>" not in folder._repr_html_()


@pytest.mark.parametrize("given", [[], ["results"], [None]])
def test_what_is_no_folder_is_refused(given: list[Store]) -> None:
    with pytest.raises(UsageError, match=r"expected a Store, or several, got .*Store\(folder\)"):
        tables(given)


def test_a_notebook_shows_differences_and_ranks() -> None:
    all_pairs = differences(ROWS, "net", "iou")
    assert all_pairs == list(all_pairs)
    shown = all_pairs._repr_html_()
    assert "&lt;b&gt; - grad_cam" in shown
    assert "<b>/" not in shown
    assert shown.count("<tr>") == 1 + 6
    assert pickle.loads(pickle.dumps(all_pairs))._repr_html_() == shown
    against = differences(ROWS, "net", "iou", against="grad_cam")._repr_html_()
    assert "grad_cam against the others by iou" in against
    ranks = friedman(ROWS, "net", "iou")._repr_html_()
    assert "mean ranks within 8 photos" in ranks
    assert ">1.00<" in ranks


def test_a_notebook_shows_what_was_read_and_verified(store: Store) -> None:
    photos = [Photo("a", Path("a.png"), "cat", ((0, 0, 1, 1),)), Photo("b", Path("b.png"))]
    shown = Records(photos, [f"line {i} <x>" for i in range(7)])._repr_html_()
    assert shown.count("<tr>") == 3 + 5 + 1
    assert "and 2 more" in shown
    assert "<x>" not in shown
    (found,) = verify(store.folder, network=False)
    assert ">none<" in found._repr_html_()
    wrong = Verified(Path("a"), ["id"], 0, 0, 0, ["<b>"], 3)._repr_html_()
    assert "&lt;b&gt;" in wrong
    assert "3 rows have no numbers" in wrong

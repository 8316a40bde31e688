"""The tables: photos are resampled and not cells, differences are paired, equal rows are one, noise is gray."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from camfn.evaluate import Store
from camfn.evaluate._suite.figures import Draws, Line, clusters_of, lines_of
from camfn.evaluate._suite.grades import _grade, grades_of, gray_of
from camfn.evaluate._suite.tables import grid_of, grids_of, suite_of, tables_of

from .conftest import FEW

RECORD: dict[str, Any] = {
    "source": {"kind": "photos"},
    "grids": {"cells": [[f"photo{(4 * i + k) % 6}" for k in range(4)] for i in range(30)]},
}


def line(name: str, values: list[float]) -> Line:
    numbers = {(f"gridpg/{i // 4:03}", i % 4): (value, 1.0) for i, value in enumerate(values)}
    return Line((name,), "bn2", 1.0, {"gridpg": numbers}, False)


def test_photos_are_resampled_and_not_cells() -> None:
    """Cells of one photo have one value: 120 cells are six numbers, and the interval is that of six."""
    level = {f"photo{k}": k / 6 for k in range(6)}
    cells = [level[name] for grid in RECORD["grids"]["cells"] for name in grid]
    one = line("one", cells)
    figure = Draws([one], RECORD, 0).figure(one.numbers["gridpg"])
    assert (figure.n, figure.clusters) == (120, 6)
    assert figure.value == pytest.approx(sum(cells) / 120)
    spread = torch.tensor(list(level.values())).std(correction=0) / 6**0.5
    assert figure.high - figure.low == pytest.approx(2 * 1.96 * float(spread), rel=0.2)


def test_differences_are_paired() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(120, generator=generator)
    one, other = line("one", values.tolist()), line("other", (values - 0.01).tolist())
    draws = Draws([one, other], RECORD, 0)
    low, high = draws.difference(one.numbers["gridpg"], other.numbers["gridpg"])
    assert low == pytest.approx(0.01, abs=1e-6)
    assert high == pytest.approx(0.01, abs=1e-6)
    apart = [draws.figure(each.numbers["gridpg"]) for each in (one, other)]
    assert apart[1].high > apart[0].low, "the intervals themselves overlap"


def test_photos_of_a_unit_have_their_names() -> None:
    scenes = {"source": {"kind": "scenes"}, "grids": {"cells": [["a", "b", "c", "d"]]}}
    assert clusters_of("gridpg/000", 4, scenes) == ["a", "b", "c", "d"]
    assert clusters_of("twin/000", 1, scenes) == ["a"]
    assert clusters_of("picture/scene-008-009", 4, scenes) == ["scene-008"] * 2 + ["scene-009"] * 2
    assert clusters_of("questions/scene-008-009", 2, scenes) == ["scene-008", "scene-009"]
    assert clusters_of("picture/cat/a-1.jpg", 1, RECORD) == ["cat/a-1.jpg"]


def test_equal_rows_are_one(store: Store) -> None:
    names = [line.name for line in lines_of(store, "single") if not line.control]
    assert names == ["grad_cam = hires_cam", "eigen_cam"]
    grids = [line.name for line in lines_of(store, "grid") if not line.control]
    assert grids == ["grad_cam", "hires_cam", "eigen_cam"], "DiFull tells them apart"


def test_every_table_has_its_controls(store: Store) -> None:
    tables = tables_of(store)
    assert [table.track for table in tables] == ["grid", "tiny", "single", "groups", "ceiling", "contrast"]
    for table in tables:
        assert {line.name for line in table.lines[-4:]} == {"truth", "both", "center", "random"}
        assert table.id.startswith("camfn-truth/1:")
    assert suite_of(store.header) == FEW


def test_a_metric_that_cannot_tell_is_gray(store: Store) -> None:
    blind = _grade("saco", "grad_cam", torch.tensor([[0.1, 0.5, 0.1], [0.2, 0.1, 0.25], [0.3, 0.3, 0.2]]))
    sees = _grade("saco", "grad_cam", torch.tensor([[0.9, 0.5, 0.1], [0.8, 0.6, 0.2], [0.7, 0.3, 0.2]]))
    lower = _grade("deletion", "grad_cam", torch.tensor([[0.1, 0.5, 0.9], [0.2, 0.6, 0.8]]))
    assert (blind.tells, sees.tells, lower.tells) == (False, True, True)
    assert sees.one == sees.mean == lower.one == 1
    assert gray_of([blind], "grad_cam") == {"saco": True}
    found = {grade.name: grade for grade in grades_of(store) if grade.base == "grad_cam"}
    assert {"complexity", "single", "own_share"} <= set(found)
    assert found["own_share"].tells


def test_the_text_has_costs_intervals_and_the_way_to_read_it(store: Store) -> None:
    text = "\n".join(grid.to_text() for grid in grids_of(store))
    assert "grad_cam = hires_cam @ body" in text
    assert "17 forwards a photo, for all methods" in text
    assert "3 photos, which are resampled" in text
    assert "mean rank" not in text
    latex = "\n".join(grid.to_latex() for grid in grids_of(store))
    assert latex.count(r"\toprule") == 8, "six tracks, and two tables of grades"


def test_what_float32_leaves_is_no_grade() -> None:
    still = _grade("max_sensitivity", "grad_cam", torch.tensor([[0.5, 0.5], [0.25, 0.25]]) - torch.tensor([0.0, 1e-8]))
    small = _grade("infidelity", "grad_cam", torch.tensor([[1e-9, 3e-9], [2e-9, 4e-9]]))
    assert (still.tells, small.tells) == (False, True)


def test_a_gray_measure_ranks_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next measure that tells a map from noise leads; without one, methods stand by name, unmarked."""
    blind = {"single": True, "single_probability": False, "ceiling": True}
    monkeypatch.setattr("camfn.evaluate._suite.tables.gray_of", lambda grades, base: blind)
    tables = {table.track: table for table in tables_of(store)}
    assert (tables["single"].lead, tables["ceiling"].lead) == ("single_probability", None)
    grids = {table.track: grid_of(table, FEW) for table in tables.values()}
    single, ceiling = grids["single"], grids["ceiling"]
    assert single.gray == [1]
    assert all(line[1].gray and not line[1].best and not line[1].mark and not line[2].gray for line in single.lines)
    assert any(line[2].best or line[2].mark for line in single.lines)
    assert not any(line[1].best or line[1].mark for line in ceiling.lines)
    names = [line[0].text for line, dim in zip(ceiling.lines, ceiling.dim, strict=True) if not dim]
    assert names == sorted(names)
    assert "ranked by nothing" in ceiling.title
    assert "pairs apart" not in ceiling.to_text()
    assert r"\textcolor{gray}{(single) $\uparrow$}" in single.to_latex()


def test_a_table_says_which_lines_have_fewer_maps(store: Store) -> None:
    """A method that runs the network many times takes few grids, and a run that was cut off has fewer pictures."""
    whole, others = grid_of(tables_of(store)[0], FEW), [row for row in store.rows if row.method == "eigen_cam"]
    assert ("n", "") not in whole.heads
    assert "n: maps" not in whole.to_text()
    last = max(row.photo for row in others if row.photo.startswith("gridpg/"))
    store.rows = [row for row in store.rows if row.key != (last, others[0].case)]
    grid = grid_of(tables_of(store)[0], FEW)
    place = grid.heads.index(("n", ""))
    found = {line[0].text: line[place].text for line in grid.lines}
    assert (found["grad_cam @ body"], found["eigen_cam @ body"], found["truth"]) == ("12", "8", "12")
    assert "n: maps of the line, by gridpg" in grid.to_text()


def test_a_line_of_few_photos_is_not_ranked(store: Store) -> None:
    """One photo has no interval: no difference would tell its line from the best."""
    first = next(row.photo for row in store.rows if row.photo.startswith("gridpg/"))
    best = {"gridpg": [1.0] * 4}
    store.rows = [
        row._replace(vectors=row.vectors | best) if row.method == "eigen_cam" else row
        for row in store.rows
        if row.method != "eigen_cam" or row.photo == first
    ]
    table = tables_of(store)[0]
    names = [line.name for line in table.lines if not line.control]
    assert names == ["hires_cam", "grad_cam", "eigen_cam"] or names == ["grad_cam", "hires_cam", "eigen_cam"]
    assert (table.figures[2]["gridpg"].value, table.figures[2]["gridpg"].clusters) == (1, 4)
    assert table.like_best[0]
    assert not table.like_best[2]
    assert table.told[1] == 1
    assert "Lines of fewer than 8 photos" in grid_of(table, FEW).to_text()

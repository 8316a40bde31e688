"""Maps made worse step by step, and the grade of measures that have a unit of their own."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from camfn.evaluate import Store, Suite, truth, verify
from camfn.evaluate._inputs.cases import Case
from camfn.evaluate._suite import maker as makers
from camfn.evaluate._suite import plan
from camfn.evaluate._suite.board import board_of
from camfn.evaluate._suite.degrade import blended, permuted
from camfn.evaluate._suite.grades import grades_of
from camfn.evaluate._suite.plan import prepared
from camfn.evaluate._suite.protocol import is_grade
from camfn.evaluate._suite.regrade import REGRADED
from camfn.evaluate._suite.scenes import Scenes
from camfn.evaluate._suite.tables import grids_of, tables_of
from camfn.zoo import load

SUITE = Suite(
    scenes=6,
    grids=3,
    stitched=1,
    graded=2,
    measured=2,
    subsets=5,
    orders=2,
    cells=2,
    subset_cells=3,
    subset=2,
    groups=4,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_share_of_the_values_changes_places_and_the_histogram_stays() -> None:
    maps = torch.rand(2, 10, 20, generator=generator(7))
    for level in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        worse = permuted(200, level, generator(1))(maps)
        assert torch.equal(worse.flatten(1).sort().values, maps.flatten(1).sort().values)
        moved = (worse != maps).flatten(1)
        assert torch.equal(moved[0], moved[1]), "the same places in each map"
        assert moved[0].sum() <= level * 200
        assert moved[0].sum() >= level * 200 - 8, "a random order of n values leaves about one where it was"
    assert torch.equal(permuted(200, 0.0, generator())(maps), maps)
    assert not torch.equal(permuted(200, 0.5, generator(1))(maps), permuted(200, 0.5, generator(2))(maps))


def test_a_blend_is_the_formula_value_by_value() -> None:
    cam = torch.rand(1, 3, 4, generator=generator(2), dtype=torch.float64)
    order, flat = torch.randperm(12, generator=generator(5)).tolist(), cam.flatten().tolist()
    worse = blended(12, 0.3, generator(5))(cam).flatten().tolist()
    assert worse == pytest.approx([0.7 * flat[k] + 0.3 * flat[order[k]] for k in range(12)], abs=1e-15)
    assert torch.equal(blended(12, 0.0, generator(5))(cam), cam)


def test_the_partial_shuffle_keeps_what_reads_the_histogram_alone() -> None:
    maker, _ = prepared("tiny:cnn", load("tiny:cnn"), Scenes(SUITE), SUITE, ("entropy", "sparseness", "insertion"))
    unit = maker.unit("partial/scene-000", load("tiny:cnn"))
    found = unit.measure(unit.explain(Case("tiny:cnn", "auto", "truth")).maps)
    assert found["own_share"][0] == 1
    assert found["own_share"][-1] < 0.8
    blend = maker.unit("grade/scene-000", load("tiny:cnn"))
    also = blend.measure(blend.explain(Case("tiny:cnn", "auto", "truth")).maps)
    for name in ("own_share", "insertion", "saco"):
        assert found[name][0].item() == also[name][0].item(), "at step 0 both are the map"
    kept, moved = (abs(each["sparseness"][-1] - each["sparseness"][0]).item() for each in (found, also))
    assert kept == pytest.approx(moved, rel=0.3), "at the last step both are a whole shuffle"


@pytest.mark.parametrize("name", ["gridpg/000", "parts/parts-000", "questions/scene-001", "groupings/parts-001"])
def test_a_graded_unit_has_the_unit_s_numbers_at_step_0(name: str) -> None:
    maker, _ = prepared("tiny:cnn", load("tiny:cnn"), Scenes(SUITE), SUITE)
    case = Case("tiny:cnn", "auto", "grad_cam")
    graded, plain = (maker.unit(each, load("tiny:cnn")) for each in (f"grade_{name}", name))
    maps = graded.explain(case).maps
    assert bool((maps >= 0).all())
    found, expected = graded.measure(maps), plain.measure(maps)
    assert set(found) == set(expected)
    for measure, vector in found.items():
        assert len(vector) == len(SUITE.levels)
        assert vector[0].item() == expected[measure].double().mean().item()
    assert any(a != b for vector in found.values() for a, b in itertools.pairwise(vector.tolist()))


def test_a_folder_of_an_earlier_version_keeps_its_grades_and_takes_the_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = Suite(**{**vars(SUITE), "levels": (0.0, 1.0), "tracks": ("contrast", "grade"), "graded": 1, "scenes": 1})
    options: dict[str, object] = {"suite": suite, "metrics": ["entropy"]}
    with monkeypatch.context() as earlier:
        earlier.setattr(plan, "_regraded", lambda maker: {})
        earlier.setattr(makers, "Partial", None)
        given = plan._units
        earlier.setattr(
            plan,
            "_units",
            lambda *own: (pair for pair in given(*own) if not pair[0] or not pair[0][0].startswith("partial/")),
        )
        (before,) = truth("tiny:cnn", "grad_cam", tmp_path, suite=suite, metrics=["entropy"])
    first, rows = grades_of(before), dict(before.by_key)
    assert not grades_of(before, partial=True)
    assert {line["told_from_noise"] for line in board_of(before)} == {""}
    (after,) = truth("tiny:cnn", "grad_cam", tmp_path, **options)  # type: ignore[arg-type]
    assert after.header["protocols"] == before.header["protocols"]
    assert all(after.by_key[key] == row for key, row in rows.items())
    names = {grade.name for grade in first}
    assert [grade for grade in grades_of(after) if grade.name in names] == first
    assert {"contrast", "group", "class_group", "two_groups"} <= {grade.name for grade in grades_of(after)}
    assert {grade.name for grade in grades_of(after, partial=True)} == names
    assert {line["told_from_noise"] for line in board_of(after)} <= {"yes", "no"}
    titles = [grid.title for grid in grids_of(after)]
    assert any("change places" in title for title in titles)
    (found,) = verify(after.folder)
    assert not found.problems


def test_a_question_whose_measure_is_blind_ranks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unmoved(self: object, maps: Tensor) -> dict[str, Tensor]:
        return {"contrast": torch.zeros(len(maps)), "group": maps.flatten(1).std(1)}

    monkeypatch.setattr("camfn.evaluate._suite.units.Questions.measure", unmoved)
    suite = Suite(**{**vars(SUITE), "levels": (0.0, 1.0), "tracks": ("contrast", "grade")})
    (store,) = truth("tiny:cnn", "grad_cam", tmp_path, suite=suite, metrics=["entropy"])
    (table,) = tables_of(Store(store.folder))
    assert table.gray["contrast"]
    assert table.lead != "contrast"


def test_units_that_grade_are_known_by_their_names() -> None:
    assert all(is_grade(f"grade_{kind}/x") for kind in REGRADED)
    assert not any(is_grade(f"{kind}/grade/x") for kind in REGRADED)
    assert is_grade("partial/scene-000")

"""`rank`: means, intervals and ranks in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from camfn.evaluate import Row, rank


def rows_of(values: dict[str, list[float]], metric: str = "iou") -> list[Row]:
    return [
        Row(f"p{i}", f"net auto {name}", forwards=1.0, seconds=0.1, values={metric: value})
        for name, column in values.items()
        for i, value in enumerate(column)
    ]


def test_ranks_share_the_mean_of_equal_places() -> None:
    found = rank(rows_of({"a": [0.5, 0.5], "b": [1.0, 0.0], "c": [0.1, 0.1], "center": [0.9, 0.9]}), "net")
    assert {s.method: s.ranks.get("iou") for s in found} == {"center": None, "a": 1.5, "b": 1.5, "c": 3.0}


def test_lower_is_better_for_deletion() -> None:
    found = rank(rows_of({"a": [0.5, 0.4], "b": [0.1, 0.2]}, "deletion"), "net")
    assert [s.method for s in found] == ["b", "a"]


def test_intervals_hold_the_mean_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(60):
        (standing,) = rank(rows_of({"a": generator.normal(0.5, 0.1, 30).tolist()}), "net", seed=trial)
        hits += standing.estimates["iou"].low <= 0.5 <= standing.estimates["iou"].high
    # 95 % of 60 are 57; fewer than 49 or none missed would happen once in some thousand
    assert 49 <= hits <= 60


def test_a_constant_has_no_interval() -> None:
    (standing,) = rank(rows_of({"a": [0.25] * 7}), "net")
    assert standing.estimates["iou"][:4] == (0.25, 0.25, 0.25, 7)


def test_the_difference_from_the_center_is_of_the_same_photos() -> None:
    hard = [0.1, 0.9, 0.2, 0.8, 0.3]
    found = rank(rows_of({"a": [x + 0.05 for x in hard], "center": hard}), "net")
    estimate = found[0].estimates["iou"]
    assert estimate.gain == pytest.approx((0.05, 0.05))
    assert (estimate.verdict, found[1].estimates["iou"].gain) == ("+", None)


def test_max_box_acc_joins_the_photos() -> None:
    rows = [
        Row("p0", "net auto a", values={"max_box_acc": 0.6}, vectors={"max_box_acc": [0.6, 0.4]}),
        Row("p1", "net auto a", values={"max_box_acc": 0.9}, vectors={"max_box_acc": [0.1, 0.9]}),
    ]
    (standing,) = rank(rows, "net")
    # each threshold finds one of two boxes; the best of each photo would find both
    assert standing.estimates["max_box_acc"].value == 0.5

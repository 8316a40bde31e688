"""`rank`: means, intervals and ranks in closed form."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from camfn._shared.errors import UsageError
from camfn.evaluate import METRICS, Row, rank
from camfn.evaluate._tables.rank import models_of, rankings
from camfn.evaluate._tables.resample import joined
from camfn.evaluate._tables.standing import labels


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
    hard = [0.1, 0.9, 0.2, 0.8, 0.3, 0.4]
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


@pytest.mark.parametrize("reads", [False, True])
def test_resamples_of_a_size_are_joined_at_once_as_one_by_one(reads: bool) -> None:
    vectors = torch.rand(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = torch.randint(0, 3, (50, 6), generator=torch.Generator().manual_seed(1))
    counts[3] = 0

    def join(ious: Tensor) -> Tensor:
        best = (ious >= 0.5).double().mean(0).amax()
        return torch.tensor(float(best)) if reads else best

    found = joined(join, vectors, counts)
    assert bool(found[3].isnan())
    for one, count in zip(found.tolist(), counts, strict=True):
        if count.any():
            assert one == pytest.approx(float(join(vectors.repeat_interleave(count, 0))), abs=1e-7)


@pytest.mark.parametrize(("metric", "bounds"), [("max_box_acc", (0.5,)), ("max_box_acc_v2", (0.3, 0.5, 0.7))])
def test_the_interval_of_max_box_acc_is_that_of_all_resamples(metric: str, bounds: tuple[float, ...]) -> None:
    ious = [[0.8, 0.2, 0.4], [0.9, 0.1, 0.6], [0.1, 0.6, 0.1], [0.2, 0.75, 0.35], [0.55, 0.2, 0.9]]
    rows = [
        Row(f"p{i}", "net auto a", values={metric: max(vector)}, vectors={metric: vector})
        for i, vector in enumerate(ious)
    ]

    def accuracy(chosen: tuple[int, ...]) -> float:
        """The share of boxes at the best threshold, the mean over the bounds."""
        found = 0.0
        for bound in bounds:
            found += max(sum(ious[i][k] >= bound for i in chosen) / len(chosen) for k in range(3)) / len(bounds)
        return found

    # every resample of five photos there is, in place of a thousand drawn ones
    every = sorted(map(accuracy, product(range(5), repeat=5)))
    (standing,) = rank(rows, "net", seed=3)
    estimate = standing.estimates[metric]
    assert estimate.value == pytest.approx(accuracy((0, 1, 2, 3, 4)))
    assert estimate.low <= estimate.value < estimate.high
    for end, share in ((estimate.low, 0.025), (estimate.high, 0.975)):
        # as large as the numbers between which the percentile of a thousand draws lies
        near = [every[round((share + d) * (len(every) - 1))] for d in (-0.015, 0.015)]
        assert near[0] - 1e-9 <= end <= near[1] + 1e-9
    # it is not the interval of a mean over photos, which the best threshold of each photo would give
    assert estimate.high - estimate.low > 0.1


@pytest.mark.parametrize("photos", [1, 2, 5, 6])
def test_five_photos_give_no_verdict_and_one_no_interval(photos: int) -> None:
    found = rank(rows_of({"a": [0.9] * photos, "center": [0.1] * photos}), "net")
    estimate = found[0].estimates["iou"]
    assert estimate.verdict == ("+" if photos >= 6 else "")
    assert (estimate.low == estimate.low) is (photos > 1)
    assert ("too few" in found.to_text()) is (photos < 6)
    assert "nan" not in found.to_text() + found.to_latex() + found.to_markdown()


def test_maps_that_differ_by_rounding_share_a_rank_at_any_scale() -> None:
    for scale in (1e-6, 1.0, 1e6):
        values = {"a": [0.5, 0.7], "b": [0.5 + 1e-7, 0.7], "c": [0.5, 0.71], "d": [0.1, 0.1]}
        found = rank(rows_of({name: [scale * v for v in column] for name, column in values.items()}), "net")
        assert {s.method: s.ranks["iou"] for s in found} == {"c": 1, "a": 2.5, "b": 2.5, "d": 4}


def test_what_is_not_told_apart_from_the_best_is_marked() -> None:
    generator = np.random.default_rng(0)
    hard = generator.uniform(0.2, 0.6, 20)
    columns = {"best": hard + 0.3, "level": hard + 0.3 + generator.normal(-0.01, 0.05, 20), "worse": hard + 0.1}
    found = rank(
        rows_of({name: column.tolist() for name, column in columns.items()} | {"center": hard.tolist()}), "net"
    )
    assert {s.method: s.mark for s in found} == {"best": "*", "level": "=", "worse": "", "center": ""}


def test_a_mean_over_fewer_photos_is_not_the_best() -> None:
    found = rank(rows_of({"lucky": [0.9] * 6, "steady": [0.5] * 8}), "net")
    assert [(s.method, s.mark) for s in found][1] == ("steady", "*")
    text = found.to_text()
    assert "fewer than 8 photos, hence not comparable: lucky (6)" in text
    assert "0.500*" in text
    assert "0.900*" not in text


def test_numbers_that_are_none_are_left_out() -> None:
    values = [0.5, float("nan"), float("inf"), 0.7]
    (standing,) = rank(rows_of({"a": values}), "net")
    assert standing.estimates["iou"][:1] + standing.estimates["iou"][3:4] == pytest.approx((0.6, 2))


@pytest.mark.parametrize("model", ["my nets/the net.py:build", "net", "hf:a/b", "auto", "a auto b"])
def test_a_model_may_have_spaces_in_its_name(model: str) -> None:
    names = ("grad_cam", "my files/own.py:cam:power=2", "center", "random")
    rows = [Row("p", f"{model} {layer} {name}", values={"iou": 0.5}) for name in names for layer in ("auto",)]
    rows += [Row("p", f"{model} last grad_cam", values={"iou": 0.25}), Row("q", problem="cannot be read")]
    assert models_of(rows) == [model]
    found = rank(rows, model)
    assert {s.method for s in found} == {*names, "grad_cam @ last"}
    assert labels(found)[f"{model} auto {names[1]}"] == "cam:power=2"


def test_two_functions_of_one_name_keep_their_files() -> None:
    names = ("a.py:cam", "b.py:cam", "pack.module:other", "score_cam:top_k=0.1", "c.py:cam:k='x:y'")
    found = rank(rows_of({name: [0.5, 0.6] for name in names}), "net")
    assert set(labels(found).values()) == {"a.py:cam", "b.py:cam", "other", "score_cam:top_k=0.1", "cam:k='x:y'"}


def test_why_there_are_no_numbers() -> None:
    unread = [Row(f"{name}.jpg", problem="cannot read the photo") for name in "ab"]
    with pytest.raises(UsageError, match=r"none of the 2 photos could be read, as a\.jpg: cannot read"):
        rankings(unread)
    with pytest.raises(UsageError, match="every row has a problem, as 'no layer'"):
        rankings([*unread, Row("c", "net auto a", problem="no layer")])
    with pytest.raises(UsageError, match="there are no rows"):
        rank([], "net")
    good = rows_of({"a": [0.5]})
    found, without = rankings([*good, Row("c", "other auto a", problem="no layer")])
    assert ([ranking.model for ranking in found], len(without)) == (["net"], 1)


def test_a_data_frame_has_the_numbers() -> None:
    pandas = pytest.importorskip("pandas", reason="needs pandas: pip install 'camfn[evaluate]'")
    found = rank(rows_of({"a": [0.5, 0.7], "x/own.py:b": [0.1, 0.3], "center": [0.2, 0.2]}), "net")
    frame = found.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.method.tolist() == ["a", "b", "center"] or frame.method.tolist() == ["a", "center", "b"]
    assert frame.set_index("method").loc["a", "iou"] == pytest.approx(0.6)
    assert frame.iou_low.dtype == float
    assert (len(found), found[0].method, [s.method for s in found[:1]]) == (3, "a", ["a"])


def test_every_metric_can_order() -> None:
    for name, info in METRICS.items():
        vectors = {name: [0.6, 0.4]}
        rows = [
            Row(f"p{i}", f"net auto {m}", values={name: v}, vectors=vectors)
            for m, v in (("a", 0.6), ("b", 0.4))
            for i in range(3)
        ]
        if info.better:
            assert rank(rows, "net", by=name).by == name
            assert name in rank(rows, "net", by=name).to_text()

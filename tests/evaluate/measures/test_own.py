"""Metrics of one's own: bound by the names of their parameters, ranked by the direction that they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import camfn.evaluate as ev
from camfn._shared.errors import UsageError
from camfn.evaluate import METRICS, Photo, Protocol, evaluate_photo, metric, rank, run, tune, write_report, write_tables
from camfn.evaluate._measures.own import known_metric, measured, read_metric
from tests.evaluate.common import load_net

CODE = '''
def peak(heatmap, *, count: int = 10):
    """mean of the largest values"""
    return heatmap.flatten().topk(count).values.mean()

def away(score, images, heatmap, boxes, explain, generator):
    return score(images * (1 - heatmap[:, None])) - score(images) + explain(images).mean() * 0
away.better = "lower"

def curve(explanation):
    return explanation.heatmap.mean(), explanation.heatmap[0, 0]
curve.better = 0

def wrong(heatmap):
    return heatmap
wrong.better = 1

def strange(maps):
    return 1
strange.better = 1
'''


@pytest.fixture
def code(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(CODE)
    return f"{tmp_path}/mine.py"


def brightness(heatmap: Tensor) -> float:
    return float(heatmap.mean())


def test_names_say_the_direction(code: str) -> None:
    names = ["iou", f"{code}:peak:better=higher", f"{code}:peak:better=higher,count=3", f"{code}:away", f"{code}:curve"]
    found = measured(Protocol(metrics=(*names, metric(brightness, better="lower"))))
    own = {f"{code}:peak:better=higher", f"{code}:peak:better=higher,count=3", f"{code}:away:better=lower"}
    assert set(found) == {"iou", *own, f"{code}:curve:better=none", "brightness:better=lower"}
    assert [known_metric(name).better for name in found] == [
        1 if "higher" in name or name == "iou" else -1 if "lower" in name else 0 for name in found
    ]
    away = read_metric(f"{code}:away")
    assert (away.boxes, away.again, read_metric(f"{code}:peak:better=lower").about) == (
        True,
        1,
        "mean of the largest values",
    )
    assert measured(Protocol()) == tuple(METRICS)


def test_they_are_measured_beside_the_others(code: str, photos: list[Photo]) -> None:
    names = (f"{code}:peak:better=higher,count=1", f"{code}:away", f"{code}:curve", f"{code}:wrong", "complexity")
    protocol = Protocol(metrics=(*names, metric(brightness, better="lower")))
    (row,) = evaluate_photo(photos[0], [ev.Case("net", "features", "grad_cam")], load_net(), protocol)
    assert row.values[f"{code}:peak:better=higher,count=1"] > 0.8
    assert row.values["brightness:better=lower"] == pytest.approx(row.values["complexity"])
    assert len(row.vectors[f"{code}:curve:better=none"]) > 1
    assert "expected one number" in row.problem
    assert f"{code}:wrong:better=higher" not in row.values


def test_a_run_ranks_and_reports_them(code: str, photos: list[Photo], tmp_path: Path) -> None:
    listed = ev.cases("net", "grad_cam, eigen_cam")
    protocol = Protocol(metrics=(f"{code}:peak:better=lower", "complexity"))
    options: dict[str, Any] = {"protocol": protocol, "loader": load_net}
    store = run(photos[:2], listed, tmp_path / "out", **options)
    again = ev.Store(tmp_path / "out")
    name = f"{code}:peak:better=lower"
    assert [list(row.values) for row in again.rows] == [list(row.values) for row in store.rows]
    assert again.rows[0].values[name] == pytest.approx(store.rows[0].values[name])
    standings = rank(again.rows, "net", by=name)
    assert all(name in standing.estimates for standing in standings)
    write_tables(again, by=name)
    page = write_report(again, photos[:2], by=name, loader=load_net).read_text(encoding="utf-8")
    assert ">peak&nbsp;↓</button>" in page


def test_tune_for_one(photos: list[Photo], tmp_path: Path) -> None:
    def own(activations: Tensor, grads: Tensor, outputs: Any = None, *, power: int = 1) -> Tensor:
        return (grads * activations).pow(power).sum(1)

    best = tune(
        photos,
        ev.cases("net", ["grad_cam", own]),
        metric(brightness, better="lower"),
        tmp_path / "out",
        loader=load_net,
    )
    assert best.case.method in ("grad_cam", "own")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("ious", "no metric 'ious'. Did you mean 'iou'"),
        ("{code}:peak", "say which way is better.*peak:better=higher"),
        ("{code}:peak:better=more", "expected higher, lower or none"),
        ("{code}:peak:better=lower,size=3", "its options are count"),
        ("{code}:peak:better=lower,count=x", "expected an integer"),
        ("{code}:strange", "nothing fills its parameter 'maps': name what it measures, some of heatmap"),
        ("{code}:none", "has no 'none'"),
        ("no_such_module:f:better=lower", "No module named"),
    ],
)
def test_refused(code: str, words: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        measured(Protocol(metrics=(words.format(code=code),)))


def test_what_has_no_name_or_direction_is_refused() -> None:
    with pytest.raises(UsageError, match="a name of its own"):
        metric(lambda heatmap: 1, better="lower")
    with pytest.raises(UsageError, match="say which way is better"):
        metric(brightness)
    with pytest.raises(UsageError, match="needs a name"):
        measured(Protocol(metrics=(ev.Metric(1, lambda e: torch.ones(1), "mine"),)))
    with pytest.raises(UsageError, match="no metric 'other'"):
        known_metric("other")


def test_the_problem_of_a_row_says_which_function_failed(photos: list[Photo], tmp_path: Path) -> None:
    """An error in a method or metric of one's own has its file and line; a wrong shape is named, not its numbers."""
    file = tmp_path / "mine.py"
    file.write_text(
        "def cam(activations):\n    raise ValueError('no')\n"
        "def whole(heatmap):\n    return heatmap\n"
        "def fails(heatmap):\n    return heatmap @ heatmap.flatten()\n"
    )
    names = tuple(f"{file}:{name}:better=lower" for name in ("whole", "fails"))
    listed = [ev.Case("net", "features", method) for method in (f"{file}:cam", "fem")]
    own, known = evaluate_photo(photos[0], listed, load_net(), Protocol(metrics=names))
    assert own.problem == f"ValueError: no ({file.resolve()}, line 2, in cam)"
    assert "got a tensor of shape (1, " in known.problem
    assert f"({file.resolve()}, line 6, in fails)" in known.problem
    with pytest.raises(UsageError, match="say which function of the file"):
        read_metric("border.py")

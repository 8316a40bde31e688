"""`plan` and `Models`: the rows that are missing, and one model in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from camfn.evaluate import Case, Photo, Row
from camfn.evaluate._runs.work import Models, Work, is_due, plan
from camfn.zoo import Loaded
from tests.evaluate.common import load_net

PHOTOS = [Photo("a", Path("a.png")), Photo("b", Path("b.png"))]
FIRST, SECOND, OTHER = Case("m", "auto", "cam"), Case("m", "auto", "fem"), Case("n", "auto", "cam")


def test_a_plan_lists_missing_cases_by_model_and_photo() -> None:
    a, b = PHOTOS
    assert plan(PHOTOS, [FIRST, OTHER, SECOND], {}) == [
        Work(a, (FIRST, SECOND)), Work(b, (FIRST, SECOND)), Work(a, (OTHER,)), Work(b, (OTHER,))
    ]  # fmt: skip
    keys = [("a", str(FIRST)), ("a", str(SECOND)), ("b", str(SECOND)), ("b", str(OTHER))]
    done = {key: Row(*key) for key in keys}
    assert plan(PHOTOS, [FIRST, OTHER, SECOND], done) == [Work(b, (FIRST,)), Work(a, (OTHER,))]


def test_a_plan_skips_photos_that_could_not_be_read() -> None:
    assert plan(PHOTOS, [FIRST], {("a", ""): Row("a", kind="refusal")}) == [Work(PHOTOS[1], (FIRST,))]


@pytest.mark.parametrize(
    ("row", "due", "retried"),
    [
        (None, True, True),
        (Row("a", "c"), False, False),
        (Row("a", "c", problem="the map is blank"), False, False),
        (Row("a", "c", kind="refusal"), False, True),
        (Row("a", "c", kind="accident", tries=1), True, True),
        (Row("a", "c", kind="accident", tries=2), True, True),
        (Row("a", "c", kind="accident", tries=3), False, True),
        (Row("a", kind="accident", tries=1), True, True),
    ],
)
def test_accidents_are_tried_three_times_and_refusals_once(row: Row | None, due: bool, retried: bool) -> None:
    assert is_due(row) is due
    assert is_due(row, retry=True) is retried


def test_models_hold_one_at_a_time() -> None:
    specs: list[str] = []

    def loader(spec: str) -> Loaded:
        specs.append(spec)
        return load_net(spec)

    models = Models(loader, "cpu")
    first = models("net")
    assert models("net") is first
    models("blind")
    models("net")
    assert specs == ["net", "blind", "net"]

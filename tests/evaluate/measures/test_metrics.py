"""`METRICS`: every metric has a number, and is left out without boxes or beyond the budget."""

from __future__ import annotations

import numpy as np
import pytest

from camfn import evaluate as ev
from camfn import explainer, image, methods, metrics
from camfn.evaluate import Case, Photo, Protocol, evaluate_photo
from camfn.targets import class_probability
from tests.evaluate.common import SIDE, load_net, make_cases


def test_all_metrics_have_a_number(photos: list[Photo]) -> None:
    rows = list(
        evaluate_photo(photos[0], make_cases("grad_cam"), load_net(), Protocol(step=0.25, infidelity_samples=3))
    )
    assert [row.problem for row in rows] == ["", "", ""]
    for row in rows:
        assert list(row.values) == list(ev.METRICS)
        assert all(np.isfinite(value) for value in row.values.values())


def test_black_is_a_mask_before_the_normalization(photos: list[Photo]) -> None:
    held = load_net()
    (row,) = evaluate_photo(
        photos[0], [Case("net", "last", "grad_cam")], held, Protocol(metrics=("average_drop",), removed="black")
    )
    images = held.preprocess(photos[0].read())[None]
    heatmap = image.upsample(image.normalize(explainer(methods.grad_cam, held.model, "last")(images, 0)), (SIDE, SIDE))
    score = metrics.scores_of(held.model, images, class_probability(0))
    shown = metrics.masked((images + 1) / 2, heatmap, normalize=lambda x: 2 * x - 1)
    assert row.values["average_drop"] == pytest.approx(
        metrics.average_drop(score(images), score(shown)).item(), rel=1e-4
    )


def test_metrics_without_boxes_or_budget_are_left_out(photos: list[Photo]) -> None:
    protocol = Protocol(metrics=("energy_in_box", "coherency", "complexity"), budget=20)
    case = [Case("net", "last", "rise", "samples=30")]
    (row,) = evaluate_photo(photos[0]._replace(boxes=()), case, load_net(), protocol)
    assert list(row.values) == ["complexity"]
    (row,) = evaluate_photo(photos[0], case, load_net(), Protocol(metrics=protocol.metrics, budget=200))
    assert list(row.values) == ["energy_in_box", "coherency", "complexity"]

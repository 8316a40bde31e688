"""`evaluate_photo`: one photo, several cases, one row each."""

from __future__ import annotations

import pytest
import torch

from camfn import explainer, image, methods, metrics
from camfn.evaluate import Case, Photo, Protocol, evaluate_photo
from camfn.targets import class_probability
from tests.evaluate.common import QUICK, SIDE, load_net, make_cases


def test_a_row_is_what_the_metrics_say(photos: list[Photo]) -> None:
    (row,) = evaluate_photo(
        photos[1], [Case("net", "last", "grad_cam")], load_net(), Protocol(metrics=QUICK, step=0.25)
    )
    held = load_net()
    images = held.preprocess(photos[1].read())[None].to("cpu", memory_format=torch.channels_last)
    cam = explainer(methods.grad_cam, held.model, "last")(images, 1)
    heatmap = image.upsample(image.normalize(cam), (SIDE, SIDE))
    boxes = [torch.tensor([[15.0, 20.0, 46.0, 51.0]]) * SIDE / 80]
    score = metrics.scores_of(held.model, images, class_probability(1))
    expected = {
        "energy_in_box": metrics.energy_in_box(heatmap, boxes),
        "average_drop": metrics.average_drop(score(images), score(metrics.masked(images, heatmap))),
        "deletion": metrics.deletion(score, images, heatmap, step=0.25).auc,
        "complexity": metrics.complexity(heatmap),
    }
    assert row.target == 1
    assert row.cam is not None
    assert torch.equal(row.cam, cam[0])
    for name, value in expected.items():
        assert row.values[name] == pytest.approx(value.item(), rel=1e-5), name
    assert row.vectors["deletion"] == pytest.approx(
        metrics.deletion(score, images, heatmap, step=0.25).scores[0].tolist(), rel=1e-5
    )


def test_the_baselines_do_not_ask_the_network(photos: list[Photo]) -> None:
    held = load_net()
    protocol = Protocol(metrics=("complexity", "randomization", "coherency"))
    rows = list(evaluate_photo(photos[0], [Case("net", "auto", name) for name in ("center", "random")], held, protocol))
    assert [row.forwards for row in rows] == [0, 0]
    # the map is the same whatever the network is, and whatever it sees
    assert [row.values["randomization"] for row in rows] == pytest.approx([1, 1])
    assert [row.values["coherency"] for row in rows] == pytest.approx([1, 1])


def test_grad_cam_xgrad_cam_and_hires_cam_coincide_before_pooling(photos: list[Photo]) -> None:
    names = ("grad_cam", "xgrad_cam", "hires_cam")
    rows = list(
        evaluate_photo(photos[0], make_cases(*names)[:3], load_net(), Protocol(step=0.25, infidelity_samples=3))
    )
    for row in rows[1:]:
        # pixels whose values are equal but for rounding may change places
        assert row.values == pytest.approx(rows[0].values, rel=5e-3, abs=1e-4)


def test_what_cannot_be_measured_is_told(photos: list[Photo]) -> None:
    (row,) = evaluate_photo(photos[0], [Case("blind", "last", "grad_cam")], load_net("blind"), Protocol(metrics=QUICK))
    assert "gradient is zero" in row.problem
    (row,) = evaluate_photo(photos[0], [Case("net", "features", "cam")], load_net(), Protocol(metrics=QUICK))
    assert "cam needs global pooling" in row.problem
    assert not row.values

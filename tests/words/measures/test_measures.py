"""Measures of word by word maps equal loops over pixels, forwards that are made one by one, and values at both ends."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from skimage.filters import threshold_otsu
from torch import Tensor

from camfn import CamfnError, metrics, words
from camfn.words._measures.measures import otsu
from tests.nets.multimodal import load
from tests.oracles import words as oracle

DRAWS = torch.Generator().manual_seed(0)
MAPS = torch.rand(3, 12, 16, generator=DRAWS) ** 3
MASK = torch.rand(12, 16, generator=DRAWS) > 0.7


def test_the_threshold_is_otsus() -> None:
    for seed in range(5):
        values = (torch.rand(20, 30, generator=torch.Generator().manual_seed(seed)) ** (seed + 1) * 255).to(torch.uint8)
        mine, theirs = otsu(values), threshold_otsu(values.numpy())
        assert torch.equal(values > mine, values > int(theirs))
    assert otsu(torch.full((3, 3), 7, dtype=torch.uint8)) == 0


def test_object_iou_is_that_of_a_loop_over_pixels() -> None:
    found = words.object_iou(MAPS, MASK)
    whole = (MAPS * 255).to(torch.uint8)
    expected = oracle.best_overlap(whole, MASK, [threshold_otsu(one.numpy()) for one in whole])
    torch.testing.assert_close(torch.stack(found[:3]), torch.tensor(expected))
    assert words.object_iou(MASK[None].float(), MASK).iou == 1
    assert [float(one) for one in words.object_iou((~MASK)[None].float(), MASK)[:3]] == [0, 0, 0]
    assert words.object_iou(torch.zeros(1, 3, 4), MASK).recall == 0
    larger = words.object_iou(MAPS[:, :6, :8], MASK)  # resized to the mask
    assert 0 < larger.iou < 1


def test_function_iou_is_the_share_below() -> None:
    found = words.function_iou(MAPS, 0.3)
    expected = [sum(int(v * 255) / 255 < 0.3 for row in one for v in row) / 192 for one in MAPS.tolist()]
    torch.testing.assert_close(found, torch.tensor(expected))
    assert words.function_iou(torch.zeros(1, 2, 2), 0.1).tolist() == [1]
    assert words.function_iou(torch.ones(1, 2, 2), 0.1).tolist() == [0]


def test_f1_iou_is_the_harmonic_mean() -> None:
    assert float(words.f1_iou(torch.tensor([0.2, 0.4]), torch.tensor([0.9, 0.3]))) == pytest.approx(0.4)
    assert float(words.f1_iou(torch.zeros(2), torch.zeros(1))) == 0


@pytest.mark.parametrize("name", ["llava", "qwen2_vl, two pictures", "internvl, tiles"])
def test_region_curves_are_forwards_one_by_one(name: str) -> None:
    case = load(name)
    model: Any = case.model
    ids = torch.tensor([5, 9, 6])
    image = max(span.image for span in words.spans(model, case.inputs, tiles=case.tiles))
    regions = metrics.grid_cells((4, 6), (2, 2))
    cam = torch.tensor([[0.1, 0.9], [0.5, 0.2]])
    found = words.region_curves(
        model, case.inputs, ids, regions, cam, image=image, groups=[[0], [1, 2]], tiles=case.tiles
    )
    full, start = words.forced(model, case.inputs, ids), case.inputs["input_ids"].shape[1] - 1

    def run(hidden: Tensor) -> list[float]:
        pixels = words.hide(model, case.inputs, {image: hidden}, tiles=case.tiles)
        changed = {**full, **{key: value for key, value in pixels.items() if key.startswith("pixel_values")}}
        with torch.no_grad():
            p = model(**changed).logits[0].softmax(-1)
        each = [float(p[start + k, word]) for k, word in enumerate(ids.tolist())]
        return [each[0], (each[1] + each[2]) / 2]

    hidden, nothing = torch.zeros(4, 6, dtype=torch.bool), torch.zeros(4, 6, dtype=torch.bool)
    deletion, insertion = [run(nothing)], [run(~nothing)]
    for n in (1, 2, 3, 0):  # the largest of the map first
        hidden = hidden | regions[n]
        deletion.append(run(hidden))
        insertion.append(run(~hidden))
    torch.testing.assert_close(found.deletion, torch.tensor(deletion).T, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(found.insertion, torch.tensor(insertion).T, atol=1e-6, rtol=1e-4)
    assert found.shares.tolist() == [0, 0.25, 0.5, 0.75, 1]
    area = [oracle.trapezoid([row[k] for row in deletion], found.shares.tolist()) for k in (0, 1)]
    torch.testing.assert_close(found.deletion_auc, torch.tensor(area), atol=1e-6, rtol=1e-4)
    area = [oracle.trapezoid([row[k] for row in insertion], found.shares.tolist()) for k in (0, 1)]
    torch.testing.assert_close(found.insertion_auc, torch.tensor(area), atol=1e-6, rtol=1e-4)
    assert found.highest.tolist() == found.insertion.max(1).values.tolist()


def test_corrections_count_answers_that_never_turn() -> None:
    turned = torch.tensor([[False, True, False], [False, False, True], [False, False, False], [True, True, True]])
    average, rate = words.corrections(turned, torch.tensor([0.0, 0.1, 0.6]))
    assert float(average) == pytest.approx((0.1 + 0.6 + 1 + 0) / 4)
    assert float(rate) == 0.5
    assert float(words.corrections(turned, torch.tensor([0.0, 0.1, 0.6]), level=0.6).rate) == 0.75
    assert float(words.corrections(turned[2:3], torch.tensor([0.0, 0.1, 1.0]), level=1.0).rate) == 0


def test_what_does_not_fit_is_refused() -> None:
    case = load("llava")
    overlapping = torch.ones(2, 2, 2, dtype=torch.bool)
    calls: list[tuple[Any, str]] = [
        (lambda: words.object_iou(MAPS[0], MASK), "maps"),
        (lambda: words.object_iou(MAPS * 2, MASK), r"values in \[0, 1\]"),
        (lambda: words.object_iou(MAPS, MASK & False), "of an object"),
        (lambda: words.function_iou(MAPS, 2.0), "threshold"),
        (lambda: words.corrections(torch.ones(2, 3), torch.zeros(3)), "turned"),
        (lambda: words.corrections(torch.ones(2, 3, dtype=torch.bool), torch.zeros(4)), "shape"),
        (lambda: words.corrections(torch.ones(2, 3, dtype=torch.bool), torch.ones(3) * 2), "shares"),
        (lambda: words.region_curves(case.model, case.inputs, [5], overlapping, MASK.float()), "regions"),
        (lambda: words.object_iou(MAPS, MASK.tolist()), "of an object"),  # type: ignore[arg-type]
        (lambda: words.object_iou(MAPS.to("meta"), MASK), "maps"),
        (lambda: words.function_iou(MAPS[..., :0], 0.5), "maps"),
        (lambda: words.f1_iou(torch.zeros(0), torch.ones(1)), "objects"),
        (lambda: words.f1_iou(torch.ones(1), torch.ones(1) * float("nan")), "functions"),
        (lambda: words.f1_iou(torch.ones(1), [0.5]), "functions"),  # type: ignore[arg-type]
        (lambda: words.corrections([[True]], torch.zeros(1)), "turned"),  # type: ignore[arg-type]
        (lambda: words.corrections(torch.ones(1, 1, dtype=torch.bool), [0.0]), "shares"),  # type: ignore[arg-type]
    ]
    whole = torch.ones(1, 2, 2, dtype=torch.bool)
    for value in (float("nan"), float("inf")):
        cam = torch.full((2, 2), value)
        calls.append((lambda cam=cam: words.region_curves(case.model, case.inputs, [5], whole, cam), "finite"))
    for call, text in calls:
        with pytest.raises(CamfnError, match=text):
            call()


def test_curves_of_nan_are_refused() -> None:
    case = load("llava")
    with torch.no_grad():
        case.model.lm_head.weight.fill_(float("nan"))  # type: ignore[union-attr, operator]
    with pytest.raises(CamfnError, match=r"the logits of this .* are NaN"):
        words.region_curves(case.model, case.inputs, [5], torch.ones(1, 2, 2, dtype=torch.bool), torch.ones(2, 2))

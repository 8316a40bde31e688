"""A word's probability as a score of what is shown: black boxes and metrics on words."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from camfn import CamfnError, methods, metrics, words
from camfn.words import RegionCurves
from tests.nets.multimodal import Case, load

IDS = torch.tensor([5, 9, 6])


def probabilities(case: Case, **changed: Tensor) -> Tensor:
    """Probabilities of the three tokens, by the model itself."""
    model: Any = case.model
    start = case.inputs["input_ids"].shape[1] - 1
    with torch.no_grad():
        logits = model(**{**words.forced(model, case.inputs, IDS), **changed}).logits[0, start : start + len(IDS)]
    found: Tensor = logits.softmax(-1)[torch.arange(len(IDS)), IDS]
    return found


@pytest.mark.parametrize("name", ["llava", "qwen2_vl, two pictures", "internvl, tiles", "llava_next"])
def test_the_score_is_the_probability_with_the_rest_hidden(name: str) -> None:
    case = load(name)
    image = max(span.image for span in words.spans(case.model, case.inputs, tiles=case.tiles))
    shown = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)).round()
    scores = [
        words.when_shown(case.model, case.inputs, IDS, word, image=image, groups=[[0], [1, 2]], tiles=case.tiles)
        for word in (0, 1)
    ]
    for n, one in enumerate(shown[:, 0]):
        hidden = words.hide(case.model, case.inputs, {image: one == 0}, tiles=case.tiles)
        expected = probabilities(case, pixel_values=hidden["pixel_values"])
        torch.testing.assert_close(scores[0](shown)[n], expected[0])
        torch.testing.assert_close(scores[1](shown)[n], expected[1:].mean())
    whole = words.when_shown(case.model, case.inputs, IDS, image=image, tiles=case.tiles)
    torch.testing.assert_close(whole(torch.ones(1, 1, 3, 5))[0], probabilities(case).mean())


def test_half_shown_is_half_of_the_way_to_the_blank_picture() -> None:
    case = load("llava")
    pixels = case.inputs["pixel_values"]
    color = pixels.mean((0, 2, 3))[:, None, None]
    expected = probabilities(case, pixel_values=0.25 * pixels + 0.75 * color)
    score = words.when_shown(case.model, case.inputs, IDS, 2)
    torch.testing.assert_close(score(torch.full((1, 1, 2, 2), 0.25))[0], expected[2])


def test_frames_of_a_video_are_shown_apart() -> None:
    case = load("qwen2_vl, video")
    score = words.when_shown(case.model, case.inputs, IDS, 0)
    shown = torch.ones(3, 1, 3, 2, 2)
    shown[1:, :, 0] = 0
    shown[2, :, 1:] = 0
    one, two, none = score(shown)
    assert len({round(float(x), 7) for x in (one, two, none)}) == 3
    torch.testing.assert_close(none[None], score(torch.zeros(1, 1, 2, 2)))


def naive(score: Any, labels: Tensor) -> list[int]:
    """EAGLE's greedy order of regions, one forward at a time."""
    left, order = sorted(set(labels.flatten().tolist())), list[int]()
    while left:
        gains = []
        for region in left:
            mask = torch.isin(labels, torch.tensor([*order, region]))[None, None].float()
            gains.append(float(score(mask) + (1 - score(1 - mask))))
        order.append(left.pop(gains.index(max(gains))))
    return order


@pytest.mark.parametrize("name", ["llava", "smolvlm, tiles"])
def test_region_search_on_a_word_is_the_greedy_order(name: str) -> None:
    case = load(name)
    labels = torch.tensor([[0, 0, 1, 1], [2, 2, 3, 3], [4, 4, 4, 3]])
    score = words.when_shown(case.model, case.inputs, IDS, 1, tiles=case.tiles)
    shown = torch.ones(1, 1, 3, 4)
    steps: list[tuple[int, int]] = []
    cam = methods.region_search(
        shown, forward=score, inputs=shown, regions=labels, progress=lambda done, count: steps.append((done, count))
    )
    order = naive(score, labels)
    values = [float(cam[0][labels == region][0]) for region in order]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1] == 0
    assert steps[-1] == (30, 30)
    regions = torch.stack([labels == region for region in range(5)])
    curves = words.region_curves(case.model, case.inputs, IDS, regions, cam[0], tiles=case.tiles)
    assert isinstance(curves, RegionCurves)
    torch.testing.assert_close(curves.insertion[1, -1], score(shown)[0])


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("rise", {"samples": 12, "generator": torch.Generator().manual_seed(0)}),
        ("occlusion", {}),
        ("sobol", {"designs": 2, "grid": 2}),
        ("hsic", {"samples": 8, "grid": 2, "generator": torch.Generator().manual_seed(0)}),
    ],
)
def test_other_black_boxes_take_a_word(method: str, options: dict[str, Any]) -> None:
    case = load("llava")
    score = words.when_shown(case.model, case.inputs, IDS, 1)
    shown = torch.ones(1, 1, 8, 8)
    cam = getattr(methods, method)(shown, forward=score, inputs=shown, **options)
    assert cam.ndim == 3
    assert cam.std() > 0


def test_metrics_of_a_score_take_a_word() -> None:
    case = load("llava")
    score = words.when_shown(case.model, case.inputs, IDS, 1)
    shown, heat = torch.ones(1, 1, 4, 4), torch.arange(16.0).reshape(1, 4, 4)
    found = metrics.deletion(score, shown, heat, step=0.25)
    rest = [1.0 * (heat < bound)[None] for bound in (16, 12, 8, 4, 0)]
    expected = torch.cat([score(one) for one in rest])
    torch.testing.assert_close(found.auc, torch.trapezoid(expected, dx=0.25)[None], atol=1e-5, rtol=1e-4)


def test_what_is_no_part_of_a_picture_is_refused() -> None:
    case = load("llava")
    for word in (3, -1):
        with pytest.raises(CamfnError, match="word: expected 0 to 2"):
            words.when_shown(case.model, case.inputs, IDS, word)
    with pytest.raises(CamfnError, match="word: expected a number of a word"):
        words.when_shown(case.model, case.inputs, IDS, "cat")  # type: ignore[arg-type]
    with pytest.raises(CamfnError, match=r"image: expected one of the pictures \[0\], got 1"):
        words.when_shown(case.model, case.inputs, IDS, 0, image=1)
    score = words.when_shown(case.model, case.inputs, IDS, 0)
    wrong: tuple[Any, ...] = (torch.ones(4, 4), torch.ones(1, 3, 4, 4), torch.ones(1, 1, 2, 4, 4), "all")
    for shown in wrong:
        with pytest.raises(CamfnError, match="how much of each place is shown"):
            score(shown)
    for dtype in (torch.long, torch.bool, torch.uint8):
        with pytest.raises(CamfnError, match="as floats of at least one place"):
            score(torch.ones(1, 1, 4, 4, dtype=dtype))
    with pytest.raises(CamfnError, match="as floats of at least one place"):
        score(torch.ones(1, 1, 0, 4))
    assert score(torch.ones(0, 1, 4, 4)).shape == (0,)
    for value in (2.0, -0.1, float("nan")):
        with pytest.raises(CamfnError, match=r"in \[0, 1\]: 1 is shown"):
            score(torch.full((1, 1, 2, 2), value))
    case.model.train()
    with pytest.raises(CamfnError, match=r"when_shown: this .* training mode"):
        words.when_shown(case.model, case.inputs, IDS, 0)

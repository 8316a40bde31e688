"""What pictures carry of a word equals two plain forwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from camfn import CamfnError, words
from camfn.words._measures.blank import blank
from tests.nets.multimodal import FEW, load

IDS = torch.tensor([5, 9, 6])


@pytest.mark.parametrize("name", [FEW[0], FEW[3], FEW[7]])
def test_numbers_are_those_of_two_forwards(name: str) -> None:
    case = load(name)
    model: Any = case.model
    full = words.forced(model, case.inputs, IDS)
    start = case.inputs["input_ids"].shape[1] - 1
    numbers = {span.image for span in words.spans(model, case.inputs, tiles=case.tiles)}
    without = words.hide(model, full, {n: torch.ones(1, 1, dtype=torch.bool) for n in numbers}, tiles=case.tiles)
    found = words.carried(model, case.inputs, IDS, groups=[[0], [1, 2]], tiles=case.tiles, least=1e-3)
    with torch.no_grad():
        seen, unseen = (model(**one).logits[0].double().log_softmax(-1) for one in (full, without))
    gains, rises, divergences = [], [], []
    for k, word in enumerate(IDS.tolist()):
        p, q = seen[start + k], unseen[start + k]
        gains.append(float(p[word] - q[word]))
        rises.append(float(p[word].exp() - q[word].exp()))
        divergences.append(sum(float(a.exp() * (a - b)) for a, b in zip(p, q, strict=True)))
    expected = [
        [gains[0], gains[1] + gains[2]],
        [rises[0], (rises[1] + rises[2]) / 2],
        [divergences[0], divergences[1] + divergences[2]],
    ]
    torch.testing.assert_close(torch.stack(found[:3]).double(), torch.tensor(expected).double(), atol=1e-5, rtol=1e-3)
    assert found.read.tolist() == [rise > 1e-3 for rise in expected[1]]


def test_a_model_that_does_not_look_reads_no_word() -> None:
    case = load("llava")
    model: Any = case.model
    torch.nn.init.zeros_(model.model.multi_modal_projector.linear_2.weight)
    found = words.carried(model, case.inputs, IDS)
    assert not found.read.any()
    torch.testing.assert_close(found.gains, torch.zeros(3))


def test_a_least_rise_is_a_difference_of_probabilities() -> None:
    case = load("llava")
    with pytest.raises(CamfnError, match="least"):
        words.carried(case.model, case.inputs, IDS, least=2)


@pytest.mark.parametrize("name", ["llava, two pictures", "qwen2_vl, two pictures", "mistral3, two pictures"])
def test_a_picture_is_blank_by_its_own_mean(name: str) -> None:
    """Each of two pictures has its own color, not one between both."""
    case = load(name)
    model: Any = case.model
    full = words.forced(model, case.inputs, IDS)
    whole = torch.ones(1, 1, dtype=torch.bool)
    without = words.hide(model, full, [whole, whole], tiles=case.tiles)
    assert not torch.allclose(without["pixel_values"], blank(full)["pixel_values"])
    start = case.inputs["input_ids"].shape[1] - 1
    found = words.carried(model, case.inputs, IDS, tiles=case.tiles)
    with torch.no_grad():
        seen, unseen = (model(**one).logits[0].log_softmax(-1) for one in (full, without))
    at = torch.arange(start, start + 3)
    torch.testing.assert_close(found.gains, (seen - unseen)[at, IDS], atol=1e-5, rtol=1e-3)

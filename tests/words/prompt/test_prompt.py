"""Prompts with their answers: what stands beside each token grows with it, and what is uncertain is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from camfn import CamfnError, words
from tests.nets.multimodal import IMAGE, load

IDS = torch.tensor([[1, *[IMAGE] * 4, 5, 6]])


def given(**more: Any) -> dict[str, Any]:
    return {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), **more}


def model(name: str = "gemma3") -> Any:
    return load(name).model


def test_what_stands_beside_each_token_grows_with_it() -> None:
    types = (IDS == IMAGE).int()
    pixels = torch.rand(1, 3, 64, 64)
    longer = words.forced(model(), given(token_type_ids=types, mm_token_type_ids=types, pixel_values=pixels), [8, 9])
    assert longer["input_ids"][0].tolist() == [*IDS[0].tolist(), 8, 9]
    assert longer["attention_mask"].tolist() == [[1] * 9]
    assert longer["token_type_ids"].tolist() == longer["mm_token_type_ids"].tolist() == [[0, 1, 1, 1, 1, 0, 0, 0, 0]]
    assert longer["token_type_ids"].dtype == types.dtype
    assert longer["pixel_values"] is pixels
    assert longer["use_cache"] is False


def test_labels_of_no_token_are_left_out() -> None:
    """PaliGemma's processor returns labels beside every prompt."""
    given = {"input_ids": IDS, "labels": torch.full_like(IDS, -100)}
    assert set(words.forced(model(), given, [8, 9])) == {"input_ids", "use_cache"}
    case = load("paligemma")
    beside = {**case.inputs, "labels": torch.full_like(case.inputs["input_ids"], -100)}
    found, expected = (words.explain(case.model, one, 3) for one in (beside, case.inputs))
    torch.testing.assert_close(found.maps, expected.maps, rtol=0, atol=0)


def test_paligemma_is_told_where_its_answer_begins() -> None:
    longer = words.forced(model("paligemma"), given(), torch.tensor([[8, 9]]))
    assert longer["token_type_ids"].tolist() == [[0] * 7 + [1, 1]]
    types = torch.zeros_like(IDS)
    assert words.forced(model("paligemma"), given(token_type_ids=types), [8])["token_type_ids"].tolist() == [
        [0] * 7 + [1]
    ]


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        (IDS, r"expected a dict, as processor\(text=prompt"),
        ({}, "expected input_ids"),
        ({"input_ids": IDS[0]}, "expected input_ids"),
        ({"input_ids": IDS.float()}, "expected input_ids"),
        ({"input_ids": IDS.repeat(2, 1)}, r"expected one prompt, input_ids \(1, P\), got \(2, 7\)"),
        ({"inputs_embeds": torch.ones(1, 7, 4)}, "inputs_embeds hides which token"),
        (given(inputs_embeds=torch.ones(1, 7, 4)), "inputs_embeds hides which token"),
        (given(position_ids=torch.arange(7)[None]), "position_ids"),
        (given(labels=IDS), "labels are of training"),
        (given(labels=torch.tensor([[-100, -100, -100, -100, -100, 7, 8]])), "labels are of training"),
        (given(attention_mask=torch.tensor([[0, 1, 1, 1, 1, 1, 1]])), "padding has its pictures elsewhere"),
        (given(attention_mask=torch.ones(1, 6)), "attention_mask leaves tokens out"),
        (given(attention_mask=torch.ones(1, 1, 7, 7)), "attention_mask leaves tokens out"),
        (given(token_type_ids=torch.zeros(1, 6, dtype=torch.long)), r"token_type_ids: expected \(1, 7\)"),
        (given(kinds=torch.zeros(1, 7, dtype=torch.long)), "kinds has a number for each token"),
    ],
)
def test_inputs_whose_pictures_are_not_certain_are_refused(inputs: Any, text: str) -> None:
    for call in (lambda: words.forced(model(), inputs, [8]), lambda: words.spans(model(), inputs)):
        with pytest.raises(CamfnError, match=text):
            call()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ([], "ids of one answer"),
        (torch.ones(2, 3, dtype=torch.long), "ids of one answer"),
        (torch.ones(3), "ids of one answer"),
        ("a dog", "ids of one answer"),
        ([[8], [9, 10]], "ids of one answer"),
        ([8, -100], "vocabulary, from 0"),
        ([8, IMAGE], r"holds 98, the id of a picture.*suppress_tokens=\[98"),
        (torch.cat([IDS, torch.tensor([[8, 9]])], 1), r"start with the 7 tokens of the prompt.*ids\[:, 7:\]"),
    ],
)
def test_what_is_no_answer_is_refused(answer: Any, text: str) -> None:
    with pytest.raises(CamfnError, match=text):
        words.forced(model(), given(), answer)

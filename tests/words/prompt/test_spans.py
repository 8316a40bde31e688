"""Where pictures stand: every place sees its own cell of the photo, and what is uncertain is refused."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from camfn import CamfnError, words
from camfn.words._prompt.prompt import placeholders
from tests.nets.multimodal import IMAGE, every_case, load
from tests.words.located import cells_of, seen_cells


@every_case
def test_the_gradient_of_each_place_lies_in_its_own_cell_of_the_photo(name: str) -> None:
    case = load(name)
    spans = words.spans(case.model, case.inputs, tiles=case.tiles)
    found = seen_cells(case, lambda x: [x[0, span.positions].T.reshape(1, -1, *span.grid) for span in spans])
    for span, cells in zip(spans, found, strict=True):
        assert cells == cells_of(span, span.grid)


@every_case
def test_spans_are_apart_and_hold_placeholders_alone(name: str) -> None:
    case = load(name)
    spans = words.spans(case.model, case.inputs, tiles=case.tiles)
    every = torch.cat([span.positions for span in spans]).tolist()
    assert len(set(every)) == len(every)
    assert {int(case.inputs["input_ids"][0, at]) for at in every} <= placeholders(case.model)
    assert all(len(span.positions) == math.prod(span.grid) for span in spans)
    assert [span.image for span in spans] == sorted(span.image for span in spans)


# ----------------------------------------------------------------------------------------------------------- refusals


class Stub(nn.Module):
    """A model of a family, of which only the configuration is read."""

    def __init__(self, kind: str, **config: Any) -> None:
        super().__init__()
        self.config = SimpleNamespace(model_type=kind, image_token_id=IMAGE, **config)


@pytest.mark.parametrize("kind", ["blip-2", "instructblip", "kosmos-2", "idefics2", "mllama", "florence2"])
def test_families_without_places_are_refused_with_the_reason(kind: str) -> None:
    with pytest.raises(CamfnError, match=rf"{kind} has no places: its .*Explain its vision tower"):
        words.spans(Stub(kind), {"input_ids": torch.tensor([[1, IMAGE]])})


def test_an_unknown_family_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(CamfnError, match=r"does not know where the pictures of 'chameleon' stand.*qwen2_5_vl.*spans="):
        words.spans(Stub("chameleon"), {"input_ids": torch.tensor([[1, IMAGE]])})
    with pytest.raises(CamfnError, match="expected a model of transformers"):
        words.spans(nn.Linear(2, 2), {"input_ids": torch.tensor([[1, IMAGE]])})


def test_a_prompt_without_a_picture_is_refused() -> None:
    stub = Stub("gemma3", mm_tokens_per_image=4)
    with pytest.raises(CamfnError, match="no picture"):
        words.spans(stub, {"input_ids": torch.tensor([[1, 2]])})


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("llava_next", "image_sizes"),
        ("llava_onevision", "image_sizes"),
        ("pixtral", "image_sizes"),
        ("mistral3", "image_sizes"),
        ("qwen2_vl", "image_grid_thw"),
        ("qwen2_vl, video", "video_grid_thw"),
        ("qwen3_vl, video", "video_grid_thw"),
    ],
)
def test_a_missing_input_is_named(name: str, key: str) -> None:
    case = load(name)
    with pytest.raises(CamfnError, match=f"needs {key}"):
        words.spans(case.model, {k: v for k, v in case.inputs.items() if k != key})


@every_case
def test_a_prompt_with_a_placeholder_too_many_is_refused(name: str) -> None:
    case = load(name)
    ids = case.inputs["input_ids"]
    more = {**case.inputs, "input_ids": torch.cat([ids, ids[:, int(ids[0].argmax())][:, None]], 1)}
    more["input_ids"][0, -1] = min(placeholders(case.model) & set(ids[0].tolist()))
    more = {k: v for k, v in more.items() if k not in ("attention_mask", "mm_token_type_ids", "token_type_ids")}
    with pytest.raises(CamfnError, match=r"words: "):
        words.spans(case.model, more, tiles=case.tiles)


def test_tiles_of_internvl_are_asked_for() -> None:
    case = load("internvl, tiles")
    with pytest.raises(CamfnError, match=r"4 runs of 4 places, which are 3 tiles.*pass tiles=\[\(rows, columns\)"):
        words.spans(case.model, case.inputs)
    with pytest.raises(CamfnError, match=r"stand for 5 runs of the tower.*the prompt has 4"):
        words.spans(case.model, case.inputs, tiles=[(2, 2)])


def test_tags_of_tiles_say_their_rows_or_are_refused() -> None:
    case = load("smolvlm, tiles")
    assert words.spans(case.model, case.inputs)[0].grid == (4, 6)
    ids = case.inputs["input_ids"].clone()
    ids[ids == 90] = torch.arange(20, 20 + int((ids == 90).sum()))  # tags of other tokens
    with pytest.raises(CamfnError, match=r"do not say how the tiles lie: pass tiles="):
        words.spans(case.model, {**case.inputs, "input_ids": ids})
    assert words.spans(case.model, {**case.inputs, "input_ids": ids}, tiles=[(2, 3)])[0].grid == (4, 6)
    ragged = case.inputs["input_ids"]
    row = (ragged[0] == 91).nonzero()[0, 0]
    one_less = torch.cat([ragged[:, : row - 6], ragged[:, row:]], 1)
    with pytest.raises(CamfnError, match="do not say how the tiles lie"):
        words.spans(case.model, {"input_ids": one_less, "pixel_values": case.inputs["pixel_values"]})


def test_a_tower_of_which_the_class_token_is_not_known_is_refused() -> None:
    vision = SimpleNamespace(model_type="dinov2", image_size=64, patch_size=16)
    with pytest.raises(CamfnError, match="knows towers of CLIP"):
        words.spans(Stub("llava", vision_config=vision), {"input_ids": torch.tensor([[IMAGE] * 16])})


def test_llava_with_its_class_token_leaves_it_out() -> None:
    vision = SimpleNamespace(model_type="clip_vision_model", image_size=64, patch_size=16)
    stub = Stub("llava", vision_config=vision, vision_feature_select_strategy="full")
    (span,) = words.spans(stub, {"input_ids": torch.tensor([[1, *[IMAGE] * 17, 2]])})
    assert span.positions.tolist() == list(range(2, 18))


@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen2_vl", "paligemma", "gemma3, two pictures", "mistral3"])
def test_tiles_of_a_family_whose_inputs_say_them_are_refused(name: str) -> None:
    case = load(name)
    with pytest.raises(CamfnError, match=r"inputs of .* say themselves where its pictures stand: leave out tiles="):
        words.spans(case.model, case.inputs, tiles=[(1, 1)])


def test_a_photo_of_which_no_place_is_left_is_refused() -> None:
    """LLaVA-NeXT cuts the padding off the tiles of a photo: of a very narrow one nothing remains."""
    case = load("llava_next")
    ids = torch.tensor([[1, *[IMAGE] * (16 + 4), 6]])
    inputs = {"input_ids": ids, "image_sizes": torch.tensor([[400, 3]]), "pixel_values": torch.zeros(1, 3, 3, 64, 64)}
    with pytest.raises(CamfnError, match=r"picture 0 is too narrow .* \(4, 0\) places"):
        words.spans(case.model, inputs)


def test_a_picture_of_less_than_one_place_is_refused() -> None:
    """As of a processor that does not know that the model merges patches."""
    case = load("mistral3")
    inputs = {**case.inputs, "image_sizes": torch.tensor([[16, 96]])}
    with pytest.raises(CamfnError, match=r"picture 0 comes as 16 x 96 pixels .* less than the 32 x 32 of one place"):
        words.spans(case.model, inputs)

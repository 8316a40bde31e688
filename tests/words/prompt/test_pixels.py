"""`words` refuses a prompt whose pictures have no pixels, or others, before any run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from camfn import CamfnError, words
from tests.nets.multimodal import every_case, load


@every_case
def test_places_without_their_pixels_are_refused(name: str) -> None:
    case = load(name)
    (key,) = (key for key in ("pixel_values", "pixel_values_videos") if key in case.inputs)
    pixels = case.inputs[key]
    less = {kept: value for kept, value in case.inputs.items() if kept != key}
    wrong: list[Any] = [less, {**less, key: None}, {**less, key: pixels[:0]}, {**less, key: pixels.numpy()}]
    wrong.append({**less, key: pixels.round().long()})
    for inputs in wrong:
        for call in (words.explain, words.carried):
            with pytest.raises(CamfnError, match=f"words: .*({key}|needs image_sizes|placeholders of videos)"):
                call(case.model, inputs, [5], tiles=case.tiles)


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "pixtral", "gemma3", "internvl, tiles", "llava_next"])
def test_another_number_of_pictures_is_refused(name: str) -> None:
    case = load(name)
    pixels = case.inputs["pixel_values"]
    inputs = {**case.inputs, "pixel_values": torch.cat([pixels, pixels])}
    with pytest.raises(CamfnError, match="and the prompt has places for"):
        words.explain(case.model, inputs, 2, tiles=case.tiles)

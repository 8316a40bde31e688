"""Pictures that are hidden, as a whole or in parts, in every layout of pixels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from camfn import CamfnError, words
from camfn.words._measures.blank import blank
from tests.nets.multimodal import every_case, load
from tests.words.located import coordinates, per_pixel


@every_case
def test_what_is_hidden_is_the_part_of_the_photo_under_the_mask(name: str) -> None:
    case = load(name)
    ((key, where),) = coordinates(case).items()
    at = per_pixel(where) * 255
    photo = (at[:, 2] / 60).round().long() - 1
    image = max(span.image for span in words.spans(case.model, case.inputs, tiles=case.tiles))
    mask = torch.tensor([[False, True], [False, False]])
    hidden = words.hide(case.model, case.inputs, {image: mask}, tiles=case.tiles)
    changed = (per_pixel(hidden[key]) != per_pixel(case.inputs[key])).any(1)
    video = "video" in key
    of_picture = (photo >= 0) if video else photo == image
    expected = torch.zeros_like(changed)
    for own in sorted(set(photo[of_picture].tolist())):
        inside = photo == own
        low, high = at[inside].amin(0)[:2], at[inside].amax(0)[:2]
        x, y = ((at[:, :2] - low + 0.5) / (high - low + 1)).T
        expected |= inside & (x > 0.5) & (y < 0.5)
    assert (changed != expected).float().mean() < 0.04  # pixels that a resize mixes across the border
    assert changed[expected].float().mean() > 0.9
    assert not changed[~of_picture & (photo >= 0)].any()
    others = {k: v for k, v in hidden.items() if k != key}
    assert all(others[k] is case.inputs[k] for k in others)


@every_case
def test_each_picture_hides_behind_its_own_mean(name: str) -> None:
    """A second picture of other colors changes nothing of the first's."""
    case = load(name)
    (key,) = [key for key in case.inputs if key.startswith("pixel_values")]
    numbers = sorted({span.image for span in words.spans(case.model, case.inputs, tiles=case.tiles)})
    whole = {number: torch.ones(1, 1, dtype=torch.bool) for number in numbers}
    together = words.hide(case.model, case.inputs, whole, tiles=case.tiles)[key]
    for number in numbers:
        hidden = words.hide(case.model, case.inputs, {number: whole[number]}, tiles=case.tiles)[key]
        changed = (per_pixel(hidden) != per_pixel(case.inputs[key])).any(1)
        colors = per_pixel(hidden)[changed]
        assert torch.equal(colors, per_pixel(together)[changed])
        torch.testing.assert_close(colors[:1].expand_as(colors), colors)
        # a processor's padding inside of a picture's tile is part of it
        torch.testing.assert_close(colors[0], per_pixel(case.inputs[key])[changed].mean(0), atol=1e-4, rtol=1e-3)


@every_case
def test_a_blank_picture_has_one_color_and_the_same_shape(name: str) -> None:
    case = load(name)
    without = blank(case.inputs)
    (key,) = [key for key in case.inputs if key.startswith("pixel_values")]
    assert without[key].shape == case.inputs[key].shape
    real = (per_pixel(case.inputs[key]) != 0).any(1)
    assert float(per_pixel(without[key])[real].std(0).max()) < 0.3 * float(
        per_pixel(case.inputs[key])[real].std(0).max()
    )


def test_padding_among_tiles_stays_padding() -> None:
    case = load("smolvlm, tiles")
    pixels = torch.cat([case.inputs["pixel_values"], torch.zeros(1, 1, 3, 64, 64)], 1)
    without = blank({"pixel_values": pixels})["pixel_values"]
    assert not without[0, -1].any()
    assert bool((without[0, :-1] != 0).all())


def test_a_color_of_zero_is_no_padding() -> None:
    pixels = torch.stack([torch.ones(3, 4, 4), -torch.ones(3, 4, 4)])[None]
    assert bool((blank({"pixel_values": pixels})["pixel_values"] != 0).all())


@pytest.mark.parametrize(
    "masks",
    [
        [torch.ones(2, 2)],
        [torch.ones(4, dtype=torch.bool)],
        {3: torch.ones(2, 2, dtype=torch.bool)},
        ["left"],
        [torch.ones(0, 2, dtype=torch.bool)],
    ],
)
def test_masks_are_checked(masks: Any) -> None:
    case = load("llava")
    with pytest.raises(CamfnError, match=r"masks: expected boolean masks \(H, W\) of pictures \[0\]"):
        words.hide(case.model, case.inputs, masks)


def test_inputs_without_pixels_are_refused() -> None:
    with pytest.raises(CamfnError, match="expected pixel_values"):
        blank({"input_ids": Tensor()})


def test_a_picture_has_no_frames() -> None:
    case = load("llava")
    with pytest.raises(CamfnError, match=r"masks \(H, W\) of a picture, got \(2, 4, 4\)"):
        words.hide(case.model, case.inputs, [torch.ones(2, 4, 4, dtype=torch.bool)])

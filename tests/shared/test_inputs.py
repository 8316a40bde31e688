"""Which tensor of the inputs is the images, by its place in the tree, and derivatives that may not be lost."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import pytest
import torch
from torch import Tensor

from camfn import CamfnError
from camfn._shared.inputs import all_images_of, images_of

RGB, DEPTH = torch.rand(2, 3, 4, 5), torch.rand(2, 1, 4, 5)
TABLE, TOKENS = torch.rand(2, 7), torch.ones(2, 6, dtype=torch.long)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (RGB, RGB),
        (TABLE, TABLE),
        ((TABLE, RGB), RGB),
        ({"tokens": TOKENS, "table": TABLE, "image": DEPTH}, DEPTH),
        (UserDict(input_ids=TOKENS, pixel_values=RGB), RGB),
        (([TABLE, {"deep": RGB}], 3, None), RGB),
        ((TABLE, torch.rand(2, 3, 9)), None),
        ((TOKENS, TABLE), TABLE),
        ((torch.rand(2, 1, 1, 1), DEPTH), DEPTH),
    ],
)
def test_the_only_one_with_space(inputs: Any, expected: Tensor | None) -> None:
    images, rebuild = images_of(inputs)
    assert images is expected or images.ndim == 3
    again, _ = images_of(rebuild(2 * images))
    assert torch.equal(again, 2 * images)


@pytest.mark.parametrize(
    ("inputs", "which", "expected"),
    [
        ((RGB, DEPTH), 1, DEPTH),
        ((RGB, DEPTH), -2, RGB),
        ({"rgb": RGB, "depth": DEPTH}, "depth", DEPTH),
        (([RGB, DEPTH], {"more": [TABLE]}), (1, "more", 0), TABLE),
        ((RGB, DEPTH), lambda inputs: inputs[1], DEPTH),
        ({"rgb": RGB, "depth": DEPTH}, lambda inputs: inputs["rgb"], RGB),
        (RGB, 0, RGB),
        (RGB, lambda image: image, RGB),
    ],
)
def test_the_one_that_is_named(inputs: Any, which: Any, expected: Tensor) -> None:
    assert torch.equal(images_of(inputs, which)[0], expected)


@pytest.mark.parametrize("which", [0, 1, lambda pair: pair[1]])
@pytest.mark.parametrize("second", [RGB, RGB.clone()], ids=["same", "copy"])
def test_a_place_and_not_an_identity(which: Any, second: Tensor) -> None:
    images, rebuild = images_of((RGB, second), which)
    changed: Any = rebuild(torch.cat([images, -images]))
    place = which if isinstance(which, int) else 1
    assert torch.equal(changed[place], torch.cat([RGB, -RGB]))
    assert torch.equal(changed[1 - place], torch.cat([RGB, RGB]))


def test_others_are_repeated_and_shared_values_kept() -> None:
    scale = torch.rand(())
    images, rebuild = images_of({"x": RGB, "table": TABLE, "scale": scale, "flag": True})
    changed: Any = rebuild(images.repeat(3, 1, 1, 1))
    assert torch.equal(changed["table"], TABLE.repeat(3, 1))
    assert changed["scale"] is scale
    assert changed["flag"] is True


def test_several_at_once() -> None:
    inputs = {"rgb": RGB, "table": TABLE, "depth": DEPTH}
    images, rebuild = all_images_of(inputs, None)
    assert [one.shape for one in images] == [RGB.shape, DEPTH.shape]
    changed: Any = rebuild([one.flip(-1) for one in images])
    assert torch.equal(changed["rgb"], RGB.flip(-1))
    assert torch.equal(changed["depth"], DEPTH.flip(-1))
    assert changed["table"] is TABLE
    assert len(all_images_of(inputs, ["depth"])[0]) == 1
    with pytest.raises(CamfnError, match="each input once"):
        all_images_of((RGB, DEPTH), [0, -2])


@pytest.mark.parametrize(
    ("inputs", "which", "text"),
    [
        ((RGB, DEPTH), None, r"images=0 of shape \(2, 3, 4, 5\); images=1 of shape \(2, 1, 4, 5\)"),
        ({"rgb": RGB, "depth": DEPTH}, None, r"images='rgb' of shape .*; images='depth'"),
        (([RGB, DEPTH], TABLE), None, r"images=\(0, 0\) of shape .*; images=\(0, 1\)"),
        ((RGB, RGB), None, "images=0 .*images=1"),
        ((TABLE, TABLE), None, "images=0 .*images=1"),
        ({"rgb": RGB}, "depth", "images='depth' is no floating-point tensor.*images='rgb'"),
        ((RGB, DEPTH), 2, "images=2 is no"),
        ((RGB, TOKENS), 1, "images=1 is no"),
        (([RGB, DEPTH], 3), 0, "images=0 is no"),
        ((RGB, DEPTH), lambda pair: pair[0] * 2, "images=<lambda> is no"),
        (TOKENS, None, r"hold no floating-point tensor: a tensor of shape \(2, 6\)"),
        ((TOKENS, "words"), 0, "hold no floating-point tensor"),
    ],
)
def test_what_cannot_be_known_is_asked(inputs: Any, which: Any, text: str) -> None:
    with pytest.raises(CamfnError, match=text):
        images_of(inputs, which)


def test_places_under_transforms() -> None:
    """Wrapped tensors have places too."""

    def double(pair: Any) -> Tensor:
        images, rebuild = images_of(pair, lambda pair: pair[1])
        changed: Any = rebuild(2 * images)
        total: Tensor = changed[0].sum() + changed[1].sum()
        return total

    expected = RGB.sum((1, 2, 3)) + 2 * DEPTH.sum((1, 2, 3))
    pairs = (RGB[:, None], DEPTH[:, None])
    torch.testing.assert_close(torch.vmap(double)(pairs), expected)
    torch.testing.assert_close(torch.func.grad(double)(pairs)[1], torch.full_like(pairs[1], 2.0))
    compiled = torch.compile(double, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(pairs), double(pairs))

"""Layouts: inverse pairs, and how a shape is read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from camfn import Layout, capture, resume
from camfn.layout import channels_last, frames, packed, spans, tiles, tokens, windows
from tests.nets.small import images

LAYOUTS: list[Any] = [
    pytest.param(tokens((3, 5)), (2, 16, 4), (2, 4, 3, 5), id="class token"),
    pytest.param(tokens((3, 5), prefix=0), (2, 15, 4), (2, 4, 3, 5), id="no prefix"),
    pytest.param(tokens((3, 5), prefix=6), (2, 21, 4), (2, 4, 3, 5), id="registers"),
    pytest.param(tokens([7], prefix=1), (2, 8, 4), (2, 4, 7), id="1-D"),
    pytest.param(tokens((2, 3, 2), prefix=1), (2, 13, 4), (2, 4, 2, 3, 2), id="3-D"),
    pytest.param(tokens((1, 1), prefix=2), (2, 3, 4), (2, 4, 1, 1), id="one patch"),
    pytest.param(channels_last(), (2, 5, 4), (2, 4, 5), id="channels last 1-D"),
    pytest.param(channels_last(), (2, 3, 5, 4), (2, 4, 3, 5), id="channels last"),
    pytest.param(channels_last(), (2, 2, 3, 5, 4), (2, 4, 2, 3, 5), id="channels last 3-D"),
]
LAYOUTS += [
    pytest.param(tokens((3, 5), prefix=1, suffix=2), (2, 18, 4), (2, 4, 3, 5), id="detection tokens"),
    pytest.param(windows((4, 6), (2, 3)), (8, 6, 4), (2, 4, 4, 6), id="windows"),
    pytest.param(windows((4, 6), (2, 2), shift=(1, 1)), (12, 2, 2, 4), (2, 4, 4, 6), id="shifted windows"),
    pytest.param(windows((3, 5), (2, 2), shift=(1, 1)), (12, 4, 4), (2, 4, 3, 5), id="padded windows"),
]
LAYOUTS += [
    pytest.param(frames(3), (6, 4, 5), (2, 4, 3, 5), id="frames of a signal"),
    pytest.param(frames(3), (6, 4, 2, 5), (2, 4, 3, 2, 5), id="frames"),
    pytest.param(frames(3, each=tokens((2, 2))), (6, 5, 4), (2, 4, 3, 2, 2), id="frames of tokens"),
    pytest.param(tiles(3), (6, 4, 5), (2, 4, 15), id="tiles of a signal"),
    pytest.param(tiles(2, 3, before=1), (14, 4, 2, 5), (2, 4, 4, 15), id="tiles"),
    pytest.param(tiles(1, 2, planes=2), (8, 4, 2, 3, 2), (2, 4, 4, 3, 4), id="tiles of a volume"),
    pytest.param(tiles(2, 2, each=channels_last()), (8, 2, 3, 4), (2, 4, 4, 6), id="tiles with channels last"),
    pytest.param(spans([4, 1, 2], [3]), (2, 6, 4), (2, 4, 3), id="spans of a signal"),
    pytest.param(spans([range(2), range(3, 5)], (2, 2)), (2, 6, 4), (2, 4, 2, 2), id="spans"),
    pytest.param(spans([range(t, 8, 2) for t in range(2)], (2, 2, 2)), (2, 9, 4), (2, 4, 2, 2, 2), id="spans 3-D"),
    pytest.param(packed([(1, 4, 6)] * 2, 2), (48, 4), (2, 4, 4, 6), id="packed"),
    pytest.param(packed([(2, 4, 6)], 2, order="merged"), (1, 12, 4), (1, 4, 2, 2, 3), id="packed video"),
]
every_layout = pytest.mark.parametrize(("layout", "raw_shape", "map_shape"), LAYOUTS)


@every_layout
def test_there_and_back(layout: Layout, raw_shape: tuple[int, ...], map_shape: tuple[int, ...]) -> None:
    raw = images(*raw_shape)
    cam = layout.to_map(raw)
    assert cam.shape == map_shape
    assert torch.equal(layout.from_map(cam, raw), raw)
    changed = images(*map_shape, seed=2)
    assert torch.equal(layout.to_map(layout.from_map(changed, raw)), changed)


@every_layout
def test_vmap_over_maps(layout: Layout, raw_shape: tuple[int, ...], map_shape: tuple[int, ...]) -> None:
    raw, cams = images(*raw_shape), images(4, *map_shape, seed=2)
    mapped = torch.vmap(lambda cam: layout.from_map(cam, raw))(cams)
    assert torch.equal(mapped, torch.stack([layout.from_map(cam, raw) for cam in cams]))
    assert torch.equal(torch.vmap(layout.to_map)(mapped), cams)


@every_layout
def test_is_linear_and_keeps_the_dtype(layout: Layout, raw_shape: tuple[int, ...], map_shape: tuple[int, ...]) -> None:
    raw = images(*raw_shape).half().requires_grad_()
    cam = layout.to_map(raw)
    assert cam.dtype == torch.half
    pull = images(*map_shape, seed=2).half()
    (grad,) = torch.autograd.grad(cam, raw, pull)
    assert torch.equal(layout.to_map(grad), pull)


def test_places_of_tokens() -> None:
    """Token `prefix + 5 row + column` of a grid of 5 columns is at (row, column)."""
    raw = torch.arange(2 + 15).reshape(1, 17, 1).float()
    cam = tokens((3, 5), prefix=2).to_map(raw)
    for row in range(3):
        for column in range(5):
            assert cam[0, 0, row, column] == 2 + 5 * row + column


def test_places_of_channels() -> None:
    raw = images(2, 3, 5, 4)
    assert torch.equal(channels_last().to_map(raw)[1, 2], raw[1, :, :, 2])


@pytest.mark.parametrize(("keep", "head"), [(True, 1.0), (False, 0.0)])
def test_prefix_is_kept_or_zeroed(keep: bool, head: float) -> None:
    layout, raw = tokens((2, 2), prefix=3, keep_prefix=keep), torch.ones(2, 7, 4)
    back = layout.from_map(torch.full((2, 4, 2, 2), 5.0), raw)
    assert torch.equal(back[:, :3], torch.full((2, 3, 4), head))
    assert torch.equal(back[:, 3:], torch.full((2, 4, 4), 5.0))
    assert torch.equal(raw, torch.ones(2, 7, 4))


@pytest.mark.parametrize("shape", [(2, 15, 4), (2, 17, 4), (2, 4, 16), (2, 4, 4, 4), (2, 16)], ids=str)
def test_wrong_number_of_tokens(shape: tuple[int, ...]) -> None:
    message = rf"layout tokens\(\(3, 5\), prefix=1\) stands for \(B, 16, C\); the layer gives \({shape[0]}, {shape[1]}"
    with pytest.raises(ValueError, match=message):
        tokens((3, 5)).to_map(torch.zeros(shape))


class Patches(torch.nn.Module):
    """Patches behind a class token, which a head reads together."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Conv2d(3, 4, 4, 4)
        self.norm = torch.nn.LayerNorm(4)
        self.head = torch.nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.embed(x).flatten(2).mT
        raw: Tensor = self.norm(torch.cat([patches.mean(1, keepdim=True), patches], 1))
        y: Tensor = self.head(raw.square().mean(1))
        return y


def test_goes_through_capture_and_resume() -> None:
    model, x, layout = Patches(), images(2, 3, 8, 12), tokens((2, 3))
    raw, laid = capture(model, "norm", layout=None)(x, 1), capture(model, "norm", layout=layout)(x, 1)
    assert torch.equal(laid.activations, layout.to_map(raw.activations))
    assert torch.equal(laid.grads, layout.to_map(raw.grads))
    tail = resume(model, "norm", layout=layout)(x)
    torch.testing.assert_close(tail(laid.activations), model(x).detach())
    plain = resume(model, "norm", layout=None)(x)
    torch.testing.assert_close(
        tail(laid.activations * 2), plain(layout.from_map(laid.activations * 2, raw.activations))
    )


def test_places_of_windows() -> None:
    """Cut as the network cuts: rolled up and left, padded, then window after window, row by row."""
    grid = torch.arange(15.0).reshape(1, 1, 3, 5)
    layout = windows((3, 5), (2, 2))
    padded = torch.nn.functional.pad(grid, (0, 1, 0, 1), value=-1.0)
    raw = torch.stack([padded[0, 0, r : r + 2, c : c + 2].flatten() for r in (0, 2) for c in (0, 2, 4)])[..., None]
    assert torch.equal(layout.to_map(raw), grid)
    whole = torch.arange(24.0).reshape(1, 1, 4, 6)
    rolled = whole.roll((-1, -2), (-2, -1))
    raw = torch.stack([rolled[0, 0, r : r + 2, c : c + 3] for r in (0, 2) for c in (0, 3)])[..., None]
    assert torch.equal(windows((4, 6), (2, 3), shift=(1, 2)).to_map(raw), whole)


def test_wrong_windows() -> None:
    with pytest.raises(ValueError, match=r"windows\(\(4, 6\), \(2, 3\)\) stands for \(B \* 4, 2, 3, C\)"):
        windows((4, 6), (2, 3)).to_map(torch.zeros(4, 7, 2))

"""Layouts: inverse pairs, and how a shape is read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from camfn import Layout, capture, resume
from camfn.layout import channels_last, read, tokens
from tests.nets import images

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
    raw, laid = capture(model, "norm")(x, 1), capture(model, "norm", layout=layout)(x, 1)
    assert torch.equal(laid.activations, layout.to_map(raw.activations))
    assert torch.equal(laid.grads, layout.to_map(raw.grads))
    tail = resume(model, "norm", layout=layout)(x)
    torch.testing.assert_close(tail(laid.activations), model(x).detach())
    plain = resume(model, "norm")(x)
    torch.testing.assert_close(
        tail(laid.activations * 2), plain(layout.from_map(laid.activations * 2, raw.activations))
    )


# ------------------------------------------------------------------------------------------------------------- reading

CHANNELS_FIRST = "channels first"
CHANNELS_LAST = "channels last"


@pytest.mark.parametrize(
    ("shape", "image", "prefix", "spatial", "channels", "words"),
    [
        ((1, 512, 7, 7), (224, 224), None, (7, 7), 512, CHANNELS_FIRST),
        ((1, 512, 2, 3), (64, 96), None, (2, 3), 512, CHANNELS_FIRST),
        ((1, 64, 224, 224), (224, 224), None, (224, 224), 64, CHANNELS_FIRST),
        ((1, 192, 35, 35), (299, 299), None, (35, 35), 192, CHANNELS_FIRST),
        ((1, 256, 12, 9), (128, 96), None, (12, 9), 256, CHANNELS_FIRST),
        ((1, 7, 7, 768), (224, 224), None, (7, 7), 768, CHANNELS_LAST),
        ((1, 2, 3, 768), (64, 96), None, (2, 3), 768, CHANNELS_LAST),
        ((1, 7, 7, 7), (224, 224), None, (7, 7), 7, CHANNELS_FIRST),
        ((1, 14, 14, 2), (224, 32), None, (14, 2), 14, CHANNELS_FIRST),
        ((1, 196, 384), (224, 224), None, (14, 14), 384, "tokens, 0 before a grid of (14, 14)"),
        ((1, 197, 384), (224, 224), None, (14, 14), 384, "tokens, 1 before a grid of (14, 14)"),
        ((1, 198, 384), (224, 224), 2, (14, 14), 384, "tokens, 2 before a grid of (14, 14)"),
        ((1, 198, 384), (224, 224), None, (14, 14), 384, "tokens, 2 before a grid of (14, 14)"),
        ((1, 1374, 384), (518, 518), None, (37, 37), 384, "tokens, 5 before a grid of (37, 37)"),
        ((1, 25, 192), (64, 96), None, (4, 6), 192, "tokens, 1 before a grid of (4, 6)"),
        ((1, 29, 192), (64, 96), 5, (4, 6), 192, "tokens, 5 before a grid of (4, 6)"),
        ((1, 16, 128), (4096,), None, (128,), 16, CHANNELS_FIRST),
        ((1, 32, 4, 6, 5), (16, 24, 20), None, (4, 6, 5), 32, CHANNELS_FIRST),
        ((1, 4, 6, 5, 32), (16, 24, 20), None, (4, 6, 5), 32, CHANNELS_LAST),
        ((1, 25, 32), (8, 8, 24), None, (2, 2, 6), 32, "tokens, 1 before a grid of (2, 2, 6)"),
    ],
    ids=str,
)
def test_read(
    shape: tuple[int, ...],
    image: tuple[int, ...],
    prefix: int | None,
    spatial: tuple[int, ...],
    channels: int,
    words: str,
) -> None:
    reading = read(shape, image, prefix=prefix)
    assert reading is not None
    assert (reading.spatial, reading.channels, reading.words) == (spatial, channels, words)
    assert (reading.layout is None) == (words == CHANNELS_FIRST)
    raw = images(*shape)
    assert (reading.layout.to_map(raw) if reading.layout else raw).shape == (1, channels, *spatial)


@pytest.mark.parametrize(
    ("shape", "image", "prefix"),
    [
        ((1, 1000), (224, 224), None),
        ((1, 512, 7, 7, 7), (224, 224), None),
        ((1, 512, 450, 450), (224, 224), None),
        ((1, 64, 7, 28), (224, 224), None),
        ((1, 12, 197, 197), (64, 96), None),
        ((1, 211, 384), (224, 224), None),
        ((1, 197, 384), (224, 224), 0),
        ((1, 1, 384), (224, 224), 1),
        ((1, 3, 384), (224, 224), 5),
        ((1, 25, 192), (8,), None),
        ((1, 28, 32), (16, 16, 28), None),
        ((), (224, 224), None),
    ],
    ids=str,
)
def test_what_cannot_be_read(shape: tuple[int, ...], image: tuple[int, ...], prefix: int | None) -> None:
    assert read(shape, image, prefix=prefix) is None

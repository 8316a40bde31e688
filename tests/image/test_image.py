"""Pictures, masks and boxes against scalar loops, and the peer's pipeline against the peer itself."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap

from camfn import image
from camfn.image import _montage as _draw

HALVES = [torch.float16, torch.bfloat16]
FLOATS = [*HALVES, torch.float32, torch.float64]
SHAPES = [(5,), (4, 7), (3, 2, 5)]


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# upsample


def naive_upsample(values: Any, size: tuple[int, ...]) -> Any:
    """One output pixel at a time, between the 2^n input pixels around its half-pixel center."""
    out = np.zeros(size)
    for place in itertools.product(*map(range, size)):
        corners = []
        for i, n_out, n_in in zip(place, size, values.shape, strict=True):
            source = max((i + 0.5) * n_in / n_out - 0.5, 0.0)
            low = int(source)
            corners.append([(low, 1 - (source - low)), (min(low + 1, n_in - 1), source - low)])
        for corner in itertools.product(*corners):
            out[place] += values[tuple(i for i, _ in corner)] * math.prod(weight for _, weight in corner)
    return out


@pytest.mark.parametrize(
    ("shape", "size"),
    [((5,), (13,)), ((4, 7), (9, 15)), ((4, 7), (3, 20)), ((6, 8), (3, 4)), ((4, 7), (4, 7)), ((3, 2, 5), (4, 5, 6))],
)
def test_upsample_equals_the_scalar_loop(shape: tuple[int, ...], size: tuple[int, ...]) -> None:
    cam = randn(2, *shape, dtype=torch.float64)
    expected = np.stack([naive_upsample(m.numpy(), size) for m in cam])
    torch.testing.assert_close(image.upsample(cam, size), torch.from_numpy(expected))


def test_upsample_equals_interpolate_and_takes_height_first() -> None:
    cam = randn(2, 7, 5)
    expected = torch.nn.functional.interpolate(cam[:, None], (64, 48), mode="bilinear", align_corners=False)[:, 0]
    assert torch.equal(image.upsample(cam, (64, 48)), expected)
    assert image.upsample(cam, torch.empty(3, 30, 40).shape[-2:]).shape == (2, 30, 40)


@pytest.mark.parametrize(
    ("shape", "size", "order"),
    [
        ((2, 7, 7), (224,), r"\(height, width\)"),
        ((2, 7, 7), (1, 3, 224, 224), r"\(height, width\)"),
        ((2, 7), (3, 9), r"\(length,\)"),
        ((2, 3, 7, 7), (9, 9), r"\(depth, height, width\)"),
        ((2, 7, 7), (0, 9), r"\(height, width\)"),
    ],
)
def test_upsample_names_the_order_when_the_size_does_not_fit(
    shape: tuple[int, ...], size: tuple[int, ...], order: str
) -> None:
    with pytest.raises(ValueError, match=order):
        image.upsample(torch.zeros(shape), size)


def test_upsample_refuses_other_ranks_and_a_bare_number() -> None:
    with pytest.raises(ValueError, match="one to three spatial dimensions"):
        image.upsample(torch.zeros(2, 1, 1, 1, 1), (2, 2, 2, 2))
    with pytest.raises(TypeError, match=r"\(height, width\)"):
        image.upsample(torch.zeros(2, 7, 7), 224)  # type: ignore[arg-type]


# normalize


@pytest.mark.parametrize("shape", SHAPES)
def test_normalize_equals_the_scalar_loop(shape: tuple[int, ...]) -> None:
    cam = randn(3, *shape, dtype=torch.float64)
    for m, got, signed in zip(cam, image.normalize(cam), image.normalize(cam, signed=True), strict=True):
        clipped = [max(v, 0.0) for v in m.flatten().tolist()]
        low, high = min(clipped), max(clipped)
        peak = max(abs(v) for v in m.flatten().tolist())
        torch.testing.assert_close(got.flatten().tolist(), [(v - low) / (high - low) for v in clipped])
        torch.testing.assert_close(signed.flatten().tolist(), [(1 + v / peak) / 2 for v in m.flatten().tolist()])


@pytest.mark.parametrize("value", [0.0, 3.0, -3.0, 1e-30])
def test_normalize_of_a_constant_map(value: float) -> None:
    cam = torch.full((2, 3, 4), value)
    assert torch.equal(image.normalize(cam), torch.zeros(2, 3, 4))
    assert torch.equal(
        image.normalize(cam, signed=True), torch.full((2, 3, 4), (math.copysign(1, value) + 1) / 2 if value else 0.5)
    )


@pytest.mark.parametrize("signed", [False, True])
def test_normalize_does_not_depend_on_the_scale(signed: bool) -> None:
    cam = randn(2, 5, 6)
    for power in (-80, 80):  # powers of two: no rounding; far below and above any constant in a denominator
        assert torch.equal(image.normalize(cam * 2.0**power, signed=signed), image.normalize(cam, signed=signed))


def test_normalize_reaches_both_ends_and_keeps_signs() -> None:
    cam = randn(4, 6, 6)
    heat, signed = image.normalize(cam), image.normalize(cam, signed=True)
    assert torch.equal(heat.amin((1, 2)), torch.zeros(4))
    assert torch.equal(heat.amax((1, 2)), torch.ones(4))
    assert torch.equal(torch.sign(signed - 0.5), torch.sign(cam))
    assert torch.equal((signed - 0.5).abs().amax((1, 2)), torch.full((4,), 0.5))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_samples_are_named(bad: float) -> None:
    maps = rand(4, 5, 6)
    maps[1, 0, 0] = maps[3, 2, 2] = bad
    photo = rand(3, 5, 6)
    calls: list[Callable[[Tensor], Any]] = [
        image.normalize,
        image.colorize,
        image.to_mask,
        image.to_boxes,
        lambda m: image.overlay(photo, m),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"NaN or infinity in 2 of 4 samples: 1, 3\."):
            call(maps)


def test_a_map_without_a_batch_is_refused() -> None:
    of_any_rank: list[Callable[[Tensor], Any]] = [image.normalize, image.to_mask]
    of_images: list[Callable[[Tensor], Any]] = [image.colorize, image.to_boxes]
    for call in of_any_rank:
        with pytest.raises(ValueError, match=r"\[None\]"):
            call(torch.zeros(7))
    for call in of_images:
        with pytest.raises(ValueError, match=r"heatmap\[None\]"):
            call(torch.zeros(7, 7))


def test_normalize_has_finite_exact_derivatives() -> None:
    cam = randn(2, 3, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(image.normalize, (cam,))
    assert torch.autograd.gradcheck(lambda m: image.normalize(m, signed=True), (cam,))
    flat = torch.zeros(1, 3, 4, requires_grad=True)
    (grad,) = torch.autograd.grad(image.normalize(flat).sum(), flat)
    assert torch.equal(grad, torch.zeros(1, 3, 4))


# colors


def test_colorize_meets_the_colors_of_the_map_and_lies_between_them() -> None:
    from kornia.color import ColorMap

    table = ColorMap("viridis", num_colors=64).colors.T
    steps = torch.arange(64) / 63
    got = image.colorize(steps.reshape(1, 4, 16), "viridis")
    assert got.shape == (1, 3, 4, 16)
    torch.testing.assert_close(got[0].flatten(1).T, table)
    between = image.colorize(torch.tensor([[[20.25 / 63]]]), "viridis").flatten()
    torch.testing.assert_close(between, 0.75 * table[20] + 0.25 * table[21])


@pytest.mark.parametrize("colormap", ["turbo", "viridis", "jet", "seismic", "plasma", "cividis"])
def test_colors_stay_in_range_and_turn_from_blue_to_red_or_yellow(colormap: str) -> None:
    colors = image.colorize(torch.linspace(0, 1, 501).reshape(1, 1, -1), colormap)
    assert colors.min() >= 0
    assert colors.max() <= 1
    warmth = colors[0, 0, 0] - colors[0, 2, 0]
    assert warmth[0] < 0 < warmth[-1]


def test_zero_is_white_in_the_colors_for_signed_maps() -> None:
    torch.testing.assert_close(
        image.colorize(torch.tensor([[[0.5]]]), "seismic").flatten(), torch.ones(3), atol=0.04, rtol=0
    )


def test_unknown_colormaps_and_raw_maps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'magma'.*turbo.*seismic"):
        image.colorize(torch.zeros(1, 2, 2), "magma")
    with pytest.raises(ValueError, match=r"normalize\(cam\)"):
        image.colorize(torch.tensor([[[-1.0, 2.0]]]))
    with pytest.raises(TypeError, match=r"heatmap\.float\(\)"):
        image.colorize(torch.zeros(1, 2, 2, dtype=torch.uint8))


# overlay


def test_overlay_equals_the_scalar_loop() -> None:
    photo, heatmap = rand(2, 3, 4, 6), rand(2, 4, 6, seed=1)
    for colormap, zero, reach in (("turbo", 0.0, 1.0), ("seismic", 0.5, 0.5)):
        got = image.overlay(photo, heatmap, alpha=0.6, colormap=colormap)
        colors = image.colorize(heatmap, colormap)
        for b, c, y, x in np.ndindex(2, 3, 4, 6):
            opacity = 0.6 * min(1.0, 2 * abs(float(heatmap[b, y, x]) - zero) / reach)
            expected = (1 - opacity) * photo[b, c, y, x] + opacity * colors[b, c, y, x]
            torch.testing.assert_close(got[b, c, y, x], expected)


def test_overlay_leaves_the_photo_where_the_map_is_zero_and_covers_it_where_it_is_opaque() -> None:
    photo = rand(2, 3, 8, 12)
    assert torch.equal(image.overlay(photo, torch.zeros(2, 3, 4)), photo)
    assert torch.equal(image.overlay(photo, torch.full((2, 3, 4), 0.5), colormap="seismic"), photo)
    assert torch.equal(image.overlay(photo, rand(2, 3, 4), alpha=0), photo)
    hot = torch.ones(2, 8, 12)
    torch.testing.assert_close(image.overlay(photo, hot, alpha=1), image.colorize(hot))


def test_overlay_upsamples_to_the_photo() -> None:
    photo, heatmap = rand(2, 3, 20, 30), rand(2, 4, 5, seed=1)
    expected = image.overlay(photo, image.upsample(heatmap, (20, 30)))
    torch.testing.assert_close(image.overlay(photo, heatmap), expected)


def test_one_photo_serves_all_heatmaps() -> None:
    photo, heatmap = rand(3, 8, 12), rand(4, 4, 6, seed=1)
    expected = image.overlay(photo.expand(4, 3, 8, 12), heatmap)
    assert torch.equal(image.overlay(photo, heatmap), expected)
    assert torch.equal(image.overlay(photo[None], heatmap), expected)
    with pytest.raises(ValueError, match="got 3 for 4 heatmaps"):
        image.overlay(photo.expand(3, 3, 8, 12), heatmap)
    with pytest.raises(ValueError, match="got 3 for 1 heatmaps"):
        image.overlay(photo.expand(3, 3, 8, 12), heatmap[:1])


def test_bytes_are_a_photo_too() -> None:
    photo = (rand(2, 3, 8, 12) * 255).round().to(torch.uint8)
    heatmap = rand(2, 8, 12, seed=1)
    got = image.overlay(photo, heatmap)
    assert got.dtype == torch.float32
    assert torch.equal(got, image.overlay(photo.float() / 255, heatmap))


@pytest.mark.parametrize(
    ("photo", "text"),
    [
        (torch.full((3, 4, 4), -2.1), r"normalized with a mean.*\* std \+ mean"),
        (torch.full((3, 4, 4), 2.6), r"photo / 255"),
        (torch.full((3, 4, 4), 300.0), r"normalized with a mean"),
        (torch.full((3, 4, 4), 1.01), r"photo\.clamp\(0, 1\)"),
        (torch.full((3, 4, 4), math.nan), r"got nan"),
        (torch.zeros(4, 4, 3), r"photo\.movedim\(-1, -3\)"),
        (torch.zeros(2, 1, 4, 4), r"photo\.repeat_interleave\(3, -3\)"),
        (torch.zeros(4, 4, 5), r"photo\[\.\.\., :3, :, :\]"),
        (torch.zeros(4, 4), r"photo\.expand\(3, -1, -1\)"),
    ],
)
def test_what_is_no_photo_is_refused_with_the_call_that_mends_it(photo: Tensor, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        image.overlay(photo, torch.zeros(1, 2, 2))


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match=r"permute\(2, 0, 1\)"):
        image.overlay(np.zeros((4, 4, 3), np.uint8), torch.zeros(1, 2, 2))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected a tensor, got ndarray"):
        image.normalize(np.zeros((1, 2, 2)))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"torch\.int64"):
        image.overlay(torch.zeros(3, 4, 4, dtype=torch.int64), torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match="opacity"):
        image.overlay(torch.zeros(3, 4, 4), torch.zeros(1, 2, 2), alpha=50)


# masks and boxes


def test_the_mask_is_strictly_above_the_fraction_of_each_maximum() -> None:
    heatmap = torch.tensor([[[0.0, 1.0, 2.0], [3.0, 5.0, 4.0]], [[0.0, 0.5, 0.25], [2.0, 0.4, 0.0]]])
    expected = torch.tensor([[[0, 0, 1], [1, 1, 1]], [[0, 1, 0], [1, 0, 0]]]).bool()
    assert torch.equal(image.to_mask(heatmap), expected)
    assert torch.equal(image.to_mask(heatmap, threshold=0.5), heatmap > torch.tensor([2.5, 1.0])[:, None, None])
    assert torch.equal(image.to_mask(heatmap, threshold=0), heatmap > 0)


@pytest.mark.parametrize("value", [0.0, -1.0])
@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.9])
def test_nothing_above_zero_gives_an_empty_mask_and_no_box(value: float, threshold: float) -> None:
    heatmap = torch.full((2, 3, 4), value)
    assert not image.to_mask(heatmap, threshold=threshold).any()
    for boxes in image.to_boxes(heatmap, threshold=threshold):
        assert boxes.shape == (0, 4)
        assert boxes.dtype == torch.int64


def test_a_constant_map_is_one_box_of_everything() -> None:
    (boxes,) = image.to_boxes(torch.full((1, 3, 5), 0.1))
    assert boxes.tolist() == [[0, 0, 5, 3]]


@pytest.mark.parametrize("threshold", [-0.1, 1.0, 20.0])
def test_thresholds_are_fractions(threshold: float) -> None:
    for call in (image.to_mask, image.to_boxes):
        with pytest.raises(ValueError, match="0 <= threshold < 1"):
            call(torch.ones(1, 2, 2), threshold=threshold)


DRAWN = {
    "at the border": (
        """
        ##...
        ##...
        ....#
        """,
        [[0, 0, 2, 2], [4, 2, 5, 3]],
    ),
    "corners touch": (
        """
        ##...
        ##...
        ..##.
        .....
        """,
        [[0, 0, 4, 3]],
    ),
    "the larger first": (
        """
        #....
        ...##
        ...##
        """,
        [[3, 1, 5, 3], [0, 0, 1, 1]],
    ),
    "ties in reading order": (
        """
        ...#.
        #....
        ..#.#
        """,
        [[3, 0, 4, 1], [0, 1, 1, 2], [2, 2, 3, 3], [4, 2, 5, 3]],
    ),
    "most pixels, not the largest box": (
        """
        #.....###
        .#....###
        ..#...###
        ...#.....
        """,
        [[6, 0, 9, 3], [0, 0, 4, 4]],
    ),
    "one in the hole of another": (
        """
        #####
        #...#
        #.#.#
        #...#
        #####
        """,
        [[0, 0, 5, 5], [2, 2, 3, 3]],
    ),
}


@pytest.mark.parametrize("name", DRAWN)
def test_boxes_of_drawn_masks(name: str) -> None:
    drawing, expected = DRAWN[name]
    heatmap = torch.tensor([[float(c == "#") for c in line] for line in drawing.split()])[None]
    assert image.to_boxes(heatmap)[0].tolist() == expected
    assert image.to_boxes(heatmap, largest=True)[0].tolist() == expected[:1]


def naive_boxes(mask: Any) -> list[list[int]]:
    """Flood every part from its first pixel in reading order."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    parts = []
    for start in sorted(left):
        if start not in left:
            continue
        part, edge = {start}, [start]
        while edge:
            y, x = edge.pop()
            near = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left - part
            part |= near
            edge += near
        left -= part
        parts.append(part)
    parts.sort(key=len, reverse=True)
    spans = [([y for y, _ in part], [x for _, x in part]) for part in parts]
    return [[min(xs), min(ys), max(xs) + 1, max(ys) + 1] for ys, xs in spans]


def test_boxes_equal_a_flood_fill() -> None:
    heatmap = rand(20, 13, 9)
    for threshold in (0.5, 0.7, 0.9):
        boxes = image.to_boxes(heatmap, threshold=threshold)
        for m, got in zip(heatmap, boxes, strict=True):
            assert got.tolist() == naive_boxes((m > threshold * m.max()).numpy())


# all of them: dtypes, batches, transforms

PHOTO = rand(3, 8, 12)
PURE: dict[str, Callable[[Tensor], Tensor]] = {
    "upsample": lambda m: image.upsample(m, (9, 14)),
    "normalize": image.normalize,
    "normalize signed": lambda m: image.normalize(m, signed=True),
    "colorize": image.colorize,
    "overlay": lambda m: image.overlay(PHOTO.to(m.dtype).to(m.device), m),
    "to_mask": image.to_mask,
    "peer_postprocess": lambda m: image.peer_postprocess([m, m[:, ::2, ::2]], (9, 14)),
}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", PURE)
def test_dtypes_are_kept_and_halves_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    maps = rand(3, 5, 7).to(dtype)
    got = PURE[name](maps)
    if name == "to_mask":
        assert got.dtype == torch.bool
        assert torch.equal(got, PURE[name](maps.double()))
        return
    assert got.dtype == dtype
    if dtype in HALVES:
        wide = image.overlay(PHOTO.to(dtype).float(), maps.float()) if name == "overlay" else PURE[name](maps.float())
        assert torch.equal(got, wide.to(dtype))
    torch.testing.assert_close(got.double(), PURE[name](maps.double()), atol=4 * torch.finfo(dtype).eps, rtol=1e-6)


@pytest.mark.parametrize("name", PURE)
def test_a_batch_is_its_samples(name: str) -> None:
    maps = rand(3, 5, 7)
    singles = torch.cat([PURE[name](m[None]) for m in maps])
    torch.testing.assert_close(PURE[name](maps), singles, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", PURE)
def test_inputs_are_not_written_to(name: str) -> None:
    maps = rand(3, 5, 7)
    before = maps.clone()
    PURE[name](maps)
    assert torch.equal(maps, before)


@pytest.mark.parametrize("name", PURE)
def test_vmap_equals_the_loop(name: str) -> None:
    maps = rand(4, 2, 5, 7)
    expected = torch.stack([PURE[name](m) for m in maps])
    torch.testing.assert_close(vmap(PURE[name])(maps), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["upsample", "normalize", "normalize signed", "to_mask", "peer_postprocess"])
def test_no_graph_break(name: str) -> None:
    maps = rand(2, 5, 7)
    compiled = torch.compile(PURE[name], fullgraph=True, backend="eager", dynamic=False)
    assert torch.equal(compiled(maps), PURE[name](maps))


def test_derivatives_under_vmap() -> None:
    maps = randn(4, 2, 5, 7)

    def total(m: Tensor) -> Tensor:
        return (image.normalize(m) ** 2).sum()

    expected = torch.stack([torch.func.grad(total)(m) for m in maps])
    torch.testing.assert_close(vmap(torch.func.grad(total))(maps), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", PURE)
def test_the_device_is_kept(name: str) -> None:
    maps = rand(3, 5, 7)
    got = PURE[name](maps.cuda())
    assert got.is_cuda
    torch.testing.assert_close(got.cpu(), PURE[name](maps), rtol=1e-5, atol=1e-6)
    assert all(boxes.is_cuda for boxes in image.to_boxes(maps.cuda()))
    assert image.montage([rand(3, 8, 8).cuda(), rand(3, 4, 4)], ["a", "b"]).is_cuda


# montage


def test_montage_puts_each_picture_in_its_cell() -> None:
    pictures = [rand(3, 10, 14, seed=i) for i in range(5)]
    grid = image.montage(pictures, columns=3, padding=4, background=0.25)
    assert grid.shape == (3, 4 + 2 * (10 + 4), 4 + 3 * (14 + 4))
    rest = grid.clone()
    for i, picture in enumerate(pictures):
        y, x = 4 + (i // 3) * 14, 4 + (i % 3) * 18
        assert torch.equal(grid[:, y : y + 10, x : x + 14], picture)
        rest[:, y : y + 10, x : x + 14] = 0.25
    assert torch.equal(rest, torch.full_like(rest, 0.25))


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (3, 1, 3), (4, 2, 2), (6, 2, 3), (7, 3, 3)])
def test_montage_chooses_the_columns(count: int, rows: int, columns: int) -> None:
    assert image.montage(rand(count, 3, 5, 6), padding=1).shape == (3, 1 + 6 * rows, 1 + 7 * columns)


def test_montage_fits_pictures_of_other_sizes_and_centers_them() -> None:
    wide, tall = torch.full((3, 10, 20), 0.3), torch.full((3, 20, 10), 0.6)
    grid = image.montage([wide, tall], padding=0)
    assert grid.shape == (3, 20, 40)
    left, right = grid[:, :, :20], grid[:, :, 20:]
    for cell, value in ((left, 0.3), (right.transpose(1, 2), 0.6)):
        torch.testing.assert_close(cell[:, 5:15], torch.full((3, 10, 20), value))
        assert torch.equal(cell[:, :5], torch.ones(3, 5, 20))
        assert torch.equal(cell[:, 15:], torch.ones(3, 5, 20))
    assert image.montage([wide, tall], padding=0, cell=(30, 8)).shape == (3, 30, 16)


def test_montage_shrinks_by_averaging() -> None:
    stripes = (torch.arange(80) % 8 == 0).float().expand(3, 80, 80)  # one column in eight
    small = image.montage([stripes], padding=0, cell=(10, 10))
    assert small.mean().item() == pytest.approx(1 / 8, abs=0.01)
    assert small.min() > 0


@pytest.mark.parametrize(("background", "ink"), [(1.0, 0.0), (0.0, 1.0)])
def test_captions_are_drawn_below_their_picture(background: float, ink: float) -> None:
    pictures = [torch.full((3, 30, 90), 0.5)] * 2
    bare = image.montage(pictures, padding=3, background=background)
    blank = image.montage(pictures, ["", ""], padding=3, background=background)
    written = image.montage(pictures, ["", "Grad-CAM"], padding=3, background=background)
    assert blank.shape[1] > bare.shape[1]
    assert torch.equal(blank[:, : 33 + 3], torch.cat([bare[:, :33], torch.full((3, 3, 189), background)], dim=1))
    changed = (written != blank).any(0)
    assert not changed[:33].any()
    assert not changed[:, : 3 + 90 + 3].any()
    assert changed[33:, 96:].any()
    assert (written[:, 33:, 96:] - ink).abs().min() < 0.2


def test_captions_of_other_texts_differ() -> None:
    pictures = rand(2, 3, 40, 100)
    grids = [image.montage(pictures, ["photo", text]) for text in ("Grad-CAM", "LayerCAM")]
    assert not torch.equal(*grids)


LONG = "the quick brown fox jumps over the lazy dog " * 3
WORD = "EfficientNet_B0_blocks_6_0_bn3_activations_of_the_last_block"


@pytest.mark.parametrize("text", [LONG, WORD, f"a {WORD} b", "two\nlines", "", "i" * 300, "W" * 80])
@pytest.mark.parametrize("size", [12, 20])
def test_long_captions_are_wrapped_whole(text: str, size: int) -> None:
    font = _font(size)
    lines = _draw._wrap(text, 120, font)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(font.getlength(line) <= 120 for line in lines)
    if text == LONG:
        assert " ".join(lines).split() == text.split()


@pytest.mark.parametrize("text", [LONG, WORD, "gjpqy", "j" * 300, "W" * 80])
@pytest.mark.parametrize("size", [8, 12, 17, 24, 32])
def test_no_ink_is_cut_off(text: str, size: int) -> None:
    narrow = _draw._captions([text], 6 * size, size, None, 1.0)[0]
    lines = _draw._wrap(text, 6 * size - 2, _font(size))
    roomy = _draw._captions(["\n".join(lines)], 60 * size, size, None, 1.0)[0]
    assert narrow.shape[1] == roomy.shape[1]
    assert (1 - narrow).sum().item() == pytest.approx((1 - roomy).sum().item(), rel=1e-6)
    assert torch.equal(narrow[:, -1], torch.ones(1, 6 * size))


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def test_tiny_pictures_get_legible_captions() -> None:
    grid = image.montage([torch.zeros(3, 8, 8)], ["a caption"], padding=0, caption_size=14)
    assert grid.shape[2] == 6 * 14
    assert (grid[:, :8, 38:46] == 0).all()


def test_captions_take_a_font_file(tmp_path: Path) -> None:
    (tmp_path / "own.ttf").write_bytes(_font(14).path.getvalue())
    default = _draw._captions(["Grad-CAM"], 90, 14, None, 1.0)[0]
    same = _draw._captions(["Grad-CAM"], 90, 14, tmp_path / "own.ttf", 1.0)[0]
    assert same.shape == default.shape
    # a file is laid out by another engine, with kerning: other places, the same letters
    assert (1 - same).sum().item() == pytest.approx((1 - default).sum().item(), rel=0.1)
    with pytest.raises(OSError, match="resource"):
        image.montage(rand(1, 3, 20, 90), ["Grad-CAM"], font=tmp_path / "none.ttf")


def test_montage_keeps_the_first_dtype_and_takes_bytes() -> None:
    byte = (rand(3, 6, 6) * 255).to(torch.uint8)
    assert torch.equal(image.montage([byte], padding=0), byte / 255)
    for dtype in FLOATS:
        grid = image.montage([rand(3, 6, 6).to(dtype), byte], ["a", "b"])
        assert grid.dtype == dtype
        assert grid.min() >= 0
        assert grid.max() <= 1
    learned = rand(3, 6, 6).requires_grad_()
    assert not image.montage([learned]).requires_grad


def test_montage_refuses_what_it_cannot_lay_out() -> None:
    picture = torch.zeros(3, 4, 4)
    with pytest.raises(ValueError, match="at least one picture"):
        image.montage([])
    with pytest.raises(ValueError, match="each of the 2 pictures, got 1"):
        image.montage([picture, picture], ["one"])
    with pytest.raises(ValueError, match="got one string"):
        image.montage([picture, picture], "ab")
    with pytest.raises(ValueError, match=r"images\[1\].*images\[1\]\[0\]"):
        image.montage([picture, picture[None]])
    with pytest.raises(ValueError, match=r"images\[1\].*\[0, 1\]"):
        image.montage([picture, picture - 2])
    with pytest.raises(ValueError, match="columns"):
        image.montage([picture], columns=0)
    with pytest.raises(ValueError, match="caption_size=0"):
        image.montage([picture], ["a"], caption_size=0)
    with pytest.raises(ValueError, match=r"cell=\(0, 4\)"):
        image.montage([picture], cell=(0, 4))
    with pytest.raises(ValueError, match="background"):
        image.montage([picture], background=255)


# files


def test_png_gives_back_the_bytes(tmp_path: Path) -> None:
    from PIL import Image

    byte = (rand(3, 7, 11) * 255).round().to(torch.uint8)
    for name, picture in (("bytes.png", byte), ("floats.PNG", byte / 255), ("doubles.png", byte.double() / 255)):
        image.save(picture, tmp_path / name)
        with Image.open(tmp_path / name) as opened:
            assert opened.mode == "RGB"
            assert torch.equal(torch.from_numpy(np.array(opened)).permute(2, 0, 1), byte)


def test_save_rounds_to_the_nearest_byte(tmp_path: Path) -> None:
    from PIL import Image

    image.save(torch.tensor([0.4, 99.6, 254.6])[:, None, None] / 255, tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as opened:
        assert opened.getpixel((0, 0)) == (0, 100, 255)


def test_jpeg_is_close(tmp_path: Path) -> None:
    from PIL import Image

    ramp = torch.linspace(0, 1, 64).expand(3, 32, 64)
    image.save(ramp, str(tmp_path / "ramp.jpg"))
    with Image.open(tmp_path / "ramp.jpg") as opened:
        assert opened.format == "JPEG"
        got = torch.from_numpy(np.array(opened)).permute(2, 0, 1) / 255
    torch.testing.assert_close(got, ramp, atol=0.02, rtol=0)


def test_save_refuses_unknown_names_and_what_is_no_picture(tmp_path: Path) -> None:
    for name in ("map.npy", "map"):
        with pytest.raises(ValueError, match=r"\.png or \.jpg"):
            image.save(torch.zeros(3, 4, 4), tmp_path / name)
    with pytest.raises(ValueError, match=r"image\[0\]"):
        image.save(torch.zeros(1, 3, 4, 4), tmp_path / "map.png")
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        image.save(torch.full((3, 4, 4), -1.0), tmp_path / "map.png")
    assert list(tmp_path.iterdir()) == []


# imports


def test_the_import_is_light() -> None:
    heavy = {"kornia", "PIL", "scipy", "matplotlib", "torchvision", "timm"}
    code = f"import sys, camfn.image; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_missing_packages_are_named_with_the_extra_that_brings_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "scipy", None)
    text = r"pip install 'camfn\[cli\]'"
    with pytest.raises(ImportError, match=f"save needs Pillow: {text}"):
        image.save(torch.zeros(3, 4, 4), tmp_path / "map.png")
    with pytest.raises(ImportError, match=f"captions needs Pillow: {text}"):
        image.montage([torch.zeros(3, 4, 4)], ["a"])
    with pytest.raises(ImportError, match=f"to_boxes needs SciPy: {text}"):
        image.to_boxes(torch.ones(1, 4, 4))
    assert image.montage([torch.zeros(3, 4, 4)]).shape == (3, 20, 20)


# the peer


@pytest.fixture(scope="module")
def peer() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own imports warn
        return pytest.importorskip("pytorch_grad_cam", reason="needs grad-cam==1.5.7, in the extra camfn[bench]")


@pytest.mark.parametrize("size", [(64, 48), (7, 5), (14, 20), (4, 3), (9, 31)])
@pytest.mark.parametrize("scale", [1.0, 1e-7, 1e6])
def test_one_layer_equals_the_peers_functions(peer: Any, size: tuple[int, int], scale: float) -> None:
    from pytorch_grad_cam.utils.image import scale_cam_image

    cam = randn(3, 14, 10) * scale
    cam[2] = -1.0
    expected = scale_cam_image(scale_cam_image(np.maximum(cam.numpy(), 0), size[::-1]))
    got = image.peer_postprocess(cam, size)
    torch.testing.assert_close(got, torch.from_numpy(expected), atol=1e-6, rtol=1e-5)


def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, stride=2),
            nn.ReLU(),
            nn.Conv2d(12, 6, 3, stride=2),
            nn.Flatten(),
            nn.LazyLinear(5),
        ).eval()


def by_hand(model: nn.Sequential, layer: int, x: Tensor, classes: list[int], method: str) -> Tensor:
    """Raw map of a layer of a chain, by torch.autograd.grad."""
    activations = model[: layer + 1](x).detach().requires_grad_()
    scores = model[layer + 1 :](activations)[torch.arange(len(classes)), classes]
    (grads,) = torch.autograd.grad(scores.sum(), activations)
    weights = grads.mean((2, 3), keepdim=True) if method == "GradCAM" else grads
    raw: Tensor = (weights * activations).sum(1)
    return raw.detach()


@pytest.mark.parametrize("layers", [[4], [2], [0, 2, 4]])
@pytest.mark.parametrize("method", ["GradCAM", "HiResCAM"])
def test_raw_maps_postprocessed_equal_the_peer_end_to_end(peer: Any, method: str, layers: list[int]) -> None:
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    x, classes = randn(3, 3, 25, 38), [4, 0, 2]
    model = net()
    model(x)
    raw = [by_hand(model, layer, x, classes, method) for layer in layers]
    got = image.peer_postprocess(raw if len(raw) > 1 else raw[0], x.shape[-2:])
    with getattr(peer, method)(model=model, target_layers=[model[layer] for layer in layers]) as cam:
        expected = cam(x, targets=[ClassifierOutputTarget(c) for c in classes])
    assert got.shape == (3, 25, 38)
    assert (got.amax((1, 2)) > 0.9).sum() >= 2
    torch.testing.assert_close(got, torch.from_numpy(expected), atol=1e-5, rtol=1e-5)


def test_peer_postprocess_refuses_what_the_pipeline_has_no_place_for() -> None:
    for cams in ([], torch.zeros(2, 3, 4, 4), [torch.zeros(4, 4)]):
        with pytest.raises(ValueError, match=r"\(B, h, w\)"):
            image.peer_postprocess(cams, (8, 8))
    with pytest.raises(ValueError, match=r"\(height, width\)"):
        image.peer_postprocess(torch.zeros(2, 4, 4), (3, 8, 8))


def test_relief_is_gray_at_zero_and_keeps_the_sign() -> None:
    gradient = torch.linspace(-2, 1, 2 * 3 * 5 * 4, dtype=torch.float64).reshape(2, 3, 5, 4)
    gradient[0, 0, 0, 0] = -100
    exact = image.relief(gradient, quantile=1.0)
    torch.testing.assert_close(exact[0], 0.5 + gradient[0] / 200)
    torch.testing.assert_close(exact[1], 0.5 + gradient[1] / 2 / gradient[1].abs().max())
    clipped = image.relief(gradient, quantile=0.9)
    scale = gradient[0].abs().flatten().sort().values[53]
    torch.testing.assert_close(clipped[0], (0.5 + gradient[0] / scale / 2).clamp(0, 1))
    torch.testing.assert_close(image.relief(3 * gradient), image.relief(gradient))
    assert (image.relief(torch.zeros(1, 3, 2, 2)) == 0.5).all()
    sparse = torch.zeros(1, 3, 8, 8)
    sparse[0, 0, 0, 0] = 2.0
    assert image.relief(sparse, quantile=0.5)[0, 0, 0, 0] == 1
    assert image.relief(gradient.bfloat16()).dtype == torch.bfloat16


def test_relief_refuses_what_is_no_picture() -> None:
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\), got \(1, 4, 2, 2\)"):
        image.relief(torch.zeros(1, 4, 2, 2))
    with pytest.raises(ValueError, match="share in"):
        image.relief(torch.zeros(1, 3, 2, 2), quantile=1.5)
    with pytest.raises(ValueError, match="NaN or infinity"):
        image.relief(torch.full((1, 3, 2, 2), torch.nan))

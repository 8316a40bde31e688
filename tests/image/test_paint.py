"""Colors, overlays and reliefs against scalar loops; slices of volumes and curves of series."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from camfn import CamfnError, image

from .common import rand, randn


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
    with pytest.raises(ValueError, match="quantile: expected a number in"):
        image.relief(torch.zeros(1, 3, 2, 2), quantile=1.5)
    with pytest.raises(ValueError, match="NaN or infinity"):
        image.relief(torch.full((1, 3, 2, 2), torch.nan))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_are_overlays_of_the_slices(axis: int) -> None:
    volume = torch.rand(5, 6, 7, generator=torch.Generator().manual_seed(0))
    heat = torch.rand(5, 6, 7, generator=torch.Generator().manual_seed(1))
    found = image.slices(volume, heat, axis=axis, count=3)
    last = volume.shape[axis] - 1
    for picture, n in zip(found, (0, last / 2, last), strict=True):
        index = round(n)
        photo = volume.select(axis, index).expand(3, -1, -1)
        wanted = image.overlay(photo, heat.select(axis, index)[None])[0]
        torch.testing.assert_close(picture, wanted)
    assert image.slices(volume, heat, axis=axis, count=99).shape[0] == volume.shape[axis]
    colored = (255 * volume).round().to(torch.uint8).expand(3, 5, 6, 7)
    assert image.slices(colored, heat[::2, ::2, ::2], axis=axis, count=3).shape == found.shape


def test_a_curve_goes_through_its_samples() -> None:
    series = torch.tensor([[0.0, 1.0, 2.0, 1.0], [3.0, 3.0, -1.0, 3.0]])
    found = image.curve(series, torch.zeros(4), height=9)
    assert found.shape == (3, 18, 4)
    assert set(found.flatten().tolist()) == {0.0, 1.0}
    for row, base in ((0, 0), (1, 9)):
        scaled = (series[row] - series[row].min()) / (series[row].max() - series[row].min())
        for column, value in enumerate(scaled.tolist()):
            assert found[:, base + round(8 * (1 - value)), column].sum() == 0
    flat = image.curve(torch.ones(4), torch.tensor([0.0, 1.0]), height=9)
    assert (flat[:, 8] == 0).all()
    assert (flat[:, 0, 0] == 1).all()
    assert flat[:, 0, 3].min() < 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: image.slices(torch.rand(4, 4), torch.rand(4, 4, 4)), r"volume \(D, H, W\)"),
        (lambda: image.slices(torch.rand(4, 4, 4), torch.rand(1, 4, 4, 4)), r"heatmap\[0\]"),
        (lambda: image.slices(torch.rand(4, 4, 4), torch.rand(4, 4, 4), axis=3), "axis 0, 1 or 2"),
        (
            lambda: image.slices(torch.rand(4, 4, 4), torch.rand(4, 4, 4), count=0),
            "count: expected a whole number from 1",
        ),
        (lambda: image.curve(torch.rand(2, 2, 4), torch.rand(4)), r"series \(L,\)"),
        (lambda: image.curve(torch.rand(4), torch.rand(4), height=1), "height: expected a whole number from 2"),
    ],
)
def test_slices_and_curves_refuse_other_shapes(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def by_hand(photo: NDArray[np.float32], mask: NDArray[np.float32], weight: float) -> NDArray[np.uint8]:
    """What `show_cam_on_image` of pytorch-grad-cam does, in loops; jet by its straight lines, in bytes."""
    found = np.zeros(photo.shape)
    for y, x in np.ndindex(*mask.shape):
        level = int(255 * mask[y, x]) / 255
        for channel, middle in enumerate((0.75, 0.5, 0.25)):
            color = round(255 * min(max(1.5 - 4 * abs(level - middle), 0.0), 1.0)) / 255
            found[y, x, channel] = (1 - weight) * color + weight * photo[y, x, channel]
    scaled: NDArray[np.uint8] = (255 * (found / found.max())).astype(np.uint8)
    return scaled


@pytest.mark.parametrize("weight", [0.5, 0.3, 0.0, 1.0])
def test_like_grad_cam_is_the_picture_they_had(weight: float) -> None:
    photo = rand(3, 20, 24)
    raw = randn(2, 20, 24)
    found = image.overlay(photo, raw, like="grad-cam", alpha=1 - weight)
    for one, cam in zip(found, raw):
        clipped = cam.clamp(min=0).numpy()
        mask = clipped / (1e-7 + clipped.max())
        expected = by_hand(photo.permute(1, 2, 0).numpy(), mask, weight)
        got = (255 * one).permute(1, 2, 0).numpy()
        assert np.abs(got - got.round()).max() < 1e-3
        # a level that rounding puts on the other side of a step of the colors moves a color by 4 steps of 255
        assert (np.abs(got - expected) > 1.01).mean() < 0.005
        assert np.abs(got - expected).max() < 5.01


def test_like_grad_cam_is_that_package() -> None:
    pytest.importorskip("cv2", reason="needs OpenCV")
    peer = pytest.importorskip("pytorch_grad_cam.utils.image", reason="needs grad-cam")
    photo, raw = rand(3, 56, 60), randn(1, 7, 8)
    mask = peer.scale_cam_image(peer.scale_cam_image(np.maximum(raw.numpy(), 0), (60, 56)))[0]
    expected = peer.show_cam_on_image(photo.permute(1, 2, 0).numpy(), mask, use_rgb=True)
    for given in (raw, image.normalize(raw), image.peer_postprocess(raw, (56, 60))):
        got = (255 * image.overlay(photo, given, like="grad-cam")[0]).permute(1, 2, 0).numpy()
        assert (np.abs(got - expected) > 1.01).mean() < 0.005
        assert np.abs(got - expected).max() < 5.01


def test_like_grad_cam_refuses_what_that_package_does_not_draw() -> None:
    photo, heat = rand(3, 8, 8), rand(1, 8, 8)
    with pytest.raises(CamfnError, match="leave out colormap='viridis'"):
        image.overlay(photo, heat, like="grad-cam", colormap="viridis")
    with pytest.raises(CamfnError, match="expected 'grad-cam'"):
        image.overlay(photo, heat, like="captum")  # type: ignore[arg-type]
    with pytest.raises(CamfnError, match="NaN"):
        image.overlay(photo, heat * torch.nan, like="grad-cam")
    black = image.overlay(torch.zeros(3, 8, 8), heat, like="grad-cam", alpha=0.0)
    assert bool((black == 0).all())

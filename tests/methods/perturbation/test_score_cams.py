"""Laws of Group-CAM, SS-CAM and IS-CAM."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from camfn import methods
from camfn._shared.maps import resize, spatial_mean
from tests.methods.laws import (
    close,
    image,
    linear,
    normal,
    relu_network,
    stretched,
)


@pytest.mark.parametrize("groups", [1, 3, 6, 32])
def test_group_cam_upsampled_is_the_sum_of_its_masks(groups: int) -> None:
    a, g, x, b = normal(3, 6, 4, 5), normal(3, 6, 4, 5, seed=1), image(), normal(3, 2, 9, 11, seed=2)
    weighted = spatial_mean(g)[..., None, None] * a
    maps = torch.stack([part.sum(1) for part in weighted.chunk(groups, 1)], 1).relu()
    cut = torch.quantile(maps.flatten(2), 0.7, dim=2)[..., None, None]
    masks = stretched(resize(torch.where(maps > cut, maps, 0.0), (9, 11)))
    gains = torch.stack([linear((x - b) * masks[:, k : k + 1]) - 0.4 for k in range(masks.shape[1])], 1)
    map_ = methods.group_cam(a, g, forward=linear, inputs=x, baseline=b, groups=groups)
    close(resize(map_[:, None], (9, 11))[:, 0], methods.cam(masks, weights=gains))


def test_group_cam_with_one_group_and_no_threshold_is_the_positive_grad_cam() -> None:
    a, g, _, _ = relu_network()
    x = image().abs()
    map_ = methods.group_cam(
        a, g, forward=lambda x: x.sum((1, 2, 3)), inputs=x, baseline=torch.zeros_like(x), groups=1, quantile=0.0
    )
    up = resize(methods.grad_cam(a, g).relu()[:, None], (9, 11))
    close(stretched(resize(map_[:, None], (9, 11))), stretched(up))


def test_group_cam_of_an_image_without_detail_is_zero() -> None:
    a, g = normal(3, 6, 4, 5), normal(3, 6, 4, 5, seed=1)
    flat = torch.full((3, 2, 60, 70), 0.7, dtype=torch.float64)
    map_ = methods.group_cam(a, g, forward=lambda x: x.square().sum((1, 2, 3)), inputs=flat, groups=2)
    close(map_, torch.zeros_like(map_))


def test_the_blur_keeps_brightness_and_takes_detail_away() -> None:
    a, g = normal(1, 4, 6, 6), normal(1, 4, 6, 6, seed=1)
    seen: list[Tensor] = []

    def forward(x: Tensor) -> Tensor:
        seen.append(x)
        return x.sum((1, 2, 3))

    x = normal(1, 1, 64, 64, seed=2).abs()
    methods.group_cam(a, g, forward=forward, inputs=x, groups=1, chunk_size=1)
    blurred = seen[-1].reshape(64, 64)
    assert blurred.min() >= x.min()
    assert blurred.max() <= x.max()
    assert blurred.std() < x.std() / 10
    close(blurred.mean(), x.mean(), 0.1)


@pytest.mark.parametrize("form", ["softmax", "score"])
def test_without_noise_and_with_one_step_they_are_score_cam(form: Any) -> None:
    a = normal(3, 6, 4, 5)
    expected = methods.score_cam(a, forward=linear, inputs=image(), form=form)
    still = torch.zeros(2, 9, 11, dtype=torch.float64)
    close(methods.ss_cam(a, forward=linear, inputs=image(), noise=still, form=form), expected)
    close(methods.is_cam(a, forward=linear, inputs=image(), steps=1, form=form), expected)


def test_a_linear_network_sees_the_mean_noise_and_the_mean_fraction() -> None:
    a, x, noise = normal(3, 6, 4, 5), image(), normal(5, 9, 11, seed=3)
    through = methods.score_cam(a, forward=lambda x: linear(x) - 0.4, inputs=x, form="score")
    shift = linear(x * noise.mean(0)) - 0.4
    found = methods.ss_cam(a, forward=lambda x: linear(x) - 0.4, inputs=x, noise=noise, form="score")
    close(found, through + shift[:, None, None] * a.sum(1))
    found = methods.is_cam(a, forward=lambda x: linear(x) - 0.4, inputs=x, steps=7, form="score")
    close(found, through * (7 + 1) / (2 * 7))


def test_ss_cam_draws_the_noise_it_says() -> None:
    a, x = normal(3, 6, 4, 5), image()
    generator = torch.Generator().manual_seed(5)
    noise = 0.5 * torch.randn(4, 9, 11, generator=torch.Generator().manual_seed(5))
    before = torch.get_rng_state()
    found = methods.ss_cam(a, forward=linear, inputs=x, samples=4, std=0.5, generator=generator)
    assert torch.equal(before, torch.get_rng_state())
    close(found, methods.ss_cam(a, forward=linear, inputs=x, noise=noise))
    again = methods.ss_cam(
        a, forward=linear, inputs=x, samples=4, std=0.5, generator=torch.Generator().manual_seed(5), chunk_size=3
    )
    close(again, found)
    other = methods.ss_cam(a, forward=linear, inputs=x, samples=4, std=0.5, generator=generator)
    assert not torch.equal(other, found)


@pytest.mark.parametrize("run", [
    partial(methods.ss_cam, noise=normal(2, 9, 11, seed=4)), partial(methods.is_cam, steps=2), methods.poly_cam,
])  # fmt: skip
def test_top_k_is_the_method_on_the_strongest_channels_of_each_sample(run: Callable[..., Tensor]) -> None:
    a, x = normal(3, 6, 4, 5), image()
    energy = a.square().sum((2, 3))
    assert len({tuple(row.argsort()[-2:].tolist()) for row in energy}) > 1
    rows: list[int] = []
    found = run(a, forward=linear, inputs=x, top_k=0.3, chunk_size=1, progress=lambda done, total: rows.append(total))
    for i, row in enumerate(energy):
        few = a[i : i + 1, row.argsort(descending=True)[:2]]
        close(found[i : i + 1], run(few, forward=linear, inputs=x[i : i + 1]))
    assert rows[0] < 6
    close(run(a, forward=linear, inputs=x, top_k=1.0), run(a, forward=linear, inputs=x))
    with pytest.raises(ValueError, match="top_k: expected a number of channels from 1"):
        run(a, forward=linear, inputs=x, top_k=0)

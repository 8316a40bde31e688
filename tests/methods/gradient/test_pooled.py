"""Laws of Seg-XRes-CAM: its two ends, the loop at windows that do not divide the map, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from camfn import CamfnError, methods
from tests.methods.laws import close, normal
from tests.oracles.methods import seg_xres_cam as oracle


def test_a_window_of_one_position_is_hirescam_and_one_of_all_is_grad_cam() -> None:
    a, g = normal(2, 4, 6, 5), normal(2, 4, 6, 5, seed=1)
    close(methods.seg_xres_cam(a, g, pool=1), methods.hires_cam(a, g))
    close(methods.seg_xres_cam(a, g, pool=1, how="max"), methods.hires_cam(a, g))
    close(methods.seg_xres_cam(a, g, pool=6), methods.grad_cam(a, g))


@pytest.mark.parametrize("how", ["mean", "max"])
@pytest.mark.parametrize("shape", [(2, 3, 7), (2, 3, 5, 7), (1, 2, 3, 5, 4)], ids=str)
@pytest.mark.parametrize("pool", [2, 3])
def test_windows_equal_the_oracle(shape: tuple[int, ...], pool: int, how: Any) -> None:
    a, g = normal(*shape), normal(*shape, seed=1)
    close(methods.seg_xres_cam(a, g, pool=pool, how=how), oracle(a, g, pool=pool, how=how))


def test_means_keep_the_sum_where_activations_are_constant_and_are_linear_in_the_gradient() -> None:
    a, g, h = torch.ones(1, 3, 6, 4).double(), normal(1, 3, 6, 4), normal(1, 3, 6, 4, seed=2)
    close(methods.seg_xres_cam(a, g).sum(), (a * g).sum())
    close(methods.seg_xres_cam(a, g + 2 * h), methods.seg_xres_cam(a, g) + 2 * methods.seg_xres_cam(a, h))


def test_wrong_options_are_refused() -> None:
    a = normal(1, 2, 4, 4)
    with pytest.raises(CamfnError, match="pool: expected a whole number from 1, got 0"):
        methods.seg_xres_cam(a, a, pool=0)
    with pytest.raises(CamfnError, match="how: expected 'mean' or 'max', got 'median'"):
        methods.seg_xres_cam(a, a, how="median")  # type: ignore[arg-type]

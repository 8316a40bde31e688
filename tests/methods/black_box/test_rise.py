"""Laws of RISE and D-RISE, and their random masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from camfn import CamfnError, methods
from tests.methods.laws import (
    close,
    image,
    linear,
    normal,
    total,
)


def test_rise_of_a_linear_network_is_a_product_of_matrices() -> None:
    x, masks = image(), normal(7, 9, 11, seed=1).abs()
    weighted = (normal(2 * 9 * 11, seed=12).reshape(2, 9, 11) * x).sum(1).flatten(1)
    flat = masks.flatten(1)
    expected = (weighted @ flat.mT + 0.4) @ flat / (7 * 0.3)
    found = methods.rise(normal(3, 4, 2, 2), forward=linear, inputs=x, masks=masks, probability=0.3)
    close(found.flatten(1), expected)


def test_centered_rise_takes_the_mean_score_off_and_is_zero_where_the_score_is_constant() -> None:
    x, masks = image(), normal(7, 9, 11, seed=1).abs()
    raw, off = (methods.rise(x, forward=linear, inputs=x, masks=masks, centered=centered) for centered in (False, True))
    scores = torch.stack([linear(x * mask) for mask in masks])
    close(raw - off, scores.mean(0)[:, None, None] * masks.mean(0) / 0.5)
    # a constant added to the score changes the raw map alone
    close(methods.rise(x, forward=lambda x: linear(x) + 3, inputs=x, masks=masks, centered=True), off)
    flat = methods.rise(x, forward=lambda x: 0 * total(x) + 0.3, inputs=x, masks=masks, centered=True)
    close(flat, torch.zeros_like(flat))


@pytest.mark.parametrize("size", [(13,), (9, 11), (5, 8, 6)], ids=str)
def test_rise_with_every_cell_on_is_the_score_everywhere(size: tuple[int, ...]) -> None:
    x = normal(2, 3, *size)
    draw = torch.Generator().manual_seed(0)
    map_ = methods.rise(x, forward=total, inputs=x, samples=3, probability=1.0, grid=3, generator=draw)
    close(map_, total(x).reshape(2, *(1 for _ in size)).expand(2, *size))


def test_rise_masks_are_in_range_and_on_average_the_probability() -> None:
    x = torch.ones(1, 1, 20, 20, dtype=torch.float64)
    seen: list[Tensor] = []

    def forward(x: Tensor) -> Tensor:
        # the trial runs one row by itself
        if torch._C._functorch.is_functorch_wrapped_tensor(x):
            seen.append(torch._C._functorch.get_unwrapped(x))
        return 0 * x.sum((1, 2, 3)) + 1

    draw = torch.Generator().manual_seed(0)
    map_ = methods.rise(x, forward=forward, inputs=x, samples=400, probability=0.3, generator=draw, chunk_size=None)
    masks = torch.cat([rows.reshape(-1, 20, 20) for rows in seen])
    assert len(masks) == 400
    assert masks.min() >= 0
    assert masks.max() <= 1 + 1e-12
    # smooth: a neighbor is at most a third of a cell away
    assert masks.diff(dim=1).abs().max() <= 1 / 3 + 1e-12
    close(map_[0], masks.mean(0) / 0.3)
    # the mean of 400 masks at a place has a deviation of at most sqrt(.3 * .7 / 400) = 0.023
    assert (masks.mean(0) - 0.3).abs().max() < 5 * 0.023
    assert masks.std(0).min() > 0.1


def test_rise_is_reproducible_and_leaves_the_global_state_alone() -> None:
    x = image()
    before = torch.get_rng_state()

    def run(seed: int, dtype: torch.dtype = torch.float64, **options: Any) -> Tensor:
        draw = torch.Generator().manual_seed(seed)
        given = x.to(dtype)
        return methods.rise(
            given, forward=lambda x: linear(x.double()), inputs=given, samples=150, generator=draw, **options
        )

    first = run(1)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(run(1), first)
    assert not torch.equal(run(2), first)
    close(run(1, chunk_size=7), first)
    torch.testing.assert_close(run(1, torch.float32).double(), first, rtol=1e-4, atol=1e-4)


def test_a_score_that_is_always_the_same_leaves_exactly_zero_once_centered() -> None:
    options: dict[str, Any] = {"inputs": torch.ones(2, 3, 5, 6), "samples": 7, "centered": True}
    found = methods.rise(
        options["inputs"],
        forward=lambda x: 0 * x.sum((1, 2, 3)) + 3.7,
        generator=torch.Generator().manual_seed(0),
        **options,
    )
    assert not found.any()
    with pytest.raises(CamfnError, match="infinite score for sample 0"):
        methods.rise(
            options["inputs"],
            forward=lambda x: x.sum((1, 2, 3)) / 0,
            generator=torch.Generator().manual_seed(0),
            **options,
        )

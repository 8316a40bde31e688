"""Activations without one channel each: the first convolution that sees them is taken apart, and nothing shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from camfn.methods import ablation_cam
from camfn.methods._perturbation.ablated import Ablated
from tests.nets.small import images, seeded

CHANNELS = torch.tensor([[3], [0], [2]])
"""The same for all samples."""

OWN = torch.tensor([[3, 1], [0, 0], [2, 3]])
"""Each sample's own."""


def ablated(
    *space: int, batch: int = 2, has_convolutions_left: bool = True, channels: Tensor = CHANNELS
) -> tuple[Ablated, Tensor]:
    """Three rows, and the same made by hand."""
    a, base = (images(batch, 4, *space, dtype=torch.float64, seed=seed) for seed in (1, 2))
    rows = a.repeat(3, *[1] * (a.ndim - 1)).reshape(3, *a.shape)
    channels = channels[:, :batch]
    for row, own in zip(rows, channels.expand(3, batch)):
        for i, channel in enumerate(own):
            row[i, channel] = base[i, channel]
    return Ablated(a, base, channels, has_convolutions_left=has_convolutions_left), rows.flatten(0, 1)


def counted(ablated: Ablated, run: Callable[[Tensor], Tensor]) -> tuple[Tensor, int]:
    """What a function makes of the rows, and how many convolutions were taken apart on the way."""
    taken: list[int] = []
    plain = ablated.convolved

    def convolved(*given: Any) -> Tensor:
        taken.append(1)
        return plain(*given)

    ablated.convolved = convolved  # type: ignore[method-assign, assignment]
    return ablated.through(lambda rows: run(rows.flatten(0, 1))), len(taken)


@pytest.mark.parametrize("channels", [CHANNELS, OWN], ids=["shared", "own"])
@pytest.mark.parametrize("has_convolutions_left", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize(
    ("options", "apart"),
    [
        ({}, True),
        ({"stride": 2, "padding": 1}, True),
        ({"kernel_size": 1, "bias": False}, True),
        ({"padding": "same"}, False),
        ({"dilation": 2}, False),
        ({"groups": 2}, False),
        ({"padding": 1, "padding_mode": "reflect"}, False),
    ],
    ids=str,
)
def test_a_convolution_of_the_rows(
    channels: Tensor, ndim: int, batch: int, has_convolutions_left: bool, options: dict[str, Any], apart: bool
) -> None:
    rows, by_hand = ablated(
        *(5, 6, 7)[:ndim], batch=batch, has_convolutions_left=has_convolutions_left, channels=channels
    )
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[ndim - 1]
    layer = seeded(lambda: kind(4, 6, **{"kernel_size": 3, **options}), dtype=torch.float64)
    with torch.no_grad():
        found, taken = counted(rows, layer)
        torch.testing.assert_close(found, layer(by_hand))
    assert taken == apart


def test_strides_and_padding_of_their_own_on_each_axis() -> None:
    rows, by_hand = ablated(6, 7)
    kernel = images(5, 4, 2, 3, dtype=torch.float64, seed=3)

    def run(x: Tensor) -> Tensor:
        return functional.conv2d(x, kernel, stride=(1, 2), padding=(0, 2))

    found, taken = counted(rows, run)
    torch.testing.assert_close(found, run(by_hand))
    assert taken == 1


@pytest.mark.parametrize(
    ("before", "apart"),
    [
        (lambda x: x, 2),
        (lambda x: x.relu_(), 0),
        (lambda x: x * 2, 0),
        (lambda x: x.clone(), 0),
        (lambda x: x[:, :, 1:], 0),
    ],
    ids=["itself", "written to", "scaled", "copied", "cut"],
)
def test_only_the_rows_themselves_are_taken_apart(before: Callable[[Tensor], Tensor], apart: int) -> None:
    rows, by_hand = ablated(6, 7)
    kernels = [images(5, 4, k, k, dtype=torch.float64) for k in (1, 3)]

    def run(x: Tensor) -> Tensor:
        x = before(x)
        return torch.cat([functional.conv2d(x, kernel, stride=2).flatten(1) for kernel in kernels], 1)

    found, taken = counted(rows, run)
    torch.testing.assert_close(found, run(by_hand))
    assert taken == apart


def test_an_infinite_channel_does_not_hide_the_others() -> None:
    a = images(1, 4, 3, 3, dtype=torch.float64)
    a[:, 1] = torch.inf
    rows = Ablated(a, torch.zeros_like(a), torch.tensor([[1]]))
    kernel = images(5, 4, 1, 1, dtype=torch.float64).abs()
    found, taken = counted(rows, lambda x: functional.conv2d(x, kernel))
    assert not taken
    assert found.isfinite().all()


def test_in_inference_mode() -> None:
    with torch.inference_mode():
        rows, by_hand = ablated(6, 7)
        kernel = images(5, 4, 1, 1, dtype=torch.float64)
        found, taken = counted(rows, lambda x: functional.conv2d(x, kernel))
        torch.testing.assert_close(found, functional.conv2d(by_hand, kernel))
    assert not taken


def test_derivatives_go_through() -> None:
    kernel = images(6, 4, 3, 3, dtype=torch.float64, seed=3)

    class Tail:
        def __call__(self, a: Tensor) -> Tensor:
            return functional.conv2d(a, kernel, padding=1).tanh().sum((1, 2, 3))

        def score_many(self, batches: Tensor) -> Tensor:
            return self(batches.flatten(0, 1)).unflatten(0, batches.shape[:2])  # type: ignore[no-untyped-call, no-any-return]

    a = images(2, 4, 5, 6, dtype=torch.float64).requires_grad_()
    tail = Tail()
    folded, vmapped = ablation_cam(a, tail=tail), ablation_cam(a, tail=lambda a: tail(a))
    torch.testing.assert_close(folded, vmapped)
    grads = [torch.autograd.grad(map_.square().sum(), a)[0] for map_ in (folded, vmapped)]
    torch.testing.assert_close(*grads)

"""Laws of Score-CAM, and its options: forms, baselines, the strongest channels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from camfn import capture, explainer, methods
from camfn._shared.maps import over_space, resize, safe_divide
from camfn.methods import score_cam
from tests.methods.laws import CHUNKS, READOUT, A, close, image, linear, nearly, normal, runs_of
from tests.nets.small import Net, images, seeded


def masks(activations: Tensor, size: tuple[int, ...] = (9, 11)) -> Tensor:
    up = resize(activations, size)
    low, high = up.amin((2, 3), keepdim=True), up.amax((2, 3), keepdim=True)
    return safe_divide(up - low, high - low)


def test_a_network_that_sees_nothing_weighs_channels_alike() -> None:
    a = normal(3, 6, 4, 5)
    close(methods.score_cam(a, forward=lambda x: 0 * x.sum((1, 2, 3)) + 3, inputs=image()), a.mean(1))


def test_channels_with_the_same_mask_weigh_the_same() -> None:
    one = normal(3, 1, 4, 5)
    scale = torch.tensor([0.5, 1.0, 7.0], dtype=torch.float64)[None, :, None, None]
    a = one * scale + 3 * scale - 1
    close(methods.score_cam(a, forward=linear, inputs=image()), a.mean(1))


def test_the_score_of_the_baseline_cancels() -> None:
    a = normal(3, 6, 4, 5)
    moved = methods.score_cam(a, forward=lambda x: linear(x) - linear(0 * x) + 5, inputs=image())
    close(moved, methods.score_cam(a, forward=linear, inputs=image()))


def test_masks_do_not_see_the_gain_and_offset_of_a_channel() -> None:
    a = normal(3, 6, 4, 5)
    gain = over_space(normal(3, 6, seed=13).exp(), a)
    moved = a * gain + over_space(normal(3, 6, seed=14), a)
    # the map is linear in the activations once the weights are known
    weights = (image()[:, None] * masks(a)[:, :, None]).flatten(2) @ READOUT + 0.4
    for form, expected in (("softmax", weights.softmax(1)), ("score", weights)):
        close(methods.score_cam(moved, forward=linear, inputs=image(), form=form), methods.cam(moved, weights=expected))  # type: ignore[arg-type]
        close(methods.score_cam(a, forward=linear, inputs=image(), form=form), methods.cam(a, weights=expected))  # type: ignore[arg-type]


def test_constant_channels_have_an_empty_mask_and_no_score_of_their_own() -> None:
    a = normal(3, 6, 4, 5).float()
    a[:, 2] = 0.1
    inputs = image().float()
    forward = torch.func.vmap(lambda x: (x * x.numel()).sum() + 1)
    kept = a[:, [0, 1, 3, 4, 5]]
    scored = methods.score_cam(a, forward=forward, inputs=inputs, form="score")
    torch.testing.assert_close(scored, methods.score_cam(kept, forward=forward, inputs=inputs, form="score"))
    alone = methods.score_cam(a[:, 2:3], forward=lambda x: x.sum((1, 2, 3)), inputs=inputs, form="score")
    assert not alone.any()


@pytest.mark.parametrize("chunk_size", [None, 1, 4])
def test_chunks_do_not_change_score_cam(chunk_size: int | None) -> None:
    a = normal(3, 6, 4, 5)
    expected = methods.score_cam(a, forward=linear, inputs=image())
    close(methods.score_cam(a, forward=linear, inputs=image(), chunk_size=chunk_size), expected)


IMAGE = images(2, 3, 7, 9, dtype=torch.float64, seed=6)


PROJECTION = images(3 * 7 * 9, 3, dtype=torch.float64, seed=7)


def network(x: Tensor) -> Tensor:
    return torch.tanh(x.flatten(1) @ PROJECTION).sum(1)


def repeated_channels() -> Tensor:
    """Ten channels: constant ones, repeated ones, some of them scaled; not the same in each sample."""
    m = images(2, 3, 3, 5, dtype=torch.float64)
    flat = torch.ones_like(m[:, 0])
    channels = [m[:, 0], 0 * flat, m[:, 1], 2 * m[:, 0], m[:, 0], 3 * flat, m[:, 2], 4 * m[:, 1], m[:, 2], m[:, 0]]
    a = torch.stack(channels, 1)
    a[1, 3] = m[1, 1] - m[1, 2]
    return a


def plain(forward: Callable[[Tensor], Tensor], a: Tensor, x: Tensor, **options: Any) -> Tensor:
    """Score-CAM a channel at a time, on one sample at a time."""
    return torch.cat(
        [
            score_cam(a[i : i + 1], forward=forward, inputs=x[i : i + 1].requires_grad_(), chunk_size=1, **options)
            for i in range(len(a))
        ]
    ).detach()


@pytest.mark.parametrize("form", ["softmax", "score"])
@pytest.mark.parametrize("chunk_size", CHUNKS)
def test_what_is_not_run_twice_changes_nothing(form: Any, chunk_size: Any) -> None:
    a = repeated_channels()
    found = score_cam(a, forward=network, inputs=IMAGE, form=form, chunk_size=chunk_size)
    # with a derivative being taken nothing is shared
    nearly(found, plain(network, a, IMAGE.clone(), form=form))


def test_each_different_mask_is_run_once() -> None:
    a = repeated_channels()
    counted, calls = runs_of(network)
    score_cam(a[:1], forward=counted, inputs=IMAGE[:1], chunk_size=1)
    # the trial of vmap runs one row more
    assert len(calls) == 4 + 1
    calls.clear()
    # the other sample has five
    score_cam(a, forward=counted, inputs=IMAGE, chunk_size=1)
    assert len(calls) == 5 + 1
    calls.clear()
    plain(counted, a[:1], IMAGE[:1].clone())
    assert len(calls) == 10 + 1


def test_a_mask_with_nan_is_nobodys_repetition() -> None:
    a = repeated_channels()
    a[0, 4, 1, 1] = torch.nan
    found = score_cam(a, forward=network, inputs=IMAGE)
    assert found[0].isnan().any()
    nearly(found[1], score_cam(a[1:], forward=network, inputs=IMAGE[1:])[0])


@pytest.mark.parametrize(
    "baseline", [0.0, 0.3, IMAGE.mean((2, 3), keepdim=True), IMAGE.flip(3)], ids=["0", "n", "m", "i"]
)
@pytest.mark.parametrize("form", ["softmax", "score"])
def test_a_baseline_image(baseline: float | Tensor, form: Any) -> None:
    black = torch.as_tensor(baseline, dtype=IMAGE.dtype).expand_as(IMAGE)
    moved = score_cam(A, forward=lambda d: network(black + d) - network(black), inputs=IMAGE - black, form=form)
    nearly(score_cam(A, forward=network, inputs=IMAGE, form=form, baseline=baseline), moved)


def test_a_constant_channel_increases_nothing() -> None:
    a = torch.ones(2, 3, 3, 5, dtype=torch.float64)
    assert not score_cam(a, forward=network, inputs=IMAGE, form="score", baseline=0.2).any()


@pytest.mark.parametrize("form", ["softmax", "score"])
@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (3, 3), (100, 4), (0.5, 2), (0.6, 3), (1.0, 4), (0.01, 1)])
def test_top_k_tries_the_strongest_channels_only(form: Any, top_k: float, count: int) -> None:
    counted, calls = runs_of(network)
    energy = A.square().sum((2, 3))
    found = score_cam(A, forward=counted, inputs=IMAGE, form=form, top_k=top_k, chunk_size=1)
    # the trial of vmap runs one row more
    assert len(calls) == count + (count > 1)
    for i in range(2):
        kept = energy[i].argsort(descending=True)[:count]
        alone = score_cam(A[i : i + 1, kept], forward=network, inputs=IMAGE[i : i + 1], form=form)
        nearly(found[i : i + 1], alone)


def test_top_k_by_the_gradient() -> None:
    net = seeded(Net, dtype=torch.float64)
    x = images(2, 3, 8, 6, dtype=torch.float64)
    captured = capture(net, "blocks.0")(x, [1, 3])
    best = captured.grads.mean((2, 3)).argsort(1, descending=True)[:, :2]
    explain = explainer(partial(score_cam, top_k=2, by="gradient"), net, "blocks.0")
    found = explain(x, [1, 3])

    def forward(x: Tensor) -> Tensor:
        return torch.as_tensor(net(x)[:, [1, 3]].diagonal())

    with torch.no_grad():
        by_hand = score_cam(*captured, forward=forward, inputs=x, top_k=2, by="gradient")
        nearly(found, by_hand)
        for i, target in enumerate([1, 3]):
            explain = explainer(
                lambda a, *, forward, inputs, i=i: score_cam(a[:, best[i]], forward=forward, inputs=inputs),
                net,
                "blocks.0",
            )
            alone = explain(x[i : i + 1], target)
            nearly(found[i : i + 1], alone)


def test_top_k_of_all_is_all() -> None:
    nearly(score_cam(A, forward=network, inputs=IMAGE, top_k=1.0), score_cam(A, forward=network, inputs=IMAGE))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k: expected a number of channels from 1, or a share"),
        ({"top_k": 1.5}, r"a share in \(0, 1\], got 1.5"),
        ({"top_k": True}, "got True"),
        ({"top_k": 2, "by": "variance"}, "'gradient', got 'variance'"),
        ({"top_k": 2, "by": "gradient"}, "needs grads"),
        ({"baseline": torch.ones(4, 1, 1)}, r"broadcasts to the inputs, \(2, 3, 7, 9\)"),
        ({"chunk_size": 0}, "chunk_size: expected a number of rows from 1"),
        ({"form": "raw"}, "'score', got 'raw'"),
    ],
    ids=str,
)
def test_what_score_cam_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_cam(A, forward=network, inputs=IMAGE, **options)

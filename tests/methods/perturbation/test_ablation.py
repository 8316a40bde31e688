"""Laws of Ablation-CAM, and its options: channels, baselines, slopes, chunks."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from camfn import explainer, methods, observe, resume
from camfn._shared.maps import spatial_sum
from camfn.methods import ablation_cam, cam
from tests.methods.laws import CHUNKS, CURVED, A, Cut, close, flat_head, nearly, normal, pooled, pooled_head, runs_of
from tests.nets.small import Net, images, seeded


@pytest.mark.parametrize("head", [pooled_head, flat_head])
@pytest.mark.parametrize("chunk_size", [None, 1, 4])
def test_over_an_affine_tail_the_drop_is_the_gradient_times_the_activations(
    head: Callable[[], Cut], chunk_size: int | None
) -> None:
    a, g, scores, tail = head()
    drops = spatial_sum(g * a)
    close(methods.ablation_cam(a, tail=tail, chunk_size=chunk_size), methods.cam(a, weights=drops))
    close(
        methods.ablation_cam(a, tail=tail, slope="l1", chunk_size=chunk_size),
        methods.xgrad_cam(a, g),
    )
    close(
        methods.ablation_cam(a, tail=tail, slope="score", chunk_size=chunk_size),
        methods.cam(a, weights=drops / scores.abs()[:, None]),
    )


def test_a_channel_that_the_tail_ignores_or_that_is_zero_weighs_nothing() -> None:
    a = normal(3, 6, 4, 5)
    a[:, 2] = 0
    mapped = methods.ablation_cam(a, tail=lambda x: x[:, 1:].exp().sum((1, 2, 3)), slope="l1")
    kept = a[:, [1, 3, 4, 5]]
    close(mapped, methods.ablation_cam(kept, tail=lambda x: x.exp().sum((1, 2, 3)), slope="l1"))


def test_a_negative_score_does_not_invert_the_map() -> None:
    a, _, scores, tail = pooled_head()
    shift = scores.max() + 1
    drop = methods.ablation_cam(a, tail=tail)
    lowered = methods.ablation_cam(a, tail=lambda x: tail(x) - shift, slope="score")
    close(lowered, drop / (shift - scores)[:, None, None])


def test_ablation_never_runs_more_than_a_chunk_at_once() -> None:
    a = normal(3, 6, 4, 5)
    seen: list[int] = []

    def tail(x: Tensor) -> Tensor:
        def count(rows: Tensor) -> Tensor:
            seen.append(rows.shape[0])
            return rows.square().sum((1, 2, 3))

        return Counting.apply(x, count)  # type: ignore[no-any-return]

    map_ = methods.ablation_cam(a, tail=tail, chunk_size=4)
    # the score; two channels under `vmap`, and the second of them alone; the other four
    assert seen == [3, 6, 3, 12]
    close(map_, methods.cam(a, weights=spatial_sum(a.square())))


class Counting(torch.autograd.Function):
    """Run a function on the samples of all vmapped calls together."""

    @staticmethod
    def forward(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        return function(x)

    @staticmethod
    def setup_context(ctx: object, inputs: object, output: object) -> None:
        """Nothing is kept: there is no backward."""

    @staticmethod
    def vmap(
        info: object, in_dims: tuple[int, None], x: Tensor, function: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, int]:
        rows = x.movedim(in_dims[0], 0)
        return function(rows.flatten(0, 1)).reshape(rows.shape[:2]), 0


def drops_by_hand(a: Tensor, tail: Callable[[Tensor], Tensor], channels: list[int], baseline: Tensor) -> Tensor:
    weights = torch.zeros(a.shape[:2], dtype=a.dtype)
    for k in channels:
        changed = a.clone()
        changed[:, k] = baseline.expand_as(a)[:, k]
        weights[:, k] = tail(a) - tail(changed)
    return weights


@pytest.mark.parametrize("tail", [pooled, CURVED["relu"]], ids=["affine", "relu"])
@pytest.mark.parametrize("channels", [[1], [3, 0], (2, -1), torch.tensor([0, 1, 2, 3]), [1, 1]], ids=str)
def test_only_the_channels_asked_for_have_a_weight(tail: Callable[[Tensor], Tensor], channels: Any) -> None:
    listed = [int(k) % 4 for k in channels]
    expected = drops_by_hand(A, tail, listed, torch.zeros((), dtype=A.dtype))
    nearly(ablation_cam(A, tail=tail, channels=channels), cam(A, weights=expected))


@pytest.mark.parametrize("chunk_size", CHUNKS)
def test_a_baseline_of_each_kind(chunk_size: Any) -> None:
    tail = CURVED["relu"]
    for baseline in (torch.tensor(0.4), A.mean((2, 3), keepdim=True), A.flip(0), A[0, :, :1, :1]):
        expected = cam(A, weights=drops_by_hand(A, tail, [0, 1, 2, 3], baseline))
        nearly(ablation_cam(A, tail=tail, baseline=baseline, chunk_size=chunk_size), expected)


def test_channels_that_are_the_baseline_are_not_run() -> None:
    a = A.clone()
    a[:, 2] = 0
    a[0, 1] = 0
    counted, calls = runs_of(CURVED["relu"])
    found = ablation_cam(a, tail=counted, chunk_size=1)
    # the trial of vmap runs one row more
    assert len(calls) == 1 + 3 + 1
    nearly(found, cam(a, weights=drops_by_hand(a, CURVED["relu"], [0, 1, 2, 3], torch.zeros((), dtype=a.dtype))))
    calls.clear()
    assert not ablation_cam(torch.ones_like(a), tail=counted, baseline=1.0).any()
    assert len(calls) == 1


def test_channels_that_are_the_baseline_still_have_derivatives() -> None:
    a = A.clone()
    a[:, 2] = 0.5
    tail = CURVED["square"]

    def total(a: Tensor) -> Tensor:
        return ablation_cam(a, tail=tail, baseline=0.5).square().sum()

    (found,) = torch.autograd.grad(total(leaf := a.clone().requires_grad_()), leaf)
    step = 1e-6 * images(*a.shape, dtype=a.dtype, seed=8)
    nearly((found * step).sum() * 2, total(a + step) - total(a - step), 1e-8)
    assert found[:, 2].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": []}, r"at least one, of the 4 channels; got shape \(0,\)"),
        ({"channels": [[0, 1]]}, r"of the 4 channels; got \[\[0, 1\]\]"),
        ({"channels": [0, 4]}, "of the 4 channels; got 4"),
        ({"channels": [-5]}, "of the 4 channels; got -5"),
        ({"channels": [0.5]}, r"of the 4 channels; got \[0.5\]"),
        ({"channels": [True]}, r"of the 4 channels; got \[True\]"),
        ({"baseline": torch.ones(3, 1, 1)}, r"One number a channel has shape \(4, 1, 1\)"),
        ({"baseline": torch.ones(1, 2, 4, 3, 5)}, "broadcasts to the activations"),
        ({"chunk_size": 0}, "chunk_size: expected a number of rows from 1"),
        ({"chunk_size": -3}, "chunk_size: expected a number of rows from 1"),
        ({"slope": "l2"}, "'l1', got 'l2'"),
    ],
    ids=str,
)
def test_what_ablation_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ablation_cam(A, tail=CURVED["relu"], **options)


@pytest.mark.parametrize("tail", [pooled, CURVED["relu"]], ids=["affine", "relu"])
@pytest.mark.parametrize("top_k", [1, 2, 9, 0.4, 1.0])
@pytest.mark.parametrize("chunk_size", [None, 1, "auto"])
def test_top_k_ablates_the_channels_with_most_energy(
    tail: Callable[[Tensor], Tensor], top_k: float, chunk_size: Any
) -> None:
    count = min(top_k, 4) if isinstance(top_k, int) else math.ceil(top_k * 4)
    weights = torch.zeros(A.shape[:2], dtype=A.dtype)
    for i, sample in enumerate(A):
        energy = [float(channel.square().sum()) for channel in sample]
        chosen = sorted(range(4), key=lambda k: -energy[k])[:count]
        weights[i] = drops_by_hand(A[i : i + 1], tail, chosen, torch.zeros((), dtype=A.dtype))[0]
    found = ablation_cam(A, tail=tail, top_k=top_k, chunk_size=chunk_size)
    nearly(found, cam(A, weights=weights))


@pytest.mark.parametrize("layer", ["stem.0", "blocks.0.conv", "blocks.0"])
def test_top_k_in_a_network_is_a_loop_over_each_image(layer: str) -> None:
    net, x = seeded(Net, dtype=torch.float64), images(3, 3, 12, 10, dtype=torch.float64)
    found = explainer(partial(ablation_cam, top_k=2), net, layer)(x, [4, 0, 2])
    for i, c in enumerate([4, 0, 2]):
        activations, outputs = observe(net, layer)(x[i : i + 1])
        tail = resume(net, layer)(x[i : i + 1])
        weights = torch.zeros_like(activations[..., 0, 0])
        for k in activations.square().sum((2, 3))[0].topk(2).indices.tolist():
            changed = activations.clone()
            changed[:, k] = 0
            weights[0, k] = outputs[0, c] - tail(changed)[0, c]
        torch.testing.assert_close(found[i : i + 1], cam(activations, weights=weights))


def test_top_k_and_channels_are_not_both_given() -> None:
    with pytest.raises(ValueError, match="expected channels, or top_k"):
        ablation_cam(A, tail=pooled, top_k=2, channels=[1])
    for top_k in (0, -1, 1.5, True, "all"):
        with pytest.raises(ValueError, match="ablation_cam: top_k: expected a number of channels from 1, or a share"):
            ablation_cam(A, tail=pooled, top_k=top_k)  # type: ignore[arg-type]

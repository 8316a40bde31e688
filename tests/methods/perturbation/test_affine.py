"""The closed form of Ablation-CAM: affine tails are recognized, and no others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from camfn import capture, explainer
from camfn.methods import ablation_cam, cam
from camfn.methods._perturbation import affine
from tests.methods.laws import (
    CURVED,
    A,
    K,
    W,
    flat,
    nearly,
    pooled,
    runs_of,
)
from tests.nets.small import Net, images, seeded, unchanged

STATISTICS = (images(4, dtype=torch.float64, seed=4), images(4, dtype=torch.float64, seed=5).square() + 0.5)


def convolved(a: Tensor) -> Tensor:
    y = functional.conv2d(functional.batch_norm(a, *STATISTICS), K, W[:6], padding=1)
    y += 0.5
    return torch.cat([functional.avg_pool2d(y, 2).flatten(1), y[:, :, ::2, ::3].flatten(1)], 1).sum(1) / 3


def contrasted(a: Tensor) -> Tensor:
    y = a.mean((2, 3)) @ W[:20].reshape(4, 5)
    return y.gather(1, torch.tensor([[1], [3]]))[:, 0] - 0.5 * y[:, 0]


AFFINE: list[Callable[[Tensor], Tensor]] = [pooled, flat, convolved, contrasted]


def watched(tail: Callable[[Tensor], Tensor], a: Tensor = A) -> bool:
    return affine.affine_at(tail, a)[1]


@pytest.mark.parametrize("tail", AFFINE)
@pytest.mark.parametrize("slope", [None, "score", "l1"])
@pytest.mark.parametrize("baseline", [0.0, 0.7, A.mean((0, 2, 3))[:, None, None]], ids=["zero", "number", "means"])
def test_the_closed_form_of_an_affine_tail_is_what_ablation_gives(
    tail: Callable[[Tensor], Tensor], slope: Any, baseline: float | Tensor
) -> None:
    assert watched(tail)
    run = partial(ablation_cam, A, tail=tail, slope=slope, baseline=baseline)
    expected = run(closed_form=False)
    nearly(run(), expected)
    nearly(run(closed_form=True), expected)


@pytest.mark.parametrize("tail", AFFINE)
def test_an_affine_tail_is_found_and_run_a_few_times_only(tail: Callable[[Tensor], Tensor]) -> None:
    counted, calls = runs_of(tail)
    ablation_cam(A, tail=counted, chunk_size=1)
    assert len(calls) == 3
    calls.clear()
    ablation_cam(A, tail=counted, chunk_size=1, closed_form=False)
    assert len(calls) == 1 + A.shape[1] + 1  # the trial of vmap runs one row more


def test_an_affine_tail_is_found_in_channels_last_memory() -> None:
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).double()
    a = torch.randn(2, 4, 5, 6, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    assert watched(lambda x: head(x)[:, 1], a)


@pytest.mark.parametrize("grad", [True, False])
def test_an_affine_tail_is_found_with_and_without_grad(grad: bool) -> None:
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(4, 3).double()).eval()
    with torch.set_grad_enabled(grad):
        assert watched(lambda a: head(a)[:, 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_linear_head_is_found_in_each_precision(dtype: torch.dtype) -> None:
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).to(dtype)
    assert watched(lambda a: head(a)[:, 1], A.to(dtype))


@pytest.mark.parametrize("name", CURVED)
def test_nothing_curved_is_taken_for_affine(name: str) -> None:
    tail = CURVED[name]
    assert not watched(tail)
    if name in ("by its values", "batch norm in training"):
        return
    nearly(ablation_cam(A, tail=tail), ablation_cam(A, tail=tail, closed_form=False))


def test_following_goes_through_memory_that_is_written_to() -> None:
    def written(a: Tensor) -> Tensor:
        buffer = torch.zeros(2, 4, 3, 10, dtype=a.dtype)
        view = buffer[..., 5:]
        view.copy_(a)
        return buffer.square().sum((1, 2, 3))

    assert not watched(written)
    assert watched(lambda a: torch.zeros_like(a).copy_(a).sum((1, 2, 3)))


def test_a_tail_that_mixes_samples_is_not_closed() -> None:
    def mixed(a: Tensor) -> Tensor:
        y = a.sum((1, 2, 3))
        return y + 2 * y.flip(0)

    assert watched(mixed)
    nearly(ablation_cam(A, tail=mixed), ablation_cam(A, tail=mixed, closed_form=False))


def test_a_tail_that_cuts_derivatives_off_is_not_closed() -> None:
    def detached(a: Tensor) -> Tensor:
        return a[:, 0].sum((1, 2)) + a.detach()[:, 1:].sum((1, 2, 3))

    def ungraded(a: Tensor) -> Tensor:
        with torch.no_grad():
            rest = a[:, 1:].sum((1, 2, 3))
        return a[:, 0].sum((1, 2)) + rest

    for tail in (detached, ungraded):
        nearly(ablation_cam(A, tail=tail), ablation_cam(A, tail=tail, closed_form=False))


def test_the_closed_form_can_be_forced_and_under_transforms() -> None:
    tail = CURVED["square"]
    # what one gets for it: sum g A is twice the drop
    nearly(ablation_cam(A, tail=tail, closed_form=True), 2 * ablation_cam(A, tail=tail))
    stack = torch.stack([A, A + 1])
    run = partial(ablation_cam, tail=pooled, closed_form=True)
    nearly(torch.vmap(run)(stack), torch.stack([run(a) for a in stack]))
    torch._dynamo.reset()
    nearly(torch.compile(run, fullgraph=True, backend="aot_eager")(A), run(A))


def test_a_derivative_of_the_closed_form_is_that_of_the_ablation() -> None:
    a = A.clone().requires_grad_()
    maps = [ablation_cam(a, tail=pooled, closed_form=form) for form in (True, False)]
    first, second = (torch.autograd.grad(map_.square().sum(), a)[0] for map_ in maps)
    nearly(first, second)


@pytest.mark.parametrize("target", [None, 2, [1, 3]])
def test_a_resumed_network_of_pooling_and_a_linear_layer_is_closed(target: Any) -> None:
    net = seeded(Net, dtype=torch.float64)
    x = images(2, 3, 8, 6, dtype=torch.float64)
    told: list[int] = []
    explain = explainer(ablation_cam, net, "blocks.1", progress=lambda done, total: told.append(done))
    with unchanged(net):
        found = explain(x, target)
    assert not told
    a, g, _ = capture(net, "blocks.1")(x, target)
    nearly(found, cam(a, weights=(g * a).sum((2, 3))))
    slow = explainer(partial(ablation_cam, closed_form=False), net, "blocks.1")
    nearly(found, slow(x, target))
    explainer(ablation_cam, net, "blocks.0", progress=lambda done, total: told.append(done))(x, target)
    assert told[-1] == 6


def test_in_inference_mode() -> None:
    net = seeded(Net)
    x = images(2, 3, 8, 6)
    for layer, rows in (("blocks.0", 6), ("blocks.1", 0)):
        told: list[int] = []
        explain = explainer(ablation_cam, net, layer, progress=lambda done, total, told=told: told.append(done))
        expected = explain(x, 1)
        told.clear()
        with torch.inference_mode():
            torch.testing.assert_close(explain(x.clone(), 1), expected)
        assert max(told, default=0) == rows


def test_a_sample_that_is_not_finite_does_not_open_the_closed_form() -> None:
    broken = A.clone()
    broken[0, 1, 2, 1] = torch.nan
    counted, calls = runs_of(pooled)
    map_ = ablation_cam(broken, tail=counted)
    assert len(calls) == 3
    nearly(map_[1], ablation_cam(A, tail=pooled)[1])
    assert map_[0].isnan().any()

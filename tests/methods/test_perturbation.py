"""Ablation-CAM and Score-CAM: the closed form and when it is taken, what is run once, subsets, baselines, errors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from camfn import capture, explainer
from camfn.methods import _affine, ablation_cam, cam, score_cam
from tests.nets.small import Net, images, seeded, unchanged

A = images(2, 4, 3, 5, dtype=torch.float64) + 0.3
W = images(4 * 15, dtype=torch.float64, seed=2)
K = images(6, 4, 3, 3, dtype=torch.float64, seed=3)
STATISTICS = (images(4, dtype=torch.float64, seed=4), images(4, dtype=torch.float64, seed=5).square() + 0.5)
CHUNKS: list[Any] = [None, 1, 3, 100, "auto"]


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def pooled(a: Tensor) -> Tensor:
    """Global pooling and a linear layer, as modules run them."""
    return functional.linear(functional.adaptive_avg_pool2d(a, 1).flatten(1), W[:20].reshape(5, 4), W[:5])[:, 2]


def flat(a: Tensor) -> Tensor:
    return functional.linear(a.flatten(1), W.expand(3, -1), W[:3])[:, 1]


def convolved(a: Tensor) -> Tensor:
    y = functional.conv2d(functional.batch_norm(a, *STATISTICS), K, W[:6], padding=1)
    y += 0.5
    return torch.cat([functional.avg_pool2d(y, 2).flatten(1), y[:, :, ::2, ::3].flatten(1)], 1).sum(1) / 3


def contrasted(a: Tensor) -> Tensor:
    y = a.mean((2, 3)) @ W[:20].reshape(4, 5)
    return y.gather(1, torch.tensor([[1], [3]]))[:, 0] - 0.5 * y[:, 0]


AFFINE: list[Callable[[Tensor], Tensor]] = [pooled, flat, convolved, contrasted]
WEIGHTS = W[:20].reshape(4, 5)
CURVED: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda a: functional.conv2d(a, K).relu().sum((1, 2, 3)),
    # no unit of it ever switches between the activations and an ablation: samples of the function would not tell
    "relu that never switches": lambda a: (a.sum((1, 2, 3)) + 1e6).relu(),
    "in-place relu": lambda a: functional.conv2d(a, K).relu_().sum((1, 2, 3)),
    "softmax": lambda a: (a.mean((2, 3)) @ WEIGHTS).softmax(1)[:, 1],
    "log softmax": lambda a: (a.mean((2, 3)) @ WEIGHTS).log_softmax(1)[:, 1],
    "square": lambda a: a.square().sum((1, 2, 3)),
    "product": lambda a: (a * a.mean((2, 3), keepdim=True)).sum((1, 2, 3)),
    "gram": lambda a: (a.flatten(2) @ a.flatten(2).mT).sum((1, 2)),
    "quotient": lambda a: a.sum((1, 2, 3)) / a.abs().sum((1, 2, 3)),
    "reciprocal": lambda a: 1 / a.sum((1, 2, 3)),
    "max pool": lambda a: functional.adaptive_max_pool2d(a, 1).sum((1, 2, 3)),
    "largest": lambda a: a.amax((1, 2, 3)),
    "clamp": lambda a: a.clamp(-5, 5).sum((1, 2, 3)),
    "layer norm": lambda a: functional.layer_norm(a, (5,)).select(3, 0).sum((1, 2)),
    "batch norm in training": lambda a: functional.batch_norm(a, None, None, training=True).select(3, 0).sum((1, 2)),
    "rounding": lambda a: a.sum((1, 2, 3)).round(),
    "integers": lambda a: a.long().sum((1, 2, 3)).double(),
    "floor division": lambda a: a.sum((1, 2, 3)).div(2, rounding_mode="floor"),
    "switch": lambda a: torch.where(a > 0, a, 2 * a).sum((1, 2, 3)),
    "mask": lambda a: a.masked_fill(a < 0, 1.0).sum((1, 2, 3)),
    "by its values": lambda a: a.sum((1, 2, 3)) * (2 if bool(a.detach().mean() > 0) else 3),
    "picked by values": lambda a: a.flatten(1).gather(1, a.flatten(1).argmax(1, keepdim=True))[:, 0],
    "attention": lambda a: functional.scaled_dot_product_attention(a, a, a).sum((1, 2, 3)),
}


def watched(tail: Callable[[Tensor], Tensor], a: Tensor = A) -> bool:
    return _affine.affine_at(tail, a)[1]


def runs_of(tail: Callable[[Tensor], Tensor]) -> tuple[Callable[[Tensor], Tensor], list[int]]:
    """A tail that counts its calls; a call under `vmap` counts once."""
    calls: list[int] = []

    def counted(a: Tensor) -> Tensor:
        calls.append(1)
        return tail(a)

    return counted, calls


# ------------------------------------------------------------------------------------------------------ closed form


@pytest.mark.parametrize("tail", AFFINE)
@pytest.mark.parametrize("slope", [None, "score", "l1"])
@pytest.mark.parametrize("baseline", [0.0, 0.7, A.mean((0, 2, 3))[:, None, None]], ids=["zero", "number", "means"])
def test_the_closed_form_of_an_affine_tail_is_what_ablation_gives(
    tail: Callable[[Tensor], Tensor], slope: Any, baseline: float | Tensor
) -> None:
    assert watched(tail)
    run = partial(ablation_cam, A, tail=tail, slope=slope, baseline=baseline)
    expected = run(closed_form=False)
    close(run(), expected)
    close(run(closed_form=True), expected)


@pytest.mark.parametrize("tail", AFFINE)
def test_an_affine_tail_is_found_and_run_a_few_times_only(tail: Callable[[Tensor], Tensor]) -> None:
    counted, calls = runs_of(tail)
    ablation_cam(A, tail=counted, chunk_size=1)
    assert len(calls) == 3
    calls.clear()
    ablation_cam(A, tail=counted, chunk_size=1, closed_form=False)
    assert len(calls) == 1 + A.shape[1]


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
    close(ablation_cam(A, tail=tail), ablation_cam(A, tail=tail, closed_form=False))


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
    close(ablation_cam(A, tail=mixed), ablation_cam(A, tail=mixed, closed_form=False))


def test_a_tail_that_cuts_derivatives_off_is_not_closed() -> None:
    def detached(a: Tensor) -> Tensor:
        return a[:, 0].sum((1, 2)) + a.detach()[:, 1:].sum((1, 2, 3))

    def ungraded(a: Tensor) -> Tensor:
        with torch.no_grad():
            rest = a[:, 1:].sum((1, 2, 3))
        return a[:, 0].sum((1, 2)) + rest

    for tail in (detached, ungraded):
        close(ablation_cam(A, tail=tail), ablation_cam(A, tail=tail, closed_form=False))


def test_the_closed_form_can_be_forced_and_under_transforms() -> None:
    tail = CURVED["square"]
    # what one gets for it: sum g A is twice the drop
    close(ablation_cam(A, tail=tail, closed_form=True), 2 * ablation_cam(A, tail=tail))
    stack = torch.stack([A, A + 1])
    run = partial(ablation_cam, tail=pooled, closed_form=True)
    close(torch.vmap(run)(stack), torch.stack([run(a) for a in stack]))
    torch._dynamo.reset()
    close(torch.compile(run, fullgraph=True, backend="aot_eager")(A), run(A))


def test_a_derivative_of_the_closed_form_is_that_of_the_ablation() -> None:
    a = A.clone().requires_grad_()
    maps = [ablation_cam(a, tail=pooled, closed_form=form) for form in (True, False)]
    first, second = (torch.autograd.grad(map_.square().sum(), a)[0] for map_ in maps)
    close(first, second)


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
    close(found, cam(a, weights=(g * a).sum((2, 3))))
    slow = explainer(partial(ablation_cam, closed_form=False), net, "blocks.1")
    close(found, slow(x, target))
    explainer(ablation_cam, net, "blocks.0", progress=lambda done, total: told.append(done))(x, target)
    assert told[-1] == 6


def test_in_inference_mode() -> None:
    net = seeded(Net)
    x = images(2, 3, 8, 6)
    for layer, rows in (("blocks.0", 6), ("blocks.1", 0)):
        told: list[int] = []
        explain = explainer(ablation_cam, net, layer, progress=lambda done, total, told=told: told.append(done))  # type: ignore[misc]
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
    close(map_[1], ablation_cam(A, tail=pooled)[1])
    assert map_[0].isnan().any()


# --------------------------------------------------------------------------------------------- channels and baseline


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
    close(ablation_cam(A, tail=tail, channels=channels), cam(A, weights=expected))


@pytest.mark.parametrize("chunk_size", CHUNKS)
def test_a_baseline_of_each_kind(chunk_size: Any) -> None:
    tail = CURVED["relu"]
    for baseline in (torch.tensor(0.4), A.mean((2, 3), keepdim=True), A.flip(0), A[0, :, :1, :1]):
        expected = cam(A, weights=drops_by_hand(A, tail, [0, 1, 2, 3], baseline))
        close(ablation_cam(A, tail=tail, baseline=baseline, chunk_size=chunk_size), expected)


def test_channels_that_are_the_baseline_are_not_run() -> None:
    a = A.clone()
    a[:, 2] = 0
    a[0, 1] = 0
    counted, calls = runs_of(CURVED["relu"])
    found = ablation_cam(a, tail=counted, chunk_size=1)
    assert len(calls) == 1 + 3
    close(found, cam(a, weights=drops_by_hand(a, CURVED["relu"], [0, 1, 2, 3], torch.zeros((), dtype=a.dtype))))
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
    close((found * step).sum() * 2, total(a + step) - total(a - step), 1e-8)
    assert found[:, 2].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": []}, r"at least one, of the 4 channels; got shape \(0,\)"),
        ({"channels": [[0, 1]]}, r"got shape \(1, 2\)"),
        ({"channels": [0, 4]}, "of the 4 channels; got 4"),
        ({"channels": [-5]}, "of the 4 channels; got -5"),
        ({"channels": [0.5]}, "got torch.float32"),
        ({"channels": [True]}, "got torch.bool"),
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


# --------------------------------------------------------------------------------------------------------- Score-CAM

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
    close(found, plain(network, a, IMAGE.clone(), form=form))


def test_each_different_mask_is_run_once() -> None:
    a = repeated_channels()
    counted, calls = runs_of(network)
    score_cam(a[:1], forward=counted, inputs=IMAGE[:1], chunk_size=1)
    assert len(calls) == 4
    calls.clear()
    # the other sample has five
    score_cam(a, forward=counted, inputs=IMAGE, chunk_size=1)
    assert len(calls) == 5
    calls.clear()
    plain(counted, a[:1], IMAGE[:1].clone())
    assert len(calls) == 10


def test_a_mask_with_nan_is_nobodys_repetition() -> None:
    a = repeated_channels()
    a[0, 4, 1, 1] = torch.nan
    found = score_cam(a, forward=network, inputs=IMAGE)
    assert found[0].isnan().any()
    close(found[1], score_cam(a[1:], forward=network, inputs=IMAGE[1:])[0])


@pytest.mark.parametrize(
    "baseline", [0.0, 0.3, IMAGE.mean((2, 3), keepdim=True), IMAGE.flip(3)], ids=["0", "n", "m", "i"]
)
@pytest.mark.parametrize("form", ["softmax", "score"])
def test_a_baseline_image(baseline: float | Tensor, form: Any) -> None:
    black = torch.as_tensor(baseline, dtype=IMAGE.dtype).expand_as(IMAGE)
    moved = score_cam(A, forward=lambda d: network(black + d) - network(black), inputs=IMAGE - black, form=form)
    close(score_cam(A, forward=network, inputs=IMAGE, form=form, baseline=baseline), moved)


def test_a_constant_channel_increases_nothing() -> None:
    a = torch.ones(2, 3, 3, 5, dtype=torch.float64)
    assert not score_cam(a, forward=network, inputs=IMAGE, form="score", baseline=0.2).any()


@pytest.mark.parametrize("form", ["softmax", "score"])
@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (3, 3), (100, 4), (0.5, 2), (0.6, 3), (1.0, 4), (0.01, 1)])
def test_top_k_tries_the_strongest_channels_only(form: Any, top_k: float, count: int) -> None:
    counted, calls = runs_of(network)
    energy = A.square().sum((2, 3))
    found = score_cam(A, forward=counted, inputs=IMAGE, form=form, top_k=top_k, chunk_size=1)
    assert len(calls) == count
    for i in range(2):
        kept = energy[i].argsort(descending=True)[:count]
        alone = score_cam(A[i : i + 1, kept], forward=network, inputs=IMAGE[i : i + 1], form=form)
        close(found[i : i + 1], alone)


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
        close(found, by_hand)
        for i, target in enumerate([1, 3]):
            explain = explainer(
                lambda a, *, forward, inputs, i=i: score_cam(a[:, best[i]], forward=forward, inputs=inputs),
                net,
                "blocks.0",
            )
            alone = explain(x[i : i + 1], target)
            close(found[i : i + 1], alone)


def test_top_k_of_all_is_all() -> None:
    close(score_cam(A, forward=network, inputs=IMAGE, top_k=1.0), score_cam(A, forward=network, inputs=IMAGE))


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


# ------------------------------------------------------------------------------------------------------------- both


@pytest.mark.parametrize("method", [ablation_cam, score_cam])
@pytest.mark.parametrize(
    "layer", ["stem.0", "blocks.0", "blocks.0.conv", "blocks.1.conv", "blocks.1.downsample", "blocks.1"]
)
def test_networks_that_write_in_place(method: Callable[..., Tensor], layer: str) -> None:
    net = seeded(Net, dtype=torch.float64)
    x = images(2, 3, 8, 6, dtype=torch.float64)
    with unchanged(net):
        together = explainer(method, net, layer)(x, [1, 3])
    for chunk_size in (1, 4):
        close(explainer(method, net, layer, chunk_size=chunk_size)(x, [1, 3]), together)
    for i, target in enumerate([1, 3]):
        close(explainer(method, net, layer)(x[i : i + 1], target), together[i : i + 1])


@pytest.mark.parametrize("method", [ablation_cam, score_cam])
def test_bfloat16_is_close(method: Callable[..., Tensor]) -> None:
    net = seeded(Net)
    x = images(2, 3, 8, 6)
    expected = explainer(method, net, "blocks.0")(x, 1)
    scale = expected.abs().amax()
    half = explainer(method, seeded(Net, dtype=torch.bfloat16), "blocks.0")(x.bfloat16(), 1)
    assert half.dtype == torch.bfloat16
    assert ((half - expected).abs().amax() / scale) < 0.15
    with torch.autocast("cpu", torch.bfloat16):
        cast = explainer(method, net, "blocks.0")(x, 1)
    assert ((cast - expected).abs().amax() / scale) < 0.15


@pytest.mark.parametrize("method", [ablation_cam, score_cam])
def test_a_score_that_is_nan_is_refused(method: Callable[..., Tensor]) -> None:
    def lost(x: Tensor) -> Tensor:
        return torch.stack([x[0].sum(), (x[1].sum() * 0 - 1).sqrt()])

    x = images(2, 3, 6, 10, dtype=torch.float64)
    given: dict[str, Any] = {"tail": lost} if method is ablation_cam else {"forward": lost, "inputs": x}
    with pytest.raises(ValueError, match=f"{method.__name__}: .* returned NaN for sample 1"):
        method(A, **given)

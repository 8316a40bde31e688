"""Functions that run a batch once: the same numbers by fewer runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import CamfnError, explainer, metrics
from camfn.methods import grad_cam
from camfn.targets import class_probability
from tests.metrics.known import drawn
from tests.nets.small import Net, images, seeded

X, NOISE = images(2, 3, 8, 8), 0.1 * drawn(3, 4, 3, 8, 8).float()


class Counted:
    """A function, and how often it was called."""

    def __init__(self, function: Any) -> None:
        self.function, self.calls = function, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        found: Tensor = self.function(x)
        return found


def test_the_stabilities_share_their_maps_and_their_logits() -> None:
    net = seeded(Net)
    classes = torch.tensor([1, 2])
    explain, outputs = Counted(lambda x: explainer(grad_cam, net, "blocks.0")(x, classes)), Counted(net)

    def all_of(explain: Any, outputs: Any) -> list[Tensor]:
        wide: dict[str, Any] = {"noise": NOISE, "epsilon": 1e-3}
        return [
            metrics.max_sensitivity(explain, X, noise=NOISE),
            metrics.max_sensitivity(explain, X, noise=NOISE, reduce="mean"),
            metrics.local_lipschitz(explain, X, noise=NOISE),
            metrics.relative_input_stability(explain, X, **wide),
            metrics.relative_output_stability(explain, X, outputs, **wide),
            metrics.relative_representation_stability(explain, X, outputs, **wide),
        ]

    plain = all_of(explain, outputs)
    assert (explain.calls, outputs.calls) == (6 * 5, 2 * 5)
    explain.calls = outputs.calls = 0
    together = all_of(metrics.shared(explain), metrics.shared(outputs))
    assert (explain.calls, outputs.calls) == (5, 5)
    assert all(torch.equal(*pair) for pair in zip(plain, together, strict=True))


def test_a_score_folds_and_tries_once() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    score = metrics.scores_of(net, X, class_probability([0, 1]))
    maps = [drawn(seed, 2, 8, 8).float() for seed in range(3)]
    runs: list[int] = []
    net[0].register_forward_hook(lambda module, args, output: runs.append(len(output)))
    # a hook keeps this network from being folded: each run is counted
    once = metrics.shared(score)
    found, costs = [], []
    for one in maps:
        runs.clear()
        found.append(metrics.faithfulness_estimate(once, X, one, groups=6))
        costs.append(sum(runs))
    runs.clear()
    plain = [metrics.faithfulness_estimate(score, X, one, groups=6) for one in maps]
    assert costs[1] == costs[2] < costs[0] == sum(runs) / 3
    assert all(torch.equal(*pair) for pair in zip(found, plain, strict=True))


def test_equal_maps_and_equal_groups_cost_the_forwards_of_one() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    score = metrics.scores_of(net, X, class_probability([0, 1]))
    one, zeros = drawn(3, 2, 8, 8).float().abs(), torch.zeros(1, 3, 8, 8)
    runs: list[int] = []
    net[0].register_forward_hook(lambda module, args, output: runs.append(len(output)))

    def all_of(score: Any) -> list[Tensor]:
        given: dict[str, Any] = {"groups": 6, "chunk_size": 4}
        found = [metrics.faithfulness_estimate(score, X, each, **given) for each in (one, 3 * one)]
        return [*found, metrics.monotonicity_correlation(score, X, one, values=zeros, **given)]

    plain = all_of(score)
    alone = sum(runs)
    runs.clear()
    together = all_of(metrics.shared(score))
    assert all(torch.equal(*pair) for pair in zip(plain, together, strict=True))
    assert sum(runs) == alone / 3


def test_a_score_notices_that_its_network_changed() -> None:
    net = seeded(Net)
    score = metrics.scores_of(net, X, class_probability([0, 1]))
    once, heatmap = metrics.shared(score), drawn(1, 2, 8, 8).float()
    before = metrics.deletion(once, X, heatmap, step=0.2).auc
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.5)
    after = metrics.deletion(once, X, heatmap, step=0.2).auc
    assert torch.equal(after, metrics.deletion(score, X, heatmap, step=0.2).auc)
    assert not torch.equal(after, before)
    assert torch.equal(once(X), score(X))


def test_what_it_returned_is_its_own() -> None:
    once = metrics.shared(lambda x: x.sum(1))
    once(X).zero_()
    assert torch.equal(once(X), X.sum(1))
    x = X.clone()
    first = once(x)
    x += 1
    assert not torch.equal(once(x), first)
    assert torch.equal(once(X.double()), X.double().sum(1))


def test_under_a_transform_it_keeps_nothing() -> None:
    counted = Counted(lambda x: x.square().sum((1, 2, 3)))
    once = metrics.shared(counted)
    assert torch.equal(torch.func.grad(lambda x: once(x).sum())(X), 2 * X)
    assert torch.equal(torch.vmap(once)(torch.stack([X, 2 * X]))[1], counted.function(2 * X))
    x = X.clone().requires_grad_()
    once(x).sum().backward()  # type: ignore[no-untyped-call]
    assert torch.equal(torch.as_tensor(x.grad), 2 * X)
    assert counted.calls == 3
    once(X), once(X)
    assert counted.calls == 4


def test_other_memory_under_a_parameter_is_another_network() -> None:
    last = nn.Linear(X[0].numel(), 2)
    score = metrics.scores_of(nn.Sequential(nn.Flatten(), last).eval(), X, 1)
    once = metrics.shared(score)
    first = once(X)
    last.weight.data = last.weight.data * 2
    assert torch.equal(once(X), score(X))
    assert not torch.equal(once(X), first)


class OfWeight(nn.Module):
    """A network whose weight may be that of several at once."""

    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :2] * self.weight


def test_of_many_networks_at_once_it_keeps_nothing() -> None:
    net = OfWeight().eval()
    once = metrics.shared(metrics.scores_of(net, X, 1))
    before = once(X)

    def of(weight: Tensor) -> Tensor:
        net.weight = weight
        return once(X)

    found = torch.vmap(of)(torch.tensor([2.0, 3.0]))
    assert torch.equal(found, torch.stack([2 * before, 3 * before]))
    net.weight = torch.ones(())
    assert torch.equal(once(X), before)


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(CamfnError, match="shared: expected a function"):
        metrics.shared(X)  # type: ignore[arg-type]

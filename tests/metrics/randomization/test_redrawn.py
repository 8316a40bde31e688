"""The efficient randomization test and the random logit test: by a loop, and where the truth is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from camfn import CamfnError, explainer, metrics
from camfn.methods import eigen_cam, grad_cam
from tests.metrics.known import close, draws, every_dims, given
from tests.nets.small import Net, images, seeded
from tests.oracles import metrics as oracle


@every_dims
def test_the_rise_of_entropy_is_that_of_a_loop(dims: int) -> None:
    x, heatmap = given(dims)
    net = nn.Linear(2, 1).double()
    other = x[:, 0].cos() ** 3
    for bins in (2, 7, 100):
        found = metrics.efficient_randomization(
            lambda model: heatmap if model is net else other, net, generator=draws(), bins=bins
        )
        for b in range(2):
            before, after = (oracle.histogram_entropy(maps[b], bins) for maps in (heatmap, other))
            close(found[b], (after - before) / before)


def test_a_map_that_ignores_the_network_is_zero_and_flat_maps_are_defined() -> None:
    _, heatmap = given(2)
    net, flat = seeded(Net), torch.full_like(heatmap, 0.3)
    assert metrics.efficient_randomization(lambda _: heatmap, net, generator=draws()).tolist() == [0.0, 0.0]
    close(metrics.efficient_randomization(lambda _: flat, net, generator=draws()), 0.0)
    found = metrics.efficient_randomization(lambda m: flat if m is net else heatmap, net, generator=draws())
    assert bool((found == math.inf).all())


def test_all_parameters_are_drawn_anew_and_the_model_stays() -> None:
    net, x = seeded(Net), images(2, 3, 8, 8)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    seen = []

    def explain(model: nn.Module) -> Tensor:
        seen.append(model)
        return explainer(grad_cam, model, "blocks.0")(x, [1, 2])

    found = metrics.efficient_randomization(explain, net, generator=draws())
    assert found.shape == (2,)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    changed = [
        not torch.equal(a, b)
        for (_, a), (_, b) in zip(net.named_parameters(), seen[1].named_parameters(), strict=True)
        if a.std() > 0
    ]
    assert len(seen) == 2
    assert all(changed)
    assert torch.equal(found, metrics.efficient_randomization(explain, net, generator=draws()))
    with pytest.raises(CamfnError, match="with parameters to draw anew"):
        metrics.efficient_randomization(lambda _: x[:, 0], nn.ReLU(), generator=draws())
    with pytest.raises(CamfnError, match="NaN or infinity"):
        metrics.efficient_randomization(lambda _: x[:, 0] * math.nan, net, generator=draws())


@every_dims
def test_the_other_class_is_never_the_same_and_each_is_drawn(dims: int) -> None:
    x, heatmap = given(dims)
    maps = torch.stack([heatmap[0], heatmap[1], x[0, 0], x[1, 1]])
    classes, seen = torch.arange(4).repeat(200), []

    def explain(c: Tensor) -> Tensor:
        seen.append(c)
        return maps[c]

    found = metrics.random_logit(explain, classes, 4, generator=draws())
    assert torch.equal(seen[0], classes)
    assert not bool((seen[1] == classes).any())
    for c in range(4):
        assert set(seen[1][classes == c].tolist()) == set(range(4)) - {c}
    rows = [maps[c].flatten().tolist() for c in range(4)]
    for i in range(20):
        close(found[i], oracle.spearman(rows[int(classes[i])], rows[int(seen[1][i])]))


def test_a_map_without_a_class_is_one() -> None:
    net, x = seeded(Net), images(2, 3, 8, 8)
    for method, same in ((eigen_cam, True), (grad_cam, False)):
        explain = explainer(method, net, "blocks.0")
        found = metrics.random_logit(lambda c, e=explain: e(x, c), torch.tensor([0, 3]), 5, generator=draws())  # type: ignore[misc]
        assert bool((found > 0.999).all()) == same
    flat = metrics.random_logit(lambda c: torch.ones(len(c), 3, 3), torch.tensor([0, 3]), 5, generator=draws())
    close(flat, 1.0)


def test_what_does_not_fit_is_refused() -> None:
    maps = torch.rand(3, 4)
    for classes in (torch.tensor([0.0]), torch.tensor(1), [0, 1]):
        with pytest.raises(CamfnError, match="classes: expected integers"):
            metrics.random_logit(lambda c: maps[c], classes, 3, generator=draws())  # type: ignore[arg-type]
    with pytest.raises(CamfnError, match="classes from 0 to 2"):
        metrics.random_logit(lambda c: maps[c], torch.tensor([3]), 3, generator=draws())
    with pytest.raises(CamfnError, match="count: expected a whole number from 2"):
        metrics.random_logit(lambda c: maps[c], torch.tensor([0]), 1, generator=draws())
    with pytest.raises(CamfnError, match="NaN or infinity"):
        metrics.random_logit(lambda c: maps[c] * math.nan, torch.tensor([0]), 3, generator=draws())

"""Randomization: what must stay 1, what must not, and a model that is left alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import CamfnError, CaptureError, explainer, metrics
from camfn.methods import eigen_cam, grad_cam, hires_cam
from tests.nets.small import Net, images, seeded, unchanged

TOP_DOWN = [
    "head",
    "blocks.1.downsample",
    "blocks.1.bn",
    "blocks.1.conv",
    "blocks.0.bn",
    "blocks.0.conv",
    "stem.1",
    "stem.0",
]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def explain_with(method: Any, x: Tensor) -> Any:
    return lambda net: explainer(method, net, "blocks.0")(x, [0, 1])


def test_drawing_the_same_again_changes_nothing() -> None:
    net, x = seeded(Net), images(2, 3, 16, 16)
    with unchanged(net):
        found = metrics.randomization(
            explain_with(grad_cam, x), net, generator=generator(), redraw=lambda name, value, g: value.clone()
        )
    assert list(found.names) == TOP_DOWN
    torch.testing.assert_close(found.similarity, torch.ones(2, len(TOP_DOWN)))


def test_a_method_without_a_class_stays_until_its_layer_is_reached() -> None:
    net, x = seeded(Net), images(2, 3, 16, 16)
    with unchanged(net):
        found = metrics.randomization(explain_with(eigen_cam, x), net, generator=generator())
    # the parameters of an untrained BatchNorm are all alike, and stay so
    reached = TOP_DOWN.index("blocks.0.conv")
    torch.testing.assert_close(found.similarity[:, :reached], torch.ones(2, reached))
    assert found.similarity[:, reached:].max() < 0.999


def test_a_method_that_asks_for_the_class_changes_at_once() -> None:
    net, x = seeded(Net), images(2, 3, 16, 16)
    with unchanged(net):
        found = metrics.randomization(explain_with(hires_cam, x), net, generator=generator())
    assert found.similarity[:, 0].max() < 0.999


def test_one_at_a_time_and_by_name() -> None:
    net, x = seeded(Net), images(2, 3, 16, 16)
    found = metrics.randomization(
        explain_with(eigen_cam, x), net, generator=generator(), names=["stem", "blocks.1", "head"], cascading=False
    )
    assert found.names == ("stem", "blocks.1", "head")
    assert found.similarity[:, 0].max() < 0.999
    torch.testing.assert_close(found.similarity[:, 1:], torch.ones(2, 2))


def test_copies_are_seeded_cumulative_and_share_the_rest() -> None:
    net = seeded(Net)
    original = dict(net.named_parameters())
    with unchanged(net):
        first, again, other = (list(metrics.randomized(net, generator=generator(seed))) for seed in (0, 0, 1))
    for (name, copy), (_, same), (_, different) in zip(first, again, other):
        drawn = TOP_DOWN[: TOP_DOWN.index(name) + 1]
        for key, value in copy.named_parameters():
            owner = key.rpartition(".")[0]
            assert (value is original[key]) == (owner not in drawn)
            assert torch.equal(value, same.get_parameter(key))
            if owner in drawn and value.std() > 0:
                assert not torch.equal(value, different.get_parameter(key))
                assert not torch.equal(value, original[key])
        assert all(value is not copy.get_buffer(key) for key, value in net.named_buffers())


def test_tied_parameters_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(3, 3, bias=False)
            self.second = nn.Linear(3, 3, bias=False)
            self.second.weight = self.first.weight

    net = Tied()
    copies = list(metrics.randomized(net, generator=generator()))
    for _, copy in copies:
        assert torch.equal(copy.get_parameter("first.weight"), copy.get_parameter("second.weight"))
        assert not torch.equal(copy.get_parameter("first.weight"), net.first.weight)


def test_what_is_drawn_has_the_old_mean_and_deviation() -> None:
    value = 3 + 0.5 * torch.randn(20_000, generator=generator(1))
    drawn = metrics.resampled("weight", value, generator())
    torch.testing.assert_close(drawn.mean(), value.mean(), rtol=0, atol=0.02)
    torch.testing.assert_close(drawn.std(), value.std(), rtol=0.03, atol=0)
    assert metrics.resampled("weight", value.bfloat16(), generator()).dtype == torch.bfloat16


def test_a_module_that_is_not_there() -> None:
    with pytest.raises(CaptureError, match="no layer 'heads'"):
        list(metrics.randomized(seeded(Net), generator=generator(), names=["heads"]))


@pytest.mark.parametrize("model", [None, "resnet50", torch.rand(2)])
def test_a_network_that_is_none_is_refused_before_it_is_explained(model: Any) -> None:
    def explain(network: Any) -> Any:
        raise AssertionError("it was explained")

    with pytest.raises(CamfnError, match=r"expected a torch\.nn\.Module"):
        metrics.randomization(explain, model, generator=torch.Generator())

"""Randomization: what must stay 1, what must not, ranks with ties, and a model that is left alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from camfn import CaptureError, explainer, image, metrics
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


@given(st.integers(0, 10_000), st.integers(2, 5))
@settings(deadline=None)
def test_rank_correlation_with_ties_is_scipys(seed: int, values: int) -> None:
    stats = pytest.importorskip("scipy.stats", reason="needs SciPy")
    first, second = torch.randint(-values, values, (2, 2, 4, 5), generator=generator(seed)).double().unbind()
    for absolute in (False, True):
        rows = [(a.abs(), b.abs()) if absolute else (a, b) for a, b in zip(first.flatten(1), second.flatten(1))]
        if any(len(row.unique()) == 1 for pair in rows for row in pair):
            return
        expected = [float(stats.spearmanr(a, b).statistic) for a, b in rows]
        found = metrics.spearman(first, second, absolute=absolute)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_ranks_do_not_see_a_monotone_change_and_constants_are_defined() -> None:
    maps = images(2, 6, 6)
    torch.testing.assert_close(metrics.spearman(maps, maps.exp()), torch.ones(2))
    torch.testing.assert_close(metrics.spearman(maps, -maps), -torch.ones(2))
    constant = torch.stack([torch.zeros(6, 6), torch.full((6, 6), 2.0)])
    assert metrics.spearman(maps, constant).tolist() == [0, 0]
    assert metrics.spearman(constant, constant.flip(0)).tolist() == [1, 1]


def test_structural_similarity() -> None:
    maps = image.normalize(images(2, 20, 20))
    torch.testing.assert_close(metrics.ssim(maps, maps), torch.ones(2))
    other = metrics.ssim(maps, maps.flip(1))
    assert other.max() < 0.9
    torch.testing.assert_close(metrics.ssim(maps.flip(1), maps), other)
    torch.testing.assert_close(metrics.ssim(maps[1:], maps.flip(1)[1:]), other[1:])
    skimage = pytest.importorskip("skimage.metrics", reason="needs scikit-image")
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0, "full": True}
    _, full = skimage.structural_similarity(maps[0].numpy(), maps[0].flip(0).numpy(), **options)
    torch.testing.assert_close(other[0], torch.tensor(full).float().mean(), rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: metrics.spearman(torch.ones(1, 3), torch.ones(1, 4)), "second"),
        (lambda: metrics.spearman(torch.full((1, 3), math.nan), torch.ones(1, 3)), "samples: 0"),
        (lambda: metrics.ssim(torch.full((1, 12, 12), 3.0), torch.ones(1, 12, 12)), "normalize"),
        (lambda: metrics.ssim(torch.ones(1, 4, 4), torch.ones(1, 4, 4)), "at most 7"),
    ],
)
def test_what_is_refused(call: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()


def test_a_module_that_is_not_there() -> None:
    with pytest.raises(CaptureError, match="no layer 'heads'"):
        list(metrics.randomized(seeded(Net), generator=generator(), names=["heads"]))

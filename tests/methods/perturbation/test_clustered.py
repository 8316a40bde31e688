"""Laws of ViT-CX: which channels make one mask, what the noise does, and the size of its map."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor

from camfn import explainer, methods, targets, tiny
from camfn.methods._perturbation.clustered import _clusters
from tests.methods.cases import SHAPES, network
from tests.methods.laws import close, linear, normal
from tests.oracles.perturbation import vit_cx as oracle

STILL = torch.zeros(2, 9, 11, dtype=torch.float64)


def image() -> Tensor:
    return normal(3, 2, 9, 11, seed=11)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.4, 3.0])
def test_masks_are_stretched_to_inputs_of_another_size(shape: tuple[int, ...], threshold: float) -> None:
    a = normal(*shape)
    x = normal(shape[0], 2, *(2 * n + 1 for n in shape[2:]), seed=1)
    noise = normal(*x.shape[1:], seed=2) / 5
    found = methods.vit_cx(a, forward=network, inputs=x, noise=noise, threshold=threshold)
    assert found.shape == (shape[0], *x.shape[2:])
    close(found, oracle(a, a, forward=network, inputs=x, noise=noise, threshold=threshold))


@pytest.mark.parametrize("threshold", [0.03, 0.1, 0.15, 0.2])
def test_clusters_are_those_of_scipy(threshold: float) -> None:
    rows = normal(2, 40, 12).abs() + 0.6
    found = _clusters(rows, threshold)
    for label, sample in zip(found, rows, strict=True):
        expected = torch.from_numpy(fcluster(linkage(sample.numpy(), "complete", "cosine"), threshold, "distance"))
        assert torch.equal(label[:, None] == label, expected[:, None] == expected)
        assert 1 < len(label.unique()) < len(label)


def test_channels_that_are_multiples_and_constant_ones_change_nothing() -> None:
    a = normal(3, 4, 4, 5)
    given: dict[str, Any] = {"forward": linear, "inputs": image(), "noise": normal(2, 9, 11, seed=3)}
    expected = methods.vit_cx(a, **given)
    close(methods.vit_cx(torch.cat([a, 3 * a[:, 1:3] + 2, torch.full_like(a[:, :1], 5)], 1), **given), expected)


def test_a_score_that_does_not_look_is_shared_among_the_masks() -> None:
    a = normal(3, 4, 4, 5)
    noise = normal(2, 9, 11, seed=3)
    found = methods.vit_cx(a, forward=lambda x: x[:, 0, 0, 0] * 0 + 6, inputs=image(), noise=noise, threshold=0)
    close(found, torch.full_like(found, 6 / 4))


def test_what_the_noise_adds_to_a_linear_score_is_taken_back() -> None:
    a, noise = normal(3, 4, 4, 5), normal(2, 9, 11, seed=3)
    close(
        methods.vit_cx(a, forward=linear, inputs=image(), noise=noise),
        methods.vit_cx(a, forward=linear, inputs=image(), noise=STILL),
    )


def test_vit_cx_draws_the_noise_it_says() -> None:
    a, x, generator = normal(3, 4, 4, 5), image(), torch.Generator().manual_seed(5)
    noise = 0.5 * torch.randn(2, 9, 11, generator=torch.Generator().manual_seed(5))
    found = methods.vit_cx(a, forward=network, inputs=x, std=0.5, generator=generator)
    close(found, methods.vit_cx(a, forward=network, inputs=x, noise=noise.double()))


def test_forwards_are_two_a_mask_and_one() -> None:
    a = normal(1, 3, 4, 5)
    seen: list[int] = []

    def counted(x: Tensor) -> Tensor:
        seen.append(len(x))
        return linear(x)

    told: list[tuple[int, int]] = []
    options: dict[str, Any] = {"chunk_size": 1, "progress": lambda done, count: told.append((done, count))}
    methods.vit_cx(torch.cat([a, 2 * a], 1), forward=counted, inputs=image()[:1], noise=STILL, **options)
    assert told[-1] == (7, 7)


def test_on_a_trained_transformer_it_asks_for_the_class() -> None:
    net = tiny.load("vit")
    world = tiny.scenes(8, generator=torch.Generator().manual_seed(0))
    last = max(name for name, _ in net.named_modules() if name.endswith(".norm1"))
    explain = explainer(partial(methods.vit_cx, noise=torch.zeros(3, 64, 64)), net, last)
    own = torch.stack([explain(world.images, targets.class_probability(world.labels[:, i])) for i in (0, 1)], 1)
    gap = own[:, 0] - own[:, 1]
    # the map of a class less that of the other class lies on its own digit
    on = [(gap * world.masks[:, i]).sum((1, 2)) / world.masks[:, i].sum((1, 2)) for i in (0, 1)]
    assert (on[0] > on[1]).sum() >= 7

"""Expected gradients: by a loop over draws, and laws of a linear network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import CamfnError
from camfn.network import expected_gradients, integrated_gradients
from tests.nets.small import Net, images, seeded
from tests.network.cases import SIZES
from tests.oracles import network as oracles_network


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bent(x: Tensor) -> Tensor:
    """Outputs of two classes, which are not linear."""
    flat = x.flatten(1)
    line = torch.linspace(-1, 1, flat.shape[1], dtype=x.dtype)
    return torch.stack([(flat * line).sum(1).tanh(), flat.sin().sum(1)], 1)


class Bent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return bent(x)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_it_is_that_of_a_loop(dims: int) -> None:
    x, photos = (images(n, 2, *SIZES[dims][:dims], dtype=torch.float64, seed=n) for n in (2, 3))
    x, photos = x[..., :3], photos[..., :3]
    uniform = torch.rand(5, 2, generator=draws(), dtype=torch.float64)
    found = expected_gradients(Bent(), references=photos, uniform=uniform)(x, [0, 1])
    for b in range(2):

        def gradient(at: Tensor, b: int = b) -> Tensor:
            at = at.clone().requires_grad_()
            return torch.autograd.grad(bent(at[None])[0, b], at)[0]

        pairs = [(float(first), float(a)) for first, a in uniform]
        torch.testing.assert_close(found[b], oracles_network.expected_gradients(gradient, x[b], photos, pairs))


def test_of_a_linear_network_the_sum_is_the_score_less_the_mean_of_the_references() -> None:
    head = nn.Linear(12, 3)
    net = nn.Sequential(nn.Flatten(), head).double()
    x, photos = images(2, 3, 2, 2, dtype=torch.float64), images(4, 3, 2, 2, dtype=torch.float64, seed=5)
    uniform = torch.stack([(torch.arange(8.0) % 4) / 4, torch.rand(8, generator=draws())], 1).double()
    found = expected_gradients(net, references=photos, uniform=uniform)(x, 1)
    torch.testing.assert_close(found.flatten(1).sum(1), net(x)[:, 1] - net(photos)[:, 1].mean())
    w = head.weight[1].reshape(3, 2, 2)
    torch.testing.assert_close(found, (x - photos.mean(0)) * w)
    one = expected_gradients(net, references=0.3, generator=draws(), samples=3)(x, 1)
    torch.testing.assert_close(one, integrated_gradients(net, baseline=0.3)(x, 1))


def test_many_draws_are_near_integrated_gradients_from_each_reference() -> None:
    net, x, photos = seeded(Net).double(), images(1, 3, 8, 8).double(), images(2, 3, 8, 8, seed=4).double()
    each = [integrated_gradients(net, baseline=one)(x, 1) for one in photos]
    expected = torch.stack(each).mean(0)
    found = expected_gradients(net, references=photos, samples=1000, generator=draws())(x, 1)
    assert (found - expected).norm() < 0.2 * expected.norm()
    even = torch.stack([(torch.arange(600) % 2) / 2, (torch.arange(600) // 2 + 0.5) / 300], 1)
    found = expected_gradients(net, references=photos, uniform=even)(x, 1)
    assert (found - expected).norm() < 0.05 * expected.norm()
    total = (net(x) - net(photos))[:, 1]
    assert abs(found.sum() - total.mean()) < 0.01 * total.abs().max()


def test_seeds_repeat_and_all_images_get_the_same_draws() -> None:
    net, x = seeded(Net), images(2, 3, 8, 8)
    one, again, other = (
        expected_gradients(net, references=images(3, 3, 8, 8, seed=9), samples=3, generator=draws(s))(x, 1)
        for s in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert not torch.allclose(one, other)
    alone = expected_gradients(net, references=images(3, 3, 8, 8, seed=9), samples=3, generator=draws(1))(x[1:], 1)
    torch.testing.assert_close(alone, one[1:])


NET = seeded(Net)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "one of generator and uniform, got neither"),
        ({"generator": draws(), "uniform": torch.rand(2, 2)}, "got both"),
        ({"uniform": torch.rand(2)}, r"uniform: expected \(n, 2\)"),
        ({"generator": draws(), "samples": 0}, "samples"),
        ({"uniform": 5 * torch.ones(3, 2)}, r"uniform: expected numbers in \[0, 1\]"),
        ({"uniform": torch.full((3, 2), torch.nan)}, r"uniform: expected numbers in \[0, 1\]"),
        ({"generator": draws(), "references": "photos"}, "references: expected a finite number"),
        ({"generator": draws(), "references": torch.ones(2, 3, 8, 8, dtype=torch.long)}, "at least one photo"),
        ({"generator": draws(), "references": torch.ones(0, 3, 8, 8)}, "at least one photo"),
        ({"generator": draws(), "references": torch.ones(3, 8, 8)}, r"expected \(R, \*\(3, 8, 8\)\)"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(CamfnError, match=text):
        expected_gradients(NET, **options)(images(2, 3, 8, 8), 1)

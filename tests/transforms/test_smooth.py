"""Maps averaged over noise: the definition in a loop, and the generator."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from camfn import explainer, methods
from camfn.transforms import smooth
from tests.nets.small import images

from .common import LAYER, generator, net64, x64


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_smooth_is_its_definition(relative: bool, chunk_size: int | None) -> None:
    net, x = net64(), x64()
    noise = images(5, 2, 3, 8, 8, dtype=torch.float64, seed=9)
    explain = explainer(methods.grad_cam, net, LAYER)
    top = net(x).argmax(1)
    expected = []
    for b in range(2):
        span = float(x[b].max() - x[b].min()) if relative else 1.0
        copies = [explain(x[b : b + 1] + 0.5 * span * e[b : b + 1], int(top[b])) for e in noise]
        expected.append(torch.stack(copies).mean(0))
    found = smooth(explain, std=0.5, relative=relative, noise=noise, chunk_size=chunk_size)(x)
    torch.testing.assert_close(found, torch.cat(expected))


def test_smooth_without_noise_is_the_base_and_draws_from_the_generator_alone() -> None:
    net, x = net64(), x64()
    explain = explainer(methods.layer_cam, net, LAYER)
    torch.testing.assert_close(smooth(explain, 3, std=0.0, generator=generator())(x), explain(x))
    state = torch.get_rng_state()
    found = smooth(explain, 3, generator=generator(4))(x)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(found, smooth(explain, 3, generator=generator(4))(x))
    assert not torch.equal(found, smooth(explain, 3, generator=generator(5))(x))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "neither"),
        ({"generator": generator(), "noise": torch.ones(1, 1, 3, 8, 8)}, "both"),
        ({"generator": generator(), "samples": 0}, "samples: expected a whole number from 1"),
        ({"generator": generator(), "std": -1.0}, "std: expected a number in"),
        ({"noise": torch.ones(1, 1, 3, 8, 9)}, "expected noise of shape"),
    ],
)
def test_what_cannot_be_smoothed_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        smooth(explainer(methods.grad_cam, net64(), LAYER), **options)(x64(), 1)

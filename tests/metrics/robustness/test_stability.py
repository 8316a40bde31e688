"""Local Lipschitz estimate and the three relative stabilities: by a loop, and where the truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from camfn import CamfnError, explainer, metrics, observe
from camfn.methods import grad_cam
from tests.metrics.known import SPACE, close, drawn, draws, every_dims, given
from tests.nets.small import Net, images, seeded
from tests.oracles import metrics as oracle

EPSILON = 1e-3


def explain(x: Tensor) -> Tensor:
    """A map that moves, with some entries of 0."""
    return (x.square().sum(1) - 0.5).relu()


def logits(x: Tensor) -> Tensor:
    return torch.stack([(4 * x[:, k]).sin().flatten(1)[:, :2].sum(1) for k in range(2)], 1)


def noise_of(dims: int) -> Tensor:
    return 0.4 * drawn(8, 6, 2, *SPACE[dims])


@every_dims
@pytest.mark.parametrize("chunk_size", [1, 2])
def test_they_are_those_of_a_loop(dims: int, chunk_size: int) -> None:
    x, _ = given(dims)
    noise = noise_of(dims)
    options: dict[str, Any] = {"noise": noise, "chunk_size": chunk_size}
    maps, same = explain(x), torch.stack([logits(x + one).argmax(1) == logits(x).argmax(1) for one in noise])
    assert bool(same.any(0).all())
    assert not bool(same.all())

    def expected(look: Any, kept: Tensor, *, divide: bool) -> list[float]:
        return [
            oracle.relative_stability(
                (maps[b], [explain(x + one)[b] for one in noise]),
                (look(x)[b], [look(x + one)[b] for one in noise]),
                EPSILON,
                divide=divide,
                kept=kept[:, b].tolist(),
            )
            for b in range(2)
        ]

    every = torch.ones_like(same)
    lipschitz = [max(oracle.norm(explain(x + one)[b] - maps[b]) / oracle.norm(one) for one in noise) for b in range(2)]
    close(metrics.local_lipschitz(explain, x, **options), lipschitz)
    options["epsilon"] = EPSILON
    close(metrics.relative_input_stability(explain, x, **options), expected(lambda x: x, every, divide=True))
    found = metrics.relative_input_stability(explain, x, outputs=logits, **options)
    close(found, expected(lambda x: x, same, divide=True))
    found = metrics.relative_output_stability(explain, x, logits, **options)
    close(found, expected(logits, same, divide=False))
    found = metrics.relative_representation_stability(explain, x, torch.cos, outputs=logits, **options)
    close(found, expected(torch.cos, same, divide=True))


@every_dims
def test_a_map_that_does_not_move_is_zero(dims: int) -> None:
    """The gradient of a linear score, and a map that ignores the image."""
    x, heatmap = given(dims)
    for maps in (heatmap, torch.zeros_like(heatmap)):
        options: dict[str, Any] = {"samples": 3, "generator": draws()}

        def still(x: Tensor, maps: Tensor = maps) -> Tensor:
            return maps + 0 * x[:, 0]

        close(metrics.local_lipschitz(still, x, **options), 0.0)
        close(metrics.relative_input_stability(still, x, **options), 0.0)
        close(metrics.relative_output_stability(still, x, logits, **options), 0.0)
        close(metrics.relative_representation_stability(still, x, torch.cos, **options), 0.0)


@every_dims
def test_of_a_linear_map_the_slope_is_known(dims: int) -> None:
    x, _ = given(dims)
    found = metrics.local_lipschitz(lambda x: -3 * x[:, :1], x[:, :1], samples=4, generator=draws())
    close(found, 3.0)
    # a map in proportion to the image moves as many per cent as the image does
    found = metrics.relative_input_stability(lambda x: -3 * x[:, 0], x[:, :1], samples=4, generator=draws())
    close(found, 1.0)


def test_of_a_network_and_seeds_repeat() -> None:
    net, x = seeded(Net), images(2, 3, 8, 8)

    def cam(x: Tensor) -> Tensor:
        return explainer(grad_cam, net, "blocks.0")(x, 1)

    def look(x: Tensor) -> Tensor:
        return observe(net, "blocks.0")(x)[0]

    calls: list[Callable[[int], Tensor]] = [
        lambda seed: metrics.local_lipschitz(cam, x, generator=draws(seed)),
        lambda seed: metrics.relative_input_stability(cam, x, generator=draws(seed), outputs=net),
        lambda seed: metrics.relative_output_stability(cam, x, net, generator=draws(seed)),
        lambda seed: metrics.relative_representation_stability(cam, x, look, generator=draws(seed)),
    ]
    for metric in calls:
        one, again, other = metric(1), metric(1), metric(2)
        assert bool((one > 0).all())
        assert torch.equal(one, again)
        assert not torch.equal(one, other)


def test_what_does_not_fit_is_refused() -> None:
    x, _ = given(2)

    def moved(y: Tensor) -> Tensor:
        far = (y - x).abs().flatten(1).sum(1)
        return torch.stack([far, torch.tensor([0.5, 1e9])], 1)

    with pytest.raises(CamfnError, match=r"changes the top class of sample 0: give a smaller radius"):
        metrics.relative_output_stability(explain, x, moved, radius=1, generator=draws())
    with pytest.raises(CamfnError, match="one of generator and noise"):
        metrics.local_lipschitz(explain, x)
    with pytest.raises(CamfnError, match="expected logits"):
        metrics.relative_output_stability(explain, x, lambda x: x, generator=draws())
    with pytest.raises(CamfnError, match="returns one tensor"):
        metrics.relative_representation_stability(explain, x, lambda x: x[:1], generator=draws())
    with pytest.raises(CamfnError, match="outputs: expected a function"):
        metrics.relative_output_stability(explain, x, None, generator=draws())  # type: ignore[arg-type]
    for metric in (metrics.local_lipschitz, metrics.relative_input_stability):
        with pytest.raises(CamfnError, match=r"returns maps \(B, \*S\)"):
            metric(lambda x: x[:1, 0], x, generator=draws())
        with pytest.raises(CamfnError, match="NaN or infinity"):
            metric(lambda x: x[:, 0] * math.nan, x, generator=draws())
        with pytest.raises(CamfnError, match="radius"):
            metric(explain, x, radius=0, generator=draws())

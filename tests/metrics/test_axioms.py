"""Completeness residual, non-sensitivity, input invariance: by a loop, and where the truth is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from camfn import CamfnError, explainer, metrics, network
from camfn.methods import grad_cam, hires_cam
from tests.metrics.known import CELLS, SPACE, bent, close, drawn, every_dims, exact, given, linear, weights
from tests.nets.small import Net, images, seeded
from tests.oracles import metrics as oracle


@every_dims
def test_of_a_linear_score_the_exact_attribution_is_complete(dims: int) -> None:
    x, heatmap = given(dims)
    base = 0.2 * drawn(5, *x.shape)
    attribution = (x - base) * weights(dims)
    for maps in (attribution, attribution.sum(1)):
        close(metrics.completeness_residual(linear(dims), x, maps, baseline=base), 0.0)
        close(metrics.completeness_residual(linear(dims), x, 3 * maps, baseline=base), 2.0)
        close(metrics.completeness_residual(linear(dims), x, -maps, baseline=base), -2.0)
        drop = linear(dims)(x) - linear(dims)(base)
        close(metrics.completeness_residual(linear(dims), x, -maps, drop=drop), -2.0)
    for b, found in enumerate(metrics.completeness_residual(bent, x, heatmap, baseline=base)):
        change = oracle.value(bent, x[b]) - oracle.value(bent, base[b])
        close(found, (math.fsum(heatmap[b].flatten().tolist()) - change) / change)


def test_a_score_that_does_not_change_leaves_all_or_nothing() -> None:
    x, heatmap = given(2)

    def flat(x: Tensor) -> Tensor:
        return 0 * x.flatten(1).sum(1)

    close(metrics.completeness_residual(flat, x, torch.zeros_like(heatmap)), 0.0)
    assert bool(metrics.completeness_residual(flat, x, heatmap).isinf().all())
    with pytest.raises(CamfnError, match="NaN or infinity"):
        metrics.completeness_residual(bent, x, heatmap * math.nan)
    with pytest.raises(CamfnError, match="one for each of the 2 samples"):
        metrics.completeness_residual(bent, x, heatmap[:1])


@every_dims
def test_non_sensitivity_is_that_of_a_loop(dims: int) -> None:
    x, heatmap = given(dims)
    cells = metrics.grid_cells(SPACE[dims], CELLS[dims])
    lost = metrics.drops(bent, x, cells)
    regions = [oracle.region_of(cell) for cell in cells]
    for threshold in (0.0, 0.3, 0.6, 0.99):
        found = metrics.non_sensitivity(heatmap, lost, cells, threshold=threshold)
        expected = [oracle.non_sensitivity(heatmap[b], lost[b].tolist(), regions, threshold) for b in range(2)]
        close(found, expected)


@every_dims
def test_of_a_linear_score_with_idle_pixels_the_exact_attribution_has_none(dims: int) -> None:
    x, _ = given(dims)
    idle = drawn(7, *SPACE[dims]) > 0.3
    pixels = metrics.grid_cells(SPACE[dims], SPACE[dims])
    lost = metrics.drops(lambda y: linear(dims)(torch.where(idle, 0, y)), x, pixels)
    right = torch.where(idle, 0, exact(dims))
    close(metrics.non_sensitivity(right, lost, pixels, threshold=1e-9), 0.0)
    close(metrics.non_sensitivity(-right, lost, pixels, threshold=1e-9), 0.0)
    close(metrics.non_sensitivity(torch.ones_like(right), lost, pixels, threshold=1e-9), float(idle.sum()))
    close(metrics.non_sensitivity(0 * right, lost, pixels, threshold=1e-9), float((~idle).sum()))


def test_the_gradient_is_invariant_and_the_gradient_times_the_input_is_not() -> None:
    net, x = seeded(Net, dtype=torch.float64), images(2, 3, 8, 8, dtype=torch.float64)
    shift = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)[:, None, None]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for by in (1.0, shift, shift.expand(2, 3, 8, 8)):
        for layer in ("stem.0", "blocks.0"):
            for method in (grad_cam, hires_cam):
                found = metrics.input_invariance(lambda m, y: explainer(method, m, layer)(y, [1, 2]), net, x, shift=by)  # noqa: B023
                close(found, 0.0, 1e-9)
        close(metrics.input_invariance(lambda m, y: network.input_gradient(m)(y, 1), net, x, shift=by), 0.0, 1e-9)
        moved = metrics.input_invariance(lambda m, y: network.input_gradient(m)(y, 1) * y, net, x, shift=by)
        assert bool((moved > 0.1).all())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not net._forward_pre_hooks
    one = metrics.input_invariance(lambda m, y: explainer(grad_cam, m, "blocks.0")(y[:1], 1).expand(2, -1, -1), net, x)
    close(one, 0.0, 1e-9)


@every_dims
def test_of_a_linear_score_the_move_is_known(dims: int) -> None:
    x, _ = given(dims)
    net = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 1)).double()
    w = next(net.parameters()).detach().reshape(x[0].shape)
    found = metrics.input_invariance(lambda m, y: y * w, net, x, shift=0.7)
    close(found, [oracle.norm(0.7 * w) / oracle.norm(x[b] * w) for b in range(2)])
    close(metrics.input_invariance(lambda m, y: 0 * y, net, x), 0.0)
    assert bool(metrics.input_invariance(lambda m, y: 0 * y if m is net else y, net, x).isinf().all())
    with pytest.raises(CamfnError, match="NaN or infinity"):
        metrics.input_invariance(lambda m, y: y * math.nan, net, x)
    with pytest.raises(CamfnError, match="broadcasts to the images"):
        metrics.input_invariance(lambda m, y: y, net, x, shift=torch.ones(77))
    with pytest.raises(CamfnError, match=r"expected maps \(B, \*S\)"):
        metrics.input_invariance(lambda m, y: y[:1], net, x)


@pytest.mark.parametrize("scale", [1e-35, 1e-25, 1e25, 1e35])
def test_input_invariance_does_not_depend_on_the_scale_of_the_map(scale: float) -> None:
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(8, 2)), torch.arange(16.0).reshape(2, 2, 4)
    found = metrics.input_invariance(lambda net, x: scale * x.sum(1), net, x)
    torch.testing.assert_close(found, metrics.input_invariance(lambda net, x: x.sum(1), net, x))
    with pytest.raises(CamfnError, match="expected maps"):
        metrics.input_invariance(lambda net, x: x.sum(1).long(), net, x)

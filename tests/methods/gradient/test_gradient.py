"""Laws of the methods that are arithmetic on activations and gradients, on heads and networks in closed form."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from camfn import explainer, methods, tiny
from camfn._shared.maps import over_space, spatial_mean
from tests.methods.laws import (
    BIAS,
    WEIGHTS,
    Cut,
    biases,
    close,
    cut,
    flat_head,
    normal,
    pooled_head,
    relu_network,
    relu_tail,
    total,
)

GRADIENT = ("grad_cam", "hires_cam", "elementwise_grad_cam", "grad_cam_plusplus", "xgrad_cam", "layer_cam", "bag_cam")


every_gradient_method = pytest.mark.parametrize("name", [*GRADIENT, "eigen_grad_cam", "seg_eigen_cam"])


@pytest.mark.parametrize("method", [methods.grad_cam, methods.hires_cam, methods.xgrad_cam])
def test_on_a_pooled_head_they_are_cam_over_the_number_of_positions(method: Callable[..., Tensor]) -> None:
    a, g, _, _ = pooled_head()
    close(method(a, g), methods.cam(a, weights=WEIGHTS) / 20)


@pytest.mark.parametrize(("head", "bias"), [(pooled_head, BIAS), (flat_head, -0.7)])
def test_hires_cam_sums_to_the_score_less_the_bias(head: Callable[[Tensor], Cut], bias: float) -> None:
    a, g, scores, _ = head(normal(3, 6, 4, 5))
    close(total(methods.hires_cam(a, g)), scores - bias)


def test_plusplus_on_a_pooled_head_in_closed_form() -> None:
    a, g, _, _ = pooled_head()
    weights = WEIGHTS.relu() / (2 + WEIGHTS * spatial_mean(a))
    close(methods.grad_cam_plusplus(a, g), methods.cam(a, weights=weights))


def test_normalized_plusplus_on_a_pooled_head_is_layer_cam_and_elementwise() -> None:
    a, g, _, _ = pooled_head()
    expected = methods.layer_cam(a, g)
    close(methods.grad_cam_plusplus(a, g, normalized=True), expected)
    close(methods.elementwise_grad_cam(a, g), expected)
    close(expected, methods.cam(a, weights=WEIGHTS.relu() / 20))


def test_grad_cam_commutes_with_moving_the_positions_under_a_pooled_head() -> None:
    a = pooled_head().activations
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    moved = a.flatten(2)[..., order].reshape(a.shape)
    map_ = methods.grad_cam(*pooled_head(a)[:2]).flatten(1)
    close(methods.grad_cam(*pooled_head(moved)[:2]).flatten(1), map_[:, order])


def test_gradients_times_activations_and_biases_make_the_score() -> None:
    a, g, scores, _ = relu_network()
    for i in range(len(a)):
        given = biases()
        sample = a[i : i + 1]
        _, pullback = torch.func.vjp(lambda *b, x=sample: relu_tail(x, *b), *given)  # type: ignore[misc]
        slopes = pullback(torch.ones(1, dtype=torch.float64))
        through_biases = torch.stack([(b * slope).sum() for b, slope in zip(given, slopes, strict=True)]).sum()
        for method in (methods.hires_cam, methods.xgrad_cam):
            close(total(method(sample, g[i : i + 1])) + through_biases, scores[i : i + 1])


def test_without_biases_hires_cam_sums_to_the_score() -> None:
    none = tuple(torch.zeros_like(b) for b in biases())
    a, g, scores, _ = cut(lambda a: relu_tail(a, *none), normal(3, 6, 4, 5))
    close(total(methods.hires_cam(a, g)), scores)


def test_a_place_the_tail_does_not_read_is_zero_in_hires_cam() -> None:
    a, g, _, _ = cut(lambda a: a[..., :3].square().sum((1, 2, 3)), normal(3, 6, 4, 5))
    map_ = methods.hires_cam(a, g)
    assert not map_[..., 3:].any()
    assert map_[..., :3].all()


def test_xgrad_cam_keeps_the_sum_of_hires_cam_and_is_not_grad_cam() -> None:
    a, g, _, _ = relu_network()
    close(total(methods.xgrad_cam(a, g)), total(methods.hires_cam(a, g)))
    assert (methods.xgrad_cam(a, g) - methods.grad_cam(a, g)).abs().max() > 1e-3


def test_xgrad_cam_is_grad_cam_where_the_gradient_is_the_same_everywhere() -> None:
    a = normal(3, 6, 4, 5)
    g = over_space(normal(3, 6, seed=1), a).expand_as(a)
    close(methods.xgrad_cam(a, g), methods.grad_cam(a, g), 1e-8)


def test_layer_cam_is_elementwise_for_activations_that_are_not_negative() -> None:
    a, g = normal(3, 6, 4, 5).relu(), normal(3, 6, 4, 5, seed=1)
    assert torch.equal(methods.layer_cam(a, g), methods.elementwise_grad_cam(a, g))
    assert (methods.layer_cam(a, g) >= methods.hires_cam(a, g).relu()).all()


@pytest.mark.parametrize("method", [methods.elementwise_grad_cam, methods.layer_cam])
def test_what_speaks_for_less_what_speaks_against_is_hires_cam(method: Callable[..., Tensor]) -> None:
    a, g, _, _ = relu_network()
    close(method(a, g) - method(a, -g), methods.hires_cam(a, g))


@pytest.mark.parametrize("method", [methods.grad_cam, methods.hires_cam, methods.xgrad_cam])
def test_linear_in_the_target(method: Callable[..., Tensor]) -> None:
    a, g, other = normal(3, 6, 4, 5), normal(3, 6, 4, 5, seed=1), normal(3, 6, 4, 5, seed=2)
    close(method(a, 2 * g - 3 * other), 2 * method(a, g) - 3 * method(a, other))


def test_alpha_stays_below_a_half() -> None:
    # one position of one channel: the map is alpha g A, so that alpha can be read off
    a, g = normal(50, 1, 1).abs(), normal(50, 1, 1, seed=1).abs()
    alpha = methods.grad_cam_plusplus(a, g) / (g * a).squeeze(1)
    assert ((alpha > 0) & (alpha < 0.5)).all()
    close(alpha, 1 / (2 + a * g).squeeze(1))


def test_normalized_plusplus_does_not_depend_on_the_size_of_a_pooled_gradient() -> None:
    a, g, _, _ = pooled_head()
    close(methods.grad_cam_plusplus(a, 1e-9 * g, normalized=True), 1e-9 * methods.layer_cam(a, g), 1e-18)


@every_gradient_method
def test_rescaling_a_channel_and_its_gradient_changes_nothing(name: str) -> None:
    a, g, _, _ = relu_network()
    scale = over_space(torch.tensor([1e-6, 1e-3, 0.5, 2.0, 1e3, 1e6], dtype=torch.float64)[None], a)
    method = getattr(methods, name)
    close(method(a * scale, g / scale), method(a, g), 1e-9)
    if name == "grad_cam_plusplus":
        close(method(a * scale, g / scale, normalized=True), method(a, g, normalized=True), 1e-9)


@pytest.mark.parametrize("name", ["eigen_grad_cam", "seg_eigen_cam", "hires_cam", "grad_cam", "layer_cam"])
def test_tiny_gradients_of_saturated_scores_lose_nothing_in_float32(name: str) -> None:
    a, g = normal(40, 6, 4, 5).relu().float(), normal(40, 6, 4, 5, seed=1).float()
    method = getattr(methods, name)
    torch.testing.assert_close(method(a, g * 2.0**-80) * 2.0**80, method(a, g), rtol=1e-4, atol=1e-5)


def test_bag_cam_on_products_that_are_the_same_everywhere() -> None:
    a = over_space(normal(3, 6), normal(3, 6, 4)).expand(3, 6, 4)
    g = over_space(normal(3, 6, seed=1), a).expand_as(a)
    products = (a * g)[..., 0]
    expected = ((1 + products) * products).relu().sum(1, keepdim=True)
    close(methods.bag_cam(a, g), expected.expand(3, 4))


def test_bag_cam_of_a_small_gradient_is_elementwise() -> None:
    a, g = normal(3, 6, 4, 5), normal(3, 6, 4, 5, seed=1) * 1e-9
    close(methods.bag_cam(a, g) * 1e9, methods.elementwise_grad_cam(a, g) * 1e9, 1e-7)


def test_cdam_is_hirescam_at_the_input_of_the_last_attention() -> None:
    """CDAM (lenbrocki/CDAM): the token times its gradient, summed over features, where tokens enter the last block."""
    net = tiny.load("vit")
    scenes = tiny.scenes(1, generator=torch.Generator().manual_seed(3))
    last = max(name for name, _ in net.named_modules() if name.endswith(".norm1"))
    found = explainer(methods.hires_cam, net, last)(scenes.images, 4)
    kept: dict[str, Tensor] = {}

    def keep(module: torch.nn.Module, inputs: object, output: Tensor) -> None:
        output.retain_grad()
        kept["tokens"] = output

    handle = net.get_submodule(last).register_forward_hook(keep)
    net.requires_grad_(True)
    net(scenes.images)[0, 4].backward()
    handle.remove()
    tokens, grads = kept["tokens"][0, 1:], kept["tokens"].grad
    assert grads is not None
    by_hand = torch.tensor([float(torch.dot(t.detach(), g)) for t, g in zip(tokens, grads[0, 1:], strict=True)])
    torch.testing.assert_close(found.flatten(), by_hand, rtol=1e-4, atol=1e-6)

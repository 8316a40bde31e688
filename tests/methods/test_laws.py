"""Laws between methods, on heads and tails whose answer is known in closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from camfn import methods
from camfn._shared.components import orient
from camfn._shared.maps import over_space, resize, safe_divide, safe_sqrt, spatial_mean, spatial_sum

GRADIENT = ("grad_cam", "hires_cam", "elementwise_grad_cam", "grad_cam_plusplus", "xgrad_cam", "layer_cam", "bag_cam")
every_gradient_method = pytest.mark.parametrize("name", [*GRADIENT, "eigen_grad_cam", "seg_eigen_cam"])


class Cut(NamedTuple):
    """A network cut at a layer: activations, the gradient of its score, the score, and the tail."""

    activations: Tensor
    grads: Tensor
    scores: Tensor
    tail: Callable[[Tensor], Tensor]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cut(tail: Callable[[Tensor], Tensor], activations: Tensor) -> Cut:
    scores, pullback = torch.func.vjp(tail, activations)  # type: ignore[misc]
    (grads,) = pullback(torch.ones_like(scores))
    return Cut(activations, grads, scores, tail)


WEIGHTS, BIAS = normal(6, seed=1), 0.3
"""One class's row of a linear head over six pooled channels."""


def pooled_head(activations: Tensor | None = None) -> Cut:
    """Global average pooling and a linear layer, over activations that are not negative."""
    given = normal(3, 6, 4, 5).relu() if activations is None else activations
    return cut(lambda a: spatial_mean(a) @ WEIGHTS + BIAS, given)


def flat_head(activations: Tensor | None = None) -> Cut:
    """Flatten and a linear layer: affine, with a gradient that differs from place to place."""
    given = normal(3, 6, 4, 5).relu() if activations is None else activations
    matrix = normal(6 * 4 * 5, seed=2)
    return cut(lambda a: a.flatten(1) @ matrix - 0.7, given)


def relu_tail(a: Tensor, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
    """Convolution, ReLU, convolution, ReLU, max pooling, linear; the biases given, the weights fixed."""
    hidden = functional.conv2d(a, normal(5, 6, 3, 3, seed=3), first, padding=1).relu()
    hidden = functional.conv2d(hidden, normal(4, 5, 3, 3, seed=4), second).relu()
    return functional.max_pool2d(hidden, 2).flatten(1) @ normal(4, seed=5) + third


def biases() -> tuple[Tensor, Tensor, Tensor]:
    return normal(5, seed=6), normal(4, seed=7), normal(1, seed=8)


def relu_network(activations: Tensor | None = None) -> Cut:
    given = normal(3, 6, 4, 5) + 0.2 if activations is None else activations
    return cut(lambda a: relu_tail(a, *biases()), given)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def total(map_: Tensor) -> Tensor:
    return map_.flatten(1).sum(1)


# ---------------------------------------------------------------------------------------- pooling and a linear layer


@pytest.mark.parametrize("method", [methods.grad_cam, methods.hires_cam, methods.xgrad_cam])
def test_on_a_pooled_head_they_are_cam_over_the_number_of_positions(method: Callable[..., Tensor]) -> None:
    a, g, _, _ = pooled_head()
    close(method(a, g), methods.cam(a, weights=WEIGHTS) / 20)


def test_cam_averages_to_the_logit_less_the_bias() -> None:
    a, _, scores, _ = pooled_head(normal(3, 6, 4, 5))
    close(total(methods.cam(a, weights=WEIGHTS)) / 20, scores - BIAS)


def test_cam_is_linear_in_the_row_of_the_head() -> None:
    a, other = pooled_head().activations, normal(6, seed=9)
    difference = methods.cam(a, weights=WEIGHTS) - methods.cam(a, weights=other)
    close(methods.cam(a, weights=WEIGHTS - other), difference)


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


# ----------------------------------------------------------------------------------------------------- ReLU networks


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


# ------------------------------------------------------------------------------------- signs, bounds, gauge, linearity


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


# ---------------------------------------------------------------------------------------------------- Ablation-CAM


@pytest.mark.parametrize("head", [pooled_head, flat_head])
@pytest.mark.parametrize("chunk_size", [None, 1, 4])
def test_over_an_affine_tail_the_drop_is_the_gradient_times_the_activations(
    head: Callable[[], Cut], chunk_size: int | None
) -> None:
    a, g, scores, tail = head()
    drops = spatial_sum(g * a)
    close(methods.ablation_cam(a, tail=tail, chunk_size=chunk_size), methods.cam(a, weights=drops))
    close(
        methods.ablation_cam(a, tail=tail, slope="l1", chunk_size=chunk_size),
        methods.xgrad_cam(a, g),
    )
    close(
        methods.ablation_cam(a, tail=tail, slope="score", chunk_size=chunk_size),
        methods.cam(a, weights=drops / scores.abs()[:, None]),
    )


def test_a_channel_that_the_tail_ignores_or_that_is_zero_weighs_nothing() -> None:
    a = normal(3, 6, 4, 5)
    a[:, 2] = 0
    mapped = methods.ablation_cam(a, tail=lambda x: x[:, 1:].exp().sum((1, 2, 3)), slope="l1")
    kept = a[:, [1, 3, 4, 5]]
    close(mapped, methods.ablation_cam(kept, tail=lambda x: x.exp().sum((1, 2, 3)), slope="l1"))


def test_a_negative_score_does_not_invert_the_map() -> None:
    a, _, scores, tail = pooled_head()
    shift = scores.max() + 1
    drop = methods.ablation_cam(a, tail=tail)
    lowered = methods.ablation_cam(a, tail=lambda x: tail(x) - shift, slope="score")
    close(lowered, drop / (shift - scores)[:, None, None])


def test_ablation_never_runs_more_than_a_chunk_at_once() -> None:
    a = normal(3, 6, 4, 5)
    seen: list[int] = []

    def tail(x: Tensor) -> Tensor:
        def count(rows: Tensor) -> Tensor:
            seen.append(rows.shape[0])
            return rows.square().sum((1, 2, 3))

        return Counting.apply(x, count)  # type: ignore[no-any-return]

    map_ = methods.ablation_cam(a, tail=tail, chunk_size=4)
    assert seen == [3, 12, 6]
    close(map_, methods.cam(a, weights=spatial_sum(a.square())))


class Counting(torch.autograd.Function):
    """Run a function on the samples of all vmapped calls together."""

    @staticmethod
    def forward(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        return function(x)

    @staticmethod
    def setup_context(ctx: object, inputs: object, output: object) -> None:
        """Nothing is kept: there is no backward."""

    @staticmethod
    def vmap(
        info: object, in_dims: tuple[int, None], x: Tensor, function: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, int]:
        rows = x.movedim(in_dims[0], 0)
        return function(rows.flatten(0, 1)).reshape(rows.shape[:2]), 0


# ------------------------------------------------------------------------------------------------------- Score-CAM


def image(size: tuple[int, ...] = (9, 11)) -> Tensor:
    return normal(3, 2, *size, seed=11)


READOUT = normal(2 * 9 * 11, seed=12)


def linear(x: Tensor) -> Tensor:
    return x.flatten(1) @ READOUT + 0.4


def masks(activations: Tensor, size: tuple[int, ...] = (9, 11)) -> Tensor:
    up = resize(activations, size)
    low, high = up.amin((2, 3), keepdim=True), up.amax((2, 3), keepdim=True)
    return safe_divide(up - low, high - low)


def test_a_network_that_sees_nothing_weighs_channels_alike() -> None:
    a = normal(3, 6, 4, 5)
    close(methods.score_cam(a, forward=lambda x: 0 * x.sum((1, 2, 3)) + 3, inputs=image()), a.mean(1))


def test_channels_with_the_same_mask_weigh_the_same() -> None:
    one = normal(3, 1, 4, 5)
    scale = torch.tensor([0.5, 1.0, 7.0], dtype=torch.float64)[None, :, None, None]
    a = one * scale + 3 * scale - 1
    close(methods.score_cam(a, forward=linear, inputs=image()), a.mean(1))


def test_the_score_of_the_baseline_cancels() -> None:
    a = normal(3, 6, 4, 5)
    moved = methods.score_cam(a, forward=lambda x: linear(x) - linear(0 * x) + 5, inputs=image())
    close(moved, methods.score_cam(a, forward=linear, inputs=image()))


def test_masks_do_not_see_the_gain_and_offset_of_a_channel() -> None:
    a = normal(3, 6, 4, 5)
    gain = over_space(normal(3, 6, seed=13).exp(), a)
    moved = a * gain + over_space(normal(3, 6, seed=14), a)
    # the map is linear in the activations once the weights are known
    weights = (image()[:, None] * masks(a)[:, :, None]).flatten(2) @ READOUT + 0.4
    for form, expected in (("softmax", weights.softmax(1)), ("score", weights)):
        close(methods.score_cam(moved, forward=linear, inputs=image(), form=form), methods.cam(moved, weights=expected))  # type: ignore[arg-type]
        close(methods.score_cam(a, forward=linear, inputs=image(), form=form), methods.cam(a, weights=expected))  # type: ignore[arg-type]


def test_constant_channels_have_an_empty_mask_and_no_score_of_their_own() -> None:
    a = normal(3, 6, 4, 5).float()
    a[:, 2] = 0.1
    inputs = image().float()
    forward = torch.func.vmap(lambda x: (x * x.numel()).sum() + 1)
    kept = a[:, [0, 1, 3, 4, 5]]
    scored = methods.score_cam(a, forward=forward, inputs=inputs, form="score")
    torch.testing.assert_close(scored, methods.score_cam(kept, forward=forward, inputs=inputs, form="score"))
    alone = methods.score_cam(a[:, 2:3], forward=lambda x: x.sum((1, 2, 3)), inputs=inputs, form="score")
    assert not alone.any()


@pytest.mark.parametrize("chunk_size", [None, 1, 4])
def test_chunks_do_not_change_score_cam(chunk_size: int | None) -> None:
    a = normal(3, 6, 4, 5)
    expected = methods.score_cam(a, forward=linear, inputs=image())
    close(methods.score_cam(a, forward=linear, inputs=image(), chunk_size=chunk_size), expected)


# ------------------------------------------------------------------------------------------------- first components


def matrices(x: Tensor) -> Tensor:
    """(B, C, *S) -> (B, N, C)."""
    return x.flatten(2).mT


SIZES = pytest.mark.parametrize("shape", [(3, 6, 4, 5), (3, 30, 2, 4), (2, 7, 7), (2, 5, 2, 2, 3)], ids=str)


@SIZES
def test_eigen_cam_of_activations_that_are_not_negative_is_not_negative(shape: tuple[int, ...]) -> None:
    a = normal(*shape).relu()
    assert (methods.eigen_cam(a) >= -1e-12).all()


@SIZES
@pytest.mark.parametrize("centered", [False, True])
def test_norm_is_the_first_singular_value_and_the_residual_is_the_rest(shape: tuple[int, ...], centered: bool) -> None:
    a = normal(*shape) + 0.5
    features = matrices(a)
    features = features - features.mean(1, keepdim=True) if centered else features
    singular = torch.linalg.svdvals(features)
    component = methods.eigen_cam(a, centered=centered).flatten(1)
    close(component.norm(dim=1), singular[:, 0])
    direction = (features.mT @ component[..., None]).squeeze(-1) / singular[:, :1] ** 2
    residual = features - component[..., None] * direction[:, None]
    close(residual.square().sum((1, 2)), singular[:, 1:].square().sum(1))


@SIZES
def test_eigen_cam_does_not_see_an_orthogonal_mixing_of_channels(shape: tuple[int, ...]) -> None:
    a = normal(*shape) + 0.5
    mixing = torch.linalg.qr(normal(shape[1], shape[1], seed=1)).Q
    mixed = torch.einsum("kc,bc...->bk...", mixing, a)
    close(methods.eigen_cam(mixed), methods.eigen_cam(a))
    close(methods.kpca_cam(mixed, sign="absmax"), methods.kpca_cam(a, sign="absmax"))


@SIZES
def test_a_centered_map_averages_to_zero(shape: tuple[int, ...]) -> None:
    a = normal(*shape) + 0.5
    for map_ in (methods.eigen_cam(a, centered=True), methods.kpca_cam(a), methods.kpca_cam(a, kernel="rbf")):
        close(total(map_), torch.zeros(shape[0], dtype=torch.float64))


def test_rank_one_activations_give_their_profile() -> None:
    profile, gains = normal(3, 1, 4, 5).abs(), normal(3, 6, 1, 1, seed=1)
    map_ = methods.eigen_cam(profile * gains)
    close(map_, profile.squeeze(1) * gains.norm(dim=1))


@pytest.mark.parametrize("centered", [False, True])
def test_eigen_cam_scales_with_its_activations(centered: bool) -> None:
    a = normal(3, 6, 4, 5) + 0.5
    close(methods.eigen_cam(a * 1e150, centered=centered) / 1e150, methods.eigen_cam(a, centered=centered))


@pytest.mark.parametrize("repeats", [1, 2])
def test_first_derivatives_are_exact_beside_zero_and_repeated_singular_values(repeats: int) -> None:
    # singular values 3, 1, 1, 0 and so on; autograd of eigh or svd is NaN at such a point
    left = torch.linalg.qr(normal(6, 6)).Q
    right = torch.linalg.qr(normal(5, 5, seed=1)).Q
    values = torch.tensor([3.0, *[1.0] * repeats], dtype=torch.float64)
    features = left[:, : 1 + repeats] * values @ right[: 1 + repeats]
    for a in (features.T[None], features[None]):
        given = a.clone().requires_grad_()
        assert torch.autograd.gradcheck(methods.eigen_cam, (given,), check_forward_ad=True)


@SIZES
def test_linear_kernel_pca_is_the_centered_eigen_cam(shape: tuple[int, ...]) -> None:
    a = normal(*shape) + 0.5
    close(methods.kpca_cam(a, kernel="linear"), methods.eigen_cam(a, centered=True))


@pytest.mark.parametrize("kernel", ["sigmoid", "rbf", "cosine", "poly", "linear"])
def test_squared_norm_of_kernel_pca_is_the_first_eigenvalue(kernel: str) -> None:
    a = normal(3, 6, 4, 5)
    x = matrices(a)
    inner = x @ x.mT
    gram = {
        "sigmoid": torch.tanh(inner / 6 + 1),
        "rbf": torch.exp(-torch.cdist(x, x).square() / 6),
        "cosine": functional.cosine_similarity(x[:, :, None], x[:, None], dim=-1),
        "poly": (inner / 6 + 1) ** 3,
        "linear": inner,
    }[kernel]
    centering = torch.eye(20, dtype=torch.float64) - 1 / 20
    first = torch.linalg.eigvalsh(centering @ gram @ centering)[:, -1]
    map_ = methods.kpca_cam(a, kernel=kernel)  # type: ignore[arg-type]
    close(map_.square().sum((1, 2)), first, 1e-8)


def test_a_wide_rbf_kernel_gives_the_direction_of_the_linear_one() -> None:
    a = normal(3, 6, 4, 5)
    rbf = methods.kpca_cam(a, kernel="rbf", gamma=1e-6)
    linear_map = methods.kpca_cam(a, kernel="linear")
    close(rbf / 2e-6**0.5, linear_map, 1e-4)


def test_seg_eigen_cam_without_a_gradient_is_eigen_cam_and_ignores_the_sign_of_the_score() -> None:
    a, g = normal(3, 6, 4, 5), normal(3, 6, 4, 5, seed=1)
    close(methods.seg_eigen_cam(a, torch.ones_like(a)), methods.eigen_cam(a, sign="absmax"))
    assert torch.equal(methods.seg_eigen_cam(a, -g), methods.seg_eigen_cam(a, g))


def test_eigen_grad_cam_of_a_constant_gradient_is_eigen_cam() -> None:
    a = normal(3, 6, 4, 5) + 0.5
    close(methods.eigen_grad_cam(a, torch.full_like(a, 2.0)), 2 * methods.eigen_cam(a, sign="corr_mean"))


@pytest.mark.parametrize("sign", ["sum", "absmax", "corr_mean"])
def test_sign_rules_hold(sign: str) -> None:
    a = normal(40, 6, 4, 5)
    map_ = methods.eigen_cam(a, sign=sign).flatten(1)  # type: ignore[arg-type]
    energy = a.relu().sum(1).flatten(1)
    evidence = {
        "sum": map_.sum(1),
        "absmax": map_.amax(1) - map_.neg().amax(1),
        "corr_mean": ((energy - energy.mean(1, keepdim=True)) * map_).sum(1),
    }
    assert (evidence[sign] > 0).all()


def test_without_evidence_the_component_is_kept() -> None:
    component, rows = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), torch.ones(2, 2, 3)
    for sign in ("sum", "corr_mean"):
        assert torch.equal(orient(component, rows, sign), component)


# ------------------------------------------------------------------------------------------------------- FEM, noise


def test_fem_scales_and_has_its_limits() -> None:
    a = normal(3, 6, 4, 5).relu()
    close(methods.fem(4 * a), 4 * methods.fem(a))
    assert not methods.fem(a, k=1e6).any()
    close(methods.fem(a, k=-1e6), spatial_mean(a).sum(1)[:, None, None].expand(3, 4, 5))


def test_few_positions_pass_the_threshold_of_fem() -> None:
    a = normal(1, 1, 1000).abs()
    passed = (methods.fem(a) > 0).double().mean()
    assert 0 < passed <= 1 / (1 + 2.0**2)


def test_random_cam_is_reproducible_linear_and_leaves_the_global_state_alone() -> None:
    a, w = normal(3, 6, 4, 5), 2 * torch.rand(3, 6, generator=torch.Generator().manual_seed(1)).double() - 1
    before = torch.get_rng_state()
    first = methods.random_cam(a, generator=torch.Generator().manual_seed(1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, methods.random_cam(a, generator=torch.Generator().manual_seed(1)))
    assert not torch.equal(first, methods.random_cam(a, generator=torch.Generator().manual_seed(2)))
    close(first, methods.random_cam(a, weights=w))
    # the noise is symmetric: a draw and its negative average to nothing
    close(methods.random_cam(a, weights=-w), -first)


def test_random_cam_draws_the_same_noise_for_every_dtype() -> None:
    a = normal(3, 6, 4, 5).float()
    single = methods.random_cam(a, generator=torch.Generator().manual_seed(1))
    double = methods.random_cam(a.double(), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-5)


# --------------------------------------------------------------------------------------------------- shared lines


def test_safe_division_and_roots_are_zero_with_finite_derivatives() -> None:
    n = torch.tensor([1.0, 0.0, -2.0, 3.0], requires_grad=True)
    d = torch.tensor([0.0, 0.0, 4.0, -1.0], requires_grad=True)
    quotient = safe_divide(n, d)
    assert quotient.tolist() == [0.0, 0.0, -0.5, -3.0]
    back = torch.autograd.grad(quotient.sum(), (n, d))
    assert [x.tolist() for x in back] == [[0.0, 0.0, 0.25, -1.0], [0.0, 0.0, 0.125, -3.0]]
    _, tangent = torch.func.jvp(safe_divide, (n, d), (torch.ones(4), torch.ones(4)))  # type: ignore[misc]
    assert tangent.tolist() == [0.0, 0.0, 0.375, -4.0]
    x = torch.tensor([-1.0, 0.0, 4.0], requires_grad=True)
    root = safe_sqrt(x)
    assert root.tolist() == [0.0, 0.0, 2.0]
    assert torch.autograd.grad(root.sum(), x)[0].tolist() == [0.0, 0.0, 0.25]
    assert safe_sqrt(torch.tensor([float("nan")])).isnan().all()


def test_resizing_keeps_constants_means_and_straight_lines() -> None:
    ramp = torch.arange(4, dtype=torch.float64)[None, None]
    fine = resize(ramp, (8,))
    close(fine[0, 0, 1:-1], (torch.arange(8, dtype=torch.float64)[1:-1] + 0.5) / 2 - 0.5)
    close(fine.mean(), ramp.mean())
    for size in ((5,), (5, 3), (2, 7, 4)):
        ones = torch.ones(2, 3, *(4 for _ in size))
        torch.testing.assert_close(resize(ones, size), torch.ones(2, 3, *size))
        assert torch.equal(resize(ones, ones.shape[2:]), ones)


def test_resizing_half_precision_goes_through_float32() -> None:
    for old, new in (((5,), (13,)), ((3, 4), (7, 9)), ((3, 2, 4), (5, 7, 9))):
        maps = normal(1, 2, *old).bfloat16()
        assert torch.equal(resize(maps, new), resize(maps.float(), new).bfloat16())


# ----------------------------------------------------------------------------------------------------------- errors


def test_errors_say_what_came_and_what_works() -> None:
    a, w = normal(2, 6, 4, 5), normal(2, 6)
    with pytest.raises(ValueError, match=r"\(6,\).*\(2, 6\).*got \(5,\).*model\.fc\.weight\[281\]"):
        methods.cam(a, weights=w[0, :5])
    with pytest.raises(ValueError, match=r"neither.*generator=torch\.Generator"):
        methods.random_cam(a)
    with pytest.raises(ValueError, match="both"):
        methods.random_cam(a, weights=w, generator=torch.Generator())
    with pytest.raises(ValueError, match=r"\(2, 6\).*got \(6,\)"):
        methods.random_cam(a, weights=w[0])
    with pytest.raises(ValueError, match=r"sums to zero.*corr_mean"):
        methods.eigen_cam(a, centered=True, sign="sum")
    with pytest.raises(ValueError, match=r"sums to zero.*corr_mean"):
        methods.kpca_cam(a, sign="sum")
    with pytest.raises(ValueError, match="'corr_mean', got 'up'"):
        methods.eigen_cam(a, sign="up")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'poly', got 'cubic'"):
        methods.kpca_cam(a, kernel="cubic")  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"tail must return one score a sample, shape \(2,\); it returned shape \(2, 5\)"
    ):
        methods.ablation_cam(a, tail=lambda x: x.mean((1, 2)))
    with pytest.raises(ValueError, match=r"tail must return .* it returned dict"):
        methods.ablation_cam(a, tail=lambda x: {"logits": x})  # type: ignore[arg-type,return-value]
    with pytest.raises(ValueError, match="'l1', got 'l2'"):
        methods.ablation_cam(a, tail=lambda x: x.sum((1, 2, 3)), slope="l2")  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"forward must return one score a sample, shape \(2,\); it returned shape \(\)"
    ):
        methods.score_cam(a, forward=torch.sum, inputs=normal(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"got \(2, 3, 8\)"):
        methods.score_cam(a, forward=linear, inputs=normal(2, 3, 8))
    with pytest.raises(ValueError, match="'score', got 'raw'"):
        methods.score_cam(a, forward=linear, inputs=normal(2, 3, 8, 8), form="raw")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"resize\(maps, \(224, 224\)\)"):
        resize(a, (7,))

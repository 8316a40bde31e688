"""The benchmarks' own checks, on a tiny network: right results pass, wrong ones do not. Nothing here is timed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from . import test_many_targets
from .checks import DEVIATIONS, Cut, check, cut
from .models import Subject, load, question
from .peers import METHODS, PACKAGES, has
from .test_overhead import added

PAIRS = [
    (package, method) for method in METHODS for package in PACKAGES if package != "forward" and has(package, method)
]


@pytest.fixture
def tiny() -> Iterator[tuple[Subject, Tensor, list[int]]]:
    subject = load("tiny")
    yield subject, *question(subject, 2)
    assert not any(module._forward_hooks for module in subject.model.modules()), "a package left its hooks"
    assert all(parameter.grad is None for parameter in subject.model.parameters())


def result_of(package: str, method: str, tiny: tuple[Subject, Tensor, list[int]]) -> Tensor:
    subject, images, classes = tiny
    with PACKAGES[package](method, subject, classes) as explain:
        return torch.as_tensor(explain(images))


@pytest.mark.parametrize(("package", "method"), PAIRS)
def test_what_each_library_returns_passes(package: str, method: str, tiny: tuple[Subject, Tensor, list[int]]) -> None:
    comparison = check(package, method, result_of(package, method, tiny), cut(*tiny))
    if not comparison["note"]:
        assert comparison["difference"] < 1e-3


@pytest.mark.parametrize(("package", "method"), PAIRS)
def test_a_wrong_result_does_not(package: str, method: str, tiny: tuple[Subject, Tensor, list[int]]) -> None:
    reference, right = cut(*tiny), result_of(package, method, tiny)
    nan = right.clone()
    nan[1, 0, 0] = torch.nan
    for wrong in (right * 0.9, right.flip(0), right.flip(2), right[:1], nan):
        with pytest.raises(AssertionError, match=package):
            check(package, method, wrong, reference)


@pytest.mark.parametrize(("package", "method"), [pair for pair in PAIRS if pair[1] != "eigen_cam"])
def test_another_class_is_noticed(package: str, method: str, tiny: tuple[Subject, Tensor, list[int]]) -> None:
    subject, images, classes = tiny
    other = cut(subject, images, [index + 1 for index in classes])
    with pytest.raises(AssertionError, match="differs"):
        check(package, method, result_of(package, method, tiny), other)


def test_the_known_deviation_of_grad_cam_plusplus_is_seen_and_told(
    tiny: tuple[Subject, Tensor, list[int]],
) -> None:
    for package in ("grad-cam", "torchcam"):
        comparison = check(package, "grad_cam_plusplus", result_of(package, "grad_cam_plusplus", tiny), cut(*tiny))
        assert comparison["difference"] > 0.01
        assert comparison["note"] == DEVIATIONS[package, "grad_cam_plusplus"].reason


def test_many_targets_agree_with_one_at_a_time(tiny: tuple[Subject, Tensor, list[int]]) -> None:
    subject, images, _ = tiny
    classes = [3, 1, 4]
    expected = test_many_targets.references(subject, images[:1], classes)
    for package, prepared in test_many_targets.PACKAGES.items():
        with prepared(subject, classes) as explain:
            found = explain(images[:1])
        check(package, "grad_cam", found, expected)
        with pytest.raises(AssertionError, match="differs"):
            check(package, "grad_cam", found.roll(1, 0), expected)


def test_the_reference_is_the_gradient(tiny: tuple[Subject, Tensor, list[int]]) -> None:
    subject, images, classes = tiny
    model = subject.model
    assert isinstance(model, torch.nn.Sequential)
    activations = model[:4](images).detach().requires_grad_()
    (grads,) = torch.autograd.grad(model[4:](activations)[range(2), classes].sum(), activations)
    torch.testing.assert_close(cut(*tiny), Cut(activations.detach(), grads))


def test_added_is_the_difference_of_the_two() -> None:
    clock = 0.0

    def take(seconds: float) -> None:
        nonlocal clock
        clock += seconds

    assert added(lambda: take(5.0), lambda: take(3.0), 3, clock=lambda: clock) == [2.0, 2.0, 2.0]

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch.nn import functional

from camfn.export._derivatives import convolution_backward, convolved, group_normed, instance_normed, normed
from camfn.export._resample import average_backward, max_pooled, pooled, resampled
from camfn.export._rules import _clamped


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups", "kernel"),
    [*itertools.product((1, 2, 3), (0, 1), (1, 2), (1, 2, 4), (1, 3)), (1, 3, 1, 1, 3)],
)
def test_derivative_of_a_convolution(stride: int, padding: int, dilation: int, groups: int, kernel: int) -> None:
    x = torch.rand(2, 4, 11, 14, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(8, 4 // groups, kernel, kernel, dtype=torch.float64)
    y = functional.conv2d(x, weight, None, stride, padding, dilation, groups)
    slope = torch.rand_like(y)
    (expected,) = torch.autograd.grad(y, x, slope)
    said = convolution_backward(
        slope, x, weight, None, [stride] * 2, [padding] * 2, [dilation] * 2, False, [0, 0], groups, [True, False, False]
    )[0]
    torch.testing.assert_close(said, expected)


@pytest.mark.parametrize(("stride", "padding", "output_padding", "groups"), [(1, 0, 0, 1), (2, 1, 1, 2), (3, 0, 0, 1)])
def test_derivative_of_a_transposed_convolution(stride: int, padding: int, output_padding: int, groups: int) -> None:
    x = torch.rand(2, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(4, 6 // groups, 3, 3, dtype=torch.float64)
    y = functional.conv_transpose2d(x, weight, None, stride, padding, output_padding, groups)
    slope = torch.rand_like(y)
    (expected,) = torch.autograd.grad(y, x, slope)
    said = convolution_backward(
        slope,
        x,
        weight,
        None,
        [stride] * 2,
        [padding] * 2,
        [1, 1],
        True,
        [output_padding] * 2,
        groups,
        [True, False, False],
    )[0]
    torch.testing.assert_close(said, expected)


@pytest.mark.parametrize(
    "options",
    [
        {"size": (9, 14), "mode": "bilinear"},
        {"size": 9, "mode": "bilinear", "align_corners": True},
        {"scale_factor": 2, "mode": "nearest"},
        {"scale_factor": (0.5, 1.5), "mode": "bicubic"},
        {"size": (3, 4), "mode": "area"},
        {"size": (3, 4), "mode": "bilinear", "antialias": True},
        {"scale_factor": 2.6, "mode": "bilinear", "recompute_scale_factor": True},
        {"size": [5, 7], "mode": "nearest-exact"},
    ],
)
def test_resizing_is_two_products(options: dict[str, Any]) -> None:
    x = torch.rand(2, 3, 5, 7)
    torch.testing.assert_close(resampled(x, **options), functional.interpolate(x, **options))


@pytest.mark.parametrize("sizes", [(7, 7), (3, 5), (8, 11), (16, 2), (1, 4), (5, 1)])
def test_pooling_is_two_products(sizes: tuple[int, int]) -> None:
    x = torch.rand(2, 3, 8, 11, dtype=torch.float64, requires_grad=True)
    slope = torch.rand(2, 3, *sizes, dtype=torch.float64)
    said, expected = pooled(x, sizes), functional.adaptive_avg_pool2d(x, sizes)
    torch.testing.assert_close(said, expected)
    torch.testing.assert_close(torch.autograd.grad(said, x, slope), torch.autograd.grad(expected, x, slope))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "ceil", "count_padding"),
    [
        ([2], [], [0], False, True),
        ([3, 2], [2, 1], [1, 0], False, True),
        ([3], [2], [1], False, False),
        ([3], [2], [1], True, True),
        ([2, 4], [2, 3], [0, 2], True, False),
    ],
)
def test_derivative_of_an_average(
    kernel: list[int], stride: list[int], padding: list[int], ceil: bool, count_padding: bool
) -> None:
    x = torch.rand(2, 3, 8, 11, dtype=torch.float64, requires_grad=True)
    y = functional.avg_pool2d(x, kernel, stride or None, padding, ceil, count_padding)
    slope = torch.rand_like(y)
    (expected,) = torch.autograd.grad(y, x, slope)
    torch.testing.assert_close(average_backward(slope, x, kernel, stride, padding, ceil, count_padding, None), expected)


def test_what_no_two_products_say_is_left_to_torch() -> None:
    assert resampled(torch.rand(2, 3, 5), size=4) is NotImplemented


STATISTICS = (torch.tensor([0.1, -0.2, 0.3, 0.0]).double(), torch.tensor([0.5, 1.0, 2.0, 1e-3]).double())
GAIN = (torch.tensor([1.0, -2.0, 0.5, 0.0]).double(), torch.tensor([0.0, 1.0, -1.0, 2.0]).double())
GROUPED = (torch.linspace(-1, 1, 6 * 2 * 9).reshape(6, 2, 3, 3).double(), torch.ones(6).double(), 2, 1, 1, 2)


@pytest.mark.parametrize(
    ("said", "function", "given"),
    [
        (normed, functional.batch_norm, STATISTICS),
        (normed, functional.batch_norm, (*STATISTICS, *GAIN, False, 0.1, 1e-2)),
        (group_normed, functional.group_norm, (2,)),
        (group_normed, functional.group_norm, (1, *GAIN, 1e-2)),
        (instance_normed, functional.instance_norm, (None, None, *GAIN)),
        (instance_normed, functional.instance_norm, (*STATISTICS, *GAIN, False)),
        (_clamped, torch.clamp, (0, 0.5)),
        (_clamped, torch.clamp, (-0.5, 1)),
        (convolved, functional.conv2d, GROUPED),
        (convolved, functional.conv2d, (GROUPED[0], None, (1, 2), (2, 0), [1, 1], 2)),
    ],
)
def test_values_and_both_derivatives_are_those_of_torch(said: Any, function: Any, given: Any) -> None:
    def derived(run: Any) -> list[torch.Tensor]:
        x = torch.linspace(-1, 2, 2 * 4 * 5 * 6).double().sin().reshape(2, 4, 5, 6).requires_grad_()
        y = run(x, *given)
        (slope,) = torch.autograd.grad(y.tanh().sum(), x, create_graph=True)
        return [y, slope, *torch.autograd.grad((slope * x.detach()).sum(), x)]

    torch.testing.assert_close(derived(said), derived(function))


def test_weights_that_depend_on_the_images_are_left_to_torch() -> None:
    x, moving = torch.rand(2, 4, 5, 5), torch.ones(4, requires_grad=True)
    assert normed(x, torch.zeros(4), torch.ones(4), moving) is NotImplemented
    assert normed(x, torch.zeros(4), torch.ones(4), training=True) is NotImplemented
    assert group_normed(x, 2, moving) is NotImplemented
    assert convolved(x, torch.ones(4, 2, 3, 3, requires_grad=True), groups=2) is NotImplemented
    assert convolved(x, torch.ones(4, 2, 3, 3), padding="same", groups=2) is NotImplemented


@pytest.mark.parametrize(("size", "said"), [(1, True), ((2, 3), True), ((None, 4), True), ((5, 3), False)])
def test_adaptive_maxima_over_windows_of_one_size(size: Any, said: bool) -> None:
    x = torch.rand(2, 3, 8, 12)
    found = max_pooled(x, size)
    assert (found is not NotImplemented) is said
    assert not said or torch.equal(found, functional.adaptive_max_pool2d(x, size))


@pytest.mark.parametrize("given", [(0, 1), (0.0, 1.0), (0, None), (torch.zeros(()), torch.ones(()))])
def test_limits_of_one_kind_are_left_to_torch(given: Any) -> None:
    assert _clamped(torch.rand(3), *given) is NotImplemented
    assert _clamped(torch.arange(3), 0, 0.5) is NotImplemented

"""The arithmetic on maps: exact division, roots, resizing."""

from __future__ import annotations

import torch

from camfn._shared.maps import resize, safe_divide, safe_sqrt
from tests.methods.laws import (
    close,
    normal,
)


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

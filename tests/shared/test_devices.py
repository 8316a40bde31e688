"""Numbers put on a device: as torch.as_tensor puts them, but without a wait (tests/test_devices.py counts those)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from camfn._shared.devices import brought, tensor_on

CPU, META = torch.device("cpu"), torch.device("meta")


@pytest.mark.parametrize("dtype", [None, torch.float64, torch.float32])
@pytest.mark.parametrize("value", [3, 2.5, True, [1, 2], [[0.5], [1.5]], torch.tensor([1, 2]), torch.tensor(0.25)])
def test_tensor_on_is_as_tensor(value: Any, dtype: torch.dtype | None) -> None:
    expected = torch.as_tensor(value, dtype=dtype, device=CPU)
    found = tensor_on(value, CPU, dtype)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)
    there = tensor_on(value, META, dtype)
    assert (there.device, there.dtype, there.shape) == (META, expected.dtype, expected.shape)


def test_a_tensor_that_is_there_is_not_copied() -> None:
    x = torch.ones(2)
    assert tensor_on(x, CPU) is x
    assert brought(x, torch.zeros(3)) is x


def test_brought_takes_device_and_dtype() -> None:
    found = brought(torch.ones(2), torch.zeros(1, dtype=torch.bfloat16, device=META))
    assert (found.device, found.dtype) == (META, torch.bfloat16)

"""CUDA against the CPU, and that what never waits on the pretend accelerator does not wait here: `make gpu` runs it."""

from __future__ import annotations

import pytest
import torch

from tests.gpu import checks

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
CHECKS = checks()


@pytest.mark.parametrize("name", CHECKS)
def test_on_the_gpu(name: str) -> None:
    CHECKS[name]()

"""Numbers of a GPU that do not depend on how it rounds or which of its algorithms it takes."""

# tested in tests/evaluate/suite/test_exact.py

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def exact() -> Iterator[None]:
    """Run convolutions and products of a GPU in whole float32, by algorithms that give the same bits again.

    PyTorch rounds the inputs of convolutions to 10 bits (TF32) as it comes; a map would then differ from that of a CPU
    in its third digit, and `verify` would not find the numbers of a row again.

    Example:
        >>> with exact():
        ...     torch.backends.cudnn.allow_tf32
        False
    """
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark, products.allow_tf32
    cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark, products.allow_tf32 = False, True, False, False
    try:
        yield
    finally:
        cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark, products.allow_tf32 = before

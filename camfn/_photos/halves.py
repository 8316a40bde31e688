"""Batches that are larger than memory allows run as halves."""

# tested in tests/photos/test_explain.py

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
"""What the allocators of the CPU, MPS and CUDA's libraries say, in RuntimeErrors of no class of their own."""


def in_halves(run: Callable[[Tensor], list[T]], inputs: Tensor) -> list[T]:
    """Call `run` on a batch, and on its halves where memory does not hold the whole.

    Args:
        run: a function from a batch (B, ...) to a list with one result a sample, which no other sample changes.
        inputs: (B, ...).

    Raises:
        RuntimeError: memory does not hold one sample.
    """
    try:
        return run(inputs)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or len(inputs) < 2:
            raise
    # the exception, whose frames hold tensors, is gone here
    if inputs.is_cuda:
        torch.cuda.empty_cache()
    middle = (len(inputs) + 1) // 2
    return in_halves(run, inputs[:middle]) + in_halves(run, inputs[middle:])


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory was too small."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).casefold() for words in _WORDS)

"""Numbers put on a device without waiting for it.

A host that only queues work runs ahead of an accelerator. Every number that it reads back, and every copy to the device
that is not asked for as `non_blocking`, makes it wait until all queued work is done.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .levels import levels_of


def brought(x: Tensor, like: Tensor) -> Tensor:
    """Return a tensor on the device and in the dtype of another, without waiting for its arrival where that is safe."""
    return _moved(x, like.device).to(like.dtype)


def tensor_on(value: Any, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Do the same as `torch.as_tensor(value, dtype=dtype, device=device)`, which waits for the device.

    Example:
        >>> tensor_on([1, 2], torch.device("cpu"))
        tensor([1, 2])
    """
    if isinstance(value, (bool, int, float)):
        return torch.full((), value, dtype=dtype, device=device)
    return _moved(torch.as_tensor(value, dtype=dtype), device)


def _moved(x: Tensor, device: torch.device) -> Tensor:
    """Move a tensor; the host goes on where it leaves a CPU's own memory."""
    # CUDA has taken its copy of pageable memory when the call returns, but not of pinned memory, which the caller might
    # overwrite. MPS reads the memory later, and no device has filled the host's by then.
    leaves = x.device.type == "cpu" and device.type not in ("cpu", "mps")
    return x.to(device, non_blocking=leaves and not torch.compiler.is_compiling() and not _is_pinned(x))


def _is_pinned(x: Tensor) -> bool:
    """Whether a tensor lies in pinned memory, also one that a transform of `torch.func` wraps."""
    *_, own = levels_of(x)
    return own.is_pinned()

"""Memory: how many bytes a run needs at its peak, and how many a device has."""

# tested in tests/shared/test_rows.py

from __future__ import annotations

import os
import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


class Allocated(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes that are alive among the tensors that operations make, on any device.

    A chunk of n rows needs about n times the peak of one row, so that the peak of the first row tells how many rows fit
    the memory. PyTorch reports the peak of a CUDA device but not of a CPU; this mode sees every operation below
    autograd and `vmap`, takes the storages of its results that are new, and uncounts a storage when it is freed. The
    scratch space inside an operation is not seen.

    Attributes:
        sizes: bytes of each storage that is alive, by its address.
        live: bytes that are alive now.
        peak: the largest `live` so far.
        largest: bytes of the largest single storage.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: dict[int, int] = {}
        self.live = self.peak = self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_storage(leaf)._cdata for leaf in pytree.tree_leaves((args, kwargs)) if _is_strided(leaf)}
        out = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(out):
            if _is_strided(leaf):
                storage = _storage(leaf)
                if storage._cdata not in given and storage._cdata not in self.sizes:
                    self._add(storage)
        return out

    def _add(self, storage: Any) -> None:
        """Count a new storage until it is freed."""
        size = self.sizes[storage._cdata] = storage.nbytes()
        self.live += size
        self.peak, self.largest = max(self.peak, self.live), max(self.largest, size)
        # the finalizer need not run when the interpreter exits
        weakref.finalize(storage, self._free, storage._cdata).atexit = False

    def _free(self, key: int) -> None:
        """Uncount a storage."""
        self.live -= self.sizes.pop(key)


def _is_strided(leaf: Any) -> bool:
    """Whether a value is a dense tensor, which has a storage."""
    return isinstance(leaf, Tensor) and leaf.layout is torch.strided


def _storage(leaf: Tensor) -> Any:
    """Return the memory of a tensor, which its views share."""
    return leaf.untyped_storage()


def free_bytes(device: torch.device) -> int:
    """Return the free bytes of a device, or 2 GiB if the device does not report them."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    if device.type == "cpu" and "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", ()):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 2 * 2**30

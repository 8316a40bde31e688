"""Checks on a CUDA device, for tests/test_gpu.py, and for `make gpu` where pytest is missing."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from tests.calls import CALLS, WAITS, World, world

TOLERANCE = 2e-3
"""Relative to the largest number: sums of a GPU go in another order, and what follows them amplifies that."""


def on_the_gpu() -> World:
    w = world()
    put = partial(Tensor.to, device="cuda", non_blocking=True)
    return World(deepcopy(w.net).cuda(), deepcopy(w.vit).cuda(), w.x.cuda(), put)


def numbers_are_the_cpus(name: str) -> None:
    """A call gives on the GPU what it gives on the CPU, and leaves it there."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        theirs = pytree.tree_leaves(CALLS[name](world()))
    except ImportError:
        return  # an optional package is missing on this machine
    ours = pytree.tree_leaves(CALLS[name](on_the_gpu()))
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs):
        if isinstance(one, Tensor):
            assert one.is_cuda, name
            scale = float(other.abs().max()) if other.is_floating_point() and other.numel() else 1.0
            torch.testing.assert_close(one.cpu(), other, atol=TOLERANCE * scale, rtol=TOLERANCE, equal_nan=True)
        else:
            assert one == other, name


def never_waits(name: str) -> None:
    """CUDA itself reports a wait as an error; a first run may wait while it is set up."""
    w = on_the_gpu()
    try:
        CALLS[name](w)
    except ImportError:
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        CALLS[name](w)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def checks() -> dict[str, Callable[[], None]]:
    """The checks by name."""
    found: dict[str, Callable[[], None]] = {f"numbers of {name}": partial(numbers_are_the_cpus, name) for name in CALLS}
    found |= {f"no wait in {name}": partial(never_waits, name) for name in CALLS if not WAITS.get(name, 0)}
    return found

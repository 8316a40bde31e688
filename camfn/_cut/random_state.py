"""The same random numbers for each of several runs, and none taken from the process."""

# tested in tests/layout/test_places.py

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

_DRAWING = threading.Lock()


def same_draws(device: torch.device) -> Callable[[], AbstractContextManager[None]]:
    """Return what makes a context that puts the state of PyTorch's random numbers back, if a run drew any.

    Each run then draws the same. The state is left alone where it did not change, as other threads may draw too.
    """
    on_gpu = device if device.type == "cuda" else None

    def state() -> list[Tensor]:
        return [torch.get_rng_state(), *([torch.cuda.get_rng_state(on_gpu)] if on_gpu else [])]

    @contextmanager
    def same() -> Iterator[None]:
        with _DRAWING:
            before = state()
            try:
                yield
            finally:
                # the states hold data where the mode of fake tensors is on, too
                with _disable_current_modes():
                    after = state()
                    if not torch.equal(after[0], before[0]):
                        torch.set_rng_state(before[0])
                    if on_gpu and not torch.equal(after[1], before[1]):
                        torch.cuda.set_rng_state(before[1], on_gpu)

    return same

"""A run beside a training that leaves no trace in it."""

# tested in tests/training/test_apart.py

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from .._shared.errors import CamfnError

_SHARDED = {"FullyShardedDataParallel", "FSDPModule", "DeepSpeedEngine"}
"""Classes whose parameters lie on several devices: one process alone cannot run them."""


def refuse_sharded(model: nn.Module) -> None:
    """Refuse a model whose parameters are spread over processes, for a run in one of them would wait for the others.

    Raises:
        CamfnError: names the class, and what to map instead.
    """
    names = {kind.__name__ for module in model.modules() for kind in type(module).__mro__}
    names |= {type(parameter).__name__ for parameter in model.parameters()} & {"DTensor"}
    if found := names & (_SHARDED | {"DTensor"}):
        raise CamfnError(
            f"MapRecorder: expected a model whose parameters are whole in each process, got {sorted(found)[0]}, which "
            "spreads them. Gather its state_dict from time to time, and map a plain copy of the model"
        )


def is_first_process() -> bool:
    """Whether this process is the first of a distributed training, or the only one."""
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0


@contextmanager
def apart(device: torch.device) -> Iterator[None]:
    """Restore the states of all random generators after a block, and keep autocast's cache of weights out of it.

    Autocast keeps a weight that it cast. The training's own forward would take a cast made without a graph, and its
    weight would get no gradient.
    """
    python, numpy = random.getstate(), sys.modules.get("numpy")
    drawn = numpy.random.get_state() if numpy is not None else None
    devices = [device] if device.type not in ("cpu", "meta") else []
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"))
            for kind in {"cpu", device.type} - {"meta"}:
                if torch.is_autocast_enabled(kind):
                    dtype = torch.get_autocast_dtype(kind)
                    stack.enter_context(torch.autocast(kind, dtype=dtype, cache_enabled=False))
            yield
    finally:
        random.setstate(python)
        if numpy is not None:
            numpy.random.set_state(drawn)

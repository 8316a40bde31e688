"""Peak memory of one way to explain, in a process of its own."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from .models import load, question
from .peers import PACKAGES, Case

CALLS = 2
"""Two, since what a package holds on to from one call is there in the next."""


def peak(case: Case) -> int | None:
    """Measure the peak of memory above that of the resident network, in bytes.

    On the CPU it is the high-water mark of the resident set, all allocations of all packages included, above its level
    after a bare forward; on a GPU that of torch's allocator. Every process has imported every package.

    Returns:
        Bytes; None for the CPU of a system without /proc/self/clear_refs, as outside Linux.
    """
    return _apart(case.device, _measure, case)


def peak_of(make: Callable[..., Callable[[], Any]], device: str, *arguments: Any) -> int | None:
    """Do the same for a function that `make(device, *arguments)` returns."""
    return _apart(device, _measure_call, make, device, *arguments)


def _apart(device: str, measure: Callable[..., int], *arguments: Any) -> int | None:
    """Measure in a process of its own."""
    if device == "cpu" and not Path("/proc/self/clear_refs").exists():
        return None
    context = multiprocessing.get_context("spawn" if device == "cuda" else "forkserver")
    context.set_forkserver_preload(["torchvision", "pytorch_grad_cam", "torchcam.methods", "benchmarks.peers"])
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(measure, *arguments).result()


def _measure_call(make: Callable[..., Callable[[], Any]], device: str, *arguments: Any) -> int:
    call = make(device, *arguments)
    gc.collect()
    before = _reset(device)
    for _ in range(CALLS):
        found = call()
    del found
    return _highest(device) - before


def _measure(case: Case) -> int:
    subject = load(case.model, case.device)
    images, classes = question(subject, case.batch)
    with torch.no_grad():
        subject.model(images)
    gc.collect()
    before = _reset(case.device)
    with PACKAGES[case.package](case.method, subject, classes) as explain:
        for _ in range(CALLS):
            found = explain(images)
        del found
        return _highest(case.device) - before


def _reset(device: str) -> int:
    """Start a new high-water mark; return the level."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    # memory that is free but not given back would hide as much of what comes after
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _highest(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else _status("VmHWM")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(field + ":")]
    return int(line.split()[1]) * 1024

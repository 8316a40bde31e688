"""The transforms of `torch.func` that are on, and what they make of a tensor."""

# tested in tests/shared/test_lost_graph.py and tests/cut/test_capture.py

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import torch
from torch import Tensor

_graph: ContextVar[bool] = ContextVar("_graph", default=False)


@contextmanager
def writing_graph() -> Iterator[None]:
    """Write a graph of plain operators in the block, whose user compares it with what was not traced.

    Derivatives are plain autograd's: a transform of `torch.func` makes numbers of sizes that the trace keeps open. Rows
    fold into one batch without a trial, for no number can be read.
    """
    token = _graph.set(True)
    try:
        yield
    finally:
        _graph.reset(token)


def writes_graph() -> bool:
    """Whether a graph is being written, as by `camfn.export`."""
    return _graph.get()


def levels_of(x: Tensor) -> Iterator[Tensor]:
    """Yield a tensor, and what it wraps for each transform of `torch.func` around it, from the innermost outwards."""
    wrapped = torch._C._functorch
    yield x
    while wrapped.is_functorch_wrapped_tensor(x):
        x = wrapped.get_unwrapped(x)
        yield x


def is_differentiated(value: Any) -> bool:
    """Whether `torch.func` is taking a derivative through a tensor."""
    tracks = torch._C._functorch.is_gradtrackingtensor
    return isinstance(value, Tensor) and any(tracks(x) and x.requires_grad for x in levels_of(value))


def laid_out(x: Tensor) -> Tensor:
    """Lay a value that `vmap` batches out in reading order; any other stays as it is.

    Pooling writes strides for channels-last values, and `vmap` runs that row by row, with a warning.
    """
    batched = any(map(torch._C._functorch.is_batchedtensor, levels_of(x)))
    return x.contiguous() if batched and x.ndim > 3 else x


def inside_transform() -> bool:
    """Whether the caller runs under `vmap`, `vjp` or another transform of `torch.func`, or is being compiled."""
    return torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None


def level_of_func() -> int | None:
    """Return how many transforms of `torch.func` are on; the compiler does not ask."""
    return None if torch.compiler.is_compiling() else torch._C._functorch.maybe_current_level()


def is_open(transform: Literal["Grad", "Jvp"]) -> bool:
    """Whether a transform of this kind is on: reverse mode or forward mode."""
    levels = torch._C._functorch.get_interpreter_stack() or []
    return any(level.key() == getattr(torch._C._functorch.TransformType, transform) for level in levels)


_REFUSALS = (
    "setup_context",
    "saved tensor hooks",
    "inside of a function being transformed",
    "that doesn't have storage",
)


def refuses_levels(error: RuntimeError) -> bool:
    """Whether a level of torch.func was refused, where plain autograd works.

    Custom operators (torchvision's roi_align), autograd functions and full backward hooks refuse it, and so do hooks of
    saved tensors (`save_on_cpu`, checkpoints), `retain_grad` and `requires_grad_`, and operators that read the memory.
    """
    return any(text in str(error) for text in _REFUSALS)

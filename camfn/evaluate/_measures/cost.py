"""Cost of a computation, in forwards of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Flops(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the floating-point operations of convolutions and matrix products in this thread, as a context manager.

    `torch.utils.flop_counter.FlopCounterMode` also follows modules; for that it hooks into gradients, which many
    methods take themselves.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


def flops_of(run: Callable[[], Any]) -> tuple[Any, int]:
    """Call `run`, and return its result and the number of its operations."""
    with Flops() as counted:
        result = run()
    return result, counted.total

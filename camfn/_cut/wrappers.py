"""Objects that hold a network and do more than run it: name the part of them that is the network."""

# tested in tests/cut/test_inputs.py

from __future__ import annotations

from typing import Any

from torch import nn

from .graft import wrapped


def is_wrapper(model: nn.Module) -> bool:
    """Whether a module has no forward, and a call of its own: ultralytics' `YOLO` reads files and draws boxes in it."""
    made = type(model)
    return (
        made.forward is nn.Module.forward and getattr(made, "__call__", None) is not nn.Module.__call__  # noqa: B004
        and wrapped(model) is None
    )  # fmt: skip


def network_in(holder: Any) -> str:
    """Say which part of an object is the network, to end an error: "; pass its .model, a DetectionModel"; else ""."""
    for path, held in _held(holder):
        if isinstance(held, nn.Module) and not is_wrapper(held):
            return f"; pass its {path}, a {type(held).__name__}"
    return ""


def _held(holder: Any) -> list[tuple[str, Any]]:
    """List the parts of an object, and then the parts of its parts that are no modules, each with its path."""
    first = _parts(holder)
    deeper = [
        (f"{path}{rest}", held)
        for path, part in first
        if not isinstance(part, nn.Module) or is_wrapper(part)
        for rest, held in _parts(part)
    ]
    return sorted(first, key=lambda one: "model" not in one[0]) + deeper


def _parts(holder: Any) -> list[tuple[str, Any]]:
    """List what an object holds under public names."""
    if isinstance(holder, nn.Module):
        return [(f".{name}", child) for name, child in holder.named_children()]
    return [(f".{name}", value) for name, value in getattr(holder, "__dict__", {}).items() if not name.startswith("__")]

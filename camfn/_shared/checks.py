"""Checks and the texts of their errors; a text is built only once its check has failed."""

# tested in tests/targets/test_classes.py and tests/cut/test_capture.py

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._shared.errors import CamfnError


def is_differentiated(value: Any) -> bool:
    """Whether `torch.func` is taking a derivative through a tensor."""
    inside = torch._C._functorch
    while isinstance(value, Tensor) and inside.is_functorch_wrapped_tensor(value):
        if inside.is_gradtrackingtensor(value) and value.requires_grad:
            return True
        value = inside.get_unwrapped(value)
    return False


def refuse_lost_graph(name: str, model: nn.Module, inputs: Any) -> None:
    """Refuse to drop a graph in which `torch.func.grad`, `vjp` or `jacrev` is taking a derivative."""
    if not inside_transform() or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return
    inputs = dict(inputs) if isinstance(inputs, Mapping) else inputs
    if any(map(is_differentiated, [*pytree.tree_leaves(inputs), *model.parameters(), *model.buffers()])):
        raise CamfnError(
            f"{name}: torch.func.grad, vjp or jacrev asks for the derivative of the map, which was made without a "
            "graph and would come out as zero. Pass differentiable=True; or detach the inputs and parameters, to take "
            "the map as a constant"
        )


def describe(value: Any) -> str:
    """Name a value by type and shape, as an error shows it."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, dict):
        return f"a {type(value).__name__} with keys {list(value)}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)} ({', '.join(type(item).__name__ for item in value)})"
    return f"a {type(value).__name__}"


def batch_sizes(inputs: Any, activations: Iterable[Tensor]) -> set[int]:
    """Return the lengths that a vector of scores may have: the batch of the first input, or of the activations.

    The two differ for layers in windowed attention.
    """
    leaves = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.ndim]
    return {leaf.shape[0] for leaf in leaves[:1]} | {a.shape[0] for a in activations if a.ndim}


def one_score_a_sample(scores: Any, batches: set[int]) -> Tensor:
    """Refuse a target that does not return one floating-point number a sample."""
    if isinstance(scores, Tensor) and scores.ndim == 1 and scores.shape[0] in batches and scores.is_floating_point():
        return scores
    sizes = " or ".join(f"({size},)" for size in sorted(batches))
    kind = f" of {scores.dtype}" if isinstance(scores, Tensor) else ""
    raise CamfnError(
        f"the target must return one floating-point number a sample, shape {sizes}; it returned "
        f"{describe(scores)}{kind}. For example: target=lambda outputs: outputs[:, 281]"
    )


def is_concrete(value: Tensor) -> bool:
    """Whether the data of `value` may be read in Python: not while compiling, not inside `vmap`."""
    if torch.compiler.is_compiling():
        return False
    wrapped = torch._C._functorch
    while wrapped.is_functorch_wrapped_tensor(value):
        if wrapped.is_batchedtensor(value):
            return False
        value = wrapped.get_unwrapped(value)
    return True


def inside_transform() -> bool:
    """Whether the caller runs under `vmap`, `vjp` or another transform of `torch.func`, or is being compiled."""
    return torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None


def class_in_range(classes: int | Tensor, count: int) -> None:
    """Refuse a class outside [0, count); a tensor whose data cannot be read passes."""
    if isinstance(classes, int):
        low = high = classes
    elif is_concrete(classes):
        low, high = int(classes.min()), int(classes.max())
    else:
        return
    if low < 0 or high >= count:
        bad = low if low < 0 else high
        raise CamfnError(f"class {bad} is out of range: the model has {count} classes, 0 to {count - 1}")


def length_matches(name: str, got: int, batch: int) -> None:
    """Refuse a list with one item a sample whose length is not the batch size."""
    if got != batch:
        raise CamfnError(f"{name}: expected one for each of the {batch} samples, got {got}")


def shapes_agree(name: str, got: Sequence[int], expected: Sequence[int]) -> None:
    """Refuse a tensor of another shape than expected."""
    if tuple(got) != tuple(expected):
        raise CamfnError(f"{name}: expected shape {tuple(expected)}, got {tuple(got)}")

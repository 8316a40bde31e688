"""Call a model with its inputs, and copy, replace and repeat the tensors in them."""

# tested in tests/cut/test_inputs.py

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .._shared.errors import ArgumentTypeError
from .checks import describe
from .vocabulary import Inputs


def images_of(
    inputs: Inputs, purpose: str = "perturbs the images, but the inputs hold no such tensor"
) -> tuple[Tensor, Callable[[Tensor], Inputs]]:
    """Return the images, the first floating-point tensor of the inputs, and a function that rebuilds the inputs.

    The function takes n batches of changed images, puts them in the place of the images, and repeats the other tensors
    n times. The purpose completes the text of an error: "this method ...".
    """
    inputs = dict(inputs) if isinstance(inputs, Mapping) else inputs
    leaves = floating_leaves(inputs)
    if not leaves:
        raise ArgumentTypeError(f"this method {purpose}: {describe(inputs)}")
    images = leaves[0]

    def rebuild(changed: Tensor) -> Any:
        times = changed.shape[0] // images.shape[0] if images.shape[0] else 1
        return pytree.tree_map(
            lambda leaf: changed if leaf is images else repeated(leaf, times, {images.shape[0]}), inputs
        )

    return images, rebuild


def call(run: Callable[..., Any], inputs: Any) -> Any:
    """Call with one tensor, with a tuple or list of positional arguments, or with a mapping of keyword arguments."""
    if isinstance(inputs, Mapping):
        return run(**inputs)
    return run(*inputs) if isinstance(inputs, (tuple, list)) else run(inputs)


def copy_of(inputs: Any) -> Any:
    """Copy the tensors in the inputs, since a network may overwrite its inputs."""
    if isinstance(inputs, Mapping):
        inputs = dict(inputs)
    return pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, inputs)


def floating_leaves(value: Any) -> list[Tensor]:
    """Return the floating-point tensors of a tree."""
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors of a tree, and those among the attributes of its leaves of unknown classes."""
    found = []
    for leaf in pytree.tree_leaves(value):
        held = [leaf] if isinstance(leaf, Tensor) else list(getattr(leaf, "__dict__", {}).values())
        found += [item for item in held if isinstance(item, Tensor)]
    return found


def zero_like(x: Tensor) -> Tensor:
    """Return a zero that is batched under the same `vmap` levels as `x`, also if `x` holds NaN or infinity."""
    return torch.zeros_like(x.reshape(-1)[:1].sum())  # the sum of an empty slice is a tensor too


def clone_as_batched_as(x: Tensor, zero: Tensor | None) -> Tensor:
    """Copy a tensor, batched under the same `vmap` levels as `zero`: `vmap` refuses to write a batched value into one
    that is not.
    """
    return x.clone() if zero is None else torch.where(zero == 0, x, x)


def replace_tensor(output: Any, old: Tensor, new: Tensor) -> Any:
    """Replace the tensor `old` by `new` wherever it stands in a layer's output."""
    if output is old:
        return new
    return pytree.tree_map(lambda leaf: new if leaf is old else leaf, output)


def repeated(leaf: Any, times: int, batches: set[int]) -> Any:
    """Repeat a tensor that has one of these batch sizes, `times` batches one after the other; keep other values."""
    if times == 1 or not isinstance(leaf, Tensor) or not leaf.ndim or leaf.shape[0] not in batches:
        return leaf
    # expanding a single sample takes no memory
    return leaf.expand(times, *leaf.shape[1:]) if leaf.shape[0] == 1 else leaf.repeat(times, *(1,) * (leaf.ndim - 1))

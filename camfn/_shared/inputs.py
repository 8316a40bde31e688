"""Call a model with its inputs, and copy, replace and repeat the tensors in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._shared.errors import ArgumentTypeError, CamfnError
from .checks import check_inputs, describe
from .vocabulary import Inputs

Images: TypeAlias = "int | str | tuple[int | str, ...] | Callable[[Any], Tensor]"
"""Which tensor of the inputs is the images: an index, a key, a path of these, or a function of the inputs."""


def images_of(
    inputs: Inputs, which: Images | None = None, purpose: str = "perturbs the images"
) -> tuple[Tensor, Callable[[Tensor], Inputs]]:
    """Return the images among the inputs, and a function that rebuilds the inputs with others in their place.

    Without `which` the images are the only floating-point tensor with space, (B, C, *S) of one to three spatial
    dimensions that are not all of size 1; where none has space, the only floating-point tensor. They have a place in
    the tree of the inputs: the same tensor at another place is another input. The function takes n batches of changed
    images, puts them in that place, and repeats the other tensors n times. The purpose completes the text of an error:
    "this method ...".
    """
    images, rebuild = all_images_of(inputs, [which], purpose)
    return images[0], lambda changed: rebuild([changed])


def all_images_of(
    inputs: Inputs, which: Sequence[Images | None] | None, purpose: str = "perturbs the images"
) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Inputs]]:
    """Do the same for several images at once; None takes all tensors with space."""
    check_inputs(inputs)
    for one in which or ():
        check_images(one)
    inputs = dict(inputs) if isinstance(inputs, Mapping) else inputs
    leaves, spec = pytree.tree_flatten(inputs)
    found = _with_space(leaves)
    chosen = found if which is None and found else [_place(inputs, one, found, purpose) for one in which or [None]]
    if len(set(chosen)) < len(chosen):
        raise CamfnError(f"images: expected each input once, got {which}")
    images: list[Tensor] = [leaves[place] for place in chosen]
    if any(not one.ndim for one in images):
        raise ArgumentTypeError(f"inputs: expected images (B, C, *S), got {describe(inputs)}")
    batch = images[0].shape[0]

    def rebuild(changed: Sequence[Tensor]) -> Any:
        times = changed[0].shape[0] // batch if batch else 1
        put = dict(zip(chosen, changed))
        again = [put[place] if place in put else repeated(leaf, times, (batch,)) for place, leaf in enumerate(leaves)]
        return pytree.tree_unflatten(again, spec)

    return images, rebuild


def check_images(which: Any) -> None:
    """Refuse what can name no input: anything but an index, a key, a path of these, a function or None."""
    keys = which if isinstance(which, tuple) and which else (which,)
    if (
        which is None
        or callable(which)
        or all(isinstance(key, (int, str)) and not isinstance(key, bool) for key in keys)
    ):
        return
    raise ArgumentTypeError(
        "images: expected an index, a key, a path of these such as ('pixels', 0), or a function of the inputs; got "
        f"{repr(which) if isinstance(which, (bool, float, tuple)) else describe(which)}"
    )


def named_inputs(inputs: Any) -> dict[str, Tensor]:
    """Return the floating-point tensors (B, C, *spatial) of the inputs, each under the `images=` that names it."""
    inputs = dict(inputs) if isinstance(inputs, Mapping) else inputs
    leaves = pytree.tree_leaves(inputs)
    places = [place for place, leaf in enumerate(leaves) if _is_floating(leaf) and leaf.ndim > 2]
    return {call: leaves[place] for place, (call, _) in zip(places, _listed(inputs, places))} if places else {}


def _with_space(leaves: Sequence[Any]) -> list[int]:
    """Return the places of the tensors with space; where none has it, the place of the only floating-point tensor."""
    floating = [place for place, leaf in enumerate(leaves) if _is_floating(leaf)]
    shapes = {place: leaves[place].shape for place in floating}
    spatial = [place for place, shape in shapes.items() if len(shape) in (3, 4, 5) and any(n != 1 for n in shape[2:])]
    return spatial or (floating if len(floating) == 1 else [])


def _place(inputs: Any, which: Images | None, found: Sequence[int], purpose: str) -> int:
    """Return the place, in the flat tree, of the images that `which` names, or else of the only ones."""
    if which is None and len(found) == 1:
        return found[0]
    listed = _listed(inputs, found)
    if not listed:
        raise ArgumentTypeError(
            f"this method {purpose}, but the inputs hold no floating-point tensor: {describe(inputs)}. "
            "Pass floating-point images, such as images.float()"
        )
    place = None if which is None else _named(inputs, which)
    if place is not None:
        return place
    known = "; ".join(f"{call} of shape {shape}" for call, shape in listed)
    if which is None:
        raise CamfnError(f"this method {purpose}, and the inputs hold several tensors: say which, {known}")
    name = getattr(which, "__name__", "a function") if callable(which) else repr(which)
    raise CamfnError(f"images={name} is no floating-point tensor of the inputs; expected one of {known}")


def _named(inputs: Any, which: Images) -> int | None:
    """Return the place that `which` names; None where there is no floating-point tensor."""
    leaves, spec = pytree.tree_flatten(inputs)
    place: Any = None
    if callable(which):
        # a view of its own for each place, so that the one which the function returns tells its place
        views = [leaf.view_as(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        chosen = which(pytree.tree_unflatten(views, spec))
        place = next((place for place, view in enumerate(views) if view is chosen), None)
    else:
        place = [0] if isinstance(inputs, Tensor) else pytree.tree_unflatten(list(range(len(leaves))), spec)
        try:
            for key in which if isinstance(which, tuple) else (which,):
                place = place[key]
        except (LookupError, TypeError):
            return None
    return place if isinstance(place, int) and _is_floating(leaves[place]) else None


def _listed(inputs: Any, places: Sequence[int]) -> list[tuple[str, tuple[int, ...]]]:
    """Return what names each of these places, or each floating-point tensor if there are none, and its shape."""
    listed = []
    for place, (path, leaf) in enumerate(pytree.tree_flatten_with_path(inputs)[0]):
        if _is_floating(leaf) and (place in places or not places):
            keys = tuple(getattr(key, "key", getattr(key, "idx", getattr(key, "name", None))) for key in path) or (0,)
            listed.append((f"images={(keys[0] if len(keys) == 1 else keys)!r}", tuple(leaf.shape)))
    return listed


def _is_floating(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def call(run: Callable[..., Any], inputs: Any) -> Any:
    """Call with one tensor, with a tuple or list of positional arguments, or with a mapping of keyword arguments."""
    check_inputs(inputs)
    if not isinstance(inputs, (Mapping, tuple, list)):
        return run(inputs)
    try:
        return run(**inputs) if isinstance(inputs, Mapping) else run(*inputs)
    except TypeError as error:
        text = _misfit(run, inputs)
        if text is None:
            raise
        raise ArgumentTypeError(text) from error


def _misfit(run: Callable[..., Any], inputs: Any) -> str | None:
    """Say why arguments do not fit the signature of a model; None where they do, or where it cannot be read."""
    try:
        # a private copy of a network holds it as `root`
        network = getattr(run, "root", run)
        known = signature(type(network).forward if isinstance(network, nn.Module) else network)
        if isinstance(network, nn.Module):
            known = known.replace(parameters=list(known.parameters.values())[1:])
    except (TypeError, ValueError):
        return None
    try:
        known.bind(**inputs) if isinstance(inputs, Mapping) else known.bind(*inputs)
    except TypeError as error:
        return (
            f"inputs: expected arguments for a model that takes {known}, got {describe(inputs)}: {error}. One tensor "
            "is passed as it is, a tuple or a list as arguments by position, a dict as arguments by name"
        )
    return None


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


def repeated(leaf: Any, times: int, batches: Sequence[int]) -> Any:
    """Repeat a tensor that has one of these batch sizes, `times` batches one after the other; keep other values."""
    if times == 1 or not isinstance(leaf, Tensor) or not leaf.ndim or all(leaf.shape[0] != size for size in batches):
        return leaf
    # expanding a single sample takes no memory
    return leaf.expand(times, *leaf.shape[1:]) if leaf.shape[0] == 1 else leaf.repeat(times, *(1,) * (leaf.ndim - 1))

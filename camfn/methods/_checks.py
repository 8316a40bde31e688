"""Checks of options and shapes that several methods share."""

# tested in tests/methods/test_perturbing.py

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

from torch import Tensor

from .._shared.checks import function, number, tensor, whole
from .._shared.devices import tensor_on
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.maps import widen

Function = TypeVar("Function", bound=Callable[..., Any])


def lays_over_images(method: Function) -> Function:
    """Mark a method that lays the maps of a layer over the images, so that the layer must have seen all of them."""
    method.lays_over_images = True  # type: ignore[attr-defined]
    return method


TAIL = "from activations to one score a sample, as explainer binds it"
"""What a tail is, for the error of one that is no function."""


@overload
def checked(method: str, activations: Tensor, /) -> Tensor: ...
@overload
def checked(method: str, activations: Tensor, grads: Tensor, /) -> tuple[Tensor, Tensor]: ...
def checked(method: str, activations: Tensor, *grads: Tensor) -> Tensor | tuple[Tensor, ...]:
    """Refuse activations that are no map, and gradients unlike them; return both in the dtype to compute in.

    Only shapes, dtypes and devices are read, so that it checks under `vmap` and the compiler too.
    """
    tensor(f"{method}: activations", activations, f"for example {method}(*capture(model, layer)(images, target))")
    if not activations.is_floating_point():
        raise ArgumentTypeError(
            f"{method}: expected activations of a floating-point dtype, got {activations.dtype}: pass "
            "activations.float()"
        )
    if not 3 <= activations.ndim <= 5 or any(size == 0 for size in activations.shape[1:]):
        raise CamfnError(
            f"{method}: expected activations (B, C, *S) with at least one channel, one to three spatial dimensions and "
            f"no empty one, got {tuple(activations.shape)}; of a single image: activations[None]"
        )
    for one in grads:
        _alike(method, activations, one)
    return widen(activations, *grads)


def _alike(method: str, activations: Tensor, grads: Tensor) -> None:
    """Refuse gradients of another shape, dtype or device than the activations."""
    call = f"{method}(*capture(model, layer)(images, target))"
    tensor(f"{method}: grads", grads, f"the gradients of the score in the activations, as in {call}")
    same_shape = grads.ndim == activations.ndim and all(n == m for n, m in zip(grads.shape, activations.shape))
    if same_shape and grads.dtype == activations.dtype and grads.device == activations.device:
        return
    expected, got = (f"{tuple(x.shape)} of {x.dtype} on {x.device}" for x in (activations, grads))
    raise CamfnError(f"{method}: expected grads like the activations, {expected}; got {got}. For example {call}")


def at_least_one(method: str, **options: int) -> None:
    """Refuse anything but a count from one."""
    for name, value in options.items():
        whole(f"{method}: {name}", value)


def fits_inputs(method: str, activations: Tensor, inputs: Tensor, forward: Any) -> None:
    """Refuse inputs that are not images of the activations' batch and number of dimensions."""
    checked(method, activations)
    images(method, inputs)
    function(f"{method}: forward", forward, "from inputs to one score a sample, as explainer binds it")
    if inputs.ndim != activations.ndim or inputs.shape[0] != activations.shape[0]:
        raise CamfnError(
            f"{method}: expected inputs (B, channels, *T) with the batch and the number of spatial dimensions of the "
            f"activations, {tuple(activations.shape)}; got {tuple(inputs.shape)}"
        )
    if inputs.device != activations.device:
        raise CamfnError(
            f"{method}: expected inputs on the device of the activations, {activations.device}; got {inputs.device}"
        )


def images(method: str, inputs: Tensor) -> None:
    """Refuse inputs that are not floating-point images."""
    tensor(f"{method}: inputs", inputs, f"the images, as explainer({method}, model, layer) binds them")
    if not inputs.is_floating_point():
        raise ArgumentTypeError(
            f"{method}: expected inputs of a floating-point dtype, got {inputs.dtype}; pass inputs.float()"
        )
    if not 3 <= inputs.ndim <= 5 or any(size == 0 for size in inputs.shape[1:]):
        raise CamfnError(
            f"{method}: expected inputs (B, channels, *T) with one to three spatial dimensions, none of them empty, "
            f"got {tuple(inputs.shape)}"
        )


def broadcastable(what: str, value: float | Tensor, like: Tensor, name: str) -> Tensor:
    """Return a number or tensor as a tensor that broadcasts to `like`; refuse any other shape."""
    if not isinstance(value, Tensor):
        number(what, value, advice=f"Or pass a tensor that broadcasts to the {name}")
    base = tensor_on(value, like.device, like.dtype)
    fits = base.ndim <= like.ndim and all(
        n in (1, m) for n, m in zip(reversed(base.shape), reversed(like.shape), strict=False)
    )
    if fits:
        return base
    raise CamfnError(
        f"{what}: expected a number, or a tensor that broadcasts to the {name}, {tuple(like.shape)}; got shape "
        f"{tuple(base.shape)}. One number a channel has shape {(like.shape[1], *(1,) * (like.ndim - 2))}"
    )

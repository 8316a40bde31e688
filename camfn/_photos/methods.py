"""What a user asks of the command line, in words, checked before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from .. import attention, methods, network
from .._shared.errors import UsageError
from .classes import _near

PICTURES = tuple(name for name in network.__all__ if not name.endswith("full_grad"))
"""Methods of a whole network whose result has the channels of the image; that of the others is a map."""
PERTURBING = {"tail", "forward", "inputs"}
"""Keywords of the methods that run the network again."""


def named_methods() -> dict[str, Callable[..., Any]]:
    """List the methods on a layer, then those on attention, then those of a whole network, maps ahead of pictures."""
    on_layers = {name: getattr(methods, name) for name in methods.__all__}
    return on_layers | dict(attention.METHODS) | {name: getattr(network, name) for name in network.__all__}


def pick_method(name: str, seed: int) -> Callable[..., Any]:
    """Find a method that gives maps by name; one that draws gets its generator."""
    if name in PICTURES:
        raise UsageError(f"{name} gives a picture, no map: camfn guided --method {name}")
    known = named_methods()
    if name not in known:
        near = _near(name, [other for other in known if other not in PICTURES])
        raise UsageError(f"no method {name!r}. {near} All of them: camfn methods")
    return _seeded(known[name], seed)


def pick_picture(name: str, seed: int) -> Callable[..., Any]:
    """Find a method whose result has the channels of the image; one that draws gets its generator."""
    known = named_methods()
    if name not in PICTURES:
        found = f"{name} gives a map: camfn explain --method {name}." if name in known else f"no method {name!r}."
        raise UsageError(f"{found} Of pictures there are {', '.join(PICTURES)}")
    return _seeded(known[name], seed)


def of_network(method: Callable[..., Any]) -> bool:
    """Whether a method is of a whole network, and takes the model."""
    return getattr(method, "func", method) in [getattr(network, name) for name in network.__all__]


def takes_layer(method: Callable[..., Any]) -> bool:
    """Whether a method is taken at a layer, or at attention."""
    return not of_network(method) or "layer" in signature(method).parameters


def _seeded(method: Callable[..., Any], seed: int) -> Callable[..., Any]:
    if "generator" in signature(method).parameters:
        return partial(method, generator=torch.Generator().manual_seed(seed))
    return method


def pick_methods(names: str, seed: int) -> dict[str, Callable[..., Tensor]]:
    """Find methods by name, separated by commas; `all`; or `cheap`, those that ask nothing more of the network."""
    if names in ("all", "cheap"):
        every = {name: pick_method(name, seed) for name in methods.__all__}
        return {name: m for name, m in every.items() if names == "all" or not PERTURBING & set(signature(m).parameters)}
    given = list(dict.fromkeys(filter(None, (name.strip() for name in names.split(",")))))
    if not given:
        raise UsageError("methods: expected all, cheap, or names separated by commas, as grad_cam,layer_cam")
    return {name: pick_method(name, seed) for name in given}

"""Methods that a user names: found in the catalogue, and checked before anything runs."""

# tested in tests/cli/test_cli.py and tests/test_catalogue.py

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .._shared.errors import UsageError
from .._shared.spelling import near
from ..catalogue import METHODS, MethodInfo

MAPS = {row.name: row for row in METHODS if row.gives == "map"}
PICTURES = {row.name: row for row in METHODS if row.gives == "picture"}


def pick_method(name: str, seed: int) -> Callable[..., Any]:
    """Find a method that gives maps by its name, and bind a generator to a method that draws."""
    if name in PICTURES:
        raise UsageError(f"{name} gives a picture, no map: camfn guided --method {name}")
    if name not in MAPS:
        raise UsageError(f"no method {name!r}. {near(name, MAPS, words=True)} All of them: camfn methods")
    return _seeded(MAPS[name], seed)


def pick_picture(name: str, seed: int) -> Callable[..., Any]:
    """Find a method that gives pictures by its name, and bind a generator to a method that draws."""
    if name not in PICTURES:
        reason = f"{name} gives a map: camfn explain --method {name}." if name in MAPS else f"no method {name!r}."
        raise UsageError(f"{reason} Of pictures there are {', '.join(PICTURES)}")
    return _seeded(PICTURES[name], seed)


def pick_methods(names: str, seed: int) -> dict[str, Callable[..., Tensor]]:
    """Find methods by their names, separated by commas.

    Args:
        names: the names; or "all" for all methods on a layer; or "cheap" for those that run the network once.
        seed: seed of the methods that draw.
    """
    if names in ("all", "cheap"):
        rows = [row for row in METHODS if row.kind == "layer" and (names == "all" or not row.perturbs)]
        return {row.name: _seeded(row, seed) for row in rows}
    given = list(dict.fromkeys(filter(None, (name.strip() for name in names.split(",")))))
    if not given:
        raise UsageError("methods: expected all, cheap, or names separated by commas, as grad_cam,layer_cam")
    return {name: pick_method(name, seed) for name in given}


def _seeded(row: MethodInfo, seed: int) -> Callable[..., Any]:
    """Bind a generator to a method that draws."""
    return partial(row.function, generator=torch.Generator().manual_seed(seed)) if row.draws else row.function

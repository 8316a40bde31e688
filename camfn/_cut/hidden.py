"""References to modules that stand outside of the registry of children: bound methods, closures, lists, hooks.

A private copy of a module must reach the copies of others through these, or it would run, and write to, the originals.
"""

# tested in tests/cut/test_hidden.py

from __future__ import annotations

import copy
import random
import sys
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Mapping
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

_REGISTRIES = frozenset(vars(nn.Module())) | {"_compiled_call_impl"}
HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_TORCH = "torch.nn."
"""Classes of this package hold no such references; what is put on their instances is a forward or a hook."""

_ATOMS = frozenset({int, bool, float, str, type(None)})
_LONG = 1000
"""A list that is longer holds names or numbers."""


def references(module: nn.Module) -> list[str]:
    """Return the names of the attributes of a module that may lead to other modules, its registries of hooks too."""
    own = vars(module)
    hooked = own["_forward_hooks"] or own["_forward_pre_hooks"]
    names = [name for name in HOOKS if leads_to_module(own[name])] if hooked else []
    if holds_no_references(type(module)) and "forward" not in own:
        return names
    # what puts a forward on an instance keeps the old one beside it
    others = own.keys() - _REGISTRIES
    return names + [name for name in others if type(own[name]) not in _ATOMS and leads_to_module(own[name])]


def is_hooked(module: nn.Module) -> bool:
    """Whether a call of a module runs more than the forward of its class."""
    own = vars(module)
    return "forward" in own or any(own[name] for name in HOOKS)


def holds_no_references(kind: type[nn.Module]) -> bool:
    """Whether modules of a class hold references in their forward and their hooks alone."""
    return kind.__module__.startswith(_TORCH)


def leads_to_module(value: Any, depth: int = 4) -> bool:
    """Whether a value is, holds or is bound to a module."""
    return isinstance(value, nn.Module) or any(leads_to_module(part, depth - 1) for part in _parts(value, depth))


def _parts(value: Any, depth: int) -> list[Any]:
    """Return what a value of a few known kinds holds."""
    kind = type(value)
    if not depth or kind in _ATOMS:
        return []
    if kind is MethodType:
        return [value.__self__]
    if kind is partial:
        return [value.func, *value.args, *value.keywords.values()]
    if kind is FunctionType:
        return [*map(_content, value.__closure__ or ()), *(value.__defaults__ or ())]
    if kind is weakref.ref:
        return [value()]
    if kind in (list, tuple, dict, OrderedDict) and len(value) <= _LONG:
        return list(value.values() if isinstance(value, Mapping) else value)
    return []


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        # it is not filled yet
        return None


def attributes(module: nn.Module) -> dict[str, Any]:
    """Return the attributes of a module, but for its registries."""
    return {name: value for name, value in vars(module).items() if name not in _REGISTRIES}


def written(module: nn.Module, before: Mapping[str, Any]) -> bool:
    """Whether a module has other attributes than before."""
    return any(before.get(name) is not value for name, value in attributes(module).items())


def rebound(value: Any, copies: Mapping[int, nn.Module], depth: int = 4) -> Any:
    """Return a value with the copies in the place of modules; the value itself where it leads to none of them."""
    if isinstance(value, nn.Module):
        return copies.get(id(value), value)
    parts = _parts(value, depth)
    others = [rebound(part, copies, depth - 1) for part in parts]
    if all(other is part for other, part in zip(others, parts)):
        return value
    return _with_parts(value, others)


def _with_parts(value: Any, parts: list[Any]) -> Any:
    if isinstance(value, MethodType):
        return MethodType(value.__func__, parts[0])
    if isinstance(value, partial):
        args = parts[1 : len(value.args) + 1]
        return partial(parts[0], *args, **dict(zip(value.keywords, parts[len(args) + 1 :])))
    if isinstance(value, FunctionType):
        return _function(value, parts)
    if isinstance(value, weakref.ref):
        return weakref.ref(parts[0])
    kind: Any = type(value)
    return kind(zip(value, parts)) if isinstance(value, Mapping) else kind(parts)


def _function(value: FunctionType, parts: list[Any]) -> FunctionType:
    """Return the function with other contents of its closure; cells whose content stays are shared."""
    cells = value.__closure__ or ()
    closure = tuple(cell if _content(cell) is part else CellType(part) for cell, part in zip(cells, parts))
    defaults = tuple(parts[len(cells) :]) or None
    function = FunctionType(value.__code__, value.__globals__, value.__name__, defaults, closure or None)
    function.__kwdefaults__ = value.__kwdefaults__
    function.__dict__.update(value.__dict__)
    return function


_HOLDERS = (list, tuple, dict, OrderedDict, defaultdict, deque, set)


def apart(value: Any, memo: dict[int, Any]) -> Any:
    """Return a value that may be written to beside the original: tensors, containers, arrays and random generators.

    Modules, parameters, functions and objects of other classes are the original's. `memo` has the copies by the
    original's id, so that what stands at two places does so in the copies.
    """
    kind = type(value)
    if kind in _ATOMS or isinstance(value, (nn.Module, nn.Parameter)):
        return value
    if id(value) not in memo:
        memo[id(value)] = value
        if kind in _HOLDERS:
            memo[id(value)] = _held_apart(value, memo)
        elif isinstance(value, Tensor):
            memo[id(value)] = value.detach().clone()
        elif isinstance(value, torch.Generator):
            memo[id(value)] = torch.Generator(value.device).set_state(value.get_state())
        elif isinstance(value, (random.Random, *_of_numpy())):
            memo[id(value)] = copy.deepcopy(value)
    return memo[id(value)]


def _held_apart(value: Any, memo: dict[int, Any]) -> Any:
    """Return a container that holds copies."""
    if isinstance(value, tuple):
        parts = tuple(apart(part, memo) for part in value)
        return value if all(part is other for part, other in zip(parts, value)) else parts
    other = memo[id(value)] = copy.copy(value)
    if not isinstance(value, set):
        for place, part in value.items() if isinstance(value, Mapping) else enumerate(value):
            other[place] = apart(part, memo)
    return other


def _of_numpy() -> tuple[type, ...]:
    """Return NumPy's classes that are written to, if it is imported."""
    numpy = sys.modules.get("numpy")
    return () if numpy is None else (numpy.ndarray, numpy.random.Generator, numpy.random.RandomState)

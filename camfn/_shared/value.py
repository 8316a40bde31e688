"""Values: frozen dataclasses that compare by what they hold and print like the call that makes them."""

from __future__ import annotations

from dataclasses import MISSING, fields
from functools import partial
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


class Value:
    """The base of a frozen dataclass, written `@dataclass(frozen=True, eq=False, repr=False)`.

    Two values are equal if they are of one class and hold equal fields: tensors with the same numbers, modules and
    functions that are the same object, `functools.partial` with the same parts. Fields that begin with an underscore
    do not count. `class Name(Value, tree=True)` is a pytree whose leaves are its tensors, so that `vmap` takes it.
    """

    def __init_subclass__(cls, *, tree: bool = False, **options: Any) -> None:
        super().__init_subclass__(**options)
        if tree:
            pytree.register_pytree_node(cls, _flatten, _unflatten)

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(_equal(mine, others) for mine, others in zip(_held(self).values(), _held(other).values()))

    def __hash__(self) -> int:
        return hash((type(self), *map(_hash, _held(self).values())))

    def __repr__(self) -> str:
        parts: list[str] = []
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.name.startswith("_") or not field.init:
                continue
            if field.kw_only or (parts and "=" in parts[-1]) or field.default is not MISSING:
                if field.default is MISSING or not _equal(value, field.default):
                    parts.append(f"{field.name}={shown(value)}")
            else:
                parts.append(shown(value))
        return f"{type(self).__name__}({', '.join(parts)})"


def shown(value: Any) -> str:
    """Print a value as it stands in a call: a module by its class, a function by its name, a large tensor by shape."""
    if isinstance(value, nn.Module):
        return type(value).__name__
    if isinstance(value, (FunctionType, BuiltinFunctionType, type)):
        return value.__name__
    if isinstance(value, partial):
        bound = [*map(shown, value.args), *(f"{key}={shown(item)}" for key, item in value.keywords.items())]
        return f"partial({', '.join([shown(value.func), *bound])})"
    if isinstance(value, Tensor) and value.numel() > 8:
        return f"<tensor {tuple(value.shape)}>"
    if isinstance(value, (list, tuple)):
        items = ", ".join(map(shown, value))
        return f"[{items}]" if isinstance(value, list) else f"({items}{',' if len(value) == 1 else ''})"
    return repr(value)


def _held(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value) if not field.name.startswith("_")}


def _equal(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        both = isinstance(one, Tensor) and isinstance(other, Tensor)
        return both and one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)
    if isinstance(one, partial) and isinstance(other, partial):
        return _equal((one.func, one.args, one.keywords), (other.func, other.args, other.keywords))
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    return bool(one == other)


def _hash(value: Any) -> int:
    if isinstance(value, Tensor):
        return hash((tuple(value.shape), value.dtype))
    if isinstance(value, partial):
        return hash((_hash(value.func), _hash(value.args), _hash(value.keywords)))
    if isinstance(value, (list, tuple)):
        return hash(tuple(map(_hash, value)))
    if isinstance(value, dict):
        return hash(frozenset((key, _hash(item)) for key, item in value.items()))
    return hash(value)


_Parts = tuple[type[Any], tuple[str, ...], tuple[tuple[str, Any], ...]]


def _flatten(value: Any) -> tuple[list[Any], _Parts]:
    held = {field.name: getattr(value, field.name) for field in fields(value)}
    # a tree that vmap rebuilds holds axes in the place of tensors, and must still flatten alike
    names = value.__dict__.get("_leaves") or [name for name, item in held.items() if isinstance(item, Tensor)]
    leaves = {name: held[name] for name in names}
    rest = tuple((name, item) for name, item in held.items() if name not in leaves)
    return list(leaves.values()), (type(value), tuple(leaves), rest)


def _unflatten(leaves: Any, parts: _Parts) -> Any:
    """Put a value together again without its checks: a leaf may be anything, as an axis of `vmap` or None."""
    cls, names, rest = parts
    value = object.__new__(cls)
    value.__dict__.update({**dict(zip(names, leaves)), **dict(rest), "_leaves": names})
    return value

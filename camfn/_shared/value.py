"""Values: frozen dataclasses that compare by what they hold and print like the call that makes them."""

from __future__ import annotations

import html
from dataclasses import MISSING, dataclass, field, fields
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from typing_extensions import dataclass_transform

from .seen import table, words

Class = TypeVar("Class", bound=type[Any])


@dataclass_transform(eq_default=False, frozen_default=True, field_specifiers=(field,))
def frozen(cls: Class) -> Class:
    """Make a subclass of `Value` a frozen dataclass."""
    made = dataclass(frozen=True, eq=False, repr=False)(cls)
    _let_python_run(made.__init__.__code__)
    return cast(Class, made)


def _let_python_run(code: CodeType) -> None:
    """Keep the compiler from a frame of its own for this code, for it fails on the `__init__` of a frozen dataclass.

    It needs one where compiled code breaks off in the call of a value that it has made. It still traces the code from
    another frame.
    """
    frames: Any = torch._C._dynamo.eval_frame
    if hasattr(frames, "set_code_exec_strategy"):
        action = frames._FrameAction
        frames.set_code_exec_strategy(code, frames._FrameExecStrategy(action.SKIP, action.DEFAULT))
    elif hasattr(frames, "skip_code"):
        frames.skip_code(code)


class Value:
    """The base of a frozen dataclass, which the decorator `frozen` makes of it.

    Two values are equal if they are of one class and hold equal fields: tensors with the same numbers, modules and
    functions that are the same object, `functools.partial` with the same parts. Fields that begin with an underscore
    do not count. `class Name(Value, tree=True)` is a pytree, so that `vmap` takes it; its leaves are its tensors, also
    those in its tuples and in other trees that it holds.
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

    def __getstate__(self) -> dict[str, Any]:
        return {key: item for key, item in self.__dict__.items() if key != "_flat"}

    def _repr_html_(self) -> str | None:
        """Show in a notebook what an explainer, or another function of a network, is made of; None for other values."""
        return described(self) if _holds_network(self) else None

    def __repr__(self) -> str:
        parts: list[str] = []
        by_place = True
        # those of a parent class that go by keyword alone stand before the arguments by place
        for one in sorted(fields(cast(Any, self)), key=lambda one: bool(one.kw_only)):
            value = getattr(self, one.name)
            by_place = by_place and not one.kw_only
            if one.name.startswith("_") or not one.init:
                continue
            if one.default is not MISSING and _equal(value, one.default):
                by_place = False
            else:
                parts.append(shown(value) if by_place else f"{one.name}={shown(value)}")
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
    if isinstance(value, Tensor):
        return " ".join(repr(value).split())
    if isinstance(value, (list, tuple)):
        items = ", ".join(map(shown, value))
        return f"[{items}]" if isinstance(value, list) else f"({items}{',' if len(value) == 1 else ''})"
    return repr(value)


def described(value: Any) -> str:
    """Lay a value out as a table in HTML: what it does, and what each of its arguments is; defaults are left out."""
    rows = []
    for one in fields(value):
        held = getattr(value, one.name)
        if not one.name.startswith("_") and one.init and (one.default is MISSING or not _equal(held, one.default)):
            rows.append([html.escape(one.name), _described(held)])
    about = words((type(value).__doc__ or "").partition("\n")[0])
    return table([], [[type(value).__name__, about], *rows])


def _described(held: Any) -> str:
    """Describe one argument: a network by its size, a function by what it says of itself."""
    if isinstance(held, Value) and _holds_network(held):
        return described(held)
    text = html.escape(shown(held))
    if isinstance(held, nn.Module):
        return f"{text}, {sum(p.numel() for p in held.parameters()):,} parameters"
    function = held.func if isinstance(held, partial) else held
    if isinstance(function, FunctionType) and function.__doc__:
        return f"{text}<br><small>{words(function.__doc__.strip().partition(chr(10))[0])}</small>"
    return text


def _holds_network(value: Any) -> bool:
    """Whether a value holds a module, by itself or in another value."""
    held = _held(value).values()
    return any(isinstance(one, nn.Module) or (isinstance(one, Value) and _holds_network(one)) for one in held)


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


_Parts = tuple[type[Any], tuple[str, ...], pytree.TreeSpec, tuple[int, ...], tuple[Any, ...]]


def _flatten(value: Any) -> tuple[list[Any], _Parts]:
    """Take the tensors out of a value, also those in its tuples and in values that it holds."""
    if "_flat" in value.__dict__:
        flat: tuple[list[Any], _Parts] = value.__dict__["_flat"]
        return flat
    names = tuple(field.name for field in fields(value))
    leaves, spec = pytree.tree_flatten([getattr(value, name) for name in names])
    places = tuple(i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor))
    rest = tuple(leaf for leaf in leaves if not isinstance(leaf, Tensor))
    return [leaves[i] for i in places], (type(value), names, spec, places, rest)


def _unflatten(leaves: Any, parts: _Parts) -> Any:
    """Put a value together again without its checks: a leaf may be anything, as an axis of `vmap` or None."""
    cls, names, spec, places, rest = parts
    tensors = list(leaves)
    taken, kept = iter(tensors), iter(rest)
    merged = [next(taken) if i in places else next(kept) for i in range(len(tensors) + len(rest))]
    value = object.__new__(cls)
    # a tree that vmap rebuilds holds axes in the place of tensors, and must still flatten alike
    value.__dict__.update({**dict(zip(names, pytree.tree_unflatten(merged, spec))), "_flat": (tensors, parts)})
    return value

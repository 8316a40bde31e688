"""Options of a method in words: which there are, and the value of each, held to what the signature says."""

# tested in tests/photos/test_methods.py

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from functools import partial
from inspect import Parameter, signature
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from torch import Tensor

from .._cut.signature import CONTEXT
from .._shared.errors import UsageError
from .._shared.lists import unquoted

_BOUND = {*CONTEXT, "generator", "layer", "layout", "images", "select", "differentiable"}
"""Keywords that a run binds by itself, or that no words can say."""
_WORDS = {"true": True, "false": False, "none": None}
_PLAIN = (bool, int, float, str, NoneType)


class Option(NamedTuple):
    """An option of a method.

    Attributes:
        owner: name of the method.
        key: name of the option.
        hint: its type, or Any where the signature does not say.
    """

    owner: str
    key: str
    hint: Any


def options_of(function: Callable[..., Any]) -> dict[str, Option]:
    """Return the options of a method by name: keywords that no run binds, and further parameters with a default."""
    plain: Any = function
    while isinstance(plain, partial):
        plain = plain.func
    scope = vars(sys.modules[plain.__module__]) if getattr(plain, "__module__", None) in sys.modules else {}
    found = {}
    for place, parameter in enumerate(signature(function).parameters.values()):
        by_name = parameter.kind is Parameter.POSITIONAL_OR_KEYWORD and place > 0
        extra = by_name and parameter.default is not Parameter.empty and parameter.name not in ("grads", "outputs")
        if parameter.name not in _BOUND and (extra or parameter.kind is Parameter.KEYWORD_ONLY):
            key = parameter.name
            found[key] = Option(getattr(plain, "__name__", "method"), key, _hint(parameter.annotation, scope))
    return found


def _hint(annotation: Any, scope: dict[str, Any]) -> Any:
    """Evaluate an annotation; one that names what is not imported is Any, and the option goes unchecked."""
    try:
        return get_type_hints(type("_", (), {"__annotations__": {"it": annotation}}), scope).get("it", Any)
    except Exception:
        return Any


def read_option(option: Option, text: str) -> Any:
    """Read a value: true, false, none, a number, a tuple, or a word.

    Raises:
        UsageError: the option takes no such value.
    """
    if text.casefold() in _WORDS:
        value: Any = _WORDS[text.casefold()]
    else:
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = unquoted(text)
    if not _takes(option.hint, value):
        raise UsageError(f"{option.owner}: {option.key}={text}: expected {_shown(option.hint)}")
    return value


def _takes(hint: Any, value: Any) -> bool:
    """Whether a value is of a type; of types that words cannot be checked against, it is."""
    if get_origin(hint) in (Union, UnionType):
        return any(_takes(each, value) for each in get_args(hint))
    if get_origin(hint) is Literal:
        return any(type(each) is type(value) and each == value for each in get_args(hint))
    if hint is None:
        return value is None
    if hint is float:
        return type(value) in (int, float)
    if hint in _PLAIN:
        return type(value) is hint
    if hint is Tensor:
        return False
    if hint is Parameter.empty:
        return True
    return not isinstance(hint, type) or not isinstance(value, (bool, NoneType))


def _shown(hint: Any) -> str:
    """Write a type as a user gives its values."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_shown(each) for each in get_args(hint) if each is not Tensor)
    if get_origin(hint) is Literal:
        return " or ".join(str(each) for each in get_args(hint))
    names = {bool: "true or false", int: "an integer", float: "a number", str: "a word", NoneType: "none"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))

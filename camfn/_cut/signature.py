"""What a method's signature asks for."""

# tested in tests/cut/test_explainer.py

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
from typing import NamedTuple

from torch import Tensor

from .._shared.errors import ArgumentTypeError

CONTEXT = ("tail", "forward", "inputs", "chunk_size", "progress")
"""Keywords of a method that `explainer` binds."""


class MethodNeeds(NamedTuple):
    """What a method's signature asks for."""

    positional: int
    gradients: bool
    context: set[str]


def read_signature(method: Callable[..., Tensor]) -> MethodNeeds:
    parameters = signature(method).parameters
    places = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    positional = [p for p in parameters.values() if p.kind in places][:3]
    keywords = {key: p for key, p in parameters.items() if p.kind is Parameter.KEYWORD_ONLY}
    missing = [key for key, p in keywords.items() if p.default is Parameter.empty and key not in CONTEXT]
    if missing:
        name = getattr(method, "__name__", "this method")
        raise ArgumentTypeError(
            f"{name} needs {', '.join(missing)}, which explainer does not bind. Bind it first: "
            f"explainer(functools.partial({name}, {missing[0]}=...), model, layer)"
        )
    variadic = any(p.kind is Parameter.VAR_POSITIONAL for p in parameters.values())
    gradients = variadic or (len(positional) > 1 and positional[1].default is Parameter.empty)
    # a keyword bound by functools.partial shows as one with a default, and stays as it was bound
    unbound = {key for key in CONTEXT if key in keywords and keywords[key].default in (Parameter.empty, None)}
    return MethodNeeds(3 if variadic else len(positional), gradients, unbound | ({"chunk_size"} & set(keywords)))

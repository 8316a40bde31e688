"""What a method's signature asks for."""

# tested in tests/cut/test_explainer.py

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from inspect import Parameter, signature
from typing import Any, NamedTuple

from torch import Tensor

from .._shared.checks import describe
from .._shared.errors import ArgumentTypeError
from .._shared.spelling import near
from .._shared.value import Value

CONTEXT = ("tail", "forward", "inputs", "weights", "chunk_size", "progress")
"""Keywords of a method that `explainer` binds."""


class MethodNeeds(NamedTuple):
    """What a method's signature asks for."""

    positional: int
    gradients: bool
    context: set[str]
    over_images: bool = False


def _parameters(method: Any) -> Mapping[str, Parameter]:
    """Return the parameters of a method; refuse what is none, and a partial that binds a keyword it does not have."""
    if not callable(method):
        raise ArgumentTypeError(
            f"method: expected a function (activations, grads, outputs) -> cam, such as camfn.methods.grad_cam; got "
            f"{describe(method)}"
        )
    kind = method if isinstance(method, type) else type(method)
    if issubclass(kind, Value) and "model" in getattr(kind, "__dataclass_fields__", ()):
        raise ArgumentTypeError(
            f"method: expected a function (activations, grads, outputs) -> cam, such as camfn.methods.grad_cam; got "
            f"{kind.__name__}, which explains a model by itself: {kind.__name__}(...)(inputs, target)"
        )
    try:
        return signature(method).parameters
    except (TypeError, ValueError) as error:
        inner = method
        while isinstance(inner, partial):
            inner = inner.func
        name = getattr(inner, "__name__", "method")
        if not isinstance(method, partial) or not callable(inner):
            raise ArgumentTypeError(
                f"method: {name} has no signature that can be read; pass a function of yours"
            ) from error
        known = [key for key, p in signature(inner).parameters.items() if p.kind is Parameter.KEYWORD_ONLY]
        wrong = next((key for key in method.keywords if key not in signature(inner).parameters), None)
        if wrong is None:
            raise ArgumentTypeError(
                f"method: {name} does not take {len(method.args)} more arguments by position"
            ) from error
        raise ArgumentTypeError(f"method: {name} has no keyword {wrong!r}. {near(wrong, known)}") from error


def _is_unbound(key: str, default: Any) -> bool:
    """Whether a keyword is left to `explainer`; rows of the head only where the method cannot do without."""
    return default is Parameter.empty or (default is None and key != "weights")


def read_signature(method: Callable[..., Tensor]) -> MethodNeeds:
    parameters = _parameters(method)
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
    unbound = {key for key in CONTEXT if key in keywords and _is_unbound(key, keywords[key].default)}
    plain = method
    while isinstance(plain, partial):
        plain = plain.func
    over = getattr(plain, "lays_over_images", False)
    return MethodNeeds(3 if variadic else len(positional), gradients, unbound | ({"chunk_size"} & set(keywords)), over)

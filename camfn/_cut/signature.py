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

_BY_NAME = (*CONTEXT, "generator")
"""Parameters that camfn passes by name, with or without a `*` before them."""
_BY_PLACE = ("activations", "grads", "outputs")


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


def _name(method: Any) -> str:
    """Return the name of a function, of a partial of one too."""
    while isinstance(method, partial):
        method = method.func
    return getattr(method, "__name__", "this method")


def _check_order(
    method: Any,
    parameters: Mapping[str, Parameter],
    positional: list[Parameter],
    keywords: Mapping[str, Parameter],
) -> None:
    """Refuse a method that takes nothing, and one with tensors behind a parameter that camfn passes by name."""
    kinds = {p.kind for p in parameters.values()}
    if not positional and not keywords and Parameter.VAR_POSITIONAL not in kinds:
        raise ArgumentTypeError(
            f"{_name(method)} takes nothing by position: expected a function (activations, grads, outputs) -> cam, "
            "with as many of the three as it reads"
        )
    order = list(parameters)
    first = next((key for key in order if key in keywords and key in _BY_NAME), None)
    late = [p.name for p in positional if first is not None and order.index(p.name) > order.index(first)]
    if late:
        raise ArgumentTypeError(
            f"{_name(method)} takes {late[0]} behind {first}: activations, grads and outputs come first, by position; "
            f"then, by name, {', '.join(_BY_NAME)}"
        )


def read_signature(method: Callable[..., Tensor]) -> MethodNeeds:
    parameters = _parameters(method)
    places = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    keywords = {
        key: p
        for key, p in parameters.items()
        if p.kind is Parameter.KEYWORD_ONLY or (p.kind is Parameter.POSITIONAL_OR_KEYWORD and key in _BY_NAME)
    }
    positional = [p for key, p in parameters.items() if p.kind in places and key not in keywords]
    beyond = [p.name for p in positional[3:] if p.default is Parameter.empty]
    if beyond:
        name = _name(method)
        raise ArgumentTypeError(
            f"{name} takes {', '.join(beyond)} by position behind the first three, which nothing fills: expected a "
            f"function (activations, grads, outputs) -> cam. Bind the rest: functools.partial({name}, {beyond[0]}=...)"
        )
    positional = positional[:3]
    _check_order(method, parameters, positional, keywords)
    missing = [key for key, p in keywords.items() if p.default is Parameter.empty and key not in CONTEXT]
    if missing:
        name = _name(method)
        by_place = [key for key in missing if key in _BY_PLACE]
        if by_place:
            raise ArgumentTypeError(
                f"{name} takes {by_place[0]} by name, and camfn passes it by position: write def {name}(activations, "
                "grads, outputs), as many of the three as it reads"
            )
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

"""Metrics of one's own: a function whose parameters say what it measures, and which way is better."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from inspect import Parameter, signature
from typing import Any, Literal

import torch
from torch import Tensor

from ..._photos.methods import with_options
from ..._shared.errors import UsageError
from ..._shared.given import is_given, named_object
from ..._shared.spelling import near
from .._inputs.protocol import Protocol
from .metrics import METRICS, Explanation, Metric

Better = Literal["higher", "lower", "none"]
_SIGN: dict[Better, int] = {"higher": 1, "lower": -1, "none": 0}
_DIRECTION: dict[Any, Better] = {given: word for word, sign in _SIGN.items() for given in (word, sign)}
"""The direction that a user gave as a word, or as the sign of `Metric.better`."""

_NAMED = re.compile(r"(?P<words>.+?):better=(?P<better>higher|lower|none)(?P<options>,.*)?", re.DOTALL)

GIVEN: dict[str, Callable[[Explanation], Any]] = {
    "heatmap": lambda e: e.heatmap.clone(),
    "cam": lambda e: e.cam.clone(),
    "images": lambda e: e.images.clone(),
    "model": lambda e: e.model,
    "score": lambda e: e.score,
    "boxes": lambda e: e.boxes.clone(),
    "explain": lambda e: partial(e.explain, e.model),
    "generator": lambda e: e.generator("metric"),
    "explanation": lambda e: e,
}
"""What a metric may ask for by the names of its parameters; tensors are copies, for a function may write to them."""


def metric(
    function: Callable[..., Any], *, better: Better | None = None, about: str = "", again: int | None = None
) -> Metric:
    """Make a metric of a function of yours, for `Protocol(metrics=...)` and `tune`.

    The names of its parameters say what it gets: `heatmap`, the map scaled to [0, 1] at the size of the images,
    (1, H, W); `cam`, the raw map; `images`, (1, C, H, W); `model`; `score`, a function from images to the
    probability of the class, (B,); `boxes`, (n, 4) in pixels; `explain`, a function from images to their raw map;
    `generator`, seeded for this photo; `explanation`, all of these as attributes.

    Args:
        function: returns a number, or a number and a vector.
        better: "higher", "lower", or "none" if the number only describes the map; None reads the attribute `better` of
            the function.
        about: the metric in a few words.
        again: number of explanations that it makes beyond the first; None is one if it asks for `explain`.

    Returns:
        A `Metric`, whose name ends in the direction, as in "mine:better=lower".

    Raises:
        UsageError: no direction, a parameter that nothing fills, or a function without a name.

    Example:
        >>> def peak(heatmap):
        ...     return heatmap.flatten().topk(10).values.mean()
        >>> metric(peak, better="higher").name
        'peak:better=higher'
    """
    if not callable(function) or not getattr(function, "__name__", "").isidentifier():
        raise UsageError(f"metric: expected a function with a name of its own, got {function!r:.60}")
    return _made(function, function.__name__, better, {}, about, again)


def read_metric(words: str | Metric | Callable[..., Any]) -> Metric:
    """Find a metric of `METRICS` by its name, or import one of a user's, as in `file.py:name:better=lower,k=2`.

    A function that says which way is better needs no `metric` around it.

    Raises:
        UsageError: there is none, or it does not say which way is better.
    """
    if isinstance(words, Metric):
        if not words.name:
            raise UsageError("a Metric of your own needs a name: camfn.evaluate.metric(function, better=...)")
        return words
    if callable(words):
        return metric(words)
    if words in METRICS:
        return METRICS[words]
    place, _, options = words, "", ""
    if not is_given(words):
        found = re.fullmatch(r"(.+?):([A-Za-z_]\w*=.*)", words, re.DOTALL)
        place, options = found.groups() if found else (words, "")
    if not is_given(place):
        if place.endswith(".py"):
            raise UsageError(f"metric {place!r}: say which function of the file, as in {place}:function:better=lower")
        raise UsageError(
            f"no metric {words!r}. {near(words, METRICS, words=True)} One of yours: file.py:function:better=lower"
        )
    function = named_object(place, "metric")
    if isinstance(function, Metric):
        return function._replace(name=f"{place}:better={_DIRECTION[function.better]}")
    if not callable(function):
        raise UsageError(f"metric {place}: expected a function, got {type(function).__name__}")
    parts = [part for part in options.split(",") if part]
    better = next((part.partition("=")[2] for part in parts if part.startswith("better=")), None)
    if better is not None and better not in ("higher", "lower", "none"):
        raise UsageError(f"metric {words}: better={better}: expected higher, lower or none")
    rest = ",".join(part for part in parts if not part.startswith("better="))
    return _made(function, place, better, with_options(function, place, rest), "", None)


def metrics_of(protocol: Protocol) -> dict[str, Metric]:
    """List the metrics of a protocol by name: those of `METRICS` in their order, then those of a user's own.

    Raises:
        UsageError: one is unknown, or two have one name.
    """
    if protocol.metrics is None:
        return dict(METRICS)
    given = [(words if words in METRICS else "", read_metric(words)) for words in dict.fromkeys(protocol.metrics)]
    found: dict[str, Metric] = {}
    for key, each in given:
        name = key or each.name
        if found.setdefault(name, each) is not each:
            raise UsageError(f"two metrics are called {name!r}: rename one")
    return {name: found[name] for name in in_order(set(found))}


def measured(protocol: Protocol) -> tuple[str, ...]:
    """List the names of the metrics of a protocol, as `metrics_of` does."""
    return tuple(metrics_of(protocol))


def known_metric(name: str) -> Metric:
    """Return what a table says of a metric by its name alone, without running the code of one of a user's own.

    Raises:
        UsageError: no metric can have this name.
    """
    if name in METRICS:
        return METRICS[name]
    found = _NAMED.fullmatch(name)
    if found is None:
        raise UsageError(f"no metric {name!r}: expected one of {', '.join(METRICS)}")
    return Metric(_SIGN[_DIRECTION[found["better"]]], _not_here, "a metric of your own", name=name)


def in_order(names: set[str]) -> list[str]:
    """Sort names of metrics: those of `METRICS` in their order, then those of a user's own."""
    return [*(name for name in METRICS if name in names), *sorted(names - set(METRICS))]


def short(name: str) -> str:
    """Return the name of a metric for plots: without the file of one's own, and its direction."""
    found = _NAMED.fullmatch(name)
    return name if found is None else found["words"].rpartition(":")[2]


def _not_here(_: Explanation) -> Tensor:
    raise UsageError(
        "this Metric comes from stored results, which do not hold its function: pass metric(function, better=...)"
    )


def _made(
    function: Callable[..., Any], place: str, better: Any, options: dict[str, Any], about: str, again: int | None
) -> Metric:
    """Make the metric of a function, its direction, and its options."""
    better = getattr(function, "better", None) if better is None else better
    if better not in _DIRECTION:
        raise UsageError(
            f"metric {place}: say which way is better: {place}:better=higher, better=lower, or better=none; in Python "
            f"metric({function.__name__}, better='higher')"
        )
    asked = _asked(function, place, options)
    direction = _DIRECTION[better]
    shown = "".join(f",{key}={value!r}" for key, value in sorted(options.items()))
    first = (function.__doc__ or "").strip().partition("\n")[0]
    return Metric(
        _SIGN[direction],
        partial(_measure, function, asked, options, place),
        about or first or "a metric of your own",
        boxes="boxes" in asked,
        again=int("explain" in asked) if again is None else again,
        name=f"{place}:better={direction}{shown}",
    )


def _asked(function: Callable[..., Any], place: str, options: dict[str, Any]) -> tuple[str, ...]:
    """List what a function asks for, and refuse a parameter that nothing fills."""
    try:
        parameters = signature(function).parameters
    except (TypeError, ValueError) as error:
        raise UsageError(f"metric {place}: its signature cannot be read: pass a function of yours") from error
    variadic = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    asked = tuple(key for key, p in parameters.items() if key in GIVEN and key not in options)
    required = [key for key, p in parameters.items() if p.default is Parameter.empty and p.kind not in variadic]
    missing = [key for key in required if key not in (*asked, *options)]
    if missing or not asked:
        what = f"nothing fills its parameter {missing[0]!r}" if missing else "it asks for nothing"
        raise UsageError(f"metric {place}: {what}: name what it measures, some of {', '.join(GIVEN)}")
    return asked


def _measure(
    function: Callable[..., Any], asked: tuple[str, ...], options: dict[str, Any], place: str, explanation: Explanation
) -> Tensor | tuple[Tensor, Tensor]:
    """Call a function with what it asks for, and hold its result to be a number, or a number and a vector."""
    found = function(**{key: GIVEN[key](explanation) for key in asked}, **options)
    vector = found[1] if isinstance(found, tuple) and len(found) == 2 else None
    try:
        number = torch.as_tensor(found[0] if vector is not None else found)
    except (TypeError, ValueError, RuntimeError):
        number = torch.empty(0)  # words, None, lists of unequal lengths
    if number.numel() != 1 or number.is_complex() or (vector is not None and torch.as_tensor(vector).ndim != 1):
        got = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"{found!r:.80}"
        raise UsageError(f"metric {place}: expected one number, or a number and a vector; got {got}")
    number = number.detach().reshape(1).float()
    return number if vector is None else (number, torch.as_tensor(vector))

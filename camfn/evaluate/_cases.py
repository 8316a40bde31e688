"""Cases to evaluate: a model, a layer, a method and its options, written as on the command line."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from functools import partial
from inspect import Parameter, signature
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._cut.signature import CONTEXT
from .._shared.errors import UsageError
from .._shared.spelling import near
from ..catalogue import METHODS, find

CAPPED: dict[str, str] = {
    "score_cam": "top_k=0.05",
    "ss_cam": "samples=4,top_k=0.02",
    "is_cam": "steps=4,top_k=0.02",
    "poly_cam": "top_k=0.05",
    "opti_cam": "steps=30",
    "rise": "samples=200",
    "d_rise": "samples=200",
    "smooth_full_grad": "samples=5",
}
"""Options of `capped` for the methods that cost most; `capped` runs all other methods with their defaults."""


class Case(NamedTuple):
    """One way to explain a model.

    Attributes:
        model: the name of a model, as `zoo.load` takes it.
        layer: a dotted name, or "auto".
        method: the name of a method, or of a baseline: "center" or "random".
        options: options of the method, as in "top_k=0.1,by='gradient'"; empty for none.
    """

    model: str
    layer: str
    method: str
    options: str = ""

    @property
    def name(self) -> str:
        """The method with its options, as the command line takes it."""
        return f"{self.method}:{self.options}" if self.options else self.method

    def __str__(self) -> str:
        return f"{self.model} {self.layer} {self.name}"


def center(height: int, width: int) -> Tensor:
    """Gaussian in the center of the image, its deviation a quarter of each side: the baseline that needs no network.

    Args:
        height: height in pixels.
        width: width in pixels.

    Returns:
        (1, height, width), largest in the middle.

    Example:
        >>> center(3, 3)[0, 1].tolist() == center(3, 3)[0, :, 1].tolist()
        True
    """
    down, across = ((torch.arange(n) + 0.5) / n - 0.5 for n in (height, width))
    return torch.exp(-(down[:, None].square() + across.square()) / (2 * 0.25**2))[None]


BASELINES = ("center", "random")
"""Maps to compare every method with: `center`, and uniform noise with one value for every 32 pixels."""


def cases(models: Iterable[str], names: Iterable[str], layers: Iterable[str] = ("auto",)) -> list[Case]:
    """Cross models, methods and layers, and add the two baselines.

    Args:
        models: names of models, as `zoo.load` takes them.
        names: methods, as in "grad_cam" or "score_cam:top_k=0.1"; `|` between values gives one case for each value, as
            in "score_cam:top_k=0.05|0.1". "all" stands for all methods on a layer or of the whole network, "cheap" for
            the methods that run the network once, "capped" for all methods with the options of `CAPPED`, which take
            fewer samples (every table shows the options).
        layers: dotted names, or "auto".

    Returns:
        Each case once, in the order of the arguments, baselines last.

    Raises:
        UsageError: an unknown method or option.

    Example:
        >>> [str(case) for case in cases(["lite0"], ["score_cam:top_k=0.05|0.1"])][:2]
        ['lite0 auto score_cam:top_k=0.05', 'lite0 auto score_cam:top_k=0.1']
    """
    layers = list(layers)
    chosen = [spec for name in names for spec in _methods_and_options(name)]
    crossed = [
        Case(model, layer, *spec) for model in models for layer in layers for spec in chosen if spec[0] not in BASELINES
    ]
    crossed += [
        Case(model, "auto", name) for model in dict.fromkeys(case.model for case in crossed) for name in BASELINES
    ]
    return list(dict.fromkeys(crossed))


def method_of(case: Case, generator: torch.Generator) -> Callable[..., Tensor]:
    """Return the function of a case, with its options and, for a method that draws, the generator bound."""
    info = find(case.method)
    options = dict(_parsed(case.method, case.options))
    if info.draws:
        options.setdefault("generator", generator)
    return partial(info.function, **options) if options else info.function


def _methods_and_options(name: str) -> list[tuple[str, str]]:
    """List the (method, options) that one entry of `names` stands for."""
    if name in ("all", "cheap", "capped"):
        maps = [row for row in METHODS if row.gives == "map" and row.kind != "attention"]
        chosen = [row.name for row in maps if name != "cheap" or (row.kind == "layer" and not row.perturbs)]
        return [(key, _canonical(key, CAPPED.get(key, "") if name == "capped" else "")) for key in chosen]
    method, _, options = name.partition(":")
    if method in BASELINES and not options:
        return [(method, "")]
    names = [row.name for row in METHODS]
    if method not in names:
        raise UsageError(f"no method {method!r}. {near(method, [*names, *BASELINES])} Or all, cheap, capped")
    if find(method).gives == "picture":
        raise UsageError(f"{method} gives a picture, and the metrics need a map")
    alternatives = [
        [f"{part.partition('=')[0]}={value}" for value in part.partition("=")[2].split("|")]
        for part in filter(None, options.split(","))
    ]
    return [(method, _canonical(method, ",".join(values))) for values in product(*alternatives)]


def _canonical(method: str, options: str) -> str:
    """Sort options and write each value in one way, so that equal cases have equal names."""
    return ",".join(f"{key}={value!r}" for key, value in sorted(_parsed(method, options)))


def _parsed(method: str, options: str) -> list[tuple[str, Any]]:
    """Read options, and check that the method has them."""
    parameters = signature(find(method).function).parameters.values()
    known = [p.name for p in parameters if p.kind is Parameter.KEYWORD_ONLY and p.name not in (*CONTEXT, "generator")]
    pairs = []
    for part in filter(None, options.split(",")):
        key, equals, text = part.partition("=")
        if not equals or key not in known:
            has = f"its options are {', '.join(known)}" if known else "it has none"
            raise UsageError(
                f"{method} has no option {part!r}: {has}. Write {method}:{known[0] if known else 'KEY'}=VALUE"
            )
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        pairs.append((key, value))
    return pairs

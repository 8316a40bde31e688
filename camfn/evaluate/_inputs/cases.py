"""Cases to evaluate: a model, a layer, a method and its options, written as on the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._photos.methods import CAPPED as CAPPED
from ..._photos.methods import GROUPS, PICTURES, MethodWords, function_of, read_methods, words_of
from ..._shared.errors import UsageError
from ..._shared.lists import split_list
from ...catalogue import METHODS, MethodInfo, info_of


class Case(NamedTuple):
    """One way to explain a model.

    Attributes:
        model: the name of a model, as `zoo.load` takes it.
        layer: a dotted name, or "auto".
        method: the name of a method or of a baseline, "center" or "random"; `file.py:name` or `package.module:name`
            for a function of yours.
        options: options of the method, as in "top_k=0.1,by='gradient'"; empty for none.
        function: the function itself, where `cases` was given one in place of a name.
    """

    model: str
    layer: str
    method: str
    options: str = ""
    function: Callable[..., Any] | None = None

    @property
    def name(self) -> str:
        """The method with its options, as the command line takes it."""
        return f"{self.method}:{self.options}" if self.options else self.method

    @property
    def info(self) -> MethodInfo:
        """The row of the method, of the catalogue or of the function's signature."""
        return info_of(self.function or function_of(self.method))

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


def cases(
    models: str | Iterable[str],
    names: str | Callable[..., Any] | Iterable[str | Callable[..., Any]],
    layers: str | Iterable[str] = ("auto",),
) -> list[Case]:
    """Cross models, methods and layers, and add the two baselines.

    Args:
        models: names of models, as `zoo.load` takes them; a list, or words separated by commas.
        names: methods, as in "grad_cam" or "score_cam:top_k=0.1"; `|` between values gives one case for each value, as
            in "score_cam:top_k=0.05|0.1". Functions of yours, by themselves or as "file.py:name". "all" stands for all
            methods that explain any network, "cheap" for those on a layer that run the network once, "capped" for all
            with the options of `CAPPED`, which take fewer samples (every table shows the options), "attention" for
            those on attention.
        layers: dotted names, or "auto".

    Returns:
        Each case once, in the order of the arguments, baselines last.

    Raises:
        UsageError: an unknown method or option, or two functions of one name.

    Example:
        >>> [str(case) for case in cases(["lite0"], ["score_cam:top_k=0.05|0.1"])][:2]
        ['lite0 auto score_cam:top_k=0.05', 'lite0 auto score_cam:top_k=0.1']
        >>> def mine(activations, grads, outputs=None, *, power=2): ...
        >>> cases("lite0", mine)[0].name
        'mine'
    """
    models, layers = _listed(models, "models"), _listed(layers, "layers")
    given: list[Any] = _listed(names, "methods") if isinstance(names, str) or not callable(names) else [names]
    chosen = [pair for name in given for pair in _methods(name)]
    _refuse_one_name_twice(chosen)
    crossed = [
        Case(model, layer, *method, function)
        for model in models
        for layer in layers
        for method, function in chosen
        if method.name not in BASELINES
    ]
    crossed += [
        Case(model, "auto", name) for model in dict.fromkeys(case.model for case in crossed) for name in BASELINES
    ]
    return list(dict.fromkeys(crossed))


def method_and_options(name: str) -> tuple[str, str]:
    """Split the words of a method from its options; a function of a file has a colon in its name.

    Example:
        >>> method_and_options("mine.py:cam:power=2"), method_and_options("mine.py:cam")
        (('mine.py:cam', 'power=2'), ('mine.py:cam', ''))
    """
    place, _, options = name.rpartition(":")
    return (place, options) if "=" in options and place else (name, "")


def method_of(case: Case, generator: torch.Generator) -> Callable[..., Tensor]:
    """Return the function of a case, with its options and, for a method that draws, the generator bound."""
    return MethodWords(case.method, case.options).bound(generator, case.function)


def _listed(given: Any, what: str) -> list[Any]:
    """Return a list of what was given as a list, or as words."""
    return split_list(given, what) if isinstance(given, str) else list(given)


def _methods(name: str | Callable[..., Any]) -> list[tuple[MethodWords, Callable[..., Any] | None]]:
    """List the methods that one entry of `names` stands for, with its function if it is one of the caller's own."""
    if callable(name):
        words = words_of(name)
        row = info_of(name)
        of_catalogue = row in METHODS
        function = None if of_catalogue else row.function
        if not of_catalogue and words.name in {*BASELINES, *GROUPS, *(known.name for known in METHODS)}:
            raise UsageError(f"method {words.name!r} is the name of another method already: rename the function")
        return [(words, function)]
    method, _, options = name.partition(":")
    if method in BASELINES and not options:
        return [(MethodWords(method), None)]
    found = read_methods(name)
    picture = next((words.name for words in found if words.name in PICTURES), None)
    if picture:
        raise UsageError(f"{picture} gives a picture, and the metrics need a map")
    return [(words, None) for words in found]


def _refuse_one_name_twice(chosen: Iterable[tuple[MethodWords, Callable[..., Any] | None]]) -> None:
    """Refuse two functions of one name: the results of one would stand for those of the other."""
    known: dict[str, Any] = {}
    for method, function in chosen:
        if known.setdefault(method.name, function) is not function:
            raise UsageError(f"two functions are called {method.name!r}: rename one, for results are stored by name")

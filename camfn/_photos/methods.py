"""Methods that a user names: of the catalogue or of one's own, with options, checked before anything runs."""

# tested in tests/photos/test_methods.py

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from inspect import Parameter, signature
from itertools import product
from typing import Any, NamedTuple

import torch

from .._shared.errors import CamfnError, UsageError
from .._shared.given import is_given, named_object
from .._shared.lists import split_at, split_list
from .._shared.spelling import near
from ..catalogue import METHODS, MethodInfo, find, info_of
from .options import Option, options_of, read_option

_BY_PLACE = ("activations", "grads", "outputs")
_NAMES = tuple(dict.fromkeys(row.name for row in METHODS))
MAPS = {row.name: row for row in METHODS if row.gives == "map"}
PICTURES = {row.name: row for row in METHODS if row.gives == "picture"}

CAPPED: dict[str, str] = {
    "score_cam": "top_k=0.05",
    "ss_cam": "samples=4,top_k=0.02",
    "is_cam": "steps=4,top_k=0.02",
    "poly_cam": "top_k=0.05",
    "opti_cam": "steps=30",
    "vit_cx": "threshold=0.3",
    "rise": "samples=200",
    "d_rise": "samples=200",
    "sobol": "designs=4",
    "hsic": "samples=250",
    "region_search": "steps=4",
    "smooth_full_grad": "samples=5",
}
"""Options of `capped` for the methods that cost most; `capped` runs all other methods with their defaults."""

GROUPS: dict[str, Callable[[MethodInfo], bool]] = {
    "all": lambda row: row.gives == "map" and row.kind != "attention",
    "capped": lambda row: row.gives == "map" and row.kind != "attention",
    "cheap": lambda row: row.kind == "layer" and not row.perturbs,
    "attention": lambda row: row.kind == "attention",
}
"""Words for several methods, the same in all commands: `all` are those that explain any network with a map."""


class MethodWords(NamedTuple):
    """A method in words.

    Attributes:
        name: a name of the catalogue, or file.py:name or package.module:name for a function of one's own.
        options: as in "top_k=0.1,form='score'", in one order and one spelling; empty for none.
    """

    name: str
    options: str = ""

    def __str__(self) -> str:
        return f"{self.name}:{self.options}" if self.options else self.name

    @property
    def label(self) -> str:
        """The method in file names: the name of the function and its options, without what a file name cannot hold."""
        name = self.name.rpartition(":")[2]
        options = re.sub(r"[^\w=.,()+-]+", "", self.options)
        return f"{name}-{options}" if options else name

    @property
    def function(self) -> Callable[..., Any]:
        """The function, without its options."""
        return function_of(self.name)

    def bound(self, generator: torch.Generator, function: Callable[..., Any] | None = None) -> Callable[..., Any]:
        """Return a function, by default that of this name, with its options and, if it draws, the generator bound."""
        function = function or self.function
        options = {key: read_option(known, text) for key, known, text in _pairs(function, self.name, self.options)}
        if info_of(partial(function, **options)).draws:
            options.setdefault("generator", generator)
        return partial(function, **options) if options else function


def function_of(name: str) -> Callable[..., Any]:
    """Find a method by a name of the catalogue, or import a function of the user's own.

    Raises:
        UsageError: there is no such method, or the function is none.
    """
    if name in _NAMES:
        return find(name).function
    if not is_given(name):
        known = [*_NAMES, *GROUPS]
        if name.endswith(".py"):
            raise UsageError(f"method {name!r}: say which function of the file, as in {name}:my_cam")
        if all(is_given(part.strip()) or part.strip() in known for part in name.split(",")) and "," in name:
            raise UsageError(f"{name!r} are several methods, and one is expected here: camfn compare takes several")
        raise UsageError(f"no method {name!r}. {near(name, known, words=True)} All of them: camfn methods")
    found = named_object(name, "method")
    if not callable(found):
        raise UsageError(f"method {name}: expected a function, got {type(found).__name__}")
    try:
        info_of(partial(found, **dict.fromkeys(_required(found))))
    except CamfnError as error:
        raise UsageError(f"method {name}: {error}") from error
    function: Callable[..., Any] = found
    return function


def read_methods(words: str) -> list[MethodWords]:
    """Read what one item of a list stands for: a group, or a method with options, each value of `a=1|2` by itself.

    Raises:
        UsageError: an unknown method or option, or a value of the wrong kind.
    """
    if words in GROUPS:
        rows = [row for row in METHODS if GROUPS[words](row)]
        capped = CAPPED if words == "capped" else {}
        return [_canonical(row.name, row.function, capped.get(row.name, "")) for row in rows]
    name, options = _name_and_options(words)
    function = function_of(name)
    each = [_alternatives(part) for part in split_at(options, ",", f"method {words}") if part.strip()]
    return [_canonical(name, function, ",".join(values)) for values in product(*each)]


def pick_method(words: str, seed: int) -> Callable[..., Any]:
    """Find a method that gives maps by its name and options, and bind a generator to a method that draws."""
    (found,) = _one(words)
    if found.name in PICTURES:
        raise UsageError(f"{found.name} gives a picture, no map: camfn guided --method {found.name}")
    return found.bound(torch.Generator().manual_seed(seed))


def pick_picture(words: str, seed: int) -> Callable[..., Any]:
    """Find a method that gives pictures by its name, and bind a generator to a method that draws."""
    name = _name_and_options(words)[0]
    if name not in PICTURES:
        reason = f"{name} gives a map: camfn explain --method {name}." if name in MAPS else f"no method {name!r}."
        raise UsageError(f"{reason} Of pictures there are {', '.join(PICTURES)}")
    return _one(words)[0].bound(torch.Generator().manual_seed(seed))


def label_of(words: str) -> str:
    """Return the method in file names, as in `score_cam-top_k=0.1` or the name of a function of one's own."""
    return _one(words)[0].label


def pick_methods(words: str, seed: int) -> dict[str, Callable[..., Any]]:
    """Find methods that give maps by a list of names, groups and functions of one's own.

    Args:
        words: separated by commas; `all`, `cheap`, `capped` and `attention` stand for several methods.
        seed: seed of the methods that draw.
    """
    chosen = [
        method for item in split_list(words, "methods (all, cheap, capped, names)") for method in read_methods(item)
    ]
    for method in chosen:
        if method.name in PICTURES:
            raise UsageError(f"{method.name} gives a picture, no map: camfn guided --method {method.name}")
    return {str(method): method.bound(torch.Generator().manual_seed(seed)) for method in chosen}


def from_groups(words: str) -> set[str]:
    """Return the methods of a list that stand in it by a group alone: one that cannot explain a model is left out."""
    items = split_list(words, "methods")
    named = {str(method) for item in items if item not in GROUPS for method in read_methods(item)}
    return {str(method) for item in items if item in GROUPS for method in read_methods(item)} - named


def words_of(function: Callable[..., Any]) -> MethodWords:
    """Write a function, or a `functools.partial` of one, as a method in words; its name must be one by itself.

    Raises:
        UsageError: a lambda, or options that cannot be written in words.
    """
    options: dict[str, Any] = {}
    plain: Any = function
    while isinstance(plain, partial):
        if plain.args:
            raise UsageError(f"method {function!r}: bind options by keyword, not by position")
        options = {**plain.keywords, **options}
        plain = plain.func
    name = getattr(plain, "__name__", "")
    if not name.isidentifier():
        raise UsageError(f"method {plain!r}: give a function with a name of its own, which the table can show")
    info_of(function)
    generator = options.pop("generator", None)
    unwritten = [key for key, value in options.items() if not isinstance(value, (bool, int, float, str, type(None)))]
    if generator is not None or unwritten:
        raise UsageError(
            f"method {name}: {'generator' if generator is not None else unwritten[0]} cannot be written in words; the "
            "run draws from generators of its own, and other options are numbers and words"
        )
    text = ",".join(f"{key}={value!r}" for key, value in sorted(options.items()))
    return MethodWords(name, text)


def with_options(function: Callable[..., Any], name: str, options: str) -> dict[str, Any]:
    """Read options of a function that is no method.

    Raises:
        UsageError: it has no such option, or the value is of the wrong kind.
    """
    return {key: read_option(known, text) for key, known, text in _pairs(function, name, options)}


def _one(words: str) -> list[MethodWords]:
    """Read a method that is given alone."""
    found = read_methods(words)
    if len(found) != 1 or words in GROUPS:
        raise UsageError(f"method {words!r}: expected one method, with one value for each option")
    return found


def _name_and_options(words: str) -> tuple[str, str]:
    """Split a method in words at the colon before its options."""
    name, colon, rest = words.partition(":")
    if name in _NAMES:
        if colon and "=" not in rest and rest:
            known = options_of(function_of(name))
            raise UsageError(f"{name} has no option {rest!r}: {_has(known)}. Write {_example(name, known)}")
        return name, rest
    with_options = re.fullmatch(r"(.+?):([A-Za-z_]\w*=.*)", words, re.DOTALL)
    return with_options.groups() if with_options and not is_given(words) else (words, "")  # type: ignore[return-value]


def _alternatives(part: str) -> list[str]:
    """List the options that `key=a|b` stands for."""
    key, _, values = part.partition("=")
    return [f"{key.strip()}={value.strip()}" for value in split_at(values, "|", f"option {key.strip()}")]


def _canonical(name: str, function: Callable[..., Any], options: str) -> MethodWords:
    """Sort options and write each value in one way, so that equal methods have equal words."""
    pairs = [(key, read_option(known, text)) for key, known, text in _pairs(function, name, options)]
    missing = [key for key in _required(function) if key not in dict(pairs)]
    if missing:
        raise UsageError(
            f"method {name}: it needs {missing[0]}, which no run binds: write {name}:{missing[0]}=VALUE, or give it a "
            "default in the file"
        )
    return MethodWords(name, ",".join(f"{key}={value!r}" for key, value in sorted(pairs)))


def _required(function: Callable[..., Any]) -> list[str]:
    """List the options that a function has no default for, as far as its signature can be read."""
    try:
        parameters = signature(function).parameters
        known = options_of(function)
    except (TypeError, ValueError):
        return []
    return [key for key in known if parameters[key].default is Parameter.empty and key not in _BY_PLACE]


def _pairs(function: Callable[..., Any], name: str, options: str) -> Iterable[tuple[str, Option, str]]:
    """Read options, and check that the method has them, each once."""
    known, seen = options_of(function), set()
    for part in filter(str.strip, split_at(options, ",", f"method {name}") if options else ()):
        key, equals, text = (word.strip() for word in part.partition("="))
        if not equals or key not in known:
            raise UsageError(f"{name} has no option {part!r}: {_has(known)}. Write {_example(name, known)}")
        if key in seen:
            raise UsageError(f"{name} has the option {key} twice")
        seen.add(key)
        yield key, known[key], text


def _has(known: Iterable[str]) -> str:
    return f"its options are {', '.join(known)}" if known else "it has none"


def _example(name: str, known: dict[str, Option]) -> str:
    return f"{name}:{next(iter(known))}=VALUE" if known else name

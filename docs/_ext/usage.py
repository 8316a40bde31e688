"""Where a public name is used: examples and pages whose code takes it, its own doctest, and who gives or takes it."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import camfn_site

DOCS = Path(__file__).parents[1]
FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
"""A block of a page that the tests run."""
SHELL = {
    "camfn.image.load_ipython_extension": "`%load_ext camfn.image` calls it",
    "camfn.image.unload_ipython_extension": "`%unload_ext camfn.image` calls it",
    "camfn.export.aot": "it takes minutes and a C++ compiler",
    "camfn.export.fetch_runtime": "it downloads",
    "camfn.image.show": "it opens a window",
    "camfn.explore.widget": "it lives in a notebook that runs",
}
"""Names that no example can call while it runs offline in seconds, and why."""


class Use(NamedTuple):
    """Where a name is used.

    Attributes:
        examples: stems of the gallery's examples.
        pages: stems of the pages, as paths from docs/.
        doctest: whether a doctest of its own docstring uses it.
        given_by: whole names of the public functions that return it, where it is a type.
        taken_by: those that take it.
    """

    examples: list[str]
    pages: list[str]
    doctest: bool
    given_by: list[str]
    taken_by: list[str]


def names_in(code: str) -> set[str]:
    """The whole names of camfn that code uses: `from camfn import image; image.overlay` uses camfn.image.overlay."""
    tree = ast.parse(code)
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "camfn":
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        if isinstance(node, ast.Import):
            known |= {alias.asname or "camfn": "camfn" for alias in node.names if alias.name.startswith("camfn")}
    used = set(known.values())
    for node in ast.walk(tree):
        parts = []
        at: ast.AST = node
        while isinstance(at, ast.Attribute):
            parts.append(at.attr)
            at = at.value
        if parts and isinstance(at, ast.Name) and at.id in known:
            used.add(".".join([known[at.id], *reversed(parts)]))
    return used


def doctest_of(value: Any) -> str:
    """The code of a docstring's doctests."""
    lines = re.findall(r"^\s*(?:>>>|\.\.\.) ?(.*)$", inspect.getdoc(value) or "", re.MULTILINE)
    return "\n".join(lines)


def own_page(name: str) -> list[str]:
    """The page that a method or a metric has of its own, whose picture or numbers come from calls of it."""
    module, _, short = name.rpartition(".")
    told = "metrics" if module == "camfn.metrics" else "methods"
    if module not in ("camfn.methods", "camfn.attention", "camfn.network", "camfn.metrics"):
        return []
    words = (DOCS / f"{told}.toml").read_text(encoding="utf-8")
    return [f"{told}/{short}"] if re.search(rf"^\[{short}\]$", words, re.MULTILINE) else []


def code_of_pages() -> Iterator[tuple[str, str]]:
    """Each page with the code in it that the tests run; a README's under the page that shows it."""
    for page in sorted(DOCS.glob("*.md")):
        yield page.stem, "\n".join(FENCE.findall(page.read_text(encoding="utf-8")))
    for page, shown in (("README", "index"), ("CONTRIBUTING", "contributing")):
        yield shown, "\n".join(FENCE.findall((DOCS.parent / f"{page}.md").read_text(encoding="utf-8")))


def _mentions(value: Any) -> tuple[set[str], set[str]]:
    """The names in a callable's annotations: of what it returns, and of what it takes."""
    told = dict(getattr(value, "__annotations__", {}))
    if inspect.isclass(value):
        call = getattr(value, "__call__", None)  # noqa: B004  of its instances
        told = {name: one.annotation for name, one in _signature(value).items()}  # inherited fields among them
        told["return"] = getattr(call, "__annotations__", {}).get("return", "")
    words = {name: set(re.findall(r"\w+", str(text))) for name, text in told.items()}
    return words.pop("return", set()), set().union(*words.values())


def _signature(value: Any) -> dict[str, inspect.Parameter]:
    """What a class is called with; nothing where it does not say."""
    try:
        return dict(inspect.signature(value).parameters)
    except ValueError:
        return {}


@cache
def uses() -> dict[str, Use]:
    """Each public name, by its whole name, with where it is used."""
    public = {
        f"{module}.{name}": getattr(importlib.import_module(module), name)
        for module, names in camfn_site.public_names().items()
        for name in names
    }
    paths = sorted((DOCS.parent / "examples").glob("plot_*.py"))
    examples = {path.stem: names_in(path.read_text(encoding="utf-8")) for path in paths}
    pages: dict[str, set[str]] = {}
    for stem, code in code_of_pages():
        pages[stem] = pages.get(stem, set()) | names_in(code)
    mentioned = {name: _mentions(value) for name, value in public.items() if callable(value)}
    found = {}
    for name, value in public.items():
        short = name.rpartition(".")[2]
        same = {other for other, theirs in public.items() if theirs is value and theirs is not None} | {name}
        is_type = not inspect.isroutine(value)
        module = getattr(value, "__module__", None)
        told: list[list[str]] = [[], []]
        if is_type:
            for other, sides in mentioned.items():
                theirs = public[other]
                globals_ = vars(importlib.import_module(theirs.__module__)) if hasattr(theirs, "__module__") else {}
                for side, words in enumerate(sides):
                    if short in words and theirs is not value and globals_.get(short, value) is value:
                        told[side].append(other)
        found[name] = Use(
            [stem for stem, used in examples.items() if used & same],
            [*own_page(name), *(stem for stem, used in pages.items() if used & same)],
            bool(re.search(rf"\b{short}\b", doctest_of(value))) and module is not None,
            *told,
        )
    return found


def bare() -> list[str]:
    """The public names that no code of an example or a page uses: neither themselves nor, of a type, who gives it.

    A page that shows a value shows the types of its parts too.
    """
    every = uses()
    shown = {name for name, use in every.items() if use.examples or use.pages}
    while more := {name for name, use in every.items() if shown & {*use.given_by, *use.taken_by}} - shown:
        shown |= more
    return [name for name in every if name not in shown and name not in SHELL]

"""Functions of a user's own, named in words: `file.py:name` or `package.module:name`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Any

from .errors import CamfnError, UsageError
from .spelling import near


def names_function(words: str) -> bool:
    """Whether words have the form of a function of a user's own; whether there is one is another question.

    Example:
        >>> names_function("mine.py:cam"), names_function("package.module:cam"), names_function("cam:top_k=0.1")
        (True, True, False)
    """
    place, colon, name = words.rpartition(":")
    if not colon or not name.isidentifier():
        return False
    return place.endswith(".py") or all(part.isidentifier() for part in place.split("."))


def function_named(words: str, *, what: str = "function", error: type[CamfnError] = UsageError) -> Any:
    """Import what `file.py:name` or `package.module:name` stands for; the file is run as Python imports it.

    Args:
        words: a file and a name in it, or a module that can be imported from here and a name in it.
        what: what it is to be, for the messages.
        error: class of the errors.

    Raises:
        CamfnError: no such file, module or name, the import fails, or what is found cannot be called.
    """
    place, _, name = words.rpartition(":")
    if not names_function(words):
        raise error(f"{what} {words!r}: expected file.py:name or package.module:name")
    module = _of_file(Path(place), what, error) if place.endswith(".py") else _of_name(place, what, error)
    found = getattr(module, name, None)
    if found is None:
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise error(f"{what} {words!r}: {place} has no {name!r}. {near(name, public)}")
    if not callable(found):
        raise error(f"{what} {words!r}: expected a function, and {name} is of type {type(found).__name__}")
    return found


def _of_file(file: Path, what: str, error: type[CamfnError]) -> ModuleType:
    """Run a file as a module, once for its contents, with its folder among those that modules are imported from."""
    try:
        path = file.resolve(strict=True)
        key = f"_camfn_{sha256(str(path).encode() + b'|' + path.read_bytes()).hexdigest()[:16]}"
    except OSError as cause:
        raise error(f"{what}: cannot read the file {file}: {cause.strerror}") from cause
    if key in sys.modules:
        return sys.modules[key]
    spec = spec_from_file_location(key, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    with _importing(str(file), what, error), _on_path(path.parent):
        sys.modules[key] = module  # dataclasses and pickle look their module up
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[key]
            raise
    return module


def _of_name(name: str, what: str, error: type[CamfnError]) -> ModuleType:
    """Import a module by its dotted name; one in the current folder counts as well."""
    with _importing(name, what, error), _on_path(Path.cwd()):
        return import_module(name)


@contextmanager
def _importing(place: str, what: str, error: type[CamfnError]) -> Iterator[None]:
    """Turn an exception of a user's module into a refusal that names the line."""
    try:
        yield
    except Exception as cause:
        at = extract_tb(cause.__traceback__)[-1]
        line = cause.lineno if isinstance(cause, SyntaxError) else at.lineno
        where = "" if isinstance(cause, ModuleNotFoundError) else f" in line {line} of {Path(at.filename).name}"
        where = f" in line {line}" if isinstance(cause, SyntaxError) else where
        raise error(f"{what}: cannot import {place}: {type(cause).__name__}{where}: {cause}") from cause


@contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    """Put a folder first among those that modules are imported from, for the time of one import."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))

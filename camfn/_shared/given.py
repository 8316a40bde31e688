"""Functions that a user names in words: file.py:function, or package.module:function."""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module, util
from itertools import takewhile
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import CamfnError, UsageError, first_line
from .spelling import near

_FILES: set[str] = set()
"""The files of the code that users named in this process."""


def is_given(text: str) -> bool:
    """Say whether a text has the form of file.py:function or package.module:function.

    Example:
        >>> is_given("nets/mine.py:build"), is_given("mine.nets:build"), is_given("grad_cam:normalized=true")
        (True, True, False)
    """
    place, _, name = text.rpartition(":")
    return name.isidentifier() and (place.endswith(".py") or all(part.isidentifier() for part in place.split(".")))


def named_object(text: str, option: str, *, error: type[CamfnError] = UsageError) -> Any:
    """Import what a user named: the code of the file or the module runs.

    Args:
        text: file.py:NAME or package.module:NAME. The folder of the file, or the working folder, is searched for what
            the code imports, as Python does for a script.
        option: what the user gave the text for, as the message says it: "--model".
        error: the class of the error.

    Raises:
        CamfnError: no such file, module or name, or its code raised an error.
    """
    place, _, name = text.rpartition(":")
    if not is_given(text):
        raise error(f"{option} {text!r}: expected file.py:function or package.module:function")
    with explained(f"{option} {text}", error):
        module = _from_file(Path(place), option, error) if place.endswith(".py") else _from_path(place)
    _FILES.add(str(module.__file__))
    if not hasattr(module, name):
        own = [key for key in vars(module) if not key.startswith("_")]
        raise error(f"{option}: {place} has no {name!r}. {near(name, own)}")
    return getattr(module, name)


def raised_by_given(error: BaseException) -> str | None:
    """Say where the code that a user named raised an error; None if code of camfn's raised it.

    The last frame that is either the user's or camfn's decides: what torch raises is laid to whoever called it.
    """
    package = str(Path(__file__).parents[1])
    frames = reversed(traceback.extract_tb(error.__traceback__))
    return _first_given(takewhile(lambda frame: not frame.filename.startswith(package), frames))


def called_by_given(error: BaseException) -> str | None:
    """Say which code that a user named was running, whatever it called, when an error was raised; None if none was."""
    return _first_given(reversed(traceback.extract_tb(error.__traceback__)))


def _first_given(frames: Iterable[traceback.FrameSummary]) -> str | None:
    """Name the first of some frames that is in a file of the user's."""
    for frame in frames:
        if frame.filename in _FILES:
            return f"{frame.filename}, line {frame.lineno}, in {frame.name}"
    return None


@contextmanager
def explained(what: str, error: type[CamfnError] = UsageError) -> Iterator[None]:
    """Turn an exception in a user's own code into an error of one line that says where the code raised it."""
    try:
        yield
    except CamfnError:
        raise
    except (Exception, SystemExit) as cause:
        frame = traceback.extract_tb(cause.__traceback__)[-1]
        words, place = first_line(cause), (frame.filename, frame.lineno)
        if isinstance(cause, SyntaxError) and cause.filename is not None:
            # no frame is of a file that cannot be read
            words, place = cause.msg, (cause.filename, cause.lineno)
        raise error(
            f"{what}: {type(cause).__name__}{f': {words}' if words else ''} ({place[0]}, line {place[1]})"
        ) from cause


def _from_file(file: Path, option: str, error: type[CamfnError]) -> ModuleType:
    """Run a file once as a module of its own name."""
    if not file.is_file():
        raise error(f"{option}: there is no file {file}")
    stat, path = file.stat(), file.resolve()
    key = hashlib.sha256(f"{path} {stat.st_mtime_ns} {stat.st_size}".encode()).hexdigest()[:12]
    name = f"_camfn_given_{key}_{file.stem}"
    if name not in sys.modules:
        spec = util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise error(f"{option}: {file} is no file of Python code")
        module = util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses and pickle look a class's module up there
        try:
            with _searched(path.parent):
                spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _from_path(name: str) -> ModuleType:
    """Import a module by its dotted name, also from the working folder."""
    with _searched(Path.cwd()):
        return import_module(name)


@contextmanager
def _searched(folder: Path) -> Iterator[None]:
    """Let imports find the modules of a folder first; afterwards last, for imports inside of functions."""
    if str(folder) in sys.path:
        yield
        return
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.path.append(str(folder))

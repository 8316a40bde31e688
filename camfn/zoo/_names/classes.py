"""Class names that a user gives: a file, or a sequence."""

# tested in tests/zoo/libraries/test_own.py

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from ..._shared.errors import LoadError

Names = str | os.PathLike[str] | Sequence[str]


def class_names(given: Names) -> list[str]:
    """Read the names of classes by index.

    Args:
        given: the names; or a file with one name a line, or JSON: a list, {"0": "cat"}, or {"cat": 0}.

    Raises:
        LoadError: no such file, or an index without a name.
    """
    if not isinstance(given, (str, os.PathLike)):
        return _checked([str(name) for name in given], "the class names")
    file = Path(given)
    if file.exists() and not file.is_file():
        raise LoadError(f"cannot read the class names {file}: it is no file. Expected one name a line, or JSON")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise LoadError(f"cannot read the class names {file}: {reason}. Expected one name a line, or JSON") from error
    return _checked(_of_json(file, text) if file.suffix.lower() == ".json" else text.rstrip().split("\n"), str(file))


def _of_json(file: Path, text: str) -> list[str]:
    """Read names from a list, or from a dict in either direction."""
    expected = f'{file}: expected ["cat", "dog"], {{"0": "cat"}} or {{"cat": 0}}, with every index from 0'
    try:
        content = json.loads(text)
        if isinstance(content, dict):
            by_name = all(isinstance(value, int) for value in content.values())
            indices = (
                {int(value): key for key, value in content.items()}
                if by_name
                else {int(key): value for key, value in content.items()}
            )
            content = [indices[i] for i in range(len(content))]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LoadError(expected) from error
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise LoadError(expected)
    return content


def _checked(names: list[str], source: str) -> list[str]:
    """Take off white space, and refuse a class without a name."""
    stripped = [name.strip() for name in names]
    empty = [i for i, name in enumerate(stripped) if not name]
    if empty or not stripped:
        raise LoadError(f"{source}: class {empty[0] if empty else 0} has no name: expected one name for each index")
    return stripped

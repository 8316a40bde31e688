"""Lists in words: the one syntax of all commands."""

from __future__ import annotations

import re
from pathlib import Path

from .errors import UsageError

_OPENING, _CLOSING = "([{", ")]}"
_OPTION = re.compile(r"[A-Za-z_]\w*=")


def split_list(words: str, what: str) -> list[str]:
    """Split words at commas and spaces, but not inside of quotes or brackets; each item once.

    A part such as `top_k=0.1` is an option of the item before it, where that one has a colon. Quotes around a whole
    item are taken off. A file that exists needs none around the spaces of its path, as in `my file.py:cam`.

    Args:
        words: as a user writes them.
        what: what the items are, for the messages.

    Raises:
        UsageError: no item, or an open quote or bracket.

    Example:
        >>> split_list("grad_cam, ss_cam:samples=4,top_k=0.02 'my file.py:cam'", "methods")
        ['grad_cam', 'ss_cam:samples=4,top_k=0.02', 'my file.py:cam']
    """
    items: list[str] = []
    for part, after_comma in _parts(_with_files(words, what), what):
        if after_comma and items and ":" in items[-1] and _OPTION.match(part):
            items[-1] += f",{part}"
        else:
            items.append(unquoted(part))
    if not items:
        raise UsageError(f"{what}: expected names separated by commas, as in a,b; got {words!r}")
    return list(dict.fromkeys(items))


def split_at(words: str, mark: str, what: str, *, brackets: bool = True) -> list[str]:
    """Split words at a mark, but not inside of quotes, nor of brackets unless these are letters like others.

    Example:
        >>> split_at("cells=(3,4),by='a,b'", ",", "options")
        ['cells=(3,4)', "by='a,b'"]
    """
    parts, start = [], 0
    for place, letter in _outside(words, what, brackets):
        if letter == mark:
            parts.append(words[start:place])
            start = place + 1
    return [*parts, words[start:]]


def unquoted(part: str) -> str:
    """Take the quotes around a whole part off."""
    whole = len(part) > 1 and part[0] == part[-1] and part[0] in "\"'" and part[0] not in part[1:-1]
    return part[1:-1] if whole else part


def _with_files(words: str, what: str) -> str:
    """Put quotes around what stands between two commas and names a file of code whose path has spaces."""
    parts = []
    for part in split_at(words, ",", what):
        item = part.strip()
        file = item.partition(".py:")[0] + ".py"
        spaced = ".py:" in item and any(letter.isspace() for letter in file)
        quote = next((mark for mark in "\"'" if mark not in item), None)
        parts.append(f" {quote}{item}{quote}" if spaced and quote and _is_file(file) else part)
    return ",".join(parts)


def _is_file(words: str) -> bool:
    """Whether words name a file; the system refuses words that are too long."""
    try:
        return Path(words).is_file()
    except OSError:
        return False


def _parts(words: str, what: str) -> list[tuple[str, bool]]:
    """Split words at commas and spaces outside of quotes and brackets, and say which parts follow a comma."""
    parts: list[tuple[str, bool]] = []
    start, comma = 0, False
    for place, letter in [*_outside(words, what), (len(words), " ")]:
        if letter.isspace() or letter == ",":
            if place > start:
                parts.append((words[start:place], comma))
                comma = False
            comma = comma or letter == ","
            start = place + 1
    return parts


def _outside(words: str, what: str, brackets: bool = True) -> list[tuple[int, str]]:
    """List the letters outside of quotes and brackets, with their places; a quote opens only where a word begins."""
    found, quote, depth = [], "", 0
    for place, letter in enumerate(words):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'" and (not place or words[place - 1] in " \t\n=(,[:|+"):
            quote = letter
        elif brackets and letter in _OPENING + _CLOSING:
            depth += 1 if letter in _OPENING else -1
        elif depth <= 0:
            found.append((place, letter))
    if quote or depth > 0:
        raise UsageError(f"{what}: {'a quote' if quote else 'a bracket'} is open in {words!r}")
    return found

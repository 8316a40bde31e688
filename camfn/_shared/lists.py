"""Lists in words: the one syntax of all commands."""

from __future__ import annotations

import re

from .errors import UsageError

_OPENING, _CLOSING = "([{", ")]}"
_OPTION = re.compile(r"[A-Za-z_]\w*=")


def split_list(words: str, what: str) -> list[str]:
    """Split words at commas and spaces, but not inside of quotes or brackets; each item once.

    A part such as `top_k=0.1` is an option of the item before it, where that one has a colon. Quotes around a whole
    item are taken off.

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
    for part, after_comma in _parts(words, what):
        if after_comma and items and ":" in items[-1] and _OPTION.match(part):
            items[-1] += f",{part}"
        else:
            items.append(_unquoted(part))
    if not items:
        raise UsageError(f"{what}: expected names separated by commas, got {words!r}")
    return list(dict.fromkeys(items))


def _parts(words: str, what: str) -> list[tuple[str, bool]]:
    """Split words at commas and spaces outside of quotes and brackets, and say which parts follow a comma."""
    parts: list[tuple[str, bool]] = []
    part, quote, depth, comma = "", "", 0, False
    for letter in f"{words} ":
        if not quote and not depth and (letter.isspace() or letter == ","):
            if part:
                parts.append((part, comma))
                part, comma = "", False
            comma = comma or letter == ","
            continue
        part += letter
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'" and (len(part) == 1 or part[-2] in "=(,[:|+"):
            quote = letter
        else:
            depth += (letter in _OPENING) - (letter in _CLOSING)
    if quote or depth:
        raise UsageError(f"{what}: {'a quote' if quote else 'a bracket'} is open in {words!r}")
    return parts


def _unquoted(part: str) -> str:
    """Take the quotes around a whole item off."""
    whole = len(part) > 1 and part[0] == part[-1] and part[0] in "\"'" and part[0] not in part[1:-1]
    return part[1:-1] if whole else part

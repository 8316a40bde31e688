""" "Did you mean": the names nearest to one that does not exist."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def near(name: str, names: Iterable[str]) -> str:
    """Say which names are close to `name`, or name a few of them."""
    known = [candidate for candidate in names if candidate]
    close = [candidate for candidate in known if candidate.endswith("." + name)][:3]
    close += [match for match in get_close_matches(name, known, n=3, cutoff=0.6) if match not in close]
    if close:
        return "Did you mean " + " or ".join(map(repr, close[:4])) + "?"
    return f"It has {', '.join(map(repr, known[:8]))}{' ...' if len(known) > 8 else ''}."

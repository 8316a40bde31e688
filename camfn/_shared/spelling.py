""" "Did you mean": the names nearest to one that does not exist."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches


def near(
    name: str,
    names: Iterable[str],
    *,
    words: bool = False,
    show: Callable[[str], str] = repr,
    instead: str | None = None,
) -> str:
    """Say which names are close to `name`, or name a few of them.

    Names that end in `name` after a dot come first, then names with a similar spelling. The case of letters does not
    count.

    Args:
        name: a name that does not exist.
        names: the names that exist.
        words: also take names that have `name` as one of their words, as "tiger cat" has "cat".
        show: how the sentence writes a name.
        instead: the sentence for the case that no name is close; None names the first eight.
    """
    known = [candidate for candidate in names if candidate]
    folded = {candidate.casefold(): candidate for candidate in known}
    word = name.casefold()
    ends = [candidate for key, candidate in folded.items() if key.endswith("." + word)][:3]
    with_word = [candidate for key, candidate in folded.items() if words and word in re.split(r"[\s_,+:]+", key)][:3]
    spelled = [folded[match] for match in get_close_matches(word, folded, n=3)]
    close = list(dict.fromkeys([*ends, *with_word, *spelled]))[:4]
    if close:
        return f"Did you mean {' or '.join(map(show, close))}?"
    if instead is not None:
        return instead
    if not known:
        return "It has none."
    return f"It has {', '.join(map(repr, known[:8]))}{' ...' if len(known) > 8 else ''}."

"""Tokens as words, and what a processor alone knows of tiles."""

# tested in tests/words/prompt/test_texts.py

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from operator import index
from typing import Any

from torch import Tensor

from ..._shared.checks import describe
from ..._shared.errors import ArgumentTypeError, CamfnError

_UNFINISHED = "�"


def grouped(tokenizer: Any, ids: Tensor | Sequence[int]) -> tuple[list[str], list[list[int]]]:
    """Join the tokens of an answer to words, as the tokenizer spells them.

    A word starts behind a space; punctuation, each sign of Chinese or Japanese, and each special token is a word by
    itself. Tokens that are parts of one letter stay together, and a space that is a token belongs to what follows it.

    Args:
        tokenizer: of transformers, or a processor that holds one.
        ids: of the answer, (N,).

    Returns:
        The words, and the tokens of each, for `groups=` of `words.explain`.

    Raises:
        CamfnError: there are no ids, or the tokenizer spells nothing.

    Example:
        >>> class Spelled:
        ...     def decode(self, ids):
        ...         return "".join({3: "A", 4: " ro", 5: "cket", 6: "."}[one] for one in ids)
        >>> grouped(Spelled(), [3, 4, 5, 6])
        (['A', 'rocket', '.'], [[0], [1, 2], [3]])
    """
    own = getattr(tokenizer, "tokenizer", tokenizer)
    if not hasattr(own, "decode"):
        raise ArgumentTypeError(f"words.grouped: expected a tokenizer of transformers, got {describe(tokenizer)}")
    try:
        listed = [index(one) for one in ids]
    except TypeError:
        raise ArgumentTypeError(f"words.grouped: expected the ids of one answer, (N,), got {describe(ids)}") from None
    if not listed:
        raise CamfnError("words.grouped: expected the ids of an answer, at least one")
    words: list[str] = []
    groups: list[list[int]] = []
    known, pending = "", list[int]()
    special = set(getattr(own, "all_special_ids", ()))
    for n in range(len(listed)):
        text = _spelled(own, listed[: n + 1])
        pending.append(n)
        # the bytes of a letter may be several tokens
        if text.endswith(_UNFINISHED) and n + 1 < len(listed):
            continue
        same = next((i for i, (a, b) in enumerate(zip(known, text)) if a != b), min(len(known), len(text)))
        piece, known = text[same:], text
        apart = listed[n] in special or (n > 0 and listed[n - 1] in special)
        if groups and not apart and not _starts(piece, words[-1]):
            words[-1] += piece
            groups[-1] += pending
        else:
            words.append(piece)
            groups.append(pending)
        pending = []
    return [word.strip() or "␣" for word in words], groups


def _spelled(tokenizer: Any, ids: list[int]) -> str:
    """Spell tokens as they are: a tokenizer that cleans up would change what stands before the last one."""
    cleans = hasattr(tokenizer, "clean_up_tokenization_spaces")
    return str(tokenizer.decode(ids, **({"clean_up_tokenization_spaces": False} if cleans else {})))


def _starts(piece: str, before: str) -> bool:
    """Whether a piece of text starts a word behind another."""
    if not piece or not before.strip(" "):
        return False
    alone = _alone(piece[0]) or _alone(before[-1])
    # an apostrophe or a hyphen inside of a word
    return piece[0].isspace() or before[-1:].isspace() or alone


def _alone(sign: str) -> bool:
    """Whether a sign is a word by itself."""
    return (unicodedata.category(sign)[0] == "P" and sign not in "'’-") or unicodedata.name(sign, "")[:3] in (
        "CJK",
        "HIR",
    )


def tiles(processor: Any, sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Say into how many rows and columns of tiles InternVL's processor cuts photos, for `tiles=`.

    Args:
        processor: of an InternVL model, or its image processor.
        sizes: height and width of each photo.

    Returns:
        (rows, columns) for each photo.

    Raises:
        CamfnError: a processor of another kind.

    Example:
        >>> from transformers import GotOcr2ImageProcessor
        >>> processor = GotOcr2ImageProcessor(size={"height": 64, "width": 64}, crop_to_patches=True, max_patches=4)
        >>> tiles(processor, [(100, 200), (300, 100)])
        [(1, 2), (3, 1)]
    """
    own = getattr(processor, "image_processor", processor)
    if not hasattr(own, "crop_to_patches") or not hasattr(own, "max_patches"):
        raise CamfnError(
            f"words.tiles: expected the processor of an InternVL, which cuts photos into tiles, got {describe(own)}"
        )
    from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

    defaults = getattr(processor, "images_kwargs", None) or {}
    if not defaults.get("crop_to_patches", own.crop_to_patches):
        return [(1, 1)] * len(sizes)
    edge = own.size["height"], own.size["width"]
    found = [get_optimal_tiled_canvas(tuple(size), edge, own.min_patches, own.max_patches) for size in sizes]
    return [(int(rows), int(columns)) for columns, rows in found]

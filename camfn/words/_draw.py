"""The words of an answer in a row, each over its map."""

# tested in tests/words/test_draw.py

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import image as pictures
from .._shared.checks import describe, length_matches, tensor, whole, within
from .._shared.errors import ArgumentTypeError, CamfnError
from ._maps.explain import Explained
from ._measures.carried import Carried


def draw(
    explained: Explained,
    photo: Tensor,
    texts: Sequence[str],
    *,
    carried: Carried | None = None,
    image: int = 0,
    columns: int = 5,
    cell: int = 240,
    colormap: str = "jet",
    font: Any = None,
) -> Tensor:
    """Draw the words of an answer in a row, each over its map; words that are not read from the picture are gray.

    Each map has a scale of its own, from its least value to its largest. A gray word shows the photo alone, without
    color: its map means nothing, and is not stretched.

    Args:
        explained: from `words.explain` or `words.drops`.
        photo: (3, H, W) in [0, 1] or uint8, the part of it that the processor keeps.
        texts: the words, (K,), as `words.grouped` spells them.
        carried: from `words.carried`, on the same words; without it no word is gray.
        image: which picture of the prompt.
        columns: words a row.
        cell: the longer side of a picture, in pixels.
        colormap: as for `image.overlay`.
        font: as for `image.montage`; Pillow's own has few letters beyond ASCII.

    Returns:
        (3, H, W) in [0, 1], on the device of the photo.

    Raises:
        CamfnError: not a text for each word; no such picture; the map of a video.

    Example:
        >>> from camfn.words import Explained, Span
        >>> maps = torch.rand(2, 4, 4)
        >>> span = Span(0, "image", torch.arange(16), (4, 4))
        >>> explained = Explained([maps], [span], torch.tensor([5, 6]), torch.zeros(2))
        >>> draw(explained, torch.rand(3, 60, 80), ["a", "rocket"], cell=80).shape[0]
        3
    """
    _check_given(explained, carried)
    whole("words.draw: columns", columns)
    whole("words.draw: cell", cell, 16)
    at = [n for n, span in enumerate(explained.spans) if span.image == image and span.part != "thumbnail"]
    if len(at) != 1 or explained.maps[at[0]].ndim != 3:
        kinds = [f"{span.image} ({span.part})" for span in explained.spans]
        raise CamfnError(f"words.draw: image={image}: expected a picture, one of {', '.join(kinds)}")
    maps = explained.maps[at[0]]
    length_matches("words.draw: texts", len(texts), len(maps))
    if carried is not None:
        length_matches("words.draw: carried", len(carried.read), len(maps))
    small = _fitted(photo, cell)
    shown = []
    for k, cam in enumerate(maps.detach().float().to(small.device)):
        if carried is not None and not bool(carried.read[k]):
            gray = small.mean(0, keepdim=True).expand_as(small)
            shown.append(0.35 * gray + 0.6)
        elif float(cam.max()) == float(cam.min()):
            shown.append(small)
        else:
            shown.append(pictures.overlay(small[None], pictures.normalize(cam[None]), colormap=colormap)[0])
    captions = [text if carried is None or bool(carried.read[k]) else f"({text})" for k, text in enumerate(texts)]
    return pictures.montage(
        shown, captions, columns=min(columns, len(shown)), caption_size=max(cell // 14, 12), font=font
    )


def _check_given(explained: Any, carried: Any) -> None:
    """Refuse what `words.explain` and `words.carried` do not return."""
    if not isinstance(explained, Explained):
        raise ArgumentTypeError(
            "words.draw: explained: expected what words.explain(model, inputs, n) or words.drops returns, got "
            f"{describe(explained)}"
        )
    if carried is not None and not isinstance(carried, Carried):
        raise ArgumentTypeError(
            "words.draw: carried: expected what words.carried(model, inputs, explained.ids) returns, or None, got "
            f"{describe(carried)}"
        )


def _fitted(photo: Tensor, cell: int) -> Tensor:
    """Bring the longer side of a photo to a length, in [0, 1]."""
    tensor("words.draw: photo", photo)
    if photo.ndim != 3 or photo.shape[0] != 3:
        raise CamfnError(f"words.draw: photo: expected (3, H, W), got {tuple(photo.shape)}")
    if not photo.numel() or not (
        photo.dtype == torch.uint8 or (photo.is_floating_point() and within(photo, -0.1, 1.1))
    ):
        raise CamfnError(
            "words.draw: photo: expected at least one pixel in [0, 1], or uint8, got "
            f"{describe(photo)} of {photo.dtype}; photo / 255 of numbers to 255, photo * std + mean of normalized ones"
        )
    plain = photo.float() / (255 if photo.dtype == torch.uint8 else 1)
    share = cell / max(plain.shape[1:])
    size = [max(round(side * share), 1) for side in plain.shape[1:]]
    found: Tensor = torch.nn.functional.interpolate(plain[None], size, mode="bilinear", antialias=True)[0]
    return found.clamp(0, 1)

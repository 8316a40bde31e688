"""The probability of words as a score of what is shown of a picture: for black boxes, and for metrics."""

# tested in tests/words/measures/test_shown.py

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from operator import index
from typing import Any

import torch
from torch import Tensor, nn

from ..._shared.checks import describe, within
from ..._shared.errors import ArgumentTypeError, CamfnError
from ..._shared.value import Value, frozen
from .._maps.explain import read
from .._prompt.asked import Asked
from .blank import shown_in
from .carried import said


@frozen
class WhenShown(Value):
    """The probability of words when a part of a picture is shown, as `words.when_shown` returns it.

    Attributes:
        model: the network.
        ids: of the answer, (N,).
        groups: the tokens of each word.
        word: which word; None for the mean over all tokens.
        image: which picture of the prompt is shown in parts.
    """

    model: nn.Module
    ids: Tensor
    groups: tuple[tuple[int, ...], ...]
    word: int | None
    image: int
    _asked: Asked = field(kw_only=True)

    def __call__(self, shown: Tensor) -> Tensor:
        """Run the model once for each sample, (B, 1, *S) in [0, 1] to probabilities (B,)."""
        video = any(one.span.part == "video" for one in self._asked.pieces if one.span.image == self.image)
        if not isinstance(shown, Tensor) or shown.ndim not in ((4, 5) if video else (4,)) or shown.shape[1] != 1:
            raise ArgumentTypeError(
                "words.when_shown: expected how much of each place is shown, (B, 1, H, W) in [0, 1], such as "
                f"torch.ones(1, 1, 24, 24), got {describe(shown)}"
            )
        if not shown.is_floating_point() or 0 in shown.shape[1:]:
            raise ArgumentTypeError(
                "words.when_shown: expected how much of each place is shown as floats of at least one place, such as "
                f"shown.float(), got {describe(shown)} of {shown.dtype}"
            )
        if not within(shown, 0, 1):
            raise CamfnError(
                "words.when_shown: expected how much of each place is shown in [0, 1]: 1 is shown, 0 blank"
            )
        found = [self._probability(one) for one in shown[:, 0]]
        return torch.stack(found).to(shown) if found else shown.new_zeros(0)

    def score_many(self, batches: Tensor) -> Tensor:
        """Score batches (n, B, 1, *S), one prompt after the other."""
        return self(batches.flatten(0, 1)).reshape(batches.shape[:2])

    def _probability(self, shown: Tensor) -> Tensor:
        asked = self._asked
        changed = shown_in(asked.model, asked.inputs, asked.pieces, {self.image: shown})
        found = said(asked, changed).gather(1, asked.ids[:, None])[:, 0].exp()
        asked.check_numbers(found)
        return found.mean() if self.word is None else found[list(self.groups[self.word])].mean()


def when_shown(
    model: nn.Module,
    inputs: Mapping[str, Any],
    words: int | Tensor | Sequence[int],
    word: int | None = None,
    *,
    image: int = 0,
    groups: Sequence[Sequence[int]] | None = None,
    tiles: Sequence[tuple[int, int]] | None = None,
) -> WhenShown:
    """Make the probability of a word a score of what is shown of a picture, for methods and metrics of any score.

    The score takes how much of each place is shown, (B, 1, H, W) in [0, 1], of any size. What is not shown is blended
    into one color, the mean of the picture's own pixels, in all tiles and thumbnails that show it. With
    `shown = torch.ones(1, 1, H, W)` in the place of the image and of the activations, any black box of `camfn.methods`
    finds the places of a word, and the metrics of a score hold for maps of it:
    `methods.region_search(shown, forward=score, inputs=shown, regions=labels)` is EAGLE on words.

    Source: EAGLE, arXiv 2509.22496, whose score of a sentence is the mean probability of its tokens.

    Args:
        model: as for `words.explain`; one forward for each sample.
        inputs: of one prompt.
        words: as for `words.explain`.
        word: which word of the answer, from 0; None for the mean over all its tokens.
        image: which picture of the prompt; the others stay as they are. Of a video (B, 1, T, H, W) will do as well.
        groups: as for `words.explain`.
        tiles: as for `words.explain`.

    Returns:
        A function (B, 1, H, W) -> (B,): the probability of the word, the mean of its tokens'.

    Raises:
        CamfnError: as for `words.carried`; no such word or picture.

    Example:
        >>> from camfn import methods
        >>> from transformers import LlavaConfig, LlavaForConditionalGeneration
        >>> sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
        >>> tower = dict(sizes, model_type="clip_vision_model", image_size=32, patch_size=8)
        >>> config = LlavaConfig(vision_config=tower, text_config=dict(sizes, model_type="llama"), image_token_id=98)
        >>> inputs = {"input_ids": torch.tensor([[1, *[98] * 16, 5]]), "pixel_values": torch.rand(1, 3, 32, 32)}
        >>> score = when_shown(LlavaForConditionalGeneration(config).eval(), inputs, [7, 8, 9], 1)
        >>> shown = torch.ones(1, 1, 4, 4)
        >>> methods.region_search(shown, forward=score, inputs=shown, grid=2).shape
        torch.Size([1, 4, 4])
    """
    asked = read("words.when_shown", model, inputs, words, groups, tiles, None)
    pictures = sorted({piece.span.image for piece in asked.pieces})
    if image not in pictures:
        raise CamfnError(f"words.when_shown: image: expected one of the pictures {pictures}, got {image!r}")
    try:
        chosen = None if word is None else index(word)
    except TypeError:
        raise ArgumentTypeError(
            f"words.when_shown: word: expected a number of a word, or None, got {describe(word)}"
        ) from None
    if chosen is not None and not 0 <= chosen < len(asked.groups):
        raise CamfnError(f"words.when_shown: word: expected 0 to {len(asked.groups) - 1}, got {word}")
    given = tuple(tuple(one) for one in asked.groups)
    return WhenShown(asked.model, asked.ids, given, chosen, image, _asked=asked)

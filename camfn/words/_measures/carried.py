"""How much of each word the picture carries: the word's probability with the picture, against a blank one."""

# tested in tests/words/measures/test_carried.py

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..._cut.graft import bare, graft
from ..._shared.checks import number
from ..._shared.inputs import call
from .._maps.explain import read
from .._prompt.asked import Asked
from .blank import blank, blank_each


class Carried(NamedTuple):
    """What the pictures change of each word, (K,) each.

    Attributes:
        gains: log-probability with the pictures less that with blank ones; may be negative.
        rises: probability with the pictures less that with blank ones; of a word of several tokens their mean.
        divergences: Kullback-Leibler divergence of what the model would say at the word, with pictures, from that
            without; of several tokens the sum.
        read: whether the rise is above the least: the word is read from the pictures.
    """

    gains: Tensor
    rises: Tensor
    divergences: Tensor
    read: Tensor


def carried(
    model: nn.Module,
    inputs: Mapping[str, Any],
    words: int | Tensor | Sequence[int],
    *,
    groups: Sequence[Sequence[int]] | None = None,
    tiles: Sequence[tuple[int, int]] | None = None,
    spans: Sequence[Any] | None = None,
    least: float = 0.2,
) -> Carried:
    """Say how much of each word of an answer the pictures carry, by two forwards: as they are, and blank.

    A word that the model says as surely without the picture is not read from it. Its map shows where the model would
    look all the same, and means nothing: `words.draw` shows it gray. A blank picture has one color, the mean of its
    own pixels; with `spans` the mean of those of all pictures.

    Source: EAGLE, arXiv 2509.22496, whose words count as sensitive where the probability rises by more than 0.2.

    Args:
        model: as for `words.explain`.
        inputs: of one prompt.
        words: as for `words.explain`.
        groups: as for `words.explain`.
        tiles: as for `words.explain`.
        spans: as for `words.explain`.
        least: the rise above which a word counts as read.

    Returns:
        `Carried(gains, rises, divergences, read)`, with a number for each word.

    Raises:
        CamfnError: as for `words.explain`; the model is in training mode.

    Example:
        >>> from transformers import LlavaConfig, LlavaForConditionalGeneration
        >>> sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
        >>> tower = dict(sizes, model_type="clip_vision_model", image_size=32, patch_size=8)
        >>> config = LlavaConfig(vision_config=tower, text_config=dict(sizes, model_type="llama"), image_token_id=98)
        >>> inputs = {"input_ids": torch.tensor([[1, *[98] * 16, 5]]), "pixel_values": torch.rand(1, 3, 32, 32)}
        >>> carried(LlavaForConditionalGeneration(config).eval(), inputs, [7, 8]).read
        tensor([False, False])
    """
    number("words.carried: least", least, "[-1, 1]")
    asked = read("words.carried", model, inputs, words, groups, tiles, spans)
    # of a family that is not known only the pixels as a whole are, and not which picture they are of
    unshown = blank(asked.inputs) if spans is not None else blank_each(asked.model, asked.inputs, asked.pieces)
    seen, unseen = (said(asked, given) for given in (asked.inputs, unshown))
    own = asked.ids.to(seen.device)[:, None]
    here, without = seen.gather(1, own)[:, 0], unseen.gather(1, own)[:, 0]
    asked.check_numbers(here - without)
    rises = torch.stack([(here.exp() - without.exp())[group].mean() for group in asked.groups])
    divergence = (seen.exp() * (seen - unseen)).nan_to_num(0.0).sum(1)
    return Carried(asked.of_words(here - without), rises, asked.of_words(divergence), rises > least)


def said(asked: Asked, inputs: Mapping[str, Any]) -> Tensor:
    """Return the log-probabilities of all words at each token of the answer, (N, V), from a private copy."""
    plain = bare(asked.model)
    copy = graft(plain, {id(module) for module in plain.modules()})
    with torch.inference_mode(False), torch.no_grad():
        return asked.vocabulary(call(copy, dict(inputs)))

"""Differentiate the model's score, or each layer's own, in the attentions of a forward."""

# tested in tests/attention/test_capture.py

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from .._cut.derive import gradients
from .._cut.resume import resume
from .._layout.facts import tower
from .._layout.readings import images_among
from .._shared.errors import CaptureError
from .._shared.vocabulary import Inputs, ScoreFn
from ._watch import Site

UNUSED_BLOCKS = 3
"""A network may read its features from so many blocks ahead of the last."""


class NoGradient(Exception):
    """The graph of the score does not reach an attention."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def gradients_at(
    sites: Sequence[Site],
    scores: Tensor,
    create_graph: bool,
    missing: Callable[[Site], None],
    *,
    retain_graph: bool = False,
) -> list[Tensor]:
    """Differentiate the scores in the probabilities and in the output of each attention, one after the other."""
    deltas = [delta for site in sites for delta in (site.delta, site.output_delta) if delta is not None]

    def absent(places: list[int]) -> None:
        # the probabilities of an attention reach the score through its output alone
        for place in places:
            if place % 2:
                missing(sites[place // 2])

    return gradients(scores, deltas, create_graph=create_graph, retain_graph=retain_graph, missing=absent)


def gradients_of_used(
    wanted: list[Site], scores: Tensor, keep: bool, missing: Callable[[Site], None], may_end_early: bool
) -> tuple[list[Site], list[Tensor]]:
    """Differentiate the model's score; leave out the last attentions where the score does not use them, if allowed."""
    lost: list[Site] = []
    grads = gradients_at(wanted, scores, keep, lost.append)
    used = list(wanted)
    while may_end_early and used and any(used[-1] is site for site in lost):
        used.pop()
    if not used:
        used = list(wanted)
    for site in lost:
        if any(site is one for one in used):
            missing(site)
    return used, grads[: 2 * len(used)]


def own_gradients(
    readout: Callable[[Tensor], Any] | None,
    average: bool,
    model: nn.Module,
    sites: list[Site],
    wanted: list[Site],
    inputs: Inputs,
    score: ScoreFn,
    keep: bool,
    missing: Callable[[Site], None],
    may_end_early: bool,
) -> tuple[list[Site], list[Tensor]]:
    """Differentiate each attention's own score; return the attentions, and gradients as `gradients_at` does.

    The rest of the network is what follows the last block of the tower; of the last few blocks, the score may use none.
    """
    _check_blocks(wanted)
    if readout is not None:
        return wanted, _gradients_of_own_scores(average, wanted, readout, score, keep, missing)
    of_image = images_among(inputs)
    towers = {id(site): tower(model, site.name, of_image) for site in sites}
    own = [site for site in sites if site.block and towers[id(site)] == towers[id(wanted[-1])]]
    # attention that pools gives no tokens for a head behind it
    ends = [site for site in own if site.q.shape[-2] == site.k.shape[-2]] or own
    for tries, last in enumerate(reversed(ends)):
        used = [site for site in wanted if sites.index(site) <= sites.index(last)]
        _check_same_tokens(wanted, last)
        rest = resume(model, last.block, layout=None, differentiable=keep)(inputs)
        try:
            found = _gradients_of_own_scores(average, used or wanted, rest, score, keep, missing)
        except NoGradient:
            if tries == min(UNUSED_BLOCKS, len(ends) - 1):
                raise
            continue
        if len(used) < len(wanted) and not may_end_early:
            raise NoGradient(wanted[-1].name)
        return used, found
    raise AssertionError("the last block wanted is one of the ends")


def _check_same_tokens(wanted: list[Site], last: Site) -> None:
    """Refuse blocks with another number of tokens than the last, whose head cannot score them."""
    for site in wanted:
        if site.q.shape[-2] != last.q.shape[-2]:
            raise CaptureError(
                f"the network goes on from the {last.q.shape[-2]} tokens of {last.block!r}, but {site.block!r} gives "
                f"{site.q.shape[-2]}, which the head after the last block cannot score. Name the layers with as many "
                "tokens as the last block, or take scores='model'"
            )


def _check_blocks(wanted: list[Site]) -> None:
    """Refuse an attention that is in no block: `scores="layers"` needs the tokens that its block returns."""
    for site in wanted:
        if not site.block:
            raise CaptureError(
                f"the attention in {site.name!r} is in no block that returns its {site.q.shape[-2]} tokens, (B, N, C), "
                "so it has no score of its own. Attention in windows (Swin, MaxViT) and attention that pools have no "
                "such block. Name layers with other attention, or take scores='model'"
            )


def _gradients_of_own_scores(
    average: bool,
    wanted: list[Site],
    readout: Callable[[Tensor], Any],
    score: ScoreFn,
    create_graph: bool,
    missing: Callable[[Site], None],
) -> list[Tensor]:
    """Differentiate, for each attention, the score of the mean of its block's tokens, or of these tokens.

    Returns:
        For each attention, the gradients of its probabilities and of its output, one after the other.
    """
    grads = []
    for site in wanted:
        assert site.tokens is not None
        mean = site.tokens.mean(site.per_token, keepdim=True).expand_as(site.tokens)
        # networks may view the tokens of a block in other shapes
        tokens = mean.contiguous() if average else site.tokens
        grads += gradients_at([site], score(readout(tokens)), create_graph, missing)
    return grads

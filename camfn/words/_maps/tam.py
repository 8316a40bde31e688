"""TAM for the words of an answer: each word's own score at every place, less what earlier words explain."""

# tested in tests/words/maps/test_tam.py

from __future__ import annotations

from collections.abc import Sequence
from operator import index as number
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from ..._cut.capture import observe
from ..._cut.hidden import is_hooked
from ..._shared.checks import describe
from ..._shared.errors import ArgumentTypeError, CamfnError, CaptureError
from ...methods._activation.tam import rank_gaussian, without_context
from .._prompt.asked import Asked
from .._prompt.pieces import Span
from .layers import decoder_name, head_of

_ROWS = 64
"""Of so many states at a time the head of another kind than `nn.Linear` gives the scores of all words."""


def by_tam(asked: Asked, filtered: bool, question: Any) -> tuple[list[Tensor], Tensor, Tensor]:
    """Return the maps of each span, the joint scale of each word (K, 2), and the log-probabilities of the tokens."""
    states, outputs = observe(asked.model, decoder_name(asked.model), select="last_hidden_state", layout=None)(
        asked.inputs
    )
    said = asked.log_probabilities(outputs)
    asked.check_numbers(said)
    text = _question(question, asked)
    classes = torch.cat([asked.prompt[text], asked.ids])
    _check_head(asked, states[0], outputs)
    at = torch.cat([*(piece.span.positions.to(states.device) for piece in asked.pieces), text, asked.queries])
    scores = class_scores(head_of(asked.model), states[0, at], classes)
    if len(text):
        # the authors read the first word of the question as what the model says there
        first = head_of(asked.model)(states[0, text[:1]])[0].argmax()
        scores[:, 0] = class_scores(head_of(asked.model), states[0, at], first[None])[:, 0]
    places = sum(len(piece.span.positions) for piece in asked.pieces)
    maps, scale = tam_of_scores(scores.relu(), places, classes, len(text))
    maps, scale = _of_words(maps, scale, asked.groups)
    each = torch.split(maps, [len(piece.span.positions) for piece in asked.pieces], 1)
    return [_laid(one, piece.span, filtered) for one, piece in zip(each, asked.pieces)], scale, said


def tam_of_scores(scores: Tensor, places: int, classes: Tensor, asked: int) -> tuple[Tensor, Tensor]:
    """Take out of each word's map what the words before it explain, of scores at places and texts.

    Args:
        scores: (places + asked + K, asked + K), of each class at each place, at each word of the question, and where
            each word of the answer is predicted; not negative.
        places: number of places.
        classes: ids of the classes, (asked + K,): of the question, then of the answer.
        asked: number of words of the question.

    Returns:
        Maps (K, places), and the least and the largest value of each word's map and text scores together, (K, 2).
    """
    earlier, texts = scores[:places].T, scores[places:]
    maps, scale = [], []
    for word in range(asked, len(classes)):
        own, of_text = earlier[word], texts[:word, word]
        # a word does not explain itself away
        keep = classes[:word] != classes[word]
        cleaned = without_context(own[None], earlier[:word][keep][None], of_text[keep][None])[0]
        joint = torch.cat([cleaned, of_text])
        maps.append(cleaned)
        scale.append(torch.stack([joint.min(), joint.max()]))
    return torch.stack(maps), torch.stack(scale)


def class_scores(head: nn.Module, states: Tensor, classes: Tensor) -> Tensor:
    """Return the scores of some words for some states, (N, C), without those of the whole vocabulary."""
    if _is_its_weights(head, states):
        bias = 0 if head.bias is None else head.bias[classes]
        found = states @ head.weight[classes].T + bias
    else:
        found = torch.cat([head(some)[:, classes] for some in torch.split(states, _ROWS)])
    return found if found.dtype == torch.float64 else found.float()


def _is_its_weights(head: nn.Module, states: Tensor) -> TypeGuard[nn.Linear]:
    """Whether the rows of a head's weights are all that it does: it has no hooks, and its weights are at hand.

    A head that is offloaded has no weights but while it runs.
    """
    return type(head) is nn.Linear and not is_hooked(head) and head.weight.device == states.device


def _check_head(asked: Asked, states: Tensor, outputs: Any) -> None:
    """Refuse a model whose words are not the head's scores of the states; a final soft-capping keeps their order."""
    logits = outputs.logits[0, 0 if outputs.logits.shape[1] == len(asked.ids) else asked.queries[0]]
    found = head_of(asked.model)(states[asked.queries[:1]])[0]
    text: Any = getattr(asked.model.config, "text_config", asked.model.config)
    cap = getattr(text, "final_logit_softcapping", None)
    found = found if cap is None else cap * (found / cap).tanh()
    if not torch.allclose(found.float(), logits.float(), rtol=1e-2, atol=1e-2 * float(logits.abs().max())):
        raise CaptureError(
            f"tam: the head of this {type(asked.model).__name__} does not give its logits from the states of "
            f"{decoder_name(asked.model)!r}: take method='grad_cam'"
        )


def _question(question: Any, asked: Asked) -> Tensor:
    """Return the positions of the question's words: by default, of all the text behind the last picture."""
    last = max(int(piece.span.positions.max()) for piece in asked.pieces)
    count = len(asked.prompt)
    if question is None:
        return torch.arange(last + 1, count, device=asked.prompt.device)
    if isinstance(question, slice):
        question = range(*question.indices(count))
    if not isinstance(question, (list, tuple, range, Tensor)):
        raise ArgumentTypeError(
            f"tam: question: expected positions of the prompt, a slice or a list, got {describe(question)}"
        )
    try:
        listed = [number(one) for one in question]
    except TypeError:
        raise CamfnError(f"tam: question: expected positions of the prompt, whole numbers, got {question}") from None
    at = torch.tensor(listed, dtype=torch.long, device=asked.prompt.device)
    taken = {int(one) for piece in asked.pieces for one in piece.span.positions}
    if any(not last < int(one) < count or int(one) in taken for one in at):
        raise CamfnError(
            f"tam: question: expected positions behind the last picture, {last + 1} to {count - 1}, got {at.tolist()}"
        )
    return at


def _of_words(maps: Tensor, scale: Tensor, groups: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Join the maps of a word's tokens by their maximum."""
    joined = torch.stack([maps[group].amax(0) for group in groups])
    ends = [torch.stack([scale[group, 0].min(), scale[group, 1].max()]) for group in groups]
    return joined, torch.stack(ends)


def _laid(maps: Tensor, span: Span, filtered: bool) -> Tensor:
    laid = maps.reshape(len(maps), *span.grid)
    return rank_gaussian(laid) if filtered else laid

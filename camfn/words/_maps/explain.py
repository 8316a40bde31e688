"""A map of every picture for every word of an answer, from one forward."""

# tested in tests/words/maps/test_explain.py

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import signature
from operator import index
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..._cut.each import capture_each
from ..._cut.graft import bare
from ..._cut.layer_checks import layer_name
from ..._shared.checks import describe
from ..._shared.errors import ArgumentTypeError, CamfnError, CaptureError
from ..._shared.seen import picture, sheet, table, visible
from ...attention import METHODS
from ...catalogue import MethodInfo, find, info_of
from .._prompt.answer import answered
from .._prompt.asked import Asked, check_settled
from .._prompt.pieces import Piece, Span
from .._prompt.pixels import check_pixels
from .._prompt.prompt import forced, prompt_ids
from .._prompt.spans import pieces
from .attention import by_attention
from .layers import is_late, maps_of, named_layer
from .tam import by_tam


class Explained(NamedTuple):
    """Maps of an answer, word by word.

    Attributes:
        maps: for each span (K, *grid), a raw map for each of K words. At a layer of the tower the grid is the layer's
            own, which may be finer than the span's.
        spans: the pictures, as `words.spans` lists them.
        ids: the tokens of the answer, (N,); as many as words, unless tokens are joined to words by `groups`.
        log_probabilities: of each token, (N,), as the model said it.
        scale: of TAM, (K, 2): the least and the largest of a word's map before the filter and its scores at the words
            before it, by which the authors stretch the map; None of other methods.
    """

    maps: list[Tensor]
    spans: list[Span]
    ids: Tensor
    log_probabilities: Tensor
    scale: Tensor | None = None

    def _repr_html_(self) -> str:
        """Show the maps in a notebook, a column for each word and a row for each picture; `draw` lays them over one."""
        heads = ["", *(f"word {k}" for k in range(len(self.maps[0]) if self.maps else 0))]
        rows = []
        for span, maps in zip(self.spans, self.maps):
            seen = [visible(cam[None, None]) for cam in maps]
            about = f"picture {span.image} ({span.part}) {tuple(maps.shape[1:])}"
            drawn = [picture(sheet([one]), f"{about}, word {k}") if one else "" for k, one in enumerate(seen)]
            rows.append([about, *drawn])
        return table(heads, rows)

    def _repr_png_(self) -> bytes | None:
        """Draw the maps: a column for each word, a row for each picture; None where there are none."""
        rows = [[one for cam in maps for one in visible(cam[None, None])] for maps in self.maps]
        return sheet([row for row in rows if row]) if any(rows) else None


def explain(
    model: nn.Module,
    inputs: Mapping[str, Any],
    words: int | Tensor | Sequence[int],
    *,
    method: str | Callable[..., Tensor] = "tam",
    layer: str | nn.Module | None = None,
    groups: Sequence[Sequence[int]] | None = None,
    tiles: Sequence[tuple[int, int]] | None = None,
    spans: Sequence[Span] | None = None,
    question: slice | Sequence[int] | None = None,
) -> Explained:
    """Explain every word of an answer by a map of every picture of the prompt, from one forward on both.

    The score of a word is its log-probability behind the prompt and the words before it; the score of a word of
    several tokens is the sum of theirs.

    * `tam` takes no backward: the word's own score at every place, less what earlier words explain. A word of several
      tokens has the maximum of their maps.
    * A method of a layer's activations and gradients takes one backward a word. Its weights are means over the places
      of one picture: text, line ends and other pictures do not enter.
    * A method on attention reads the rows of the tokens that predict the words, in the language model, whose fused
      attention stays on: `raw_attention`, `attention_rollout`, `gradient_rollout` (one backward a token), `le_grad`
      (one backward in all), `grad_eclip` (one backward a token).

    No logits but those of the answer are made where the model can leave the others out, and `raw_attention`, `le_grad`
    and `grad_eclip` form no other rows of attention.

    Args:
        model: a model of transformers for images and text, `...ForConditionalGeneration`; left exactly as it is.
        inputs: of one prompt, as the model's processor returns them.
        words: the number of tokens that the model may say, greedily; or the ids of an answer, (N,), such as
            `model.generate(**inputs)[:, P:]`.
        method: by name, or as a function, to which options may be bound: `partial(methods.tam, filtered=False)`.
        layer: "tower" (the last block of the vision tower that the model reads), "projector" (the default: what leads
            into the language model) or "language" (a block in its middle); or a layer by name or as a module. For
            attention a block of the language model, or a pattern; None is the last, and all for rollouts and LeGrad.
        groups: the tokens of each word, such as [[0], [1, 2]]; None takes each token as a word. `words.grouped` makes
            them with a tokenizer.
        tiles: as for `words.spans`.
        spans: where the pictures stand, for a model whose family `words.spans` does not know; only layers of the
            language model can be explained then.
        question: of `tam`, the positions of the question's words, which count as earlier words; None takes all text
            behind the last picture, with the marks of the chat among it.

    Returns:
        `Explained(maps, spans, ids, log_probabilities, scale)`, with a raw map (K, *grid) for each span.

    Raises:
        CamfnError: as for `words.spans` and `words.forced`; the method cannot be taken, the groups do not fit, or the
            model is in training mode.
        CaptureError: the layer's output is no map of the pictures, or no word depends on it there.

    Example:
        >>> from transformers import LlavaConfig, LlavaForConditionalGeneration
        >>> sizes = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32)
        >>> tower = dict(sizes, model_type="clip_vision_model", image_size=32, patch_size=8)
        >>> text = dict(sizes, model_type="llama", vocab_size=99)
        >>> config = LlavaConfig(vision_config=tower, text_config=text, image_token_id=98)
        >>> model = LlavaForConditionalGeneration(config).eval()
        >>> inputs = {"input_ids": torch.tensor([[1, *[98] * 16, 5]]), "pixel_values": torch.rand(1, 3, 32, 32)}
        >>> explained = explain(model, inputs, [7, 8, 9], method="layer_cam")
        >>> [tuple(maps.shape) for maps in explained.maps], explained.spans[0].grid
        ([(3, 4, 4)], (4, 4))
    """
    info, function = method_of(method)
    if question is not None and info.name != "tam":
        raise CamfnError(f"words.explain: question= is of tam, and {info.name} does not read it")
    asked = read("words.explain", model, inputs, words, groups, tiles, spans)
    found, scale = [piece.span for piece in asked.pieces], None
    if info.name == "tam":
        if layer is not None:
            raise CamfnError("words.explain: tam reads the states behind the last block: leave out layer=")
        with torch.no_grad():
            maps, scale, said = by_tam(asked, _filtered(function), question)
    elif info.kind == "attention":
        maps, said = by_attention(asked, function, layer)
    else:
        maps, said = _by_gradient(
            asked, function, named_layer(asked.model, "projector" if layer is None else layer), info
        )
    asked.check_numbers(said)
    return Explained([one.detach() for one in maps], found, asked.ids, said.detach(), scale)


def _filtered(function: Callable[..., Tensor]) -> bool:
    """Return what is bound to TAM by `functools.partial`."""
    bound = function.keywords if isinstance(function, partial) else {}
    if bound.keys() - {"filtered"}:
        raise CamfnError("words.explain: tam finds rows of the head and earlier words: bind filtered= alone")
    return bool(bound.get("filtered", True))


def method_of(method: str | Callable[..., Tensor]) -> tuple[MethodInfo, Callable[..., Tensor]]:
    """Return the method and its row in the catalogue; refuse one that needs what words do not have."""
    if not isinstance(method, str) and not callable(method):
        raise ArgumentTypeError(f"words.explain: method: expected a name or a function, got {describe(method)}")
    info = find(method) if isinstance(method, str) else info_of(method)
    of_layer = info.kind == "layer" and not info.needs - {"gradients"} and not info.draws
    of_attention = info.kind == "attention" and info.name in METHODS
    if not (of_layer or of_attention or info.name == "tam"):
        raise CamfnError(
            f"words.explain: {info.name} needs more than activations, gradients and attention: take tam, grad_cam, "
            f"hires_cam, layer_cam, another method of these, or one of {', '.join(METHODS)}"
        )
    return info, info.function if isinstance(method, str) else method


def read(
    name: str,
    model: nn.Module,
    inputs: Mapping[str, Any],
    words: int | Tensor | Sequence[int],
    groups: Sequence[Sequence[int]] | None,
    tiles: Sequence[tuple[int, int]] | None,
    spans: Sequence[Span] | None,
) -> Asked:
    """Read the prompt, say the answer, and check what the caller, a function of this name, was given of both."""
    plain = bare(model)
    check_settled(name, plain)
    prompt = prompt_ids("words.explain", inputs)
    found = pieces(plain, inputs, tiles) if spans is None else _given(spans, len(prompt))
    if spans is None:
        check_pixels(plain.config, inputs, found)
    with torch.inference_mode(False):
        # an index that was made in inference mode cannot be kept for a backward
        ids = answered(plain, inputs, words).clone()
        prompt = prompt.clone()
    return Asked(plain, forced(plain, inputs, ids), found, prompt, ids, _groups(groups, len(ids)))


def _given(spans: Sequence[Span], tokens: int) -> list[Piece]:
    """Check spans of the caller."""
    if not isinstance(spans, (list, tuple)) or any(not _is_span(span) for span in spans):
        raise CamfnError(
            "words: spans: expected a list of words.Span(image, part, positions, grid), with a tensor of whole "
            f"numbers, a position each place of the grid; got {describe(spans)}"
        )
    for span in spans:
        if not 0 <= int(span.positions.min()) <= int(span.positions.max()) < tokens:
            raise CamfnError(f"words: spans: expected positions from 0 to {tokens - 1}, those of the prompt")
    every = torch.cat([span.positions.cpu() for span in spans]) if spans else torch.empty(0)
    if len(set(every.tolist())) != len(every):
        raise CamfnError("words: spans: expected each position once, got places of two pictures, or of one twice")
    if not spans:
        raise CamfnError("words: spans: expected at least one")
    return [Piece(span, ((n,),)) for n, span in enumerate(spans)]


def _is_span(span: Any) -> bool:
    """Whether a span has a position, a whole number, for each place of its grid, and some."""
    if not isinstance(span, Span) or not isinstance(span.grid, (tuple, list)) or len(span.grid) not in (2, 3):
        return False
    sides = [n for n in span.grid if isinstance(n, int) and n > 0]
    whole_numbers = isinstance(span.positions, Tensor) and span.positions.dtype in (torch.int64, torch.int32)
    return len(sides) == len(span.grid) and whole_numbers and span.positions.shape == (math.prod(sides),)


def _groups(groups: Sequence[Sequence[int]] | None, tokens: int) -> list[list[int]]:
    """Return the tokens of each word."""
    try:
        found = [[n] for n in range(tokens)] if groups is None else [[index(n) for n in one] for one in groups]
    except TypeError:
        found = []
    once = all(len(set(group)) == len(group) for group in found)
    if not found or not all(found) or not once or any(not 0 <= n < tokens for group in found for n in group):
        raise CamfnError(
            f"words: groups: expected the tokens of each word, each once, from 0 to {tokens - 1}, such as "
            f"[[0], [1, 2]]; got {groups}"
        )
    return found


def _by_gradient(
    asked: Asked, function: Callable[..., Tensor], layer: Any, info: MethodInfo
) -> tuple[list[Tensor], Tensor]:
    """Explain by a method of a layer's activations and gradients: one forward, and one backward a word."""
    name = layer_name(asked.model, layer)
    said: list[Tensor] = []

    def scores(outputs: Any) -> Tensor:
        of_tokens = asked.log_probabilities(outputs)
        said.append(of_tokens.detach())
        return asked.of_words(of_tokens)[:, None]

    activations, grads, _ = capture_each(asked.model, name, layout=None)(asked.inputs, scores)
    to_maps = maps_of(asked.model, name, asked.pieces, asked.full, activations.shape)
    laid, each = to_maps(activations), [to_maps(row) for row in grads]
    if info.needs and not any(bool(one.any()) for row in each for one in row):
        late = " It stands behind the last attention, so no word reads the places." * is_late(asked.model, name)
        raise CaptureError(
            f"words: no word depends on the places of the pictures at layer {name!r}: their gradients are 0.{late} "
            "Take layer='projector' or 'language', or an earlier block"
        )
    maps = [torch.cat([_mapped(function, a, row[n]) for row in each]) for n, a in enumerate(laid)]
    return maps, said[0]


def _mapped(function: Callable[..., Tensor], activations: Tensor, grads: Tensor) -> Tensor:
    """Apply a method to a picture (1, C, *S); refuse what is no map (1, *S)."""
    try:
        signature(function).bind(activations, grads, None)
    except TypeError:
        raise ArgumentTypeError(
            "words.explain: method: expected a function (activations, grads, outputs) -> map, got "
            f"{signature(function)}"
        ) from None
    cam = function(activations, grads, None)
    if not isinstance(cam, Tensor) or cam.shape != (1, *activations.shape[2:]):
        raise CamfnError(
            f"words.explain: the method returned {describe(cam)}: expected a map {(1, *activations.shape[2:])} of "
            f"activations {tuple(activations.shape)}"
        )
    return cam

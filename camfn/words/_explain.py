"""A map of every picture for every word of an answer, from one forward."""

# tested in tests/words/test_explain.py

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._cut.each import capture_each
from .._cut.graft import bare
from .._cut.layer_checks import layer_name
from .._shared.checks import describe
from .._shared.errors import ArgumentTypeError, CamfnError, CaptureError
from ..catalogue import MethodInfo, find, info_of
from ._answer import answered
from ._layers import is_late, maps_of, named_layer
from ._pieces import Piece, Span
from ._prompt import forced, prompt_ids
from ._spans import pieces


class Explained(NamedTuple):
    """Maps of an answer, word by word.

    Attributes:
        maps: for each span (K, *grid), a raw map for each of K words. At a layer of the tower the grid is the layer's
            own, which may be finer than the span's.
        spans: the pictures, as `words.spans` lists them.
        ids: the tokens of the answer, (N,); as many as words, unless tokens are joined to words by `groups`.
        log_probabilities: of each token, (N,), as the model said it.
    """

    maps: list[Tensor]
    spans: list[Span]
    ids: Tensor
    log_probabilities: Tensor


class Asked(NamedTuple):
    """What one call explains: shared by the engines of the methods.

    Attributes:
        model: the network.
        full: inputs of one forward on prompt and answer.
        pieces: of the pictures.
        prompt: ids of the prompt, (P,).
        ids: of the answer, (N,).
        groups: the tokens of each word.
    """

    model: nn.Module
    full: dict[str, Any]
    pieces: list[Piece]
    prompt: Tensor
    ids: Tensor
    groups: list[list[int]]

    @property
    def queries(self) -> Tensor:
        """Positions whose states predict the tokens of the answer, (N,)."""
        return torch.arange(len(self.prompt) - 1, len(self.prompt) - 1 + len(self.ids), device=self.ids.device)

    @property
    def inputs(self) -> dict[str, Any]:
        """Inputs of a forward that makes no logits but those of the answer, where the model can leave them out."""
        takes = "logits_to_keep" in signature(type(self.model).forward).parameters
        return {**self.full, "logits_to_keep": self.queries} if takes else self.full

    def log_probabilities(self, outputs: Any) -> Tensor:
        """Return the log-probability of each token of the answer, (N,), in float32 at least."""
        logits: Tensor = outputs.logits[0]
        if logits.shape[0] != len(self.ids):
            logits = logits[self.queries.to(logits.device)]
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return wide.log_softmax(-1).gather(1, self.ids.to(wide.device)[:, None])[:, 0]

    def of_words(self, of_tokens: Tensor) -> Tensor:
        """Sum what belongs to the tokens of each word, (N,) to (K,)."""
        return torch.stack([of_tokens[group].sum() for group in self.groups])


def explain(
    model: nn.Module,
    inputs: Mapping[str, Any],
    words: int | Tensor | Sequence[int],
    *,
    method: str | Callable[..., Tensor] = "grad_cam",
    layer: str | nn.Module | None = None,
    groups: Sequence[Sequence[int]] | None = None,
    tiles: Sequence[tuple[int, int]] | None = None,
    spans: Sequence[Span] | None = None,
) -> Explained:
    """Explain every word of an answer by a map of every picture of the prompt, from one forward on both.

    The score of a word is its log-probability behind the prompt and the words before it; the score of a word of
    several tokens is the sum of theirs. A method of gradients takes one backward a word. Its weights are means over the
    places of one picture: text, line ends and other pictures do not enter.

    Args:
        model: a model of transformers for images and text, `...ForConditionalGeneration`; left exactly as it is.
        inputs: of one prompt, as the model's processor returns them.
        words: the number of tokens that the model may say, greedily; or the ids of an answer, (N,), such as
            `model.generate(**inputs)[:, P:]`.
        method: of a layer's activations and gradients, by name or as a function: grad_cam, hires_cam, layer_cam, ...
        layer: "tower" (the last block of the vision tower that the model reads), "projector" (the default: what leads
            into the language model) or "language" (a block in its middle); or a layer by name or as a module.
        groups: the tokens of each word, such as [[0], [1, 2]]; None takes each token as a word. `words.grouped` makes
            them with a tokenizer.
        tiles: as for `words.spans`.
        spans: where the pictures stand, for a model whose family `words.spans` does not know; only layers of the
            language model can be explained then.

    Returns:
        `Explained(maps, spans, ids, log_probabilities)`, with a raw map (K, *grid) for each span.

    Raises:
        CamfnError: as for `words.spans` and `words.forced`; the method cannot be taken, or the groups do not fit.
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
    info, function = _method(method)
    asked = _asked(model, inputs, words, groups, tiles, spans)
    return _by_gradient(asked, function, named_layer(asked.model, layer or "projector"), info)


def _method(method: str | Callable[..., Tensor]) -> tuple[MethodInfo, Callable[..., Tensor]]:
    """Return the method and its row in the catalogue; refuse one that needs what words do not have."""
    if not isinstance(method, str) and not callable(method):
        raise ArgumentTypeError(f"words.explain: method: expected a name or a function, got {describe(method)}")
    info = find(method) if isinstance(method, str) else info_of(method)
    if info.kind != "layer" or info.needs - {"gradients"} or info.draws:
        raise CamfnError(
            f"words.explain: {info.name} needs more than activations and gradients: take grad_cam, hires_cam, "
            "layer_cam, or another method of these"
        )
    return info, info.function if isinstance(method, str) else method


def _asked(
    model: nn.Module,
    inputs: Mapping[str, Any],
    words: int | Tensor | Sequence[int],
    groups: Sequence[Sequence[int]] | None,
    tiles: Sequence[tuple[int, int]] | None,
    spans: Sequence[Span] | None,
) -> Asked:
    """Read the prompt, say the answer, and check what the caller says of both."""
    plain = bare(model)
    prompt = prompt_ids("words.explain", inputs)
    found = pieces(plain, inputs, tiles) if spans is None else _given(spans, len(prompt))
    ids = answered(plain, inputs, words)
    return Asked(plain, forced(plain, inputs, ids), found, prompt, ids, _groups(groups, len(ids)))


def _given(spans: Sequence[Span], tokens: int) -> list[Piece]:
    """Check spans of the caller."""
    for span in spans:
        if not isinstance(span, Span) or len(span.positions) != torch.Size(span.grid).numel():
            raise CamfnError("words: spans: expected words.Span(image, part, positions, grid), a position each place")
        if not 0 <= int(span.positions.min()) <= int(span.positions.max()) < tokens:
            raise CamfnError(f"words: spans: expected positions from 0 to {tokens - 1}, those of the prompt")
    if not spans:
        raise CamfnError("words: spans: expected at least one")
    return [Piece(span, ((n,),)) for n, span in enumerate(spans)]


def _groups(groups: Sequence[Sequence[int]] | None, tokens: int) -> list[list[int]]:
    """Return the tokens of each word."""
    found = [[n] for n in range(tokens)] if groups is None else [[int(n) for n in group] for group in groups]
    if not found or not all(found) or any(not 0 <= n < tokens for group in found for n in group):
        raise CamfnError(
            f"words: groups: expected the tokens of each word, from 0 to {tokens - 1}, such as [[0], [1, 2]]; got "
            f"{groups}"
        )
    return found


def _by_gradient(asked: Asked, function: Callable[..., Tensor], layer: Any, info: MethodInfo) -> Explained:
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
    maps = [torch.cat([function(a, row[n], None) for row in each]) for n, a in enumerate(laid)]
    return Explained(maps, [piece.span for piece in asked.pieces], asked.ids, said[0])

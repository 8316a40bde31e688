"""What each word loses when places of the pictures are replaced: the rest of the network runs again for each."""

# tested in tests/words/maps/test_drops.py

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..._cut.layer_checks import layer_name
from ..._cut.resume import record
from ..._shared.checks import progress_bar, whole
from ..._shared.errors import CaptureError
from .._prompt.pieces import Span
from .explain import Explained, read
from .layers import maps_of, named_layer


def drops(
    model: nn.Module,
    inputs: Mapping[str, Any],
    words: int | Tensor | Sequence[int],
    *,
    layer: str | nn.Module = "projector",
    side: int = 1,
    groups: Sequence[Sequence[int]] | None = None,
    tiles: Sequence[tuple[int, int]] | None = None,
    spans: Sequence[Span] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Explained:
    """Replace the places of the pictures, one after the other, by the mean place, and see what each word loses.

    `L_k(p) = log p_k - log p_k(p replaced)`, for all words k of one run. What comes before the layer runs once: behind
    the projector a run is one of the language model alone. It needs no gradient, and costs one run a place.

    Args:
        model: as for `words.explain`.
        inputs: of one prompt.
        words: as for `words.explain`.
        layer: as for `words.explain`; one that returns tokens.
        side: replace squares of so many places a side at a time; each place of a square has the square's drop.
        groups: as for `words.explain`.
        tiles: as for `words.explain`.
        spans: as for `words.explain`.
        progress: called with the number of runs done, and their number.

    Returns:
        As `words.explain`, with signed maps: negative where a word gains.

    Raises:
        CamfnError: as for `words.explain`; the model is in training mode.
        CaptureError: the layer returns no tokens, or no word depends on the places there.

    Example:
        >>> from transformers import LlavaConfig, LlavaForConditionalGeneration
        >>> sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
        >>> tower = dict(sizes, model_type="clip_vision_model", image_size=32, patch_size=8)
        >>> config = LlavaConfig(vision_config=tower, text_config=dict(sizes, model_type="llama"), image_token_id=98)
        >>> inputs = {"input_ids": torch.tensor([[1, *[98] * 16, 5]]), "pixel_values": torch.rand(1, 3, 32, 32)}
        >>> drops(LlavaForConditionalGeneration(config).eval(), inputs, [7, 8], side=2).maps[0].shape
        torch.Size([2, 4, 4])
    """
    whole("words.drops: side", side)
    progress_bar("words.drops", progress)
    asked = read("words.drops", model, inputs, words, groups, tiles, spans)
    name = layer_name(asked.model, named_layer(asked.model, layer))
    with torch.no_grad():
        recorded = record(asked.model, name, layout=None)(asked.inputs)
    tokens = recorded.activations
    if tokens.ndim not in (2, 3):
        raise CaptureError(f"words.drops: layer {name!r} gives {tuple(tokens.shape)}, and not tokens (B, N, C)")
    numbers = torch.arange(tokens[..., 0].numel(), dtype=torch.float64, device=tokens.device)
    at = maps_of(asked.model, name, asked.pieces, asked.full, tokens.shape)(numbers.reshape(*tokens.shape[:-1], 1))
    said = asked.log_probabilities(recorded.outputs)
    asked.check_numbers(said)
    before, flat = asked.of_words(said), tokens.reshape(-1, tokens.shape[-1])
    squares = [_squares(one[0, 0].long(), side) for one in at]
    total, done, maps = sum(len(one) for one in squares), 0, []
    for one, of_span in zip(at, squares):
        found = flat.new_zeros(len(asked.groups), flat.shape[0], dtype=said.dtype)
        mean = flat[one.flatten().long()].mean(0)
        for square in of_span:
            changed = flat.index_copy(0, square, mean.expand(len(square), -1)).reshape(tokens.shape)
            with torch.no_grad():
                after = asked.of_words(asked.log_probabilities(recorded.tail(changed)))
            found[:, square] = (before - after)[:, None]
            done += 1
            if progress is not None:
                progress(done, total)
        maps.append(found[:, one[0, 0].long()])
    if not any(bool(one.any()) for one in maps):
        raise CaptureError(
            f"words.drops: no word depends on the places of the pictures at layer {name!r}: every drop is 0. Take "
            "layer='projector' or 'language', or an earlier block"
        )
    return Explained(maps, [piece.span for piece in asked.pieces], asked.ids, said)


def _squares(at: Tensor, side: int) -> list[Tensor]:
    """Return the places of each square of a grid, (h, w) or (t, h, w), as positions among the tokens."""
    frames = at.reshape(-1, *at.shape[-2:])
    return [
        frame[top : top + side, left : left + side].flatten()
        for frame in frames
        for top in range(0, frame.shape[0], side)
        for left in range(0, frame.shape[1], side)
    ]

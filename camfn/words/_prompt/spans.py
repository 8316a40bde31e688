"""Where the pictures of a prompt stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import index
from typing import Any

from torch import nn

from ..._cut.graft import bare
from ..._shared.checks import describe
from ..._shared.errors import ArgumentTypeError, CamfnError
from .families import pieces_of
from .pieces import Piece, Prompt, Span
from .prompt import prompt_ids


def spans(model: nn.Module, inputs: Mapping[str, Any], *, tiles: Sequence[tuple[int, int]] | None = None) -> list[Span]:
    """Say where the pictures of a prompt stand in the sequence of the language model, and in which grids.

    It reads the model's configuration, the ids and what the processor says of sizes, and never guesses by a count: a
    prompt whose pictures are not certain is refused. Families: LLaVA and ViP-LLaVA, LLaVA with Pixtral, LLaVA-NeXT,
    OneVision, Qwen2-VL, Qwen2.5-VL, Qwen3-VL, InternVL, PaliGemma, Gemma 3, SmolVLM, Idefics3, Mistral 3.

    A picture in tiles is one span, its tiles side by side, and a second span is its thumbnail.

    Args:
        model: a model of transformers for images and text; the function does not run it.
        inputs: of one prompt, as the model's processor returns them.
        tiles: (rows, columns) of the tiles of each picture, where no input says them: for InternVL, and for Idefics3
            and SmolVLM where the tags do not. (1, 1) for a picture without tiles.

    Returns:
        A `Span` for each picture, video or thumbnail, in the order of the prompt.

    Raises:
        CamfnError: the family has no places (BLIP-2, Kosmos-2) or is not known; several prompts, padding, or
            `inputs_embeds`; an input is missing, or the counts do not fit.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> class Model(torch.nn.Module):
        ...     config = SimpleNamespace(
        ...         model_type="gemma3", image_token_id=9, mm_tokens_per_image=4, vision_config=None
        ...     )
        >>> (span,) = spans(Model(), {"input_ids": torch.tensor([[1, 9, 9, 9, 9, 2]])})
        >>> span.grid, span.positions.tolist()
        ((2, 2), [1, 2, 3, 4])
    """
    return [piece.span for piece in pieces(model, inputs, tiles)]


def pieces(model: nn.Module, inputs: Mapping[str, Any], tiles: Sequence[tuple[int, int]] | None = None) -> list[Piece]:
    """Return the pieces of a prompt's pictures."""
    config = getattr(bare(model), "config", None)
    if config is None:
        raise ArgumentTypeError(
            f"words: expected a model of transformers with its configuration, got {describe(model)}"
        )
    ids = prompt_ids("words", inputs)
    return pieces_of(Prompt(config, ids, inputs, None if tiles is None else _rows_and_columns(tiles)))


def _rows_and_columns(tiles: Any) -> list[tuple[int, int]]:
    """Refuse what does not say how many rows and columns of tiles each picture has."""
    try:
        found = [tuple(index(n) for n in one) for one in tiles]
    except TypeError:
        found = [()]
    if any(len(one) != 2 or min(one) < 1 for one in found):
        raise CamfnError(f"words: tiles: expected (rows, columns) for each picture, such as [(2, 3)], got {tiles}")
    return [(rows, columns) for rows, columns in found]

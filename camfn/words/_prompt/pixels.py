"""Whether the pixels among the inputs are those of the pictures in the prompt."""

# tested in tests/words/prompt/test_pixels.py

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..._shared.checks import describe
from ..._shared.errors import CamfnError
from .pieces import Piece
from .prompt import CALL


def check_pixels(config: Any, inputs: Mapping[str, Any], found: Sequence[Piece]) -> None:
    """Refuse a prompt whose pictures have no pixels, or others: a place without a picture is a word like any other."""
    kind = str(config.model_type)
    for key, video in (("pixel_values", False), ("pixel_values_videos", True)):
        own = [piece for piece in found if (piece.span.part == "video") == video]
        pixels = inputs.get(key)
        if not own and pixels is None:
            continue
        if not isinstance(pixels, Tensor) or not pixels.is_floating_point() or pixels.ndim not in (2, 4, 5):
            raise CamfnError(
                f"words: the prompt has {len({piece.span.image for piece in own})} "
                f"{'videos' if video else 'pictures'}: expected floats in {key}, as {CALL} returns them, got "
                f"{describe(pixels)}"
            )
        expected, got = _counts(kind, inputs, own, pixels, video)
        if expected != got:
            raise CamfnError(
                f"words: {key} {tuple(pixels.shape)} holds {got} pictures, tiles or patches, and the prompt has places "
                f"for {expected}: pass all that {CALL} returns for this prompt"
            )


def _counts(kind: str, inputs: Mapping[str, Any], own: Sequence[Piece], pixels: Tensor, video: bool) -> tuple[int, int]:
    """Return how many pictures, runs of the tower or patches are expected, and how many came."""
    sizes = inputs.get("video_grid_thw" if video else "image_grid_thw")
    if pixels.ndim == 2 and isinstance(sizes, Tensor):
        return int(sizes.prod(-1).sum()), len(pixels)
    if kind in ("llava_next", "llava_onevision"):
        return len({piece.span.image for piece in own}), len(pixels)
    runs = sum(len(row) for piece in own for row in piece.units)
    got = pixels.shape[:-3].numel()
    # pictures of fewer tiles are padded behind
    return (got, got) if pixels.ndim == 5 and got > runs else (runs, got)

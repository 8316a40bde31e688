"""Pictures of a prompt without what they show: blank as a whole, or in parts."""

# tested in tests/words/measures/test_blank.py

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..._cut.graft import bare
from ..._shared.checks import describe
from ..._shared.errors import ArgumentTypeError, CamfnError
from .._maps.layers import maps_of, side_by_side
from .._prompt.pieces import Piece
from .._prompt.spans import pieces

_PIXELS = ("pixel_values", "pixel_values_videos")


def blank(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Replace every picture by one color, the mean of the pixels of all pictures channel by channel.

    Frames that a processor added as padding, which are zero throughout, stay as they are.
    """
    found = [key for key in _PIXELS if isinstance(inputs.get(key), Tensor)]
    if not found:
        raise CamfnError(f"words: expected {' or '.join(_PIXELS)} among the inputs, got {list(inputs)}")
    return {**inputs, **{key: _blank_pixels(inputs[key]) for key in found}}


def _blank_pixels(pixels: Tensor) -> Tensor:
    if pixels.ndim == 2:  # patches (N, 3 T p p)
        per_channel = pixels.reshape(len(pixels), 3, -1)
        return per_channel.mean((0, 2), keepdim=True).expand_as(per_channel).reshape(pixels.shape)
    units = pixels.reshape(-1, *pixels.shape[-3:])
    real = (units != 0).flatten(1).any(1)
    color = units[real].mean((0, 2, 3)) if bool(real.any()) else units.new_zeros(units.shape[1])
    # a network may take zeros throughout for padding
    color = torch.where(color == 0, torch.finfo(color.dtype).eps, color)
    return torch.where(real[:, None, None, None], color[:, None, None], units).reshape(pixels.shape)


def hide(
    model: nn.Module,
    inputs: Mapping[str, Any],
    masks: Mapping[int, Tensor] | Sequence[Tensor],
    *,
    tiles: Sequence[tuple[int, int]] | None = None,
) -> dict[str, Any]:
    """Hide parts of the pictures of a prompt behind one color each, in all tiles and thumbnails that show them.

    The color of a picture is the mean of its own pixels.

    Args:
        model: as for `words.spans`.
        inputs: of one prompt; prompt and answer will do as well.
        masks: for each picture (H, W), or (T, H, W) of a video, of any size: True where it is hidden. A list, or a dict
            by the number of the picture; a picture without a mask stays as it is.
        tiles: as for `words.spans`.

    Returns:
        The inputs with other pixels.

    Raises:
        CamfnError: as for `words.spans`; a mask of another kind, or of no picture.

    Example:
        >>> from transformers import LlavaConfig, LlavaForConditionalGeneration
        >>> sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
        >>> tower = dict(sizes, model_type="clip_vision_model", image_size=32, patch_size=8)
        >>> config = LlavaConfig(vision_config=tower, text_config=dict(sizes, model_type="llama"), image_token_id=98)
        >>> inputs = {"input_ids": torch.tensor([[1, *[98] * 16, 5]]), "pixel_values": torch.rand(1, 3, 32, 32)}
        >>> left = torch.tensor([[True, False]])
        >>> hidden = hide(LlavaForConditionalGeneration(config), inputs, [left])["pixel_values"]
        >>> (hidden != inputs["pixel_values"]).all((0, 1, 2)).tolist() == [True] * 16 + [False] * 16
        True
    """
    model = bare(model)
    return hidden_in(model, inputs, pieces(model, inputs, tiles), masks)


def hidden_in(
    model: nn.Module, inputs: Mapping[str, Any], found: list[Piece], masks: Mapping[int, Tensor] | Sequence[Tensor]
) -> dict[str, Any]:
    """Hide parts of pictures whose pieces are known."""
    if not isinstance(masks, (Mapping, list, tuple)):
        raise ArgumentTypeError(f"words.hide: masks: expected a list, or a dict by picture, got {describe(masks)}")
    given = dict(masks) if isinstance(masks, Mapping) else dict(enumerate(masks))
    known = {piece.span.image for piece in found}
    for number, mask in given.items():
        fits = isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.ndim in (2, 3) and mask.numel()
        if number not in known or not fits:
            raise CamfnError(
                f"words.hide: masks: expected boolean masks (H, W) of pictures {sorted(known)}, (T, H, W) of videos, "
                f"got {getattr(mask, 'dtype', type(mask).__name__)} {tuple(getattr(mask, 'shape', ()))} of {number!r}"
            )
    return shown_in(model, inputs, found, {number: 1 - mask.float() for number, mask in given.items()})


def blank_each(model: nn.Module, inputs: Mapping[str, Any], found: list[Piece]) -> dict[str, Any]:
    """Replace every picture by one color, the mean of its own pixels."""
    return shown_in(model, inputs, found, {piece.span.image: torch.zeros(1, 1) for piece in found})


def shown_in(
    model: nn.Module, inputs: Mapping[str, Any], found: list[Piece], shown: Mapping[int, Tensor]
) -> dict[str, Any]:
    """Blend pictures with blank ones, by how much of each place is shown, (H, W) or (T, H, W) in [0, 1]."""
    without, changed = blank(inputs), dict(inputs)
    for key in _PIXELS:
        if isinstance(inputs.get(key), Tensor):
            own = [piece for piece in found if (piece.span.part == "video") == (key == "pixel_values_videos")]
            places = _where(model, inputs, own, inputs[key])
            share = _shown(own, places, shown, inputs[key])
            colored = _own_colors(own, places, inputs[key], without[key])
            changed[key] = torch.where(share == 1, inputs[key], colored.lerp(inputs[key], share))
    return changed


def _own_colors(found: list[Piece], places: list[Tensor], pixels: Tensor, without: Tensor) -> Tensor:
    """Give each picture the mean of its own pixels, channel by channel, in the place of the mean of all."""
    of_patches = pixels.ndim == 2  # (N, 3 T p p), and otherwise (..., 3, H, W)
    values = (
        pixels.reshape(len(pixels), 3, -1) if of_patches else pixels.movedim(-3, -1).reshape(-1, pixels.shape[-3], 1)
    )
    colored = torch.empty_like(values)
    colored.copy_(without.reshape(len(pixels), 3, -1) if of_patches else without.movedim(-3, -1).reshape(values.shape))
    for number in {piece.span.image for piece in found}:
        at = torch.cat([place.flatten() for piece, place in zip(found, places) if piece.span.image == number])
        color = values[at].mean((0, 2))
        color = color if of_patches else torch.where(color == 0, torch.finfo(color.dtype).eps, color)
        colored[at] = color[:, None]
    if of_patches:
        return colored.reshape(pixels.shape)
    return colored.reshape(*pixels.shape[:-3], *pixels.shape[-2:], pixels.shape[-3]).movedim(-1, -3)


def _shown(found: list[Piece], places: list[Tensor], shown: Mapping[int, Tensor], pixels: Tensor) -> Tensor:
    """Return how much of each pixel is shown, in the shape of the pixels, or one that broadcasts to it."""
    shape = (len(pixels), 1) if pixels.ndim == 2 else (*pixels.shape[:-3], 1, *pixels.shape[-2:])
    share = torch.ones(shape, dtype=pixels.dtype, device=pixels.device).flatten()
    for piece, at in zip(found, places):
        given = shown.get(piece.span.image)
        if given is not None:
            share[at.flatten()] = _sized(given.to(at.device), tuple(at.shape)).to(share).flatten()
    return share.reshape(shape)


def _sized(shown: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bring what is shown to the size of a picture, by its nearest places."""
    if shown.ndim > len(size):
        raise CamfnError(
            f"words: expected masks (H, W) of a picture, got {tuple(shown.shape)}, as of the frames of a video"
        )
    if len(size) == 3 and shown.ndim == 2:
        shown = shown.expand(size[0], *shown.shape)
    return functional.interpolate(shown[None, None].float(), size, mode="nearest-exact")[0, 0]


def _where(model: nn.Module, inputs: Mapping[str, Any], found: list[Piece], pixels: Tensor) -> list[Tensor]:
    """Return for each piece where its pixels, or its patches, are among all of them, in the shape of a picture."""
    if pixels.ndim == 2:
        numbers = torch.arange(len(pixels), dtype=torch.float64, device=pixels.device)[:, None]
        return [one[0, 0].long() for one in maps_of(model, "visual.patch_embed", found, inputs, numbers.shape)(numbers)]
    height, width = pixels.shape[-2:]
    count = pixels.shape[:-3].numel()
    numbers = torch.arange(count * height * width, dtype=torch.float64, device=pixels.device)
    units = numbers.reshape(count, 1, height, width)
    if _is_packed(model):
        return [units[n, 0, : size[0], : size[1]].long() for n, size in enumerate(inputs["image_sizes"].tolist())]
    return [side_by_side(units, piece)[0, 0].long() for piece in found]


def _is_packed(model: nn.Module) -> bool:
    vision: Any = model.config.vision_config  # type: ignore[union-attr]
    return bool(vision.model_type == "pixtral")

"""Which layers of a model see a picture, and how the output of each is laid out as maps of the pictures."""

# tested in tests/words/maps/test_layers.py

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from ..._layout.scattered import packed
from ..._shared.errors import CamfnError, CaptureError
from .._prompt.families import FAMILIES
from .._prompt.pieces import Piece, unpadded

Road: TypeAlias = Literal["tower", "projector", "language"]
"""A layer by what it does: the tower's last block in use, what leads into the language model, a middle block of it."""

ROADS: tuple[Road, ...] = ("tower", "projector", "language")

_PACKED = {"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"}
_PROJECTORS = ("multi_modal_projector", "connector", "visual.merger")


def decoder_name(model: nn.Module) -> str:
    """Return the dotted name of the language model that reads the places."""
    get: Any = getattr(model, "get_decoder", None)
    found = get() if callable(get) else None
    for name, module in model.named_modules():
        if found is not None and module is found and name:
            return str(name)
    raise CamfnError(
        f"words: {type(model).__name__} does not say which part is its language model (get_decoder()): pass the class "
        "...ForConditionalGeneration of transformers"
    )


def head_of(model: nn.Module) -> nn.Module:
    """Return the linear head from states to words."""
    get: Any = getattr(model, "get_output_embeddings", None)
    found = get() if callable(get) else None
    if not isinstance(found, nn.Module):
        raise CamfnError(
            f"words: {type(model).__name__} has no head that gives words: pass the class ...ForConditionalGeneration "
            "of transformers"
        )
    return found


def blocks_of(model: nn.Module, inside: str, outside: str = "") -> list[str]:
    """Return the names of the blocks of a part of the model: the longest list of modules in it."""
    found: list[str] = []
    for name, module in model.named_modules():
        own = name.startswith(f"{inside}.") if inside else not name.startswith(f"{outside}.")
        if own and isinstance(module, nn.ModuleList) and name.rsplit(".", 1)[-1] in ("layers", "blocks", "layer"):
            names = [f"{name}.{i}" for i in range(len(module))]
            found = names if len(names) > len(found) else found
    return found


def named_layer(model: nn.Module, layer: str | nn.Module) -> str | nn.Module:
    """Return the layer that a road's name stands for, or the layer itself."""
    if layer not in ROADS:
        return layer
    decoder = decoder_name(model)
    if layer == "language":
        blocks = blocks_of(model, decoder)
        return blocks[(len(blocks) - 1) // 2]
    if layer == "projector":
        names = [name for name, _ in model.named_modules() if name.endswith(_PROJECTORS)]
        found = [name for name in names if not name.startswith(f"{decoder}.")]
        if found:
            return str(found[0])
        raise CaptureError(f"words: no projector of this {type(model).__name__} is known: pass layer= by its name")
    blocks = blocks_of(model, "", decoder)
    if not blocks:
        raise CaptureError(f"words: no tower of this {type(model).__name__} is known: pass layer= by its name")
    return blocks[_last_used(model, len(blocks))]


def _last_used(model: nn.Module, count: int) -> int:
    """Return which of the tower's blocks is the last that the language model reads; hidden state i is block i - 1."""
    config: Any = model.config
    # vipllava says it in the plural
    state = getattr(config, "vision_feature_layer", getattr(config, "vision_feature_layers", -1))
    states = [state] if isinstance(state, int) else list(state)
    return max(one + count if one < 0 else one - 1 for one in states)


ToMaps: TypeAlias = Callable[[Tensor], list[Tensor]]
"""Function from a layer's output, or its gradient, to a map (1, C, *grid) of each piece."""


def maps_of(
    model: nn.Module, layer: str, pieces: Sequence[Piece], inputs: Mapping[str, Any], shape: Sequence[int]
) -> ToMaps:
    """Return how a layer's output of this shape becomes a map of each piece.

    Raises:
        CaptureError: the layer's output is no map of the pictures.
    """
    if layer == decoder_name(model) or layer.startswith(f"{decoder_name(model)}."):
        return _of_language(layer, pieces, inputs, shape)
    if getattr(model.config, "model_type", None) not in FAMILIES:
        raise CaptureError(
            f"words: camfn does not know how the tower of this {type(model).__name__} lays out its pictures: take a "
            "layer of the language model"
        )
    return _of_tower(model, layer, pieces, inputs, shape)


def _of_language(layer: str, pieces: Sequence[Piece], inputs: Mapping[str, Any], shape: Sequence[int]) -> ToMaps:
    """Pick the places out of the sequence, (1, T, C) or (T, C)."""
    tokens = inputs["input_ids"].shape[1]
    if len(shape) < 2 or tuple(shape[:-1]) not in ((1, tokens), (tokens,)):
        raise CaptureError(
            f"words: layer {layer!r} gives {tuple(shape)}, and not the {tokens} tokens of prompt and answer, "
            f"(1, {tokens}, C): take a block of the language model"
        )

    def maps(raw: Tensor) -> list[Tensor]:
        sequence = raw.reshape(tokens, raw.shape[-1])
        return [_as_map(sequence[piece.span.positions.to(raw.device)], piece.span.grid) for piece in pieces]

    return maps


def _as_map(places: Tensor, grid: Sequence[int]) -> Tensor:
    """Turn places (N, C) into (1, C, *grid)."""
    return places.transpose(0, 1).reshape(1, -1, *grid)


def _of_tower(
    model: nn.Module, layer: str, pieces: Sequence[Piece], inputs: Mapping[str, Any], shape: Sequence[int]
) -> ToMaps:
    kind = str(model.config.model_type)  # type: ignore[union-attr]
    if kind in _PACKED:
        return _of_packed(model, layer, pieces, inputs, shape)
    vision: Any = model.config.vision_config  # type: ignore[union-attr]
    if vision.model_type == "pixtral":
        return _of_rows(model, layer, pieces, shape)
    return _of_batch(model, layer, pieces, shape)


def _of_packed(
    model: nn.Module, layer: str, pieces: Sequence[Piece], inputs: Mapping[str, Any], shape: Sequence[int]
) -> ToMaps:
    """Qwen-VL: pictures in one sequence of patches in blocks; the blocks of Qwen2.5-VL stand in windows."""
    parts = {piece.span.part for piece in pieces}
    if len(parts) > 1:
        raise CaptureError(
            f"words: layer {layer!r} runs for the pictures and again for the videos of this prompt: take a layer of "
            "the language model, or a prompt with either alone"
        )
    vision: Any = model.config.vision_config  # type: ignore[union-attr]
    sizes = inputs["video_grid_thw" if parts == {"video"} else "image_grid_thw"]
    merge, order = int(vision.spatial_merge_size), "blocks"
    units = [piece.units[0][0] for piece in pieces]
    patches = int(sizes.prod(-1).sum())
    count = shape[-2] if len(shape) in (2, 3) else 0
    if count not in (patches, patches // merge**2) or (len(shape) == 3 and shape[0] != 1):
        raise _no_map(layer, shape, f"({patches}, C) patches or ({patches // merge**2}, C) places")
    merged = count != patches or merge == 1
    at: Any = "merged" if merged else order
    if model.config.model_type == "qwen2_5_vl" and ".patch_embed" not in layer:  # type: ignore[union-attr]
        at = _windows(sizes, vision)
    each = [packed(sizes, merge, order=at, image=unit) for unit in units]
    spatial = [piece.span.grid if merged else _patch_grid(piece.span.grid, merge) for piece in pieces]
    return lambda raw: [layout.to_map(raw).reshape(1, raw.shape[-1], *grid) for layout, grid in zip(each, spatial)]


def _patch_grid(grid: Sequence[int], merge: int) -> tuple[int, ...]:
    return (*grid[:-2], grid[-2] * merge, grid[-1] * merge)


def _windows(sizes: Tensor, vision: Any) -> list[int]:
    """Return which place stands at each position inside Qwen2.5-VL's tower, whose blocks attend in windows.

    Windows of `window_size` pixels follow each other row by row, and the places of a window too; those at the border
    are smaller.
    """
    side = vision.window_size // vision.spatial_merge_size // vision.patch_size
    order: list[int] = []
    start = 0
    for time, height, width in sizes.tolist():
        rows, columns = height // vision.spatial_merge_size, width // vision.spatial_merge_size
        index = torch.arange(start, start + time * rows * columns).reshape(time, rows, columns)
        for frame in index:
            for top in range(0, rows, side):
                for left in range(0, columns, side):
                    order += frame[top : top + side, left : left + side].flatten().tolist()
        start += time * rows * columns
    return order


def _of_rows(model: nn.Module, layer: str, pieces: Sequence[Piece], shape: Sequence[int]) -> ToMaps:
    """Pixtral: pictures in one sequence, each row by row, of patches or of merged places."""
    merge = int(getattr(model.config, "spatial_merge_size", 1))
    grids = [piece.span.grid for piece in pieces]
    for one in dict.fromkeys((1, merge)):
        sized = [_patch_grid(grid, merge // one) for grid in grids]
        counts = [math.prod(grid) for grid in sized]
        if len(shape) in (2, 3) and shape[-2] == sum(counts) and (len(shape) == 2 or shape[0] == 1):
            return _split(counts, sized)
    raise _no_map(layer, shape, "a sequence of all patches, row by row")


def _split(counts: list[int], grids: list[tuple[int, ...]]) -> ToMaps:
    def maps(raw: Tensor) -> list[Tensor]:
        runs = torch.split(raw.reshape(-1, raw.shape[-1]), counts)
        return [_as_map(run, grid) for run, grid in zip(runs, grids)]

    return maps


def _of_batch(model: nn.Module, layer: str, pieces: Sequence[Piece], shape: Sequence[int]) -> ToMaps:
    """Lay out towers that take pictures, tiles or frames as a batch: (n, N, C), (n, C, h, w) or (n, h, w, C)."""
    vision: Any = model.config.vision_config  # type: ignore[union-attr]
    edge, patch = (one if isinstance(one, int) else one[0] for one in (vision.image_size, vision.patch_size))
    side = edge // patch
    runs = sum(len(row) for piece in pieces for row in piece.units)
    places = {side, *(_run_side(piece) for piece in pieces if not piece.size and piece.span.part != "video")}
    grid = next((one for one in sorted(places, reverse=True) if _is_square_of(shape, one)), 0)
    if not grid or shape[0] != runs:
        raise _no_map(layer, shape, f"{runs} runs of {side} x {side} patches, ({runs}, {side * side}, C)")

    def maps(raw: Tensor) -> list[Tensor]:
        if raw.ndim == 3:
            units = raw[:, raw.shape[1] - grid * grid :].transpose(1, 2).reshape(runs, -1, grid, grid)
        else:
            units = raw if tuple(raw.shape[2:]) == (grid, grid) else raw.movedim(-1, 1)
        return [side_by_side(units, piece) for piece in pieces]

    return maps


def _run_side(piece: Piece) -> int:
    """Return the number of places along a side of one run of the tower."""
    return piece.span.grid[-1] // len(piece.units[0])


def _is_square_of(shape: Sequence[int], side: int) -> bool:
    """Whether an output of a tower has a square of places in each run; a class token may stand before them."""
    if len(shape) == 3:
        return shape[1] in (side * side, side * side + 1)
    return len(shape) == 4 and (side, side) in (tuple(shape[2:]), tuple(shape[1:3]))


def side_by_side(units: Tensor, piece: Piece) -> Tensor:
    """Lay the runs (n, C, h, w) of one piece side by side, and cut the padding: (1, C, H, W)."""
    if piece.span.part == "video":
        return units[list(piece.units[0])].transpose(0, 1)[None]
    laid = torch.cat([torch.cat([units[i] for i in row], -1) for row in piece.units], -2)
    if piece.size is not None:
        above, left = unpadded(piece.size, (laid.shape[-2], laid.shape[-1]))
        laid = laid[:, above : laid.shape[-2] - above, left : laid.shape[-1] - left]
    return laid[None]


def _no_map(layer: str, shape: Sequence[int], expected: str) -> CaptureError:
    return CaptureError(
        f"words: layer {layer!r} gives {tuple(shape)}, which is no map of the pictures: expected {expected}. Take "
        "layer='tower', 'projector' or 'language', or a block of one of them"
    )


def is_late(model: nn.Module, layer: str) -> bool:
    """Whether a layer stands behind the last attention of the language model, whose places no word reads."""
    decoder = decoder_name(model)
    last = blocks_of(model, decoder)[-1]
    return layer in (last, decoder) or bool(re.fullmatch(re.escape(decoder) + r"\.\w*norm\w*", layer))

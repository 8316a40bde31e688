"""Where the pictures stand, family by family: what of the configuration and of the inputs says their grids."""

# tested in tests/words/prompt/test_spans.py

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._shared.errors import CamfnError
from .pieces import Piece, Prompt, Span, check_each, check_grids, in_rows, plain, square_side, unpadded


def _of_one_size(prompt: Prompt) -> list[Piece]:
    """LLaVA, PaliGemma, Gemma 3: each picture has as many places, row by row of a square."""
    config, at, first = prompt.config, prompt.at(), 0
    if prompt.kind == "llava" and config.vision_config.model_type == "pixtral":
        return _of_sizes(prompt)
    count = config.mm_tokens_per_image if prompt.kind == "gemma3" else prompt.side**2
    if prompt.kind in ("llava", "vipllava"):
        has_class = _has_class_token(prompt)
        first = int(has_class and getattr(config, "vision_feature_select_strategy", "default") == "full")
        if not has_class and getattr(config, "vision_feature_select_strategy", "full") == "default":
            raise CamfnError(
                f"words: this {prompt.kind} leaves out the first patch of a tower without a class token "
                "(vision_feature_select_strategy='default'), so its pictures are no grid"
            )
    side, each = square_side(prompt, count), count + first
    if len(at) % each:
        raise prompt.wrong_count(-(-len(at) // each) * each, len(at), "pictures")
    return [plain(n, run[first:], (side, side), n) for n, run in enumerate(torch.split(at, each))] if len(at) else []


def _has_class_token(prompt: Prompt) -> bool:
    """Whether a tower puts a class token before the patches; refuse a tower of which this is not known."""
    tower = prompt.config.vision_config.model_type
    known = {"clip_vision_model": True, "siglip_vision_model": False, "internvl_vision": True}
    if tower not in known:
        raise CamfnError(f"words: camfn knows towers of CLIP, SigLIP and Pixtral in {prompt.kind}, got {tower!r}")
    return known[tower]


def _of_sizes(prompt: Prompt) -> list[Piece]:
    """Pixtral, Mistral 3: a picture has the grid of its own size; other tokens end its rows."""
    merged = prompt.config.vision_config.patch_size * getattr(prompt.config, "spatial_merge_size", 1)
    sizes = prompt.tensor("image_sizes", 2, "the height and width of each picture in pixels")
    grids = [(height // merged, width // merged) for height, width in sizes]
    check_grids(grids, sizes, merged)
    if prompt.kind == "mistral3" and sum(map(math.prod, grids)) == 1:
        # transformers takes the only place for the batch
        raise CamfnError(
            f"words: the picture comes as {sizes[0][0]} x {sizes[0][1]} pixels from the processor, which is one place "
            f"of the language model, and mistral3 needs two: make the photo larger than {merged} pixels on one side"
        )
    runs = check_each(prompt, prompt.at(), [math.prod(grid) for grid in grids])
    return [plain(n, run, grid, n) for n, (run, grid) in enumerate(zip(runs, grids))]


def _of_any_resolution(prompt: Prompt) -> list[Piece]:
    """LLaVA-NeXT and OneVision: the whole picture, then its tiles side by side without padding, a newline each row."""
    if prompt.inputs.get("pixel_values_videos") is not None:
        return _onevision_videos(prompt)
    sizes = prompt.tensor("image_sizes", 2, "the height and width of each photo")
    if prompt.kind == "llava_next" and _select(prompt) == "full" and _has_class_token(prompt):
        raise CamfnError("words: this llava_next keeps the class token among the patches, which are no grid then")
    given = prompt.inputs.get("batch_num_images")
    single = given is None or int(torch.as_tensor(given).max()) == 1
    pieces: list[Piece] = []
    side, rest, unit = prompt.side, prompt.at(), 0
    for n, (height, width) in enumerate(sizes):
        whole, rest = rest[: side * side], rest[side * side :]
        part = "thumbnail" if single else "image"
        laid = [Piece(Span(n, part, whole, (side, side)), ((unit,),))]
        newlines = 1
        if single:
            tiles, grid = _tiling(prompt, (height, width))
            block, newlines = rest[: grid[0] * (grid[1] + 1)], 0
            rest = rest[len(block) :]
            if len(block) == grid[0] * (grid[1] + 1):
                places = block.reshape(grid[0], grid[1] + 1)[:, : grid[1]].reshape(-1)
                units = torch.arange(unit + 1, unit + 1 + math.prod(tiles)).reshape(tiles).tolist()
                laid.append(Piece(Span(n, "image", places, grid), tuple(map(tuple, units)), (height, width)))
            unit += math.prod(tiles)
        rest, unit, pieces = rest[newlines:], unit + 1, pieces + laid
    expected = sum(len(piece.span.positions) for piece in pieces) + sum(
        piece.span.grid[0] if piece.size else int(not single) for piece in pieces
    )
    if expected != len(prompt.at()) or any(len(one.span.positions) != math.prod(one.span.grid) for one in pieces):
        raise prompt.wrong_count(expected, len(prompt.at()), "pictures")
    return pieces


def _select(prompt: Prompt) -> str:
    return str(getattr(prompt.config, "vision_feature_select_strategy", "default"))


def _tiling(prompt: Prompt, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the rows and columns of a photo's tiles, and the grid of places that is left of them without padding."""
    from transformers.image_processing_utils import select_best_resolution

    edge, side = prompt.config.vision_config.image_size, prompt.side
    high, wide = select_best_resolution(size, prompt.config.image_grid_pinpoints)
    tiles = high // edge, wide // edge
    rows, columns = tiles[0] * side, tiles[1] * side
    above, left = unpadded(size, (rows, columns))
    rows, columns = rows - 2 * above, columns - 2 * left
    most = getattr(prompt.config, "vision_aspect_ratio", None)
    if prompt.kind == "llava_onevision" and most:
        ratio = math.sqrt(rows * columns / (int(most.removeprefix("anyres_max_")) * side**2))
        if ratio > 1.1:
            rows, columns = int(rows // ratio), int(columns // ratio)
    return tiles, (rows, columns)


def _onevision_videos(prompt: Prompt) -> list[Piece]:
    """OneVision's videos: each frame is pooled to half a side, and one newline ends the video."""
    if prompt.inputs.get("pixel_values") is not None:
        raise CamfnError("words: camfn does not read a prompt of OneVision with pictures and videos: pass either alone")
    frames = [int(video.shape[0]) for video in prompt.inputs["pixel_values_videos"]]
    half = math.ceil(prompt.side / 2)
    runs = check_each(prompt, prompt.at("video_token_id"), [t * half * half + 1 for t in frames], "videos")
    pieces, unit = [], 0
    for n, (run, time) in enumerate(zip(runs, frames)):
        units = tuple(range(unit, unit + time))
        pieces.append(Piece(Span(n, "video", run[:-1], (time, half, half)), (units,)))
        unit += time
    return pieces


def _of_packed(prompt: Prompt) -> list[Piece]:
    """Qwen-VL: grids of patches are inputs; `spatial_merge_size` patches along a side make a place."""
    merge = prompt.config.vision_config.spatial_merge_size
    pieces: list[Piece] = []
    for part, key, token in (
        ("image", "image_grid_thw", "image_token_id"),
        ("video", "video_grid_thw", "video_token_id"),
    ):
        at = prompt.at(token)
        if not len(at) and prompt.inputs.get(key) is None:
            continue
        sizes = prompt.tensor(key, 3, f"time, height and width of each {part} in patches")
        grids = [(time, height // merge, width // merge) for time, height, width in sizes]
        runs = check_each(prompt, at, [math.prod(grid) for grid in grids], f"{part}s")
        for unit, (run, grid) in enumerate(zip(runs, grids)):
            pieces.append(plain(0, run, grid if part == "video" or grid[0] > 1 else grid[1:], unit, part))
    pieces.sort(key=lambda piece: int(piece.span.positions[0]))
    return [piece._replace(span=piece.span._replace(image=n)) for n, piece in enumerate(pieces)]


def _runs(at: Tensor, count: int, prompt: Prompt) -> list[list[Tensor]]:
    """Split positions where other tokens stand between them, and each stretch into tiles of `count` places."""
    if len(at) % count:
        raise prompt.wrong_count(-(-len(at) // count) * count, len(at), "pictures")
    if not len(at):
        return []
    stretches = at.tensor_split(((at.diff() != 1).nonzero()[:, 0] + 1).tolist())
    if any(len(stretch) % count for stretch in stretches):
        raise CamfnError(f"words: the placeholders stand in runs that are no multiple of {count}, one tile's places")
    return [list(torch.split(stretch, count)) for stretch in stretches]


def _of_tiles_in_a_row(prompt: Prompt) -> list[Piece]:
    """InternVL: tiles follow each other without separators, row by row; the whole picture is last if there are some."""
    ratio = prompt.config.downsample_ratio
    count = int(prompt.side * ratio) ** 2
    stretches = _runs(prompt.at(), count, prompt)
    if prompt.tiles is None:
        many = [n for n, stretch in enumerate(stretches) if len(stretch) > 1]
        if many:
            n = len(stretches[many[0]])
            raise CamfnError(
                f"words: picture {many[0]} stands as {n} runs of {count} places, which are {n - 1} tiles and the whole "
                "picture, or several pictures; no input says how the tiles lie: pass tiles=[(rows, columns), ...], one "
                "for each picture, (1, 1) for one without tiles; words.tiles(processor, sizes) reads them off the "
                "processor"
            )
        return _tiled(prompt, [stretch[0] for stretch in stretches], [(1, 1)] * len(stretches), prompt.side)
    return _tiled(prompt, [run for stretch in stretches for run in stretch], list(prompt.tiles), prompt.side)


def _tiled(prompt: Prompt, runs: list[Tensor], tiles: list[tuple[int, int]], _: int) -> list[Piece]:
    """Make pieces of pictures in tiles, each followed by the whole picture where there are several tiles."""
    expected = sum(_runs_of(one) for one in tiles)
    if expected != len(runs):
        raise CamfnError(
            f"words: tiles={tiles} stand for {expected} runs of the tower, tiles and whole pictures, but the prompt "
            f"has {len(runs)}"
        )
    pieces, unit = [], 0
    for n, (rows, columns) in enumerate(tiles):
        side = square_side(prompt, len(runs[unit]))
        many = rows * columns if rows * columns > 1 else 0
        if many:
            places, grid = in_rows(runs[unit : unit + many], rows, columns, side)
            units = torch.arange(unit, unit + many).reshape(rows, columns).tolist()
            pieces.append(Piece(Span(n, "image", places, grid), tuple(map(tuple, units))))
        whole = runs[unit + many]
        pieces.append(plain(n, whole, (side, side), unit + many, "thumbnail" if many else "image"))
        unit += many + 1
    return pieces


def _runs_of(tiles: tuple[int, int]) -> int:
    """Return how many runs of the tower a picture takes."""
    many = tiles[0] * tiles[1]
    return many + 1 if many > 1 else 1


def _of_tagged_tiles(prompt: Prompt) -> list[Piece]:
    """Idefics3 and SmolVLM: a tag stands before each tile, a newline ends a row, and the whole picture is last."""
    count = prompt.side**2 // prompt.config.scale_factor**2
    stretches = _runs(prompt.at(), count, prompt)
    if any(len(stretch) > 1 for stretch in stretches):
        raise CamfnError(f"words: expected a tag between tiles of {count} places, as {prompt.kind} has")
    runs = [stretch[0] for stretch in stretches]
    tiles = list(prompt.tiles) if prompt.tiles is not None else _tags(prompt, runs)
    return _tiled(prompt, runs, tiles, prompt.side)


def _tags(prompt: Prompt, runs: list[Tensor]) -> list[tuple[int, int]]:
    """Read rows and columns of each picture off the tags: two tokens stand between tiles of a row, more between rows.

    The tag of a whole picture is one token, that before the last run; the tags of tiles differ.
    """
    if len(runs) < 2:
        return [(1, 1)] * len(runs)
    ids = prompt.ids.tolist()
    around = ids[int(runs[-1][-1]) + 1] if int(runs[-1][-1]) + 1 < len(ids) else None
    tags = [(ids[int(run[0]) - 2], ids[int(run[0]) - 1]) for run in runs]
    if any(first != around for first, _ in tags):
        raise _untold(prompt)
    tiles: list[tuple[int, int]] = []
    start = 0
    for end, (_, tag) in enumerate(tags):
        if tag != tags[-1][1]:
            continue
        own = [one for _, one in tags[start:end]]
        gaps = [int(runs[i + 1][0]) - int(runs[i][-1]) - 1 for i in range(start, end - 1)]
        columns = next((i + 1 for i, gap in enumerate(gaps) if gap > 2), len(own)) or 1
        ends = [i + 1 for i, gap in enumerate(gaps) if gap > 2]
        if len(set(own)) != len(own) or len(own) % columns or ends != list(range(columns, len(own), columns)):
            raise _untold(prompt)
        tiles.append((len(own) // columns, columns) if own else (1, 1))
        start = end + 1
    return tiles


def _untold(prompt: Prompt) -> CamfnError:
    return CamfnError(
        f"words: the tags before the tiles of this {prompt.kind} do not say how the tiles lie: pass "
        "tiles=[(rows, columns), ...], one for each picture, (1, 1) for one without tiles"
    )


FAMILIES: dict[str, Callable[[Prompt], list[Piece]]] = {
    "llava": _of_one_size,
    "vipllava": _of_one_size,
    "paligemma": _of_one_size,
    "gemma3": _of_one_size,
    "mistral3": _of_sizes,
    "llava_next": _of_any_resolution,
    "llava_onevision": _of_any_resolution,
    "qwen2_vl": _of_packed,
    "qwen2_5_vl": _of_packed,
    "qwen3_vl": _of_packed,
    "qwen3_vl_moe": _of_packed,
    "internvl": _of_tiles_in_a_row,
    "idefics3": _of_tagged_tiles,
    "smolvlm": _of_tagged_tiles,
}
"""The rule of each family, by `config.model_type`."""

IN_TILES = ("internvl", "idefics3", "smolvlm")
"""Families that read tiles of which no input, or the tags alone, say how they lie."""

_QUERIES = "its language model reads queries, each of which attends to the whole picture, so no token has a place"

PLACELESS: dict[str, str] = {
    "blip-2": _QUERIES,
    "instructblip": _QUERIES,
    "instructblipvideo": _QUERIES,
    "kosmos-2": _QUERIES,
    "kosmos-2.5": _QUERIES,
    "idefics": _QUERIES,
    "idefics2": _QUERIES,
    "mllama": "its language model reads the picture by cross-attention, so no token of the sequence is a place",
    "florence2": "its encoder reads the picture, so no token of the answer's sequence is a place",
}
"""Why a family has no places in its sequence, by `config.model_type`."""


def pieces_of(prompt: Prompt) -> list[Piece]:
    """Return the pieces of all pictures of a prompt, in their order."""
    kind: Any = getattr(prompt.config, "model_type", None)
    if kind in PLACELESS:
        raise CamfnError(
            f"words: {kind} has no places: {PLACELESS[kind]}. Explain its vision tower: camfn.explainer(method, model, "
            "layer) with a layer of the tower and targets.token_log_probability"
        )
    if kind not in FAMILIES:
        raise CamfnError(
            f"words: camfn does not know where the pictures of {kind!r} stand; it knows {', '.join(FAMILIES)}. For "
            "another model pass spans=[words.Span(0, 'image', positions, (height, width))] to words.explain"
        )
    if prompt.tiles is not None and kind not in IN_TILES:
        raise CamfnError(
            f"words: tiles={prompt.tiles} are of {', '.join(IN_TILES)}, and the inputs of {kind} say themselves where "
            "its pictures stand: leave out tiles="
        )
    pieces = FAMILIES[kind](prompt)
    if not pieces:
        raise CamfnError("words: the prompt has no picture: no placeholder of one is among its input_ids")
    for span, _, size in pieces:
        if 0 in span.grid:
            raise CamfnError(
                f"words: picture {span.image} is too narrow for this {kind}: of its tiles a grid of {span.grid} places "
                f"is left without the padding{f', of (height, width) {size}' if size else ''}. Pass a wider crop of it"
            )
    return pieces

"""Tiny multimodal language models of transformers with random weights, and prompts with real processors' pictures.

`CASES` names a model and a prompt: `load(name)` returns a `Case`. Its pictures come from the family's own image
processor, so that what a place sees can be traced back to the photo.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

IMAGE, VIDEO = 98, 97
_VISION = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
_SQUARE = {**_VISION, "image_size": 64, "patch_size": 16}
_TEXT = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 64, "vocab_size": 120, "max_position_embeddings": 256,
    "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
_LOOK = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
Photos = Sequence[np.ndarray[Any, Any]]
Pictures = Callable[[Photos], dict[str, Tensor]]


class Case(NamedTuple):
    """A model with the inputs of a prompt.

    Attributes:
        model: the network, in evaluation mode.
        inputs: of the prompt.
        tiles: the `tiles=` of `words.spans`.
        pictures: function from photos (height, width, 3) in [0, 255] to what the image processor makes of them.
        sizes: height and width of the photos.
    """

    model: nn.Module
    inputs: dict[str, Any]
    tiles: list[tuple[int, int]] | None
    pictures: Pictures
    sizes: list[tuple[int, int]]


def _photo(size: tuple[int, int], seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)


def _pictures(processor: str, **options: Any) -> Pictures:
    """Take a family's image processor, without normalization."""
    made = getattr(transformers, processor)(**_LOOK, **options)

    def run(photos: Photos) -> dict[str, Tensor]:
        return dict(made(images=list(photos), return_tensors="pt"))

    return run


def _square(size: int = 64, **options: Any) -> dict[str, Any]:
    return {"size": {"height": size, "width": size}, **options}


def _prompt(*parts: int | list[int]) -> Tensor:
    return torch.tensor([[one for part in parts for one in (part if isinstance(part, list) else [part])]])


def _case(
    model: nn.Module,
    ids: Tensor,
    pictures: Pictures,
    sizes: Sequence[tuple[int, int]],
    tiles: list[tuple[int, int]] | None = None,
    **beside: Any,
) -> Case:
    made = pictures([_photo(size, n) for n, size in enumerate(sizes)])
    kept = {"pixel_values", "image_sizes", "image_grid_thw", "pixel_values_videos", "video_grid_thw"}
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs |= {key: value for key, value in made.items() if key in kept}
    return Case(model, {**inputs, **beside}, tiles, pictures, list(sizes))


def _text(kind: str, **options: Any) -> dict[str, Any]:
    return {**_TEXT, "model_type": kind, **options}


def _model(name: str, **config: Any) -> nn.Module:
    made = getattr(transformers, f"{name}Config")(**config)
    return cast(nn.Module, getattr(transformers, f"{name}ForConditionalGeneration")(made))


def _llava(photos: int = 1, **vision: Any) -> Case:
    tower = {**_SQUARE, "model_type": "clip_vision_model", **vision}
    strategy = "full" if tower["model_type"] == "siglip_vision_model" else "default"
    model = _model(
        "Llava", vision_config=tower, text_config=_text("llama"), image_token_id=IMAGE, vision_feature_layer=-2,
        vision_feature_select_strategy=strategy,
    )  # fmt: skip
    pictures = _pictures("CLIPImageProcessor", size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    ids = _prompt(1, *[part for _ in range(photos) for part in ([IMAGE] * 16, 5)], 6, 7, 8)
    return _case(model, ids, pictures, [(80, 112)] * photos)


def _vipllava() -> Case:
    model = _model(
        "VipLlava", vision_config={**_SQUARE, "model_type": "clip_vision_model"}, text_config=_text("llama"),
        image_token_id=IMAGE, vision_feature_layers=[-2, -1],
    )  # fmt: skip
    pictures = _pictures("CLIPImageProcessor", size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    return _case(model, _prompt(1, [IMAGE] * 16, 6, 7, 8), pictures, [(64, 64)])


_PINPOINTS = [[64, 128], [128, 64], [128, 128]]


def _llava_next(sizes: Sequence[tuple[int, int]] = ((96, 128),), counts: Sequence[int] = (16 + 6 * 9,)) -> Case:
    model = _model(
        "LlavaNext", vision_config={**_SQUARE, "model_type": "clip_vision_model"}, text_config=_text("llama"),
        image_token_id=IMAGE, image_grid_pinpoints=_PINPOINTS,
    )  # fmt: skip
    pictures = _pictures(
        "LlavaNextImageProcessor", size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64},
        image_grid_pinpoints=_PINPOINTS,
    )  # fmt: skip
    parts = [part for count in counts for part in ([IMAGE] * count, 5)]
    return _case(model, _prompt(1, *parts, 6, 7, 8), pictures, sizes)


def _onevision(size: tuple[int, int] = (96, 128), count: int = 16 + 6 * 9, most: int = 9) -> Case:
    model = _model(
        "LlavaOnevision", vision_config={**_SQUARE, "model_type": "siglip_vision_model", "vision_use_head": False},
        text_config=_text("qwen2"), image_token_id=IMAGE, video_token_id=VIDEO, image_grid_pinpoints=_PINPOINTS,
        vision_feature_layer=-1, vision_aspect_ratio=f"anyres_max_{most}",
    )  # fmt: skip
    pictures = _pictures("LlavaOnevisionImageProcessor", **_square(), image_grid_pinpoints=_PINPOINTS)
    return _case(model, _prompt(1, [IMAGE] * count, 6, 7, 8), pictures, [size])


def _onevision_two() -> Case:
    one = _onevision()
    pictures = _pictures("LlavaOnevisionImageProcessor", **_square(), image_grid_pinpoints=[[64, 64]])
    ids = _prompt(1, [IMAGE] * 17, 5, [IMAGE] * 17, 6, 7, 8)

    def first_tile(photos: Photos) -> dict[str, Tensor]:
        made = pictures(photos)
        return {**made, "pixel_values": made["pixel_values"][:, :1]}

    return _case(one.model, ids, first_tile, [(64, 64), (80, 64)], batch_num_images=torch.tensor([2]))


def _onevision_video() -> Case:
    one = _onevision()
    pictures = _pictures("LlavaOnevisionImageProcessor", **_square(), image_grid_pinpoints=[[64, 64]])

    def video(photos: Photos) -> dict[str, Tensor]:
        return {"pixel_values_videos": pictures(photos)["pixel_values"][None, :, 0]}

    return _case(one.model, _prompt(1, [VIDEO] * (3 * 4 + 1), 6, 7, 8), video, [(64, 64)] * 3)


_MERGED = {
    "num_heads": 4, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "depth": 2, "hidden_size": 32,
}  # fmt: skip


def _qwen(name: str, vision: dict[str, Any], grids: Sequence[tuple[int, int, int]], video: bool = False) -> Case:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = {**_TEXT, "rope_parameters": rope} | ({"head_dim": 8} if name == "Qwen3VL" else {})
    model = _model(
        name, vision_config={**_MERGED, **vision}, text_config=text, image_token_id=IMAGE, video_token_id=VIDEO,
        vision_start_token_id=96, vision_end_token_id=95,
    )  # fmt: skip
    token = VIDEO if video else IMAGE
    parts: list[int | list[int]] = [1]
    for time, height, width in grids:
        places = height * width // 4
        apart = video and name == "Qwen3VL"
        runs = [[token] * places] * time if apart else [[token] * (time * places)]
        parts += [one for run in runs for one in (9, 96, run, 95)]
    ids = _prompt(*parts, 6, 7, 8)
    pictures = _pictures(
        "Qwen2VLImageProcessor", patch_size=14, merge_size=2, size={"shortest_edge": 28 * 28, "longest_edge": 10**6}
    )

    def frames(photos: Photos) -> dict[str, Tensor]:
        """Take two frames alike for each step in time, in the order of the video processor."""
        each = [pictures([photo]) for photo in photos]
        thw = torch.tensor([[len(photos), *each[0]["image_grid_thw"][0, 1:].tolist()]])
        return {"pixel_values_videos": torch.cat([one["pixel_values"] for one in each]), "video_grid_thw": thw}

    sizes = [(height * 14, width * 14) for time, height, width in grids for _ in range(time if video else 1)]
    kinds = (ids == IMAGE).int() + 2 * (ids == VIDEO).int()
    return _case(model, ids, frames if video else pictures, sizes, mm_token_type_ids=kinds)


_QWEN2 = {"embed_dim": 32, "mlp_ratio": 2}
_QWEN25 = {"out_hidden_size": 32, "intermediate_size": 64, "window_size": 56, "fullatt_block_indexes": [1]}
_QWEN3 = {
    "out_hidden_size": 32, "intermediate_size": 64, "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
}  # fmt: skip


def _internvl(tiles: tuple[int, int] = (1, 1)) -> Case:
    tower = {**_SQUARE, "image_size": [64, 64], "patch_size": [16, 16], "model_type": "internvl_vision"}
    model = _model(
        "InternVL", vision_config=tower, text_config=_text("qwen2"), image_token_id=IMAGE, downsample_ratio=0.5,
        image_seq_length=4,
    )  # fmt: skip
    rows, columns = tiles
    runs = rows * columns + 1 if rows * columns > 1 else 1
    pictures = _pictures(
        "GotOcr2ImageProcessor", **_square(), crop_to_patches=runs > 1, min_patches=1, max_patches=rows * columns
    )
    ids = _prompt(1, 96, [IMAGE] * 4 * runs, 95, 6, 7, 8)
    return _case(model, ids, pictures, [(64 * rows, 64 * columns)], [tiles] if runs > 1 else None)


def _paligemma() -> Case:
    tower = {**_SQUARE, "model_type": "siglip_vision_model", "vision_use_head": False, "num_image_tokens": 16}
    model = _model(
        "PaliGemma", vision_config=tower, text_config=_text("gemma", head_dim=8, num_image_tokens=16),
        image_token_id=IMAGE, projection_dim=32, hidden_size=32,
    )  # fmt: skip
    return _case(model, _prompt([IMAGE] * 16, 1, 6, 7, 8), _pictures("SiglipImageProcessor", **_square()), [(70, 90)])


def _tagged(name: str, tiles: Sequence[tuple[int, int]]) -> Case:
    tower = {**_SQUARE, "model_type": f"{name.lower()}_vision"}
    model = _model(name, vision_config=tower, text_config=_text("llama"), image_token_id=IMAGE, scale_factor=2)
    parts: list[int | list[int]] = [1]
    for rows, columns in tiles:
        for row in range(rows if rows * columns > 1 else 0):
            parts += [one for column in range(columns) for one in (90, 40 + row * 6 + column, [IMAGE] * 4)] + [91]
        parts += ([91] if rows * columns > 1 else []) + [90, 92, [IMAGE] * 4, 90]
    split = any(rows * columns > 1 for rows, columns in tiles)
    pictures = _pictures(
        f"{name}ImageProcessor", do_image_splitting=split, max_image_size={"longest_edge": 64},
        size={"longest_edge": max(64 * max(one) for one in tiles)}, do_pad=len(tiles) > 1,
    )  # fmt: skip
    return _case(model, _prompt(*parts, 6, 7, 8), pictures, [(64 * rows, 64 * columns) for rows, columns in tiles])


def _gemma3(photos: int = 1) -> Case:
    tower = {**_SQUARE, "model_type": "siglip_vision_model", "vision_use_head": False}
    model: Any = _model(
        "Gemma3", vision_config=tower, text_config={**_TEXT, "head_dim": 8}, mm_tokens_per_image=4,
        image_token_id=IMAGE, boi_token_index=96, eoi_token_index=95,
    )  # fmt: skip
    nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.2)
    ids = _prompt(1, *[one for _ in range(photos) for one in (96, [IMAGE] * 4, 95)], 6, 7, 8)
    pictures = _pictures("Gemma3ImageProcessor", **_square())
    return _case(model, ids, pictures, [(64, 96)] * photos, token_type_ids=(ids == IMAGE).int())


def _pixtral(name: str, sizes: Sequence[tuple[int, int]], merge: int) -> Case:
    tower = {**_VISION, "model_type": "pixtral", "image_size": 128, "patch_size": 16}
    own: dict[str, Any] = (
        {"spatial_merge_size": merge} if name == "Mistral3" else {"vision_feature_select_strategy": "full"}
    )
    model = _model(
        name, vision_config=tower, text_config=_text("mistral", head_dim=8), image_token_id=IMAGE,
        vision_feature_layer=-1, **own,
    )  # fmt: skip
    parts: list[int | list[int]] = [1]
    for height, width in sizes:
        rows = height // (16 * merge)
        parts += [
            one for row in range(rows) for one in ([IMAGE] * (width // (16 * merge)), 94 if row < rows - 1 else 93)
        ]
    pictures = _pictures(
        "PixtralImageProcessor", size={"longest_edge": 128}, patch_size={"height": 16 * merge, "width": 16 * merge}
    )
    return _case(model, _prompt(*parts, 6, 7, 8), pictures, sizes)


CASES: dict[str, Callable[[], Case]] = {
    "llava": _llava,
    "llava, siglip": lambda: _llava(model_type="siglip_vision_model", vision_use_head=False),
    "llava, two pictures": lambda: _llava(2),
    "vipllava": _vipllava,
    "llava_next": _llava_next,
    "llava_next, tall": lambda: _llava_next([(128, 40)], [16 + 8 * (2 + 1)]),
    "llava_next, two sizes": lambda: _llava_next([(96, 128), (60, 128)], [16 + 6 * 9, 16 + 4 * 9]),
    "llava_onevision": _onevision,
    "llava_onevision, pooled": lambda: _onevision((128, 128), 16 + 4 * 5, 1),
    "llava_onevision, two pictures": _onevision_two,
    "llava_onevision, video": _onevision_video,
    "qwen2_vl": lambda: _qwen("Qwen2VL", _QWEN2, [(1, 4, 6)]),
    "qwen2_vl, two pictures": lambda: _qwen("Qwen2VL", _QWEN2, [(1, 4, 6), (1, 8, 4)]),
    "qwen2_vl, video": lambda: _qwen("Qwen2VL", _QWEN2, [(3, 4, 6)], video=True),
    "qwen2_5_vl": lambda: _qwen("Qwen2_5_VL", _QWEN25, [(1, 12, 10)]),
    "qwen2_5_vl, two pictures": lambda: _qwen("Qwen2_5_VL", _QWEN25, [(1, 6, 10), (1, 8, 4)]),
    "qwen2_5_vl, video": lambda: _qwen("Qwen2_5_VL", _QWEN25, [(2, 6, 6)], video=True),
    "qwen3_vl": lambda: _qwen("Qwen3VL", _QWEN3, [(1, 4, 6)]),
    "qwen3_vl, video": lambda: _qwen("Qwen3VL", _QWEN3, [(3, 4, 6)], video=True),
    "internvl": _internvl,
    "internvl, tiles": lambda: _internvl((1, 3)),
    "paligemma": _paligemma,
    "smolvlm": lambda: _tagged("SmolVLM", [(1, 1)]),
    "smolvlm, tiles": lambda: _tagged("SmolVLM", [(2, 3)]),
    "smolvlm, two pictures": lambda: _tagged("SmolVLM", [(1, 1), (1, 1)]),
    "idefics3": lambda: _tagged("Idefics3", [(1, 1)]),
    "idefics3, tiles": lambda: _tagged("Idefics3", [(2, 2)]),
    "gemma3": _gemma3,
    "gemma3, two pictures": lambda: _gemma3(2),
    "pixtral": lambda: _pixtral("Llava", [(64, 96)], 1),
    "pixtral, two pictures": lambda: _pixtral("Llava", [(64, 96), (32, 64)], 1),
    "mistral3": lambda: _pixtral("Mistral3", [(64, 96)], 2),
    "mistral3, two pictures": lambda: _pixtral("Mistral3", [(64, 96), (128, 32)], 2),
}  # fmt: skip
"""Models with prompts, by name."""

FEW = (
    "llava", "llava_next, two sizes", "llava_onevision, pooled", "qwen2_vl, two pictures", "qwen2_5_vl, two pictures",
    "qwen3_vl, video", "internvl, tiles", "paligemma", "smolvlm, tiles", "gemma3, two pictures",
    "mistral3, two pictures",
)  # fmt: skip
"""One for each rule; `make test` runs these, and `make test-all` every case."""

every_case = pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.sweep) for name in CASES]
)


def load(name: str, seed: int = 0) -> Case:
    """Make a case with weights that are livelier than those of an initialization."""
    torch.manual_seed(seed)
    case = CASES[name]()
    with torch.no_grad():
        for parameter in case.model.parameters():
            parameter.requires_grad_(False)
            if parameter.ndim > 1:
                parameter.mul_(4)
    case.model.eval()
    return case

"""Layers of towers, projectors and language models as maps: each place sees its own cell of the photo."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from camfn import CamfnError, CaptureError, words
from camfn.words._maps.layers import decoder_name, maps_of, named_layer
from camfn.words._prompt.spans import pieces
from tests.nets.multimodal import every_case, load
from tests.words.located import cells_of, seen_cells


def check_places(name: str, layer: str) -> None:
    """Each place of a layer's maps sees its own cell of the photo."""
    case = load(name)
    layer, found = str(named_layer(case.model, layer)), pieces(case.model, case.inputs, case.tiles)
    grids: list[Any] = []

    def laid(raw: torch.Tensor) -> list[torch.Tensor]:
        maps = maps_of(case.model, layer, found, case.inputs, raw.shape)(raw)
        grids.extend(one.shape[2:] for one in maps)
        return maps

    cells = seen_cells(case, laid, layer)
    assert cells == [cells_of(piece.span, grid) for piece, grid in zip(found, grids, strict=True)]


@pytest.mark.parametrize("road", ["tower", "projector"])
@every_case
def test_each_place_of_a_layer_sees_its_own_cell_of_the_photo(name: str, road: str) -> None:
    check_places(name, road)


@pytest.mark.parametrize(
    ("name", "road", "layer"),
    [
        ("llava", "tower", "model.vision_tower.encoder.layers.1"),  # hidden state -2
        ("llava", "projector", "model.multi_modal_projector"),
        ("llava", "language", "model.language_model.layers.1"),
        ("vipllava", "tower", "model.vision_tower.encoder.layers.2"),
        ("qwen2_5_vl", "tower", "model.visual.blocks.1"),
        ("qwen3_vl", "projector", "model.visual.merger"),
        ("smolvlm", "projector", "model.connector"),
        ("smolvlm", "language", "model.text_model.layers.1"),
        ("pixtral", "tower", "model.vision_tower.transformer.layers.2"),
        ("internvl", "tower", "model.vision_tower.encoder.layer.2"),
    ],
)
def test_a_road_stands_for_a_layer(name: str, road: str, layer: str) -> None:
    assert named_layer(load(name).model, road) == layer


def test_windows_of_qwen_are_those_of_transformers() -> None:
    from transformers.vision_utils import get_vision_window_index

    from camfn.words._maps.layers import _windows

    config: Any = load("qwen2_5_vl").model.config
    vision = config.vision_config
    for sizes in ([[1, 12, 10]], [[1, 6, 10], [1, 8, 4]], [[3, 8, 8]], [[2, 2, 2], [1, 14, 6]]):
        index, _ = get_vision_window_index(torch.tensor(sizes), 2, 56, 14)
        assert _windows(torch.tensor(sizes), vision) == index.tolist()


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("llava", "model.vision_tower.pre_layrnorm"),
        ("llava_next", "model.multi_modal_projector.linear_1"),
        ("paligemma", "model.vision_tower.embeddings.patch_embedding"),  # a convolution
        ("gemma3", "model.multi_modal_projector.avg_pool"),
        ("qwen2_5_vl", "model.visual.patch_embed"),  # not yet in windows
        ("qwen2_5_vl", "model.visual.blocks.0.mlp"),
        ("qwen3_vl, video", "model.visual.deepstack_merger_list.0"),
        ("mistral3", "model.multi_modal_projector.patch_merger"),
    ],
)
def test_other_layers_of_a_tower_are_maps_too(name: str, layer: str) -> None:
    check_places(name, layer)


@pytest.mark.parametrize(
    ("name", "layer"),
    [("qwen2_vl", "model.visual.rotary_pos_emb"), ("llava", "lm_head"), ("pixtral", "lm_head"), ("llava", "model")],
)
def test_what_is_no_map_is_refused(name: str, layer: str) -> None:
    case = load(name)
    with pytest.raises(CamfnError):
        words.explain(case.model, case.inputs, 1, method="grad_cam", layer=layer)


def test_a_layer_whose_places_no_word_reads_is_refused() -> None:
    case = load("llava")
    with pytest.raises(CaptureError, match=r"gradients are 0\. It stands behind the last attention"):
        words.explain(case.model, case.inputs, 1, method="grad_cam", layer="model.language_model.layers.3")
    with pytest.raises(CaptureError):  # behind the hidden state that the language model reads
        words.explain(case.model, case.inputs, 1, method="grad_cam", layer="model.vision_tower.encoder.layers.2")


def test_a_model_without_a_language_model_is_refused() -> None:
    with pytest.raises(CamfnError, match="get_decoder"):
        decoder_name(nn.Linear(2, 2))

"""Drops of replaced places equal whole forwards in which a hook replaces them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import CamfnError, CaptureError, words
from camfn.words._maps.layers import maps_of, named_layer
from camfn.words._prompt.spans import pieces
from tests.nets.multimodal import load

IDS = torch.tensor([5, 9])


def dropped(
    name: str, layer: str, squares: list[tuple[slice, slice]], span: int
) -> tuple[Tensor, words.Explained, Any]:
    """Log-probabilities that a hook's replacement of each square takes from each word."""
    case = load(name)
    model: Any = case.model
    dotted = str(named_layer(model, layer))
    full = words.forced(model, case.inputs, IDS)
    found = pieces(model, case.inputs, case.tiles)
    start = case.inputs["input_ids"].shape[1] - 1

    def run(square: tuple[slice, slice] | None) -> Tensor:
        def replace(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            if square is None:
                return output
            flat = output.reshape(-1, output.shape[-1])
            numbers = torch.arange(float(len(flat))).reshape(*output.shape[:-1], 1)
            at = maps_of(model, dotted, found, full, output.shape)(numbers)[span][0, 0].long()
            changed = flat.clone()
            changed[at[..., square[0], square[1]].flatten()] = flat[at.flatten()].mean(0)
            return changed.reshape(output.shape)

        hook = model.get_submodule(dotted).register_forward_hook(replace)
        with torch.no_grad():
            logits = model(**full).logits[0].log_softmax(-1)
        hook.remove()
        return torch.stack([logits[start + k, word] for k, word in enumerate(IDS.tolist())])

    whole = run(None)
    return torch.stack([whole - run(square) for square in squares]), words.Explained([], [], IDS, whole), case


@pytest.mark.parametrize(
    ("name", "layer", "span"),
    [("llava", "projector", 0), ("qwen2_vl, two pictures", "projector", 1), ("internvl, tiles", "language", 0)],
)
def test_drops_are_those_of_a_hook(name: str, layer: str, span: int) -> None:
    squares = [(slice(0, 1), slice(0, 1)), (slice(1, 2), slice(1, 2))]
    expected, said, case = dropped(name, layer, squares, span)
    seen: list[tuple[int, int]] = []
    found = words.drops(
        case.model,
        case.inputs,
        IDS,
        layer=layer,
        tiles=case.tiles,
        progress=lambda done, total: seen.append((done, total)),
    )
    for one, (rows, columns) in zip(expected, squares, strict=True):
        torch.testing.assert_close(found.maps[span][:, rows, columns].flatten(), one, atol=2e-6, rtol=1e-3)
    torch.testing.assert_close(found.log_probabilities, said.log_probabilities, atol=1e-5, rtol=1e-5)
    count = sum(maps[0].numel() for maps in found.maps)
    assert seen == [(done, count) for done in range(1, count + 1)]


def test_squares_of_places_are_replaced_together() -> None:
    expected, _, case = dropped("llava", "projector", [(slice(0, 3), slice(3, 4))], 0)
    (maps,) = words.drops(case.model, case.inputs, IDS, side=3).maps
    assert torch.equal(maps[:, 0, 3], maps[:, 2, 3])
    torch.testing.assert_close(maps[:, 0, 3], expected[0], atol=2e-6, rtol=1e-3)
    joined = words.drops(case.model, case.inputs, IDS, side=3, groups=[[0, 1]]).maps[0]
    torch.testing.assert_close(joined[0], maps.sum(0))


def test_a_layer_without_tokens_is_refused() -> None:
    case = load("llava")
    with pytest.raises(CaptureError, match="not tokens"):
        words.drops(case.model, case.inputs, IDS, layer="model.vision_tower.embeddings.patch_embedding")


@pytest.mark.parametrize("layer", ["model.language_model.norm", "model.language_model.embed_tokens"])
def test_a_layer_whose_places_no_word_reads_is_refused(layer: str) -> None:
    case = load("llava")
    with pytest.raises(CaptureError, match="every drop is 0"):
        words.drops(case.model, case.inputs, IDS, layer=layer, side=4)


def test_progress_is_a_function() -> None:
    case = load("llava")
    with pytest.raises(CamfnError, match="progress: expected a function"):
        words.drops(case.model, case.inputs, [5], progress=3)  # type: ignore[arg-type]

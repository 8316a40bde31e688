"""Which cell of its photo a place of a model sees: by gradients, and by photos whose colors are coordinates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from camfn.words import Span
from camfn.words._maps.layers import decoder_name
from tests.nets.multimodal import Case


def coordinates(case: Case) -> dict[str, Tensor]:
    """What the processor makes of photos whose red and green are x and y, and whose blue says which photo it is."""
    photos = []
    for n, (height, width) in enumerate(case.sizes):
        y, x = np.mgrid[:height, :width]
        photos.append(np.stack([x, y, np.full_like(x, 60 * (n + 1))], -1).astype(np.uint8))
    return {key: value for key, value in case.pictures(photos).items() if value.is_floating_point()}


def without_mixing(model: nn.Module) -> None:
    """Switch off what mixes places in a tower: its attention adds nothing."""
    outside = decoder_name(model)
    for name, module in model.named_modules():
        ends = ("out_proj", "o_proj", "attn.proj", "projection_layer")
        if name.endswith(ends) and isinstance(module, nn.Linear) and not name.startswith(outside):
            nn.init.zeros_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def per_pixel(x: Tensor) -> Tensor:
    """Values of each pixel, (pixels, 3): of pictures (..., 3, H, W), or of Qwen's patches (N, 3 T p p)."""
    if x.ndim == 2:
        return x.reshape(len(x), 3, -1).transpose(1, 2).reshape(-1, 3)
    return x.movedim(-3, -1).reshape(-1, 3)


def seen_cells(case: Case, maps_of: Callable[[Tensor], list[Tensor]], layer: str = "") -> list[list[tuple[int, ...]]]:
    """For each map (1, C, *grid) the cells of the photo in which the gradients of its places lie.

    `maps_of` makes the maps from what the layer returns, or without a layer from the embeddings that the language model
    reads; the pixels of the processor say which part of the photo they show.
    """
    model: Any = case.model
    without_mixing(model)
    ((key, where),) = coordinates(case).items()
    pixels = case.inputs[key].clone().requires_grad_()
    kept: list[Tensor] = []
    if layer:
        hook = model.get_submodule(layer).register_forward_hook(
            lambda module, args, output: kept.append(output if isinstance(output, Tensor) else output[0])
        )
    else:
        hook = model.get_decoder().register_forward_pre_hook(
            lambda module, args, kwargs: kept.append(kwargs["inputs_embeds"]), with_kwargs=True
        )
    model(**{**case.inputs, key: pixels})
    hook.remove()
    at = per_pixel(where) * 255
    photo = (at[:, 2] / 60).round().long() - 1
    found: list[list[tuple[int, ...]]] = []
    for laid in maps_of(kept[0]):
        cells: list[tuple[int, ...]] = []
        grid = laid.shape[2:]
        direction = torch.randn(laid.shape[1], generator=torch.Generator().manual_seed(1))
        values = direction @ laid[0].flatten(1)
        rows = torch.eye(len(values))
        (grads,) = torch.autograd.grad(values, pixels, rows, retain_graph=True, is_grads_batched=True)
        for grad in grads:
            weight = per_pixel(grad).abs().sum(1) * (photo >= 0)
            own = int(torch.zeros(len(case.sizes)).index_add(0, photo.clamp(min=0), weight).argmax())
            inside = photo == own
            low, high = at[inside].amin(0)[:2], at[inside].amax(0)[:2]
            x, y = ((at[inside][:, :2] - low + 0.5) * weight[inside, None]).sum(0) / weight[inside].sum()
            width, height = (high - low + 1).tolist()
            cell = int(y / height * grid[-2]), int(x / width * grid[-1])
            cells.append((own, *cell))
        found.append(cells)
    return found


def cells_of(span: Span, grid: Sequence[int]) -> list[tuple[int, ...]]:
    """The cells that the places of a span should see, row by row: the photo, the row and the column."""
    cells = [tuple(cell) for cell in np.ndindex(*grid)]
    # a photo is a frame of a video
    return cells if span.part == "video" else [(span.image, *cell) for cell in cells]

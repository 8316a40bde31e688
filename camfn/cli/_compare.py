"""One photo's maps by several methods, in one picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import image
from .._photos.classes import Wanted
from .._photos.explain import explain_batch
from .._photos.layer import Layer, choose_layer
from .._shared.errors import CamfnError, UsageError
from ..catalogue import info_of
from ..zoo import Loaded


def comparison(
    loaded: Loaded,
    photo: Image.Image,
    chosen: Mapping[str, Callable[..., Tensor]],
    wanted: Wanted,
    layer_name: str | None,
    device: torch.device,
    *,
    strict: bool,
    chunk_size: int | None,
    look: tuple[float, str],
    progress: Callable[[int, int], None],
    finished: Callable[[], None],
) -> tuple[Tensor, list[str]]:
    """Draw a montage of the methods, after the photo.

    Args:
        loaded: model, preprocessing, view, class names; the model is on the device.
        photo: what is explained.
        chosen: methods by name.
        wanted: one class.
        layer_name: a dotted name, or None for the one that is suggested.
        device: where the model is.
        strict: refuse what a method cannot do; otherwise leave it out and say so.
        chunk_size: perturbed forwards at a time.
        look: opacity and colormap of the overlays.
        progress: told (done, in all) after each chunk of perturbed forwards.
        finished: called after each method.

    Returns:
        (3, H, W), and a line for each method that shows nothing or could not be run.

    Raises:
        UsageError: no method gave a map, or one could not be run and `strict`.
    """
    inputs = loaded.preprocess(photo)[None].to(device)
    view = torch.from_numpy(np.array(loaded.view(photo))).permute(2, 0, 1) / 255
    pictures, captions, told = [view], ["photo"], []
    chosen_layers: dict[bool, Layer] = {}
    for name, method in chosen.items():
        try:
            at_attention = info_of(method).kind == "attention"
            if at_attention not in chosen_layers:
                chosen_layers[at_attention] = choose_layer(loaded.model, inputs, layer_name, method)
            layer = chosen_layers[at_attention]
            (found,) = explain_batch(
                method, loaded.model, layer, inputs, wanted, chunk_size=chunk_size, progress=progress
            )
        except CamfnError as error:
            if strict:
                raise
            told.append(f"{name} is left out: {' '.join(str(error).split())}")
            continue
        finally:
            finished()
        told += [line for line in [f"layer {layer.name}: {layer.reason}"] if line not in told]
        label = loaded.classes[found.classes[0]] if loaded.classes else f"class {found.classes[0]}"
        problem = found.problems[0]
        if problem is None:
            heatmap = image.normalize(found.cams[0][None], signed=look[1] == "seismic")
            pictures.append(image.overlay(view, heatmap, alpha=look[0], colormap=look[1])[0])
        else:
            told.append(f"{name} shows nothing: {problem}")
            pictures.append(view)
        captions.append(f"{name}\n{label if problem is None else 'shows nothing'}")
    if len(pictures) == 1:
        raise UsageError("no method gave a map: " + "; ".join(told))
    return image.montage(pictures, captions, cell=(view.shape[1], view.shape[2])), told

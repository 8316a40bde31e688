"""A montage of one photo's maps by several methods."""

# tested in tests/cli/test_transforms.py

from __future__ import annotations

from collections.abc import Callable, Container, Mapping

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import image
from .._photos.classes import ClassChoice, first_score
from .._photos.explain import explain_batch
from .._photos.layer import Layer, choose_layer
from .._shared.errors import CamfnError, UsageError
from ..catalogue import info_of
from ..zoo import Loaded


def comparison(
    loaded: Loaded,
    photo: Image.Image,
    chosen: Mapping[str, Callable[..., Tensor]],
    choice: ClassChoice,
    layer_name: str | None,
    device: torch.device,
    *,
    lenient: Container[str],
    chunk_size: int | None,
    look: tuple[float, str],
    progress: Callable[[int, int], None],
    finished: Callable[[], None],
) -> tuple[Tensor, list[str]]:
    """Draw a montage of the methods, after the photo.

    Args:
        loaded: model, preprocessing, view, class names; the model is on the device.
        photo: the photo to explain.
        chosen: methods by name.
        choice: the class to explain.
        layer_name: a dotted name, or None for the suggested layer.
        device: the device of the model.
        lenient: names of methods to leave out where they cannot explain the model; of others the error is raised.
        chunk_size: number of perturbed forwards that run at once.
        look: opacity and colormap of the overlays.
        progress: called with (done, total) after each chunk of perturbed forwards.
        finished: called after each method.

    Returns:
        The montage, (3, H, W), and messages: the layer, and each method that shows nothing or cannot explain the model.

    Raises:
        UsageError: no method gives a map.
        CamfnError: a method that is not in `lenient` cannot explain the model.
    """
    inputs = loaded.preprocess(photo)[None].to(device)
    view = torch.from_numpy(np.array(loaded.view(photo))).permute(2, 0, 1) / 255
    pictures, captions, messages = [view], ["photo"], []
    chosen_layers: dict[bool, Layer] = {}
    for name, method in chosen.items():
        try:
            at_attention = info_of(method).kind == "attention"
            if at_attention not in chosen_layers:
                chosen_layers[at_attention] = choose_layer(
                    loaded.model, inputs, layer_name, method, first_score(choice)
                )
            layer = chosen_layers[at_attention]
            (explained,) = explain_batch(
                method, loaded.model, layer, inputs, choice, chunk_size=chunk_size, progress=progress
            )
        except CamfnError as error:
            if name not in lenient:
                raise
            messages.append(f"{name} is left out: {' '.join(str(error).split())}")
            continue
        finally:
            finished()
        layer_message = f"layer {layer.name}: {layer.reason}"
        if layer_message not in messages:
            messages.append(layer_message)
        explains_class = explained.scores[0] is not None
        label = choice.label(explained.classes[0], loaded.classes) if explains_class else "no class"
        problem = explained.problems[0]
        if problem is None:
            heatmap = image.normalize(explained.cams[0][None], signed=look[1] == "seismic")
            pictures.append(image.overlay(view, heatmap, alpha=look[0], colormap=look[1])[0])
        else:
            messages.append(f"{name} shows nothing: {problem}")
            pictures.append(view)
        captions.append(f"{name}\n{label if problem is None else 'shows nothing'}")
    if len(pictures) == 1:
        raise UsageError("no method gave a map: " + "; ".join(messages))
    return image.montage(pictures, captions, cell=(view.shape[1], view.shape[2])), messages

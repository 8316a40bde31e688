"""Suggest layers to explain: how each lays out space, and whether the score depends on it; find a linear head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ._cut.capture import observe
from ._cut.graft import bare
from ._cut.head import Head as Head
from ._cut.head import find_head
from ._cut.layer_checks import check_model
from ._layers.ranking import Suggesting
from ._layers.ranking import Suggestion as Suggestion
from ._layout.readings import image_among
from ._shared.checks import describe, holds_data
from ._shared.errors import CaptureError
from ._shared.inputs import Images, check_images
from ._shared.vocabulary import Inputs, Target


def suggest(
    model: nn.Module, inputs: Inputs, target: Target = None, *, images: Images | None = None
) -> list[Suggestion]:
    """List the layers that can be explained, the best first.

    The first suggestion is the last layer, in the order of computation, that has a grid and on which the score depends:
    the features just before pooling in a convolutional network or Swin, the last features that a backbone returns, the
    norm before the last attention in a vision transformer with a class token, whose last block no longer passes the
    patches on. In a network for segmentation or depth it is the decoder's last features, in a detector the last level
    that the head reads, in a network that also reads words a layer of the tower that reads the image.

    The list leaves out pooling, dropout, reshaping, what another image does not change, and maps of scores, also those
    that the network adds up; where several layers return the same tensor, it names the outermost. It leaves out layers
    whose space can be read in several ways, and the reason of the first suggestion names these layers. Where later
    layers have no reading at all, that reason says how many, and what to pass.

    Args:
        model: any module; `suggest` does not change it.
        inputs: arguments of the model. `suggest` uses the first sample.
        target: as for `capture`; a function of the outputs gets the outputs of the whole batch.
        images: which of the inputs is the image, where several have space: an index, a key, a path of these such as
            ("pixels", 0), or a function of the inputs.

    Returns:
        Suggestions: first the layers on which the score depends, from the last to the first, of which those inside a
        detector's head and those outside of the image's tower come last; then the other layers.

    Raises:
        CaptureError: no layer has a grid that can be read in one way.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
        >>> suggest(net, torch.rand(1, 3, 8, 8))[0].name
        '1'
    """
    check_model(model)
    check_images(images)
    inputs = dict(inputs) if isinstance(inputs, Mapping) else inputs
    if not model.training and not callable(target):
        inputs, target = _first_sample(inputs), _first_sample(target)
    model, image = bare(model), image_among(inputs, images)
    if image is None:
        raise CaptureError(
            f"suggest: expected an image (B, C, *spatial) among the inputs, got {describe(inputs)}. Name a layer, and "
            "pass its layout (camfn.layout.packed for images that are packed into rows of patches)"
        )
    if not holds_data(image):
        raise CaptureError(
            "suggest: expected inputs with data, for it reads gradients; got fake, meta or traced tensors"
        )
    return Suggesting(model, inputs, target, images, image).ranked()


def head(model: nn.Module, layer: str | nn.Module, inputs: Inputs, *, images: Images | None = None) -> Head:
    """Find the linear head behind a layer: the one that `explainer(methods.cam, model, layer)` takes the rows of.

    It is the linear layer, or convolution with a kernel of one, for which the mean of the layer's map times the weight,
    and the bias, are the logits of these inputs.

    Args:
        model: any module; `head` does not change it.
        layer: a dotted name as in `model.named_modules()`, or the module itself.
        inputs: arguments of the model.
        images: as for `suggest`.

    Returns:
        The name of the head, its weight (K, C), and its bias (K,) or None.

    Raises:
        CaptureError: the network computes something else between the layer and the logits, or several heads fit.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
        >>> head(net, "1", torch.rand(1, 3, 8, 8)).name
        '4'
    """
    see = observe(model, layer, images=images)
    with torch.no_grad():
        activations, outputs = see(inputs)
    return find_head(bare(model), str(see.layer), activations, outputs)


def _first_sample(value: Any) -> Any:
    """Keep the first sample of inputs or of a target."""
    if isinstance(value, (list, tuple)) and not any(isinstance(item, Tensor) for item in value):
        return value[:1]  # a target for each sample
    return pytree.tree_map(lambda leaf: leaf[:1] if isinstance(leaf, Tensor) and leaf.ndim else leaf, value)

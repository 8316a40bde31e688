"""Layouts: find how a layer lays out space, and convert between its shape and (B, C, *spatial)."""

# tested in tests/layout/test_find.py and test_pairs.py

from __future__ import annotations

from torch import nn

from ._cut.capture import observe
from ._cut.graft import bare
from ._cut.layer_checks import layer_name
from ._cut.layouts import reading_for
from ._layout.folded import frames as frames
from ._layout.folded import tiles as tiles
from ._layout.pairs import channels_last as channels_last
from ._layout.pairs import tokens as tokens
from ._layout.pairs import unrolled as unrolled
from ._layout.pairs import windows as windows
from ._layout.scattered import packed as packed
from ._layout.scattered import spans as spans
from ._shared.inputs import Images, check_images
from ._shared.vocabulary import Inputs, Select
from ._shared.vocabulary import Reading as Reading


def find(
    model: nn.Module,
    layer: str | nn.Module,
    inputs: Inputs,
    *,
    select: Select | None = None,
    images: Images | None = None,
) -> Reading:
    """Find how a layer lays out the space of the image, as `layout="auto"` does, and return the facts with the layout.

    The facts come from the model: the stride of the convolution that reads the image, the class, distillation and
    register tokens among its parameters (timm's `num_prefix_tokens`), the numbers of channels of the layer's parts, the
    windows of a block; and from the shapes of the image and of the layer's output. Runs one forward. `find` tries what
    rests on a count alone, as of tokens: some places must change when their own parts of the image do, which takes two
    forwards of one sample, or up to eight where places mix, once for a layer and its shapes. Of up to
    nine tokens `find` tries all, each by the quarters of its part, which takes up to 37.

    Args:
        model: any module; `find` does not change it.
        layer: a dotted name as in `model.named_modules()`, or the module itself.
        inputs: arguments of the model.
        select: which tensor to read, where the layer returns a tuple or a dict.
        images: which of the inputs is the image, where several have space and the layout depends on which: an index, a
            key, a path of these such as ("pixels", 0), or a function of the inputs.

    Returns:
        The reading, with its layout and, as its reason, the facts.

    Raises:
        CaptureError: the facts allow no reading, or several, or the places do not see their own parts; lists each
            reading with the call that asks for it.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Flatten(2), nn.Linear(6, 5))
        >>> find(net, "0", torch.rand(1, 3, 8, 12)).spatial
        (2, 3)
    """
    check_images(images)
    name = layer_name(model, layer)
    look = observe(model, name, select=select, layout=None, images=images)
    raw, _ = look(inputs)
    return reading_for(look, bare(model), name, raw, inputs)

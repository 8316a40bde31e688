"""Suggest layers to explain: how each lays out space, and whether the score depends on it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ._cut.capture import capture_many, observe
from ._cut.graft import bare, graft
from ._cut.head import Head as Head
from ._cut.head import find_head
from ._cut.layer_checks import check_model, naming_what_has_no_data
from ._layout.readings import as_map, image_among, possible_readings
from ._shared.checks import describe, holds_data
from ._shared.errors import CaptureError
from ._shared.inputs import Images, call, check_images, copy_of, floating_leaves
from ._shared.maps import resize
from ._shared.vocabulary import Inputs, LayoutPair, Reading, Target

_PASSES_ON = re.compile("dropout|droppath|identity")
_NO_FEATURES = re.compile("(max|avg|adaptive|lp|blur).*pool|permute|flatten|softmax|linear|^embedding$|positional")
"""Modules that return no new feature map: poolings, reshapings, position embeddings, projections inside a block."""


class Suggestion(NamedTuple):
    """A layer that could be explained.

    Attributes:
        name: dotted name of the layer, as `capture` takes it.
        spatial: the map's spatial shape.
        channels: number of the map's channels.
        depends: whether the score depends on the layer's output at any place of the map.
        layout: the layout that makes the layer's output a map; None where the output is a map already.
        reason: the layer's class and reading; for the first suggestion of a list, also why it comes first.
    """

    name: str
    spatial: tuple[int, ...]
    channels: int
    depends: bool
    layout: LayoutPair | None
    reason: str


def suggest(
    model: nn.Module, inputs: Inputs, target: Target = None, *, images: Images | None = None
) -> list[Suggestion]:
    """List the layers that can be explained, the best first.

    The first suggestion is the last layer, in the order of computation, that has a grid and on which the score depends:
    the features just before pooling in a convolutional network or Swin, the norm before the last attention in a vision
    transformer with a class token, whose last block no longer passes the patches on. The list leaves out pooling,
    dropout, reshaping and class maps, also class maps that the network adds up to the scores; where several layers
    return the same tensor, it names the outermost. It leaves out layers whose space can be read in several ways, and
    the reason of the first suggestion names these layers.

    Args:
        model: any module; `suggest` does not change it.
        inputs: arguments of the model. `suggest` uses the first sample.
        target: as for `capture`; a function of the outputs gets the outputs of the whole batch.
        images: which of the inputs is the image, where several have space: an index, a key, a path of these such as
            ("pixels", 0), or a function of the inputs.

    Returns:
        Suggestions: first the layers on which the score depends, from the last to the first, then the other layers.

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
        raise CaptureError(f"suggest: expected an image (B, C, *spatial) among the inputs, got {describe(inputs)}")
    if not holds_data(image):
        raise CaptureError(
            "suggest: expected inputs with data, for it reads gradients; got fake, meta or traced tensors"
        )
    layer_outputs, outputs = _run_every_layer(model, inputs)
    candidates = _candidates(model, layer_outputs, outputs, inputs, images)
    unclear = [name for name, readings in candidates.items() if len(readings) > 1]
    clear = {name: readings[0] for name, readings in candidates.items() if len(readings) == 1}
    for name in _class_score_maps(model, clear, outputs, inputs, image):
        del clear[name]
    if not clear:
        raise CaptureError(_no_layer_text(model, image, unclear))
    captured = capture_many(model, list(clear), layout=None, unused="zeros")(inputs, target)
    reached = _read({name: [as_map(reading.layout, captured[name].grads).any()] for name, reading in clear.items()})
    suggestions = []
    for name, reading in reversed(list(clear.items())):
        depends = name in reached
        about = f"{type(model.get_submodule(name)).__name__}, {reading.reason}"
        reason = about if depends else f"{about}; the score does not depend on it at any place"
        suggestions.append(Suggestion(name, reading.spatial, reading.channels, depends, reading.layout, reason))
    suggestions.sort(key=lambda suggestion: not suggestion.depends)
    first = suggestions[0]
    reason = f"{_why_first(first, clear, list(candidates)[-1] in unclear)} ({first.reason}){_left_out(unclear)}"
    suggestions[0] = first._replace(reason=reason)
    return suggestions


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


def _why_first(first: Suggestion, clear: dict[str, Reading], last_is_unclear: bool) -> str:
    """Say why a suggestion comes first, given the layers with one reading in the order of computation."""
    if not first.depends:
        return "the last layer with a grid, but the score depends on no layer: are the weights of the head zero?"
    later = list(clear)[list(clear).index(first.name) + 1 :]
    if later:
        return f"the last layer whose places the score depends on; it no longer does at {later[-1]}"
    return (
        "the last layer whose grid is clear" if last_is_unclear else "the last layer with a grid, just before pooling"
    )


def _left_out(unclear: list[str]) -> str:
    """Name up to three layers whose space can be read in several ways, the last first: `suggest` leaves these out."""
    if not unclear:
        return ""
    names = ", ".join(reversed(unclear[-3:])) + (f" and {len(unclear) - 3} more" if len(unclear) > 3 else "")
    return (
        f"; not listed, since each can be read in several ways: {names} (camfn.layout.find(model, {unclear[-1]!r}, "
        "inputs) lists the ways)"
    )


def _no_layer_text(model: nn.Module, image: Tensor, unclear: list[str]) -> str:
    """Say that no layer can be suggested, and how to go on."""
    return (
        f"no layer of this {type(model).__name__} has a grid like the image's, {tuple(image.shape[2:])}: name the "
        f"layer, and pass a layout (camfn.layout){_left_out(unclear)}"
    )


class _LayerOutput(NamedTuple):
    """A layer that ran once, and the tensor it returned."""

    name: str
    module: nn.Module
    output: Tensor


def _run_every_layer(model: nn.Module, inputs: Inputs) -> tuple[list[_LayerOutput], Any]:
    """Run the model, and list the layers that ran once and returned one tensor, in the order in which they ended.

    Returns:
        The layers with their outputs, and the outputs of the model.
    """
    names = {id(module): name for name, module in model.named_modules()}
    calls_of: dict[str, list[Any]] = {}
    watched = graft(model, {id(module) for module in model.modules()})

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, args, output: calls_of.setdefault(name, []).append(output)

    for key, module in watched.owned.items():
        module.register_forward_hook(watch(names[key]))
    with torch.inference_mode(False), torch.no_grad(), naming_what_has_no_data(model, inputs):
        outputs = call(watched, copy_of(inputs))
    layer_outputs = []
    for name, calls in calls_of.items():
        tensors = [leaf for leaf in pytree.tree_leaves(calls) if isinstance(leaf, Tensor)]
        if len(calls) == 1 and len(tensors) == 1 and tensors[0].is_floating_point():
            layer_outputs.append(_LayerOutput(name, model.get_submodule(name), tensors[0]))
    return layer_outputs, outputs


def _candidates(
    model: nn.Module, layer_outputs: list[_LayerOutput], outputs: Any, inputs: Inputs, images: Images | None
) -> dict[str, list[Reading]]:
    """Map each layer that may hold features on a grid to its readings; of layers that return one tensor, keep one."""
    same_tensor: dict[int, list[_LayerOutput]] = {}
    for layer in layer_outputs:
        # a layer that adds in place returns the tensor of an earlier layer: the group moves to the later layer's turn
        same_tensor[id(layer.output)] = [*same_tensor.pop(id(layer.output), []), layer]
    candidates: dict[str, list[Reading]] = {}
    doubts: dict[str, list[Tensor]] = {}
    for group in same_tensor.values():
        named = [layer for layer in group if layer.name and not _class_matches(_PASSES_ON, layer.module)]
        if not named or _class_matches(_NO_FEATURES, named[0].module):
            continue
        outermost = min(reversed(named), key=lambda layer: layer.name.count("."))
        readings = possible_readings(model, outermost.name, outermost.output.shape, inputs, images)
        grids = [reading for reading in readings if reading.name != "windows" and max(reading.spatial, default=2) > 1]
        if grids:
            candidates[outermost.name] = readings
            doubts[outermost.name] = _is_class_map(outermost.output, outputs)
    scores = _read(doubts)
    return {name: readings for name, readings in candidates.items() if name not in scores}


def _class_score_maps(
    model: nn.Module, clear: dict[str, Reading], outputs: Any, inputs: Inputs, image: Tensor
) -> list[str]:
    """Name the layers of a segmentation network whose channel k reaches only the scores of class k.

    Some networks add such maps up to the scores, so that none of the maps is equal to the model's output.
    """
    scores = next(iter(floating_leaves(outputs)), None)
    if scores is None or scores.ndim != image.ndim or scores.shape[1] < 2:
        return []
    names = [name for name, reading in clear.items() if reading.channels == scores.shape[1]]
    if not names:
        return []
    captured = capture_many(model, names, layout=None, unused="zeros")(
        inputs, lambda out: next(iter(floating_leaves(out)))[:, 0].flatten(1).sum(1)
    )
    grads = {name: as_map(clear[name].layout, captured[name].grads) for name in names}
    return _read({name: [grad[:, 0].any() & ~grad[:, 1:].any()] for name, grad in grads.items()})


def _class_matches(pattern: re.Pattern[str], module: nn.Module) -> bool:
    """Whether the lower-case name of a module's class matches a pattern."""
    return pattern.search(type(module).__name__.lower()) is not None


def _is_class_map(output: Tensor, outputs: Any) -> list[Tensor]:
    """Whether the model returns the mean of a layer's output over space, or that output resized: maps of scores.

    One condition, a tensor () of bool, for each tensor of the model's outputs that may be it.
    """
    found = []
    for scores in floating_leaves(outputs) if output.ndim > 2 else ():
        like = _as_scores(output, scores.shape)
        if like is not None:
            found.append(torch.isclose(like, scores, rtol=1e-3, atol=1e-5).all())
    return found


def _as_scores(output: Tensor, shape: torch.Size) -> Tensor | None:
    """Return the mean over space of a layer's output, or that output resized, if one of them has this shape."""
    if shape == output.shape[:2]:
        return output.flatten(2).mean(2)
    if len(shape) != output.ndim or shape[:2] != output.shape[:2] or output.ndim not in (4, 5):
        return None
    return output if shape == output.shape else resize(output, shape[2:])


def _read(conditions: dict[str, list[Tensor]]) -> list[str]:
    """Name what has a condition, a tensor () of bool, that is true; all are read at once, which waits once."""
    names = [name for name, each in conditions.items() for _ in each]
    if not names:
        return []
    flags = torch.stack([one for each in conditions.values() for one in each]).tolist()
    return [name for name, flag in zip(names, flags) if flag]


def _first_sample(value: Any) -> Any:
    """Keep the first sample of inputs or of a target."""
    if isinstance(value, (list, tuple)) and not any(isinstance(item, Tensor) for item in value):
        return value[:1]  # a target for each sample
    return pytree.tree_map(lambda leaf: leaf[:1] if isinstance(leaf, Tensor) and leaf.ndim else leaf, value)

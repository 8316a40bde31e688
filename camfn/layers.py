"""Which layer: candidates of a model, how each lays out space, and whether the score depends on it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ._cut.capture import capture_many
from ._cut.graft import bare, graft
from ._layout.readings import image_among, possible_readings
from ._shared.checks import describe
from ._shared.errors import CaptureError
from ._shared.inputs import call, copy_of, floating_leaves
from ._shared.maps import resize
from ._shared.vocabulary import Inputs, Layout, Reading, Target

_PASSES_ON = re.compile("dropout|droppath|identity")
_NO_FEATURES = re.compile("(max|avg|adaptive|lp|blur).*pool|permute|flatten|softmax|linear|^embedding$|positional")
"""Modules whose output is no new feature map: pooled, reshaped, positions, or one projection of many inside a block."""


class Suggestion(NamedTuple):
    """A layer that could be explained.

    Attributes:
        name: dotted name, as `capture` takes it.
        spatial: the map's spatial shape.
        channels: C.
        depends: whether the score depends on it at any place of the map.
        layout: what makes its output a map; None where it is one already.
        reason: for the first of a list, why it is; for the others, what it is.
    """

    name: str
    spatial: tuple[int, ...]
    channels: int
    depends: bool
    layout: Layout | None
    reason: str


def suggest(model: nn.Module, inputs: Inputs, target: Target = None) -> list[Suggestion]:
    """List the layers that can be explained, the best first.

    The first is the last layer, in the order of computation, that still has a grid and on which the score depends at
    its places: the features just before pooling in a convolutional network or Swin, the norm before the last attention
    in a vision transformer with a class token, whose last block no longer passes the patches on. Pooling, dropout,
    reshaping and class maps are left out, also class maps that are added up to the scores; of layers that return one
    and the same tensor, the outermost stands for all. Layers whose space can be read in several ways are left out, and
    the reason of the first suggestion names them.

    Args:
        model: any module; left exactly as it is.
        inputs: what the model is called with; the first floating-point tensor is the image. Its first sample is used.
        target: as for `capture`; a function of the outputs is given the whole batch.

    Returns:
        Suggestions; after the first, those the score depends on from the last to the first, then the rest.

    Raises:
        CaptureError: no layer has a grid that can be read in one way.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
        >>> suggest(net, torch.rand(1, 3, 8, 8))[0].name
        '1'
    """
    inputs = dict(inputs) if isinstance(inputs, Mapping) else inputs
    if not model.training and not callable(target):
        inputs, target = _first_sample(inputs), _first_sample(target)
    model, image = bare(model), image_among(inputs)
    if image is None:
        raise CaptureError(f"suggest: expected an image (B, C, *spatial) among the inputs, got {describe(inputs)}")
    seen, outputs = _survey(model, inputs)
    candidates = _candidates(model, seen, outputs, inputs)
    unclear = [name for name, ways in candidates.items() if len(ways) > 1]
    found = {name: ways[0] for name, ways in candidates.items() if len(ways) == 1}
    for name in _score_maps(model, found, outputs, inputs):
        del found[name]
    if not found:
        raise CaptureError(_nothing(model, image, unclear))
    captured = capture_many(model, list(found))(inputs, target)
    suggestions = []
    for name, reading in reversed(list(found.items())):
        depends = bool(_map(captured[name].grads, reading).any())
        about = f"{type(model.get_submodule(name)).__name__}, {reading.reason}"
        reason = about if depends else f"{about}; the score does not depend on it at any place"
        suggestions.append(Suggestion(name, reading.spatial, reading.channels, depends, reading.layout, reason))
    suggestions.sort(key=lambda suggestion: not suggestion.depends)
    first = suggestions[0]
    reason = f"{_why_first(first, found, list(candidates)[-1] in unclear)} ({first.reason}){_left_out(unclear)}"
    suggestions[0] = first._replace(reason=reason)
    return suggestions


def _map(raw: Tensor, reading: Reading) -> Tensor:
    return reading.layout.to_map(raw) if reading.layout else raw


def _why_first(first: Suggestion, found: dict[str, Reading], unclear: bool) -> str:
    if not first.depends:
        return "the last layer with a grid, but the score depends on no layer: are the weights of the head zero?"
    later = list(found)[list(found).index(first.name) + 1 :]
    if later:
        return f"the last layer whose places the score depends on; it no longer does at {later[-1]}"
    return "the last layer whose grid is clear" if unclear else "the last layer with a grid, just before pooling"


def _left_out(unclear: list[str]) -> str:
    """Say which layers are not in the list, since it is not clear how they lay out space: the latest of them."""
    if not unclear:
        return ""
    names = ", ".join(reversed(unclear[-3:])) + (f" and {len(unclear) - 3} more" if len(unclear) > 3 else "")
    return (
        f"; not listed, since each can be read in several ways: {names} (camfn.layout.find(model, {unclear[-1]!r}, "
        "inputs) lists the ways)"
    )


def _nothing(model: nn.Module, image: Tensor, unclear: list[str]) -> str:
    return (
        f"no layer of this {type(model).__name__} has a grid like the image's, {tuple(image.shape[2:])}: name the "
        f"layer, and pass a layout (camfn.layout){_left_out(unclear)}"
    )


class _Seen(NamedTuple):
    name: str
    module: nn.Module
    output: Tensor


def _survey(model: nn.Module, inputs: Inputs) -> tuple[list[_Seen], Any]:
    """Run every module once, and list those that ran once and return one tensor, in the order they finished."""
    names = {id(module): name for name, module in model.named_modules()}
    seen: dict[str, list[Any]] = {}
    watched = graft(model, lambda module: True)

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, args, output: seen.setdefault(name, []).append(output)

    for key, module in watched.owned.items():
        module.register_forward_hook(watch(names[key]))
    with torch.inference_mode(False), torch.no_grad():
        outputs = call(watched, copy_of(inputs))
    once = []
    for name, calls in seen.items():
        tensors = [leaf for leaf in pytree.tree_leaves(calls) if isinstance(leaf, Tensor)]
        if len(calls) == 1 and len(tensors) == 1 and tensors[0].is_floating_point():
            once.append(_Seen(name, model.get_submodule(name), tensors[0]))
    return once, outputs


def _candidates(model: nn.Module, seen: list[_Seen], outputs: Any, inputs: Inputs) -> dict[str, list[Reading]]:
    """Keep the layers that hold features on a grid, or may do so, one of all that return the same tensor."""
    same: dict[int, list[_Seen]] = {}
    for layer in seen:
        # moved to the end: a tensor that was added to in place is as late as its last owner
        same[id(layer.output)] = [*same.pop(id(layer.output), []), layer]
    found = {}
    for group in same.values():
        named = [layer for layer in group if layer.name and not _is(_PASSES_ON, layer.module)]
        if not named or _is(_NO_FEATURES, named[0].module):
            continue
        outermost = min(reversed(named), key=lambda layer: layer.name.count("."))
        fitting = possible_readings(model, outermost.name, outermost.output.shape, inputs)
        whole = [reading for reading in fitting if reading.name != "windows" and max(reading.spatial, default=2) > 1]
        if whole and not _is_class_map(outermost.output, outputs):
            found[outermost.name] = fitting
    return found


def _score_maps(model: nn.Module, found: dict[str, Reading], outputs: Any, inputs: Inputs) -> list[str]:
    """Name the layers with a channel for each class of a segmentation, which a class's scores alone depend on.

    Some networks add such maps up to the scores, so that none of them is equal to what the model returns.
    """
    image, scores = image_among(inputs), next(iter(floating_leaves(outputs)), None)
    if image is None or scores is None or scores.ndim != image.ndim or scores.shape[1] < 2:
        return []
    names = [name for name, reading in found.items() if reading.channels == scores.shape[1]]
    if not names:
        return []
    captured = capture_many(model, names)(inputs, lambda out: next(iter(floating_leaves(out)))[:, 0].flatten(1).sum(1))
    pulls = {name: _map(captured[name].grads, found[name]) for name in names}
    return [name for name, pull in pulls.items() if pull[:, 0].any() and not pull[:, 1:].any()]


def _is(kind: re.Pattern[str], module: nn.Module) -> bool:
    return kind.search(type(module).__name__.lower()) is not None


def _is_class_map(output: Tensor, outputs: Any) -> bool:
    """Whether a model's output is the mean of this one over space, or this one resized: a score map, no features."""
    return output.ndim > 2 and any(_is_mean_or_resized(output, given) for given in floating_leaves(outputs))


def _is_mean_or_resized(output: Tensor, given: Tensor) -> bool:
    if given.shape == output.shape[:2]:
        return torch.allclose(output.flatten(2).mean(2), given, rtol=1e-3, atol=1e-5)
    if given.ndim != output.ndim or given.shape[:2] != output.shape[:2] or output.ndim not in (4, 5):
        return False
    if given.shape != output.shape:
        output = resize(output, given.shape[2:])
    return torch.allclose(output, given, rtol=1e-3, atol=1e-5)


def _first_sample(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and not any(isinstance(item, Tensor) for item in value):
        return value[:1]  # a target for each sample
    return pytree.tree_map(lambda leaf: leaf[:1] if isinstance(leaf, Tensor) and leaf.ndim else leaf, value)

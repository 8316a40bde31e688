"""Which layers are maps of scores: projections to the classes that the network then only pools, resizes or adds up."""

# tested in tests/test_layers.py

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._shared.inputs import floating_leaves
from .._shared.maps import resize
from .watch import Ran, Watched

_FEATURES = re.compile("hidden|feat|embed|pooler|encoder|backbone")
"""Keys of a network's outputs that are features, whatever layer they come from."""
_CONVOLUTION = re.compile("^(lazy)?conv")
_PASSES = re.compile("dropout|droppath|identity|relu|gelu|silu|sigmoid|tanh|softmax|activation|upsampl|pixelshuffle")


class Group(NamedTuple):
    """The calls that returned one tensor, the innermost first, and the layer that stands for them.

    Attributes:
        name: dotted name of the layer, the outermost of the calls.
        layer: its module.
        output: the tensor.
        calls: the calls.
    """

    name: str
    layer: nn.Module
    output: Tensor
    calls: list[Ran]


class Result(NamedTuple):
    """A tensor that the network returns as scores.

    Attributes:
        scores: the tensor.
        channels: its number of channels, 1 where it has no dimension for them.
        dense: whether it has as many dimensions of space as the image, and is no sequence.
        whole: whether its space is that of the image, pixel by pixel.
    """

    scores: Tensor
    channels: int
    dense: bool
    whole: bool


def results(outputs: Any, image: Tensor) -> list[Result]:
    """List the floating-point tensors that a network returns, without those that it calls features."""
    found = []
    for leaf in _scores_in(outputs):
        whole = leaf.shape[-image.ndim + 2 :] == image.shape[2:]
        if leaf.ndim == image.ndim:
            found.append(Result(leaf, leaf.shape[1], True, whole))
        elif leaf.ndim == image.ndim - 1 and whole:
            found.append(Result(leaf, 1, True, whole))
        elif leaf.ndim > 1:
            found.append(Result(leaf, leaf.shape[1], False, False))
    return found


def _scores_in(outputs: Any) -> list[Tensor]:
    """List the floating-point tensors of a tree that stand under no key of features."""
    if isinstance(outputs, Mapping):
        return [leaf for key, value in outputs.items() if not _FEATURES.search(str(key)) for leaf in _scores_in(value)]
    if isinstance(outputs, (tuple, list)):
        return [leaf for value in outputs for leaf in _scores_in(value)]
    return floating_leaves(outputs)


def is_score_map(group: Group, found: Sequence[Result], run: Watched) -> list[Tensor]:
    """Whether a layer's output is a map of the scores: one condition, a tensor () of bool, for each that it may be.

    It is where the network returns it, its mean or its size changed, if it is as fine as the image or comes out of a
    projection; and where it comes out of the network's last projection, to as many channels as there are scores.
    """
    projected = projects(group.calls[0], run)
    conditions = []
    for result in found:
        if not (result.whole or projected or (result.dense and result.channels == 1)):
            continue
        like = _as_scores(group.output, result)
        if like is not None:
            conditions.append(torch.isclose(like, result.scores, rtol=1e-3, atol=1e-5).all())
        channels = group.output.shape[1] if group.output.ndim == result.scores.ndim or not result.dense else 1
        last = (projected or (result.dense and result.channels == 1)) and not _works_later(group, run)
        if last and group.output.ndim > 2 and channels == result.channels and (result.dense or group.output.ndim > 3):
            conditions.append(torch.tensor(True))
    return conditions


def projects(ran: Ran, run: Watched) -> bool:
    """Whether what a call returned is a projection to other channels, as scores are: no norm, no shortcut behind it.

    Behind an activation, only a projection of single places counts: SqueezeNet has such scores, and wider convolutions
    with an activation are features.
    """
    activated = False
    while ran.works is False and _PASSES.search(type(ran.module).__name__.lower()) and _childless(ran.module):
        activated = activated or "up" not in type(ran.module).__name__.lower()
        source = next((read.source for read in ran.reads if read.source is not None), None)
        if source is None:
            return False
        ran = run.calls[source]
    if not _childless(ran.module):
        if any(read.shape == tuple(ran.outputs[0].shape) for read in ran.reads):
            return False  # a shortcut may lead around its last projection
        inside = [one for one in run.calls if ran.holds(one) and one.works]
        if not inside:
            return False
        ran = inside[-1]
    return _is_projection(ran.module, of_places=activated and not isinstance(ran.module, nn.Linear))


def _childless(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _is_projection(module: Any, of_places: bool) -> bool:
    """Whether an operation takes each place to other channels; to none but single places where this is asked."""
    if isinstance(module, nn.Linear):
        return bool(module.in_features != module.out_features)
    if not _CONVOLUTION.search(type(module).__name__.lower()):
        return False
    channels = getattr(module, "in_channels", None), getattr(module, "out_channels", None)
    single = set(getattr(module, "kernel_size", ())) <= {1} or channels[1] == 1
    return single or (channels[0] != channels[1] and not of_places)


def _works_later(group: Group, run: Watched) -> bool:
    """Whether an operation with parameters begins after a layer has ended."""
    end = group.calls[-1].end
    return any(one.works and one.start > end for one in run.calls)


def _as_scores(output: Tensor, result: Result) -> Tensor | None:
    """Return a layer's output as it is, its mean over space, or it resized, if one of these has the scores' shape."""
    shape = result.scores.shape
    if output.ndim > 2 and shape == output.shape:
        return output
    if output.ndim > 2 and shape == output.shape[:2]:
        return output.flatten(2).mean(2)
    if output.ndim not in (4, 5) or not result.dense:
        return None
    scores = result.scores if result.scores.ndim == output.ndim else result.scores.unsqueeze(1)
    if scores.shape[:2] != output.shape[:2] or scores.ndim != output.ndim:
        return None
    return resize(output, scores.shape[2:]).reshape(shape)

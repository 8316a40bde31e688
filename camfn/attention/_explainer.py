"""Compose a method on attention with a model into one function of inputs and target."""

# tested in tests/attention/test_methods.py

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, field
from functools import partial
from inspect import signature
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from .._cut.graft import bare
from .._cut.traced import outside_the_compiler
from .._layout.readings import images_read, readings_of, several_images_text
from .._shared.checks import describe, function, keeps_graph, space, whole
from .._shared.errors import CaptureError
from .._shared.inputs import Images, check_images
from .._shared.value import Value, frozen
from .._shared.vocabulary import Inputs, Reading, Target
from . import _methods as relevance
from ._capture import Layers, capture_attention, observe_attention
from ._records import AttentionRecord

METHODS: Mapping[str, Callable[..., Tensor]] = {
    method.__name__: method
    for method in (
        relevance.raw_attention,
        relevance.attention_rollout,
        relevance.gradient_rollout,
        relevance.le_grad,
        relevance.grad_eclip,
    )
}
"""The methods on attention, by name; the command line offers them beside those of `camfn.methods`."""

_INSTEAD = "Take a class activation map: camfn.explainer(camfn.methods.grad_cam, model, layer)"
_FORWARD_ONLY = (relevance.raw_attention, relevance.attention_rollout)


@frozen
class attention_explainer(Value):
    """Compose a method on attention with a model: `attention_explainer(le_grad, model)(images, target)` is the map.

    Call the function it returns as that of `camfn.explainer`. It computes only the gradients that the method needs:
    none for raw attention and rollout, those of each layer's own score for LeGrad. Your own method gets the records of
    `capture_attention`, and the keywords `prefix` and `query` if its signature has them.

    Args:
        method: one of `camfn.attention.METHODS`, a `functools.partial` of one, or your own function from records to
            (B, N - prefix).
        model: any module with attention over the whole image; the explainer does not change it.
        layers: attentions, or modules that hold some; None takes all attentions.
        grid: number of patches along each dimension, (height, width); None reads it from the image and the number of
            tokens.
        prefix: number of tokens before the patches that stand for no place; None reads it from the model, or from the
            number of tokens.
        query: the token whose row the method reads; None for the mean over patches; "auto" takes the first token where
            there are prefix tokens, unless the model states that it averages patches.
        images: which of the inputs is the image, where several have space and the grid depends on which: an index, a
            key, a path of these such as ("pixels", 0), or a function of the inputs.
        readout: for LeGrad, function from tokens to outputs, as for `capture_attention`; saves a forward.
        differentiable: whether to keep the outer graph, so that the map may be part of a loss.
        unused: as for `capture_attention`.
        has_aux: return `(cam, outputs)`, with the outputs that the model gave on the way.

    Returns:
        A function of the inputs and a target that returns the raw map, (B, *grid).

    Raises:
        CaptureError: no attention ran, or its tokens are no grid of the image.
        CamfnError: the attention is over windows.

    Example:
        >>> import torch
        >>> class Net(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.patches = torch.nn.Conv2d(3, 8, 4, stride=4)
        ...         self.block = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        ...
        ...     def forward(self, x):
        ...         return self.block(self.patches(x).flatten(2).transpose(1, 2)).mean(1)
        >>> attention_explainer(METHODS["gradient_rollout"], Net().eval())(torch.randn(2, 3, 16, 16), 1).shape
        torch.Size([2, 4, 4])
    """

    method: Callable[..., Tensor]
    model: nn.Module
    layers: Layers = None
    _: KW_ONLY
    grid: Sequence[int] | None = None
    prefix: int | None = None
    query: int | Literal["auto"] | None = "auto"
    images: Images | None = None
    readout: Callable[[Tensor], Any] | None = None
    differentiable: bool = False
    unused: Literal["error", "zeros"] = "error"
    has_aux: bool = False
    _capture: observe_attention | capture_attention = field(init=False)

    def __post_init__(self) -> None:
        function("method", self.method, "one of camfn.attention.METHODS, or a function of records")
        if self.grid is not None:
            object.__setattr__(self, "grid", space("attention_explainer: grid", self.grid))
        if self.prefix is not None:
            whole("attention_explainer: prefix", self.prefix, 0)
        if self.query is not None and not (isinstance(self.query, str) and self.query == "auto"):
            whole("attention_explainer: query ('auto', None or an index)", self.query, 0)
        check_images(self.images)
        plain = self.method
        while isinstance(plain, partial):
            plain = plain.func
        run: observe_attention | capture_attention
        if plain in _FORWARD_ONLY:
            run = observe_attention(self.model, self.layers, differentiable=self.differentiable)
        else:
            scores: Literal["model", "layers"] = "layers" if plain is relevance.le_grad else "model"
            options: dict[str, Any] = {"differentiable": self.differentiable, "unused": self.unused}
            run = capture_attention(self.model, self.layers, scores=scores, readout=self.readout, **options)
        object.__setattr__(self, "_capture", run)
        object.__setattr__(self, "layers", run.layers)

    def __call__(self, inputs: Inputs, target: Target = None) -> Tensor:
        """Return the raw map, (B, *grid); with `has_aux`, the map and the model's outputs."""
        cam, outputs = _explain(self, inputs, target)
        # a type checker sees the map alone, as most callers do
        return cast(Tensor, (cam, outputs)) if self.has_aux else cam


@outside_the_compiler
def _explain(of: attention_explainer, inputs: Inputs, target: Target) -> tuple[Tensor, Any]:
    """Capture the attention, find the grid of its tokens, and call the method."""
    keep = keeps_graph("attention_explainer", of.model, inputs, of.differentiable)
    with torch.inference_mode(False), torch.set_grad_enabled(keep):
        run = of._capture
        records, outputs = run(inputs) if isinstance(run, observe_attention) else run(inputs, target)
        spatial, before = _grid_and_prefix(of, inputs, records[-1])
        query = None if isinstance(run, capture_attention) and run.scores == "layers" else _query(of.model, before)
        context = {"prefix": before, "query": query if of.query == "auto" else of.query}
        parameters = signature(of.method).parameters
        relevances = of.method(records, **{key: value for key, value in context.items() if key in parameters})
    return relevances.reshape(relevances.shape[0], *spatial), outputs


def _grid_and_prefix(of: attention_explainer, inputs: Inputs, last: AttentionRecord) -> tuple[tuple[int, ...], int]:
    """Find the grid of the patches, and the number of tokens before them."""
    shape = tuple(last.probabilities.shape)
    images = images_read(bare(of.model), last.name, 3, inputs, of.images)
    if not images:
        raise CaptureError(f"expected an image (B, C, *spatial) among the inputs, got {describe(inputs)}")
    if all(shape[0] != image.shape[0] for image in images):
        raise CaptureError(
            f"attention in {last.name!r} is {shape} for {images[0].shape[0]} images: it is in windows, whose tokens "
            f"are not all the places of the image. {_INSTEAD}"
        )
    spatial = tuple(of.grid) if of.grid is not None else _grid(of, inputs, images, last)
    before = shape[-1] - math.prod(spatial)
    if before < 0 or (of.prefix is not None and of.prefix != before):
        raise CaptureError(
            f"attention in {last.name!r} is over {shape[-1]} tokens, which are not a grid of {spatial} behind "
            f"{'any number of' if of.prefix is None else of.prefix} tokens"
        )
    return spatial, before


def _grid(of: attention_explainer, inputs: Inputs, images: Sequence[Tensor], last: AttentionRecord) -> tuple[int, ...]:
    """Find the grid of the patches: from the prefix and the image, or without a prefix as `layout.find` does."""
    tokens = last.probabilities.shape[-1]
    if of.prefix is not None:
        found = [_grid_after_prefix(of.prefix, tokens, image.shape[2:]) for image in images]
    else:
        shape = (last.probabilities.shape[0], tokens, last.v.shape[1] * last.v.shape[-1])
        each = [readings_of(bare(of.model), last.name, shape, inputs, image) for image in images]
        found = [[one.spatial for one in readings if _is_row_by_row(one, shape)] for readings in each]
    grids = found[0]
    if any(other != grids for other in found):
        raise CaptureError(several_images_text(f"the grid of attention in {last.name!r}", inputs, images, of.images))
    if len(grids) == 1:
        return grids[0]
    which = " or ".join(map(str, grids)) if grids else "no grid"
    behind = "" if of.prefix is None else f", behind {of.prefix} tokens"
    size = " x ".join(map(str, images[0].shape[2:]))
    raise CaptureError(
        f"attention in {last.name!r} is over {tokens} tokens, in which there is {which} of a {size} image, row by "
        f"row{behind}: pass grid=(height, width) and prefix=. Attention over channels (XCiT) or in windows (Swin, "
        f"MaxViT) has none. {_INSTEAD}"
    )


def _grid_after_prefix(prefix: int, tokens: int, size: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the grid of one integer stride that the tokens after the prefix make up: a list of one, or empty."""
    if tokens <= prefix:
        return []
    stride = max(round((math.prod(size) / (tokens - prefix)) ** (1 / len(size))), 1)
    grid = tuple(length // stride for length in size)
    return [grid] if prefix + math.prod(grid) == tokens else []


def _is_row_by_row(reading: Reading, shape: tuple[int, int, int]) -> bool:
    """Whether a reading of (B, tokens, C) puts all tokens after its prefix on the map row by row."""
    if reading.layout is None:
        return False
    numbers = torch.arange(shape[1])
    numbers_on_the_map = reading.layout.to_map(numbers[:, None].expand(shape))
    return torch.equal(numbers_on_the_map[0, 0].flatten(), numbers[reading.prefix :])


def _query(model: nn.Module, prefix: int) -> int | None:
    """Return the token that the model's head reads: 0, or None where timm or Hugging Face state that it averages."""
    averages = str(getattr(model, "global_pool", "")).startswith(("avg", "max"))
    averages = averages or getattr(getattr(model, "config", None), "use_mean_pooling", False)
    return None if averages or not prefix else 0

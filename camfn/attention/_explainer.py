"""Compose a method on attention with a model into one function of inputs and target."""

# tested in tests/attention/test_methods.py

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, field
from functools import partial
from inspect import signature
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from .._cut.graft import bare
from .._cut.traced import outside_the_compiler
from .._layout.readings import check_layout
from .._shared.checks import function, keeps_graph, space, whole
from .._shared.errors import CamfnError, CaptureError
from .._shared.inputs import Images, check_images
from .._shared.value import Value, frozen
from .._shared.vocabulary import Inputs, LayoutPair, Target
from . import _methods as relevance
from ._capture import capture_attention, captured, observe, observe_attention
from ._forward import Layers
from ._places import Asked
from ._plan import Plan, plan
from ._query import averages, read_by_gradient, read_by_outputs, without_unread
from ._records import AttentionRecord
from ._rows import Positions, Query, Where, check_positions, check_query
from ._sight import Looker

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

_FORWARD_ONLY = (relevance.raw_attention, relevance.attention_rollout)
_OF_ONE = (relevance.raw_attention, relevance.grad_eclip)


@frozen
class attention_explainer(Value):
    """Compose a method on attention with a model: `attention_explainer(le_grad, model)(images, target)` is the map.

    Call the function it returns as that of `camfn.explainer`. It computes only the gradients that the method needs:
    none for raw attention and rollout, those of each layer's own score for LeGrad. Your own method gets the records of
    `capture_attention`, and the keywords `prefix`, `positions` and `query` if its signature has them.

    Which attentions are over the image, and where its patches stand, is found once for a model and a shape of inputs:
    by the facts of the model, and by forwards with a blank image. What is said is not searched for: `grid` with
    `prefix`, `suffix` or `positions`, or `layout`.

    Args:
        method: one of `camfn.attention.METHODS`, a `functools.partial` of one, or your own function from records to
            (B, N), or (Q, B, N).
        model: any module with attention over the whole image; the explainer does not change it.
        layers: attentions, or modules that hold some, by name, by pattern ("blocks.*.attn", as in `fnmatch`) or as
            modules; None takes those over the image.
        grid: number of patches along each dimension, (height, width) for images, (time,) for sound.
        prefix: number of tokens before the patches that stand for no place; 0 where a suffix is given.
        suffix: number of tokens after the patches that stand for no place; 0 where a prefix is given.
        positions: where the patches stand in the sequence, row by row, where text stands around the image: a slice,
            indices (N,), or those of each sample, (B, N).
        layout: a layout of `camfn.layout` for (B, tokens, C), in place of all these.
        query: the token whose row the method reads, -1 for the last; several, (Q,), or those of each sample, (Q, B), or
            "all" give a map each; None for the mean over patches. "auto" finds the token that the network reads: the
            first before the patches that the score (for raw attention and rollout, an output) depends on, or else the
            mean over patches. For LeGrad, None, which "auto" stands for, takes all queries, and a query its own row.
        images: which of the inputs is the image, where several have space and the grid depends on which: an index, a
            key, a path of these such as ("pixels", 0), or a function of the inputs.
        readout: for LeGrad, function from tokens to outputs, as for `capture_attention`; saves a forward.
        differentiable: whether to keep the outer graph, so that the map may be part of a loss.
        unused: as for `capture_attention`.
        has_aux: return `(cam, outputs)`, with the outputs that the model gave on the way.

    Returns:
        A function of the inputs and a target that returns the raw map, (B, *grid), or (Q, B, *grid).

    Raises:
        CaptureError: no attention over the image is found, or several, or its tokens are no grid of the image; lists
            them, and what to pass.
        CamfnError: the attention is over windows, or the network reads several tokens and `query` does not say which.

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
    suffix: int | None = None
    positions: Positions | None = None
    layout: LayoutPair | None = None
    query: Query | Literal["auto"] = "auto"
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
        for name in ("prefix", "suffix"):
            if getattr(self, name) is not None:
                whole(f"attention_explainer: {name}", getattr(self, name), 0)
        if self.positions is not None:
            check_positions("attention_explainer", self.positions)
        check_layout(self.layout)
        self._refuse_twice()
        if not (isinstance(self.query, str) and self.query == "auto"):
            check_query("attention_explainer", self.query)
        check_images(self.images)
        plain = _plain(self.method)
        run: observe_attention | capture_attention
        if plain in _FORWARD_ONLY:
            run = observe_attention(self.model, self.layers, differentiable=self.differentiable)
        else:
            scores: Literal["model", "layers"] = "layers" if plain is relevance.le_grad else "model"
            options: dict[str, Any] = {"differentiable": self.differentiable, "unused": self.unused}
            # a query of LeGrad is a token with a score of its own
            options["average"] = self.query is None or (isinstance(self.query, str) and self.query == "auto")
            run = capture_attention(self.model, self.layers, scores=scores, readout=self.readout, **options)
        object.__setattr__(self, "_capture", run)
        object.__setattr__(self, "layers", run.layers)

    def _refuse_twice(self) -> None:
        """Refuse two statements of where the patches are."""
        said = [name for name in ("prefix", "suffix", "grid") if getattr(self, name) is not None]
        if self.layout is not None and (said or self.positions is not None):
            raise CamfnError(
                "attention_explainer: layout= says where the patches are: leave out "
                + ", ".join(f"{name}=" for name in [*said, "positions"])
            )
        if self.positions is not None and set(said) - {"grid"}:
            raise CamfnError("attention_explainer: positions= stands in place of prefix= and suffix=")

    def __call__(self, inputs: Inputs, target: Target = None) -> Tensor:
        """Return the raw map, (B, *grid); with `has_aux`, the map and the model's outputs."""
        cam, outputs = _explain(self, inputs, target)
        # a type checker sees the map alone, as most callers do
        return cast(Tensor, (cam, outputs)) if self.has_aux else cam


@outside_the_compiler
def _explain(of: attention_explainer, inputs: Inputs, target: Target) -> tuple[Tensor, Any]:
    """Find the attentions and the patches, capture them, and call the method."""
    keep = keeps_graph("attention_explainer", of.model, inputs, of.differentiable)
    with torch.inference_mode(False), torch.set_grad_enabled(keep):
        looker = Looker(bare(of.model), inputs)
        found = _planned(of, looker)
        records, outputs = _recorded(of, inputs, target, found)
        _check_tokens(records, found)
        relevances = _relevances(of, looker, records, found, _caller(of, records, found))
    return relevances.reshape(*relevances.shape[:-1], *found.places.spatial), outputs


def _planned(of: attention_explainer, looker: Looker) -> Plan:
    """Find the attentions and the patches; for a method without gradients only attentions that an output reads."""
    found = plan(looker, _asked(of))
    if isinstance(of._capture, observe_attention) and _chooses(of):
        return without_unread(looker, found)
    return found


def _chooses(of: attention_explainer) -> bool:
    """Whether `attention_explainer` chooses the attentions; it takes the caller's as they are."""
    return of.layers is None or _has_pattern(of.layers)


def _recorded(
    of: attention_explainer, inputs: Inputs, target: Target, found: Plan
) -> tuple[Sequence[AttentionRecord], Any]:
    """Run the network and record its attentions."""
    run, choice = of._capture, found.choice if _chooses(of) else None
    return observe(run, inputs, choice) if isinstance(run, observe_attention) else captured(run, inputs, target, choice)


@frozen
class settled(Value):
    """An `attention_explainer` that looks for nothing: for a trace, in which no number can be read.

    Attributes:
        explain: the explainer.
        found: its attentions and patches.
        query: the token whose row the method reads.
    """

    explain: attention_explainer
    found: Plan
    query: Query

    def __call__(self, inputs: Inputs, target: Target = None) -> Any:
        """Return the raw map, (B, *grid), and the model's outputs."""
        records, outputs = _recorded(self.explain, inputs, target, self.found)
        relevances = _caller(self.explain, records, self.found)(self.query)
        return relevances.reshape(*relevances.shape[:-1], *self.found.places.spatial), outputs


def settle(of: attention_explainer, inputs: Inputs, target: Target = None) -> settled:
    """Find on some inputs what the explainer would find on each: attentions, patches and the query."""
    looker = Looker(bare(of.model), inputs)
    found = _planned(of, looker)
    records, _ = _recorded(of, inputs, target, found)
    if not isinstance(of.query, str):
        return settled(of, found, of.query)
    asked: list[Query] = []

    def call(query: Query) -> Tensor:
        asked.append(query)
        return _caller(of, records, found)(query)

    _relevances(of, looker, records, found, call)
    firsts = {int(index) for query in asked[:1] if isinstance(query, Tensor) for index in query.flatten()}
    if len(firsts) > 1:
        raise CamfnError("the score reads another token in each image: say which row is meant, as query=0")
    return settled(of, found, firsts.pop() if firsts else asked[0])


def _asked(of: attention_explainer) -> Asked:
    """Return what the caller says of the attentions and of the patches."""
    method = _plain(of.method)
    name = getattr(method, "__name__", type(method).__name__)
    grid = None if of.grid is None else tuple(of.grid)
    said = (grid, of.prefix, of.suffix, of.positions, of.layout, of.images)
    return Asked(name, of.layers, *said, of_one=method in _OF_ONE, pools=method is not relevance.le_grad)


def _plain(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function inside of partial ones."""
    while isinstance(method, partial):
        method = method.func
    return method


def _has_pattern(layers: Layers) -> bool:
    return any(set("*?[") & set(name) for name in cast(tuple[str, ...], layers))


def _check_tokens(records: Sequence[AttentionRecord], found: Plan) -> None:
    """Refuse a run with other tokens than the forward that found the patches."""
    last, tokens = records[-1], found.seen[found.choice.places[-1]].keys
    if last.probabilities.shape[-1] != tokens:
        raise CaptureError(
            f"attention in {last.name!r} is over {last.probabilities.shape[-1]} tokens in training mode, and over "
            f"{tokens} in evaluation mode: call model.eval()"
        )


def _relevances(
    of: attention_explainer,
    looker: Looker,
    records: Sequence[AttentionRecord],
    found: Plan,
    call: Callable[[Query], Tensor],
) -> Tensor:
    """Call a function with the query that the user chose, or with the one that the network reads."""
    if not (isinstance(of.query, str) and of.query == "auto"):
        return call(of.query)
    method, amid_text = _plain(of.method), of.positions is not None
    if _reads_no_row(of, looker):
        return call(None)
    if method in (relevance.gradient_rollout, relevance.grad_eclip):
        return read_by_gradient(call, _last_of(of, records), found.places.where, amid_text=amid_text)
    return call(read_by_outputs(looker, found, amid_text=amid_text))


def _reads_no_row(of: attention_explainer, looker: Looker) -> bool:
    """Whether "auto" is the mean over patches, or all queries of LeGrad."""
    parameters = signature(of.method).parameters
    return _plain(of.method) is relevance.le_grad or averages(looker.model) or "query" not in parameters


def _caller(of: attention_explainer, records: Sequence[AttentionRecord], found: Plan) -> Callable[[Query], Tensor]:
    """Return the method as a function of the query."""
    where = found.places.where
    parameters = signature(of.method).parameters
    known: dict[str, Any] = {"positions": where}
    if "positions" not in parameters:
        known = {"prefix": _only_prefix(of, where, records[-1].probabilities.shape[-1])}

    def call(query: Query) -> Tensor:
        context = {**known, "query": query}
        return of.method(records, **{key: item for key, item in context.items() if key in parameters})

    return call


def _last_of(of: attention_explainer, records: Sequence[AttentionRecord]) -> AttentionRecord:
    """Return the record whose row is read: the last, or that of the method's `layer`."""
    layer = of.method.keywords.get("layer", -1) if isinstance(of.method, partial) else -1
    return records[layer if isinstance(layer, int) and -len(records) <= layer < len(records) else -1]


def _only_prefix(of: attention_explainer, where: Where, tokens: int) -> int:
    """Return the number of tokens before the patches, for a method that knows no positions."""
    if isinstance(where, slice) and where.stop == tokens:
        return int(where.start)
    name = getattr(of.method, "__name__", repr(of.method))
    raise CamfnError(
        f"{name}: the patches are not all tokens behind a prefix, so the method needs a keyword `positions`, which it "
        "does not have"
    )

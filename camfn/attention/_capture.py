"""Observe and capture attention: probabilities, queries, keys, values and outputs of every attention of a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from .._cut.derive import at_own_level, expanded
from .._cut.graft import bare
from .._cut.layer_checks import check_model, fitting, layer_name
from .._cut.lost import no_gradient
from .._cut.traced import outside_the_compiler
from .._layout.readings import images_among
from .._shared.checks import describe, keeps_graph, one_of, one_score_a_sample
from .._shared.errors import ArgumentTypeError, CamfnError, CaptureError
from .._shared.inputs import tensors_in
from .._shared.value import Value, frozen
from .._shared.vocabulary import Inputs, Target
from ..targets import as_score, pin
from ._forward import Layers, check_ran, forward, leading_sizes, within
from ._gradients import NoGradient, gradients_of_used, own_gradients
from ._records import Attended, AttentionRecord
from ._rows import check_query
from ._watch import Site

Scores: TypeAlias = Literal["model", "layers"]
"""Which score is differentiated: the model's, or each layer's own."""


class Choice(NamedTuple):
    """The attentions to record, of those that run in a forward.

    Attributes:
        names: of the modules in which they run.
        places: among all attentions, in the order in which they end.
    """

    names: tuple[str, ...]
    places: tuple[int, ...]


@frozen
class observe_attention(Value):
    """Run a model forward and record its attentions, without gradients.

    Args:
        model: any module; the capture does not change it.
        layers: attentions, or modules that hold some, by name, by pattern ("blocks.*.attn", as in `fnmatch`) or as
            modules; None takes all attentions.
        differentiable: whether to keep the outer graph, so that a map may be part of a loss.
        queries: rows of the attention to record, (Q,), where a few are wanted of many; fused attention then forms these
            alone. None records all.

    Returns:
        A function of the inputs that returns `Attended(records, outputs)`; the records' gradients are None.

    Raises:
        CaptureError: the model has no such layer, or no attention ran in the layer.

    Example:
        >>> import torch
        >>> net = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
        >>> (record,), outputs = observe_attention(net)(torch.ones(1, 5, 8))
        >>> record.name, record.probabilities.shape
        ('self_attn', torch.Size([1, 2, 5, 5]))
    """

    model: nn.Module
    layers: Layers = None
    _: KW_ONLY
    differentiable: bool = False
    queries: Sequence[int] | Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", checked_layers(self.model, self.layers))
        checked_queries("observe_attention", self.queries)

    def __call__(self, inputs: Inputs) -> Attended:
        """Run the model once."""
        return observe(self, inputs)


@outside_the_compiler
def observe(of: observe_attention, inputs: Inputs, choice: Choice | None = None) -> Attended:
    """Run the model once, and record the attentions in the layers, or those that are chosen."""
    model = bare(of.model)
    keep = keeps_graph("observe_attention", model, inputs, of.differentiable)
    with torch.inference_mode(False), torch.set_grad_enabled(keep):
        queries = checked_queries("observe_attention", of.queries)
        outputs, sites = forward(model, choice.names if choice else of.layers, inputs, queries=queries)
        return Attended([record_of(site, inputs) for site in wanted_sites(of.layers, sites, model, choice)], outputs)


@frozen
class capture_attention(Value):
    """Run a model and record its attentions, with the gradients of the score.

    The capture recognizes `scaled_dot_product_attention`, `nn.MultiheadAttention` on each of its paths, and a softmax
    between two matrix products. In this run only, it computes fused attention in full. It does not see kernels of other
    packages (flash-attn, xformers, flex attention). It never changes the model; parameters may be frozen, and the call
    may stand under `no_grad` or `inference_mode`; `vmap` over targets runs the forward once.

    Args:
        model: any module; a model in training mode runs in training mode, on copies of its buffers.
        layers: attentions, or modules that hold some, by name, by pattern ("blocks.*.attn", as in `fnmatch`) or as
            modules; None takes all attentions.
        scores: "model" differentiates the score of the model's outputs. "layers" gives each attention a score of its
            own (LeGrad): the mean over the tokens of its block goes through the rest of the network after the last
            block of its tower that the score uses, and the target scores the result.
        readout: for `scores="layers"`, the rest of the network after the last block: a function from tokens to
            outputs, such as timm's `model.forward_head`. None finds it with a second forward.
        average: for `scores="layers"`, False hands a block's tokens on as they are, and not their mean: for the target
            that scores a token, such as a word of a language model.
        differentiable: whether to keep the outer graph, so that a map may be part of a loss.
        unused: what a gradient that does not exist is, as for `camfn.capture`: an "error" that says why, or "zeros".
        queries: as for `observe_attention`; the gradients are those of the same rows.

    Returns:
        A function of the inputs and a target, as for `camfn.capture`, that returns `Attended(records, outputs)`.

    Raises:
        CaptureError: the model has no such layer, no attention ran in the layer, or (`scores="layers"`) an attention
            is in no block that returns tokens.
        CamfnError: the target does not return one number a sample.

    Example:
        >>> import torch
        >>> layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        >>> net = torch.nn.Sequential(layer, torch.nn.Flatten(), torch.nn.Linear(40, 3)).eval()
        >>> (record,), outputs = capture_attention(net)(torch.randn(1, 5, 8), 2)
        >>> record.grads.shape, record.output_grads.shape
        (torch.Size([1, 2, 5, 5]), torch.Size([1, 2, 5, 4]))
    """

    model: nn.Module
    layers: Layers = None
    _: KW_ONLY
    scores: Scores = "model"
    readout: Callable[[Tensor], Any] | None = None
    average: bool = True
    differentiable: bool = False
    unused: Literal["error", "zeros"] = "error"
    queries: Sequence[int] | Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", checked_layers(self.model, self.layers))
        checked_queries("capture_attention", self.queries)
        one_of("scores", self.scores, ("model", "layers"))
        one_of("average", self.average, (True, False))
        one_of("unused", self.unused, ("error", "zeros"))

    def __call__(self, inputs: Inputs, target: Target = None) -> Attended:
        """Run the model once, and differentiate the score of each sample."""
        return captured(self, inputs, target)


@outside_the_compiler
def captured(of: capture_attention, inputs: Inputs, target: Target, choice: Choice | None = None) -> Attended:
    """Run the model once, and record the attentions in the layers, or those that are chosen, with their gradients.

    Of those chosen, the last may be used by no score (a language model reads its vision tower's last block but one):
    they have no record then.
    """
    model, score = bare(of.model), as_score(target)

    def missing(site: Site) -> None:
        if of.unused == "error":
            raise NoGradient(site.name)

    def compute(seed: Tensor, keep: bool) -> Attended:
        # a differentiable map needs a second derivative, which fused kernels lack: every attention is written out
        full = None if keep else choice.names if choice else of.layers
        queries = checked_queries("capture_attention", of.queries)
        outputs, sites = forward(model, full, inputs, lambda x: expanded(seed, x), queries=queries)
        wanted = wanted_sites(of.layers, sites, model, choice)
        score_values = one_score_a_sample(score(outputs), _score_sizes(inputs, wanted))
        may_end_early = choice is not None and of.unused == "error"
        if of.scores == "model":
            wanted, grads = gradients_of_used(wanted, score_values, keep, missing, may_end_early)
        else:
            own = pin(target, outputs)
            wanted, grads = own_gradients(
                of.readout, of.average, model, sites, wanted, inputs, own, keep, missing, may_end_early
            )
        pairs = zip(wanted, grads[::2], grads[1::2])
        records = [record_of(site, inputs, grad, output_grad) for site, grad, output_grad in pairs]
        return Attended(records, outputs)

    try:
        keep = keeps_graph("capture_attention", model, inputs, of.differentiable)
        with torch.inference_mode(False), torch.set_grad_enabled(keep):
            return at_own_level(lambda seed: compute(seed, keep), create_graph=keep)
    except NoGradient as found:
        name = found.name
    # outside of the level, where the network can be run again to find out why
    raise no_gradient(model, name, inputs, score, lambda output: tensors_in(output)[0])


def checked_layers(model: nn.Module, layers: Layers) -> tuple[str, ...] | None:
    """Check the model, and return the dotted names of the layers; None stands for the whole model."""
    if layers is None:
        check_model(model)
        return None
    names = tuple(_name_or_pattern(model, layer) for layer in _listed(layers))
    if not names:
        raise CaptureError("layers: expected names of attentions, or None for all of them; got an empty list")
    return names


def checked_queries(name: str, queries: Any) -> Tensor | None:
    """Return the rows to record, each once; refuse what is none."""
    if queries is None:
        return None
    check_query(name, queries)
    at = torch.empty(0) if isinstance(queries, str) else torch.as_tensor(queries)
    if at.ndim != 1 or not len(at) or int(at.min()) < 0 or len(set(at.tolist())) < len(at):
        raise CamfnError(f"{name}: queries: expected rows (Q,) from 0, each once, got {describe(queries)}")
    return at


def _name_or_pattern(model: nn.Module, layer: str | nn.Module) -> str:
    """Return the dotted name of a layer, or a pattern that some module fits."""
    if isinstance(layer, str) and fitting(model, layer) is not None:
        return layer
    return layer_name(model, layer)


def _listed(layers: str | nn.Module | Sequence[str | nn.Module]) -> Sequence[str | nn.Module]:
    if isinstance(layers, (str, nn.Module)):
        return [layers]
    if not isinstance(layers, (list, tuple)):
        raise ArgumentTypeError(
            f"layers: expected names of attentions or modules, or None for all, got {describe(layers)}"
        )
    return layers


def _score_sizes(inputs: Inputs, wanted: Sequence[Site]) -> list[int]:
    """Return the lengths that a vector of scores may have: the number of images, or of samples of other inputs.

    The tiles of a picture are several images beside one text.
    """
    images = images_among(inputs)
    if images and not isinstance(inputs, Mapping):
        return [image.shape[0] for image in images]
    return [*leading_sizes(inputs), *(site.q.shape[0] for site in wanted[-1:])]


def wanted_sites(layers: Layers, sites: list[Site], model: nn.Module, choice: Choice | None) -> list[Site]:
    """Return the attentions that are chosen, or else those in the layers."""
    check_ran(layers, sites, model)
    if choice is not None:
        return [sites[place] for place in choice.places]
    return [site for site in sites if site.full and within(site.name, layers)]


def record_of(
    site: Site, inputs: Inputs, grads: Tensor | None = None, output_grads: Tensor | None = None
) -> AttentionRecord:
    """Turn a complete site into a record."""
    batch = site.batch or leading_sizes(inputs)[0]

    def with_heads(x: Tensor) -> Tensor:
        """Give the heads a dimension of their own, where the network puts them into the batch: (B H, N, D)."""
        return x.reshape(batch, -1, *x.shape[1:]) if x.ndim == 3 and x.shape[0] % batch == 0 else x

    assert site.probabilities is not None
    assert site.v is not None
    assert site.output is not None
    return AttentionRecord(
        name=site.name,
        probabilities=with_heads(site.probabilities),
        grads=None if grads is None else with_heads(grads),
        q=with_heads(site.q if site.rows is None else site.q.index_select(-2, site.rows)),
        k=with_heads(site.k),
        v=with_heads(site.v),
        output=with_heads(site.output),
        output_grads=None if output_grads is None else with_heads(output_grads),
    )

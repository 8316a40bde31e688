"""Observe and capture attention: probabilities, queries, keys, values and outputs of every attention of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._cut.derive import at_own_level, expanded, gradients
from .._cut.graft import bare, graft
from .._cut.layer_checks import check_model, layer_name
from .._cut.lost import no_gradient
from .._cut.resume import resume
from .._cut.traced import outside_the_compiler
from .._shared.checks import batch_sizes, describe, keeps_graph, one_of, one_score_a_sample
from .._shared.errors import ArgumentTypeError, CaptureError
from .._shared.inputs import call, copy_of, tensors_in
from .._shared.value import Value, frozen
from .._shared.vocabulary import Inputs, ScoreFn, Target
from ..targets import as_score, pin
from ._records import Attended, AttentionRecord
from ._watch import Site, Watch

Scores: TypeAlias = Literal["model", "layers"]
"""Which score is differentiated: the model's, or each layer's own."""

Layers: TypeAlias = "Sequence[str | nn.Module] | str | nn.Module | None"
"""Attentions, or modules that hold some, by name or as modules; None for all attentions."""


@frozen
class observe_attention(Value):
    """Run a model forward and record its attentions, without gradients.

    Args:
        model: any module; the capture does not change it.
        layers: attentions, or modules that hold some, by name or as modules; None takes all attentions.
        differentiable: whether to keep the outer graph, so that a map may be part of a loss.

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

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", _checked_layers(self.model, self.layers))

    def __call__(self, inputs: Inputs) -> Attended:
        """Run the model once."""
        return _observe(self, inputs)


@outside_the_compiler
def _observe(of: observe_attention, inputs: Inputs) -> Attended:
    model, names = bare(of.model), _names(of.layers)
    keep = keeps_graph("observe_attention", model, inputs, of.differentiable)
    with torch.inference_mode(False), torch.set_grad_enabled(keep):
        outputs, sites = _forward(model, names, inputs)
        return Attended([_record(site, inputs) for site in _sites_in(names, sites, model)], outputs)


@frozen
class capture_attention(Value):
    """Run a model and record its attentions, with the gradients of the score.

    The capture recognizes `scaled_dot_product_attention`, `nn.MultiheadAttention` on each of its paths, and a softmax
    between two matrix products. In this run only, it computes fused attention in full. It does not see kernels of other
    packages (flash-attn, xformers, flex attention). It never changes the model; parameters may be frozen, and the call
    may stand under `no_grad` or `inference_mode`; `vmap` over targets runs the forward once.

    Args:
        model: any module; a model in training mode runs in training mode, on copies of its buffers.
        layers: attentions, or modules that hold some, by name or as modules; None takes all attentions.
        scores: "model" differentiates the score of the model's outputs. "layers" gives each attention a score of its
            own (LeGrad): the mean over the tokens of its block goes through the rest of the network after the last
            block, and the target scores the result.
        readout: for `scores="layers"`, the rest of the network after the last block: a function from tokens to
            outputs, such as timm's `model.forward_head`. None finds it with a second forward.
        differentiable: whether to keep the outer graph, so that a map may be part of a loss.
        unused: what a gradient that does not exist is, as for `camfn.capture`: an "error" that says why, or "zeros".

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
    differentiable: bool = False
    unused: Literal["error", "zeros"] = "error"

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", _checked_layers(self.model, self.layers))
        one_of("scores", self.scores, ("model", "layers"))
        one_of("unused", self.unused, ("error", "zeros"))

    def __call__(self, inputs: Inputs, target: Target = None) -> Attended:
        """Run the model once, and differentiate the score of each sample."""
        return _capture(self, inputs, target)


@outside_the_compiler
def _capture(of: capture_attention, inputs: Inputs, target: Target) -> Attended:
    model, names, score = bare(of.model), _names(of.layers), as_score(target)

    def missing(site: Site) -> None:
        if of.unused == "error":
            raise _NoGradient(site.name)

    def compute(seed: Tensor, keep: bool) -> Attended:
        # a differentiable map needs a second derivative, which fused kernels lack: the name "" of the model itself
        # makes every attention in it be written out
        outputs, sites = _forward(model, ("",) if keep else names, inputs, lambda x: expanded(seed, x))
        wanted = _sites_in(names, sites, model)
        score_values = one_score_a_sample(score(outputs), batch_sizes(inputs, ()))
        if of.scores == "model":
            grads = _gradients(wanted, score_values, keep, missing)
        else:
            rest = of.readout or _rest_after_last_block(model, sites, wanted, inputs, keep)
            grads = _gradients_of_own_scores(wanted, rest, pin(target, outputs), keep, missing)
        pairs = zip(wanted, grads[::2], grads[1::2])
        records = [_record(site, inputs, grad, output_grad) for site, grad, output_grad in pairs]
        return Attended(records, outputs)

    try:
        keep = keeps_graph("capture_attention", model, inputs, of.differentiable)
        with torch.inference_mode(False), torch.set_grad_enabled(keep):
            return at_own_level(lambda seed: compute(seed, keep), create_graph=keep)
    except _NoGradient as found:
        name = found.name
    # outside of the level, where the network can be run again to find out why
    raise no_gradient(model, name, inputs, score, lambda output: tensors_in(output)[0])


class _NoGradient(Exception):
    """The graph of the score does not reach an attention."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def _checked_layers(model: nn.Module, layers: Layers) -> tuple[str, ...] | None:
    """Check the model, and return the dotted names of the layers; None stands for the whole model."""
    if layers is None:
        check_model(model)
        return None
    names = tuple(layer_name(model, layer) for layer in _listed(layers))
    if not names:
        raise CaptureError("layers: expected names of attentions, or None for all of them; got an empty list")
    return names


def _listed(layers: str | nn.Module | Sequence[str | nn.Module]) -> Sequence[str | nn.Module]:
    if isinstance(layers, (str, nn.Module)):
        return [layers]
    if not isinstance(layers, (list, tuple)):
        raise ArgumentTypeError(
            f"layers: expected names of attentions or modules, or None for all, got {describe(layers)}"
        )
    return layers


def _names(layers: Layers) -> tuple[str, ...]:
    """Return the dotted names of checked layers; "" names the whole model."""
    return ("",) if layers is None else cast(tuple[str, ...], layers)


def _inside(name: str, outer: str) -> bool:
    """Whether a module is the module `outer` or a part of it, by their dotted names; "" names the model."""
    return not outer or name == outer or name.startswith(outer + ".")


def _forward(
    model: nn.Module, names: tuple[str, ...], inputs: Inputs, zero: Callable[[Tensor], Tensor] | None = None
) -> tuple[Any, list[Site]]:
    """Run a copy of the model under a `Watch`; hooks on every module keep the name of the module that is running.

    Returns:
        The outputs, and the sites of all attentions, in the order in which they ended.
    """
    batch = _batch_size(inputs)
    running: list[tuple[str, int]] = []
    watch = Watch(
        where=lambda: running[-1][0] if running else "",
        wanted=lambda name: any(_inside(name, outer) for outer in names),
        zero=zero,
    )

    def begin(name: str) -> Callable[..., None]:
        return lambda module, args: running.append((name, len(watch.sites)))

    def end(module: nn.Module, args: Any, output: Any) -> None:
        name, before = running.pop()
        if len(watch.sites) == before + 1:
            _set_block(watch.sites[-1], name, output, batch)

    copy = graft(model, {id(module) for module in model.modules()})
    labels = {id(module): name for name, module in model.named_modules()}
    for key, module in copy.owned.items():
        module.register_forward_pre_hook(begin(labels[key]))
        module.register_forward_hook(end)
    inputs = copy_of(inputs)
    with watch:
        outputs = call(copy, inputs)
    return outputs, watch.sites


def _batch_size(inputs: Inputs) -> int:
    """Length of the first tensor among the inputs; 1 without such a tensor."""
    leaves = [x for x in pytree.tree_leaves(copy_of(inputs)) if isinstance(x, Tensor) and x.ndim]
    return leaves[0].shape[0] if leaves else 1


def _set_block(site: Site, name: str, output: Any, batch: int) -> None:
    """Record a module as the block of the one attention inside it, if the module returns the attention's tokens.

    A module further outside ends later, and replaces the block: the outermost such module is the block.
    """
    tokens = output[0] if isinstance(output, (tuple, list)) and output else output
    count = site.q.shape[-2]
    if isinstance(tokens, Tensor) and tokens.ndim == 3 and tuple(tokens.shape[:2]) in ((batch, count), (count, batch)):
        site.block, site.per_token = name, 1 if tokens.shape[1] == count else 0
        # the network may overwrite the tokens after the block
        site.tokens = tokens.clone() if site.delta is not None else None


def _sites_in(names: tuple[str, ...], sites: list[Site], model: nn.Module) -> list[Site]:
    """Keep the attentions in the layers of these names; refuse a layer in which no attention ran."""
    kind = type(model).__name__
    if not sites:
        raise CaptureError(
            f"no attention ran in this {kind}: neither scaled_dot_product_attention, nor nn.MultiheadAttention, nor a "
            "softmax between two matrix products was seen. For a convolutional network take a class activation map, "
            "camfn.explainer(camfn.methods.grad_cam, model, layer); a transformer must not run on kernels of another "
            "package (in Hugging Face, attn_implementation='sdpa')"
        )
    for name in names:
        if not any(_inside(site.name, name) for site in sites):
            seen = ", ".join(repr(site.name) for site in sites[:8]) or "none"
            raise CaptureError(f"no attention ran in layer {name!r} of this {kind}. Attention ran in: {seen}")
    return [site for site in sites if site.full and any(_inside(site.name, name) for name in names)]


def _record(
    site: Site, inputs: Inputs, grads: Tensor | None = None, output_grads: Tensor | None = None
) -> AttentionRecord:
    """Turn a complete site into a record."""
    batch = _batch_size(inputs)

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
        q=with_heads(site.q),
        k=with_heads(site.k),
        v=with_heads(site.v),
        output=with_heads(site.output),
        output_grads=None if output_grads is None else with_heads(output_grads),
    )


def _rest_after_last_block(
    model: nn.Module, sites: list[Site], wanted: list[Site], inputs: Inputs, differentiable: bool
) -> Callable[[Tensor], Any]:
    """Return the network after its last block: a function from tokens to outputs."""
    _check_blocks(wanted)
    last = [site for site in sites if site.block][-1]
    for site in wanted:
        if site.q.shape[-2] != last.q.shape[-2]:
            raise CaptureError(
                f"the network goes on from the {last.q.shape[-2]} tokens of {last.block!r}, but {site.block!r} gives "
                f"{site.q.shape[-2]}, which the head after the last block cannot score. Name the layers with as many "
                "tokens as the last block, or take scores='model'"
            )
    return resume(model, last.block, layout=None, differentiable=differentiable)(inputs)


def _check_blocks(wanted: list[Site]) -> None:
    """Refuse an attention that is in no block: `scores="layers"` needs the tokens that its block returns."""
    for site in wanted:
        if not site.block:
            raise CaptureError(
                f"the attention in {site.name!r} is in no block that returns its {site.q.shape[-2]} tokens, (B, N, C), "
                "so it has no score of its own. Attention in windows (Swin, MaxViT) and attention that pools have no "
                "such block. Name layers with other attention, or take scores='model'"
            )


def _gradients(
    sites: Sequence[Site], scores: Tensor, create_graph: bool, missing: Callable[[Site], None]
) -> list[Tensor]:
    """Differentiate the scores in the probabilities and in the output of each attention, one after the other."""
    deltas = [delta for site in sites for delta in (site.delta, site.output_delta) if delta is not None]

    def absent(places: list[int]) -> None:
        # the probabilities of an attention reach the score through its output alone
        for place in places:
            if place % 2:
                missing(sites[place // 2])

    return gradients(scores, deltas, create_graph=create_graph, missing=absent)


def _gradients_of_own_scores(
    wanted: list[Site],
    readout: Callable[[Tensor], Any],
    score: ScoreFn,
    create_graph: bool,
    missing: Callable[[Site], None],
) -> list[Tensor]:
    """Differentiate, for each attention, the score of the mean of its block's tokens.

    Returns:
        For each attention, the gradients of its probabilities and of its output, one after the other.
    """
    _check_blocks(wanted)
    grads = []
    for site in wanted:
        assert site.tokens is not None
        tokens = site.tokens.mean(site.per_token, keepdim=True).expand_as(site.tokens)
        grads += _gradients([site], score(readout(tokens)), create_graph, missing)
    return grads

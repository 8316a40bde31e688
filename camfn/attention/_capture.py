"""Observe and capture attention: probabilities, queries, keys, values and outputs of every attention of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._cut.derive import at_own_level, expanded, gradients
from .._cut.graft import graft
from .._cut.layer_checks import layer_name
from .._cut.resume import resume
from .._shared.checks import batch_sizes, one_score_a_sample
from .._shared.errors import CamfnError, CaptureError
from .._shared.inputs import call, copy_of
from .._shared.vocabulary import Inputs, ScoreFn, Target
from ..targets import as_score, pin
from ._watch import Site, Watch

Scores: TypeAlias = Literal["model", "layers"]
"""Which score is differentiated: the model's, or each layer's own."""


class AttentionRecord(NamedTuple):
    """One attention of a forward, `output = probabilities @ v`.

    `B` is the batch, or the number of windows where the network attends in windows; `H` counts heads, `Nq` queries,
    `Nk` keys. Queries and keys are as they enter their product: rotated, normalized, and scaled where the network
    scales them before it.

    Attributes:
        name: dotted name of the module in which it ran.
        probabilities: (B, H, Nq, Nk), as softmax returned them, before any dropout.
        grads: same shape, derivative of each sample's score; None where none was asked for.
        q: (B, H, Nq, D).
        k: (B, H, Nk, D).
        v: (B, H, Nk, D).
        output: (B, H, Nq, D), before heads are joined and projected.
        output_grads: same shape, derivative of each sample's score; None where none was asked for.
    """

    name: str
    probabilities: Tensor
    grads: Tensor | None
    q: Tensor
    k: Tensor
    v: Tensor
    output: Tensor
    output_grads: Tensor | None


class Attended(NamedTuple):
    """What a forward attended to.

    Attributes:
        records: one an attention, in the order of execution.
        outputs: exactly what the model returned.
    """

    records: list[AttentionRecord]
    outputs: Any


def observe_attention(
    model: nn.Module, layers: Sequence[str | nn.Module] | str | nn.Module | None = None
) -> Callable[[Inputs], Attended]:
    """Run a model and keep what its attentions computed: forward only.

    Args:
        model: any module; left exactly as it is, fused attention and all.
        layers: attentions, or modules that hold some, by name or as themselves; None takes all there are.

    Returns:
        A function of the inputs that returns `Attended(records, outputs)`; the records' gradients are None.

    Raises:
        CaptureError: no such layer, or no attention ran in it.

    Example:
        >>> import torch
        >>> net = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
        >>> (record,), outputs = observe_attention(net)(torch.ones(1, 5, 8))
        >>> record.name, record.probabilities.shape
        ('self_attn', torch.Size([1, 2, 5, 5]))
    """
    names = _names(model, layers)

    def run(inputs: Inputs) -> Attended:
        with torch.inference_mode(False), torch.no_grad():
            outputs, sites = _forward(model, names, inputs)
            return Attended([_record(site, inputs) for site in _wanted(model, names, sites)], outputs)

    return run


def capture_attention(
    model: nn.Module,
    layers: Sequence[str | nn.Module] | str | nn.Module | None = None,
    *,
    scores: Scores = "model",
    readout: Callable[[Tensor], Any] | None = None,
    differentiable: bool = False,
) -> Callable[..., Attended]:
    """Run a model and keep what its attentions computed, with the gradients of the score.

    Recognized are `scaled_dot_product_attention`, `nn.MultiheadAttention` on every path of its own, and softmax between
    two matrix products. What is fused is computed in full, in this run only. Kernels of other packages (flash-attn,
    xformers, flex attention) are not seen. The model is never touched; frozen parameters and an outer `no_grad` or
    `inference_mode` are no obstacle; `vmap` over targets runs the forward once.

    Args:
        model: any module; one in training mode is run as it is, on copies of its buffers.
        layers: attentions, or modules that hold some, by name or as themselves; None takes all there are.
        scores: "model" differentiates the score of the outputs. "layers" differentiates, for each attention, the score
            of what the rest of the network makes of its own block's tokens, averaged over tokens, as if that block were
            the last (LeGrad).
        readout: for `scores="layers"`, what the rest of the network is: tokens to outputs, as `model.forward_head` of
            timm. None finds it with a second forward.
        differentiable: keep the outer graph, so that a map may be part of a loss.

    Returns:
        A function of the inputs and a target, as for `camfn.capture`, that returns `Attended(records, outputs)`.

    Raises:
        CaptureError: no such layer, no attention ran in it, or (`scores="layers"`) one is in no block of tokens.
        CamfnError: the target does not give one number a sample.

    Example:
        >>> import torch
        >>> layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        >>> net = torch.nn.Sequential(layer, torch.nn.Flatten(), torch.nn.Linear(40, 3)).eval()
        >>> (record,), outputs = capture_attention(net)(torch.randn(1, 5, 8), 2)
        >>> record.grads.shape, record.output_grads.shape
        (torch.Size([1, 2, 5, 5]), torch.Size([1, 2, 5, 4]))
    """
    names = _names(model, layers)
    if scores not in ("model", "layers"):
        raise CamfnError(f"scores: expected 'model' or 'layers', got {scores!r}")

    def run(inputs: Inputs, target: Target = None) -> Attended:
        score = as_score(target)
        keep = differentiable and torch.is_grad_enabled()

        def compute(seed: Tensor) -> Attended:
            # fused kernels have no second derivative
            outputs, sites = _forward(model, ("",) if keep else names, inputs, lambda x: expanded(seed, x))
            wanted = _wanted(model, names, sites)
            given = one_score_a_sample(score(outputs), batch_sizes(inputs, ()))
            deltas = [delta for site in wanted for delta in (site.delta, site.output_delta) if delta is not None]
            if scores == "model":
                grads = gradients(given, deltas, create_graph=keep)
            else:
                rest = readout or _rest(model, sites, wanted, inputs)
                grads = _own_gradients(wanted, rest, pin(target, outputs), keep)
            pairs = zip(wanted, grads[::2], grads[1::2])
            records = [_record(site, inputs, grad, output_grad) for site, grad, output_grad in pairs]
            return Attended(records, outputs)

        with torch.inference_mode(False), torch.set_grad_enabled(keep):
            return at_own_level(compute, create_graph=keep)

    return run


def _names(model: nn.Module, layers: Sequence[str | nn.Module] | str | nn.Module | None) -> tuple[str, ...]:
    if isinstance(layers, (str, nn.Module)):
        layers = [layers]
    names = ("",) if layers is None else tuple(layer_name(model, layer) for layer in layers)
    if not names:
        raise CaptureError("layers: expected names of attentions, or None for all of them; got an empty list")
    layer_name(model, "" if layers is None else names[0])
    return names


def _inside(name: str, outer: str) -> bool:
    return not outer or name == outer or name.startswith(outer + ".")


def _forward(
    model: nn.Module, names: tuple[str, ...], inputs: Inputs, zero: Callable[[Tensor], Tensor] | None = None
) -> tuple[Any, list[Site]]:
    """Run a graft all of whose modules say when they begin and end."""
    batch = _batch(inputs)
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
            _stands_for_block(watch.sites[-1], name, output, batch)

    whole = graft(model, {id(module) for module in model.modules()})
    labels = {id(module): name for name, module in model.named_modules()}
    for key, module in whole.owned.items():
        module.register_forward_pre_hook(begin(labels[key]))
        module.register_forward_hook(end)
    inputs = copy_of(inputs)
    with watch:
        outputs = call(whole, inputs)
    return outputs, watch.sites


def _batch(inputs: Inputs) -> int:
    leaves = [x for x in pytree.tree_leaves(copy_of(inputs)) if isinstance(x, Tensor) and x.ndim]
    return leaves[0].shape[0] if leaves else 1


def _stands_for_block(site: Site, name: str, output: Any, batch: int) -> None:
    """Take a module that ends with one attention inside for its block, if it returns the tokens; the outermost wins."""
    tokens = output[0] if isinstance(output, (tuple, list)) and output else output
    count = site.q.shape[-2]
    if isinstance(tokens, Tensor) and tokens.ndim == 3 and tuple(tokens.shape[:2]) in ((batch, count), (count, batch)):
        site.block, site.per_token = name, 1 if tokens.shape[1] == count else 0
        # what follows may overwrite them
        site.tokens = tokens.clone() if site.delta is not None else None


def _wanted(model: nn.Module, names: tuple[str, ...], sites: list[Site]) -> list[Site]:
    """Keep the attentions that were asked for; refuse a layer without any."""
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
    batch = _batch(inputs)

    def heads(x: Tensor) -> Tensor:
        """Split heads that were folded into the batch."""
        return x.reshape(batch, -1, *x.shape[1:]) if x.ndim == 3 and x.shape[0] % batch == 0 else x

    assert site.probabilities is not None
    assert site.v is not None
    assert site.output is not None
    return AttentionRecord(
        name=site.name,
        probabilities=heads(site.probabilities),
        grads=None if grads is None else heads(grads),
        q=heads(site.q),
        k=heads(site.k),
        v=heads(site.v),
        output=heads(site.output),
        output_grads=None if output_grads is None else heads(output_grads),
    )


def _rest(model: nn.Module, sites: list[Site], wanted: list[Site], inputs: Inputs) -> Callable[[Tensor], Any]:
    """Cut the network after the last block with tokens of its own."""
    _check_blocks(wanted)
    last = [site for site in sites if site.block][-1]
    for site in wanted:
        if site.q.shape[-2] != last.q.shape[-2]:
            raise CaptureError(
                f"the network goes on from the {last.q.shape[-2]} tokens of {last.block!r}, but {site.block!r} gives "
                f"{site.q.shape[-2]}: its score is not that of the last block's head. Name the layers whose tokens are "
                "those of the last, or take scores='model'"
            )
    return resume(model, last.block)(inputs)


def _check_blocks(wanted: list[Site]) -> None:
    for site in wanted:
        if not site.block:
            raise CaptureError(
                f"the attention in {site.name!r} is in no block that returns its {site.q.shape[-2]} tokens, (B, N, C), "
                "so it has no score of its own: attention in windows (Swin, MaxViT) has none, nor has one that pools. "
                "Name the layers that have one, or take scores='model'"
            )


def _own_gradients(
    wanted: list[Site], readout: Callable[[Tensor], Any], score: ScoreFn, create_graph: bool
) -> list[Tensor]:
    """Differentiate, for each attention, the score of its own block's tokens, averaged, in the place of the last's."""
    _check_blocks(wanted)
    grads = []
    for site in wanted:
        assert site.tokens is not None
        assert site.delta is not None
        assert site.output_delta is not None
        tokens = site.tokens.mean(site.per_token, keepdim=True).expand_as(site.tokens)
        deltas = [site.delta, site.output_delta]
        grads += gradients(score(readout(tokens)), deltas, create_graph=create_graph)
    return grads

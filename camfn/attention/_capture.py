"""Observe and capture attention: probabilities, queries, keys, values and outputs of every attention of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor, nn

from .._cut.derive import at_own_level, expanded, gradients
from .._cut.graft import bare, graft
from .._cut.layer_checks import check_model, fitting, layer_name
from .._cut.lost import no_gradient
from .._cut.resume import resume
from .._cut.traced import outside_the_compiler
from .._layout.facts import tower
from .._layout.readings import images_among
from .._shared.checks import describe, keeps_graph, one_of, one_score_a_sample
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
"""Attentions, or modules that hold some, by name, by pattern or as modules; None for all attentions."""


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
        return observe(self, inputs)


@outside_the_compiler
def observe(of: observe_attention, inputs: Inputs, choice: Choice | None = None) -> Attended:
    """Run the model once, and record the attentions in the layers, or those that are chosen."""
    model = bare(of.model)
    keep = keeps_graph("observe_attention", model, inputs, of.differentiable)
    with torch.inference_mode(False), torch.set_grad_enabled(keep):
        outputs, sites = forward(model, choice.names if choice else of.layers, inputs)
        return Attended([_record(site, inputs) for site in _wanted(of.layers, sites, model, choice)], outputs)


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

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", _checked_layers(self.model, self.layers))
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
            raise _NoGradient(site.name)

    def compute(seed: Tensor, keep: bool) -> Attended:
        # a differentiable map needs a second derivative, which fused kernels lack: every attention is written out
        full = None if keep else choice.names if choice else of.layers
        outputs, sites = forward(model, full, inputs, lambda x: expanded(seed, x))
        wanted = _wanted(of.layers, sites, model, choice)
        score_values = one_score_a_sample(score(outputs), _score_sizes(inputs, wanted))
        may_end_early = choice is not None and of.unused == "error"
        if of.scores == "model":
            wanted, grads = _gradients_of_used(wanted, score_values, keep, missing, may_end_early)
        else:
            own = pin(target, outputs)
            wanted, grads = _own_gradients(of, model, sites, wanted, inputs, own, keep, missing, may_end_early)
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
    names = tuple(_name_or_pattern(model, layer) for layer in _listed(layers))
    if not names:
        raise CaptureError("layers: expected names of attentions, or None for all of them; got an empty list")
    return names


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


def within(name: str, layers: Layers) -> bool:
    """Whether a module is in one of the checked layers, or in what fits one of the patterns; None stands for all."""
    return layers is None or any(_inside(name, outer) for outer in cast(tuple[str, ...], layers))


def _inside(name: str, outer: str) -> bool:
    """Whether a module is the module `outer` or a part of it, by their dotted names; "" names the model."""
    if not outer or name == outer or name.startswith(outer + "."):
        return True
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[: i + 1]), outer) for i in range(len(parts)))


def forward(
    model: nn.Module,
    layers: Layers,
    inputs: Inputs,
    zero: Callable[[Tensor], Tensor] | None = None,
    ended: Callable[[list[Site]], None] | None = None,
    *,
    evaluate: bool = False,
) -> tuple[Any, list[Site]]:
    """Run a copy of the model under a `Watch`; hooks on every module keep the name of the module that is running.

    Args:
        model: the model.
        layers: of which the attentions are recorded in full.
        inputs: of the model.
        zero: as for `Watch`.
        ended: called with the attentions so far whenever one has ended.
        evaluate: whether the copy runs in evaluation mode.

    Returns:
        The outputs, and the sites of all attentions, in the order in which they ended.
    """
    sizes = leading_sizes(inputs)
    running: list[tuple[str, int]] = []
    watch = Watch(
        where=lambda: running[-1][0] if running else "",
        wanted=lambda name: within(name, layers),
        zero=zero,
        ended=ended,
    )

    def begin(name: str) -> Callable[..., None]:
        return lambda module, args: running.append((name, len(watch.sites)))

    def end(module: nn.Module, args: Any, output: Any) -> None:
        name, before = running.pop()
        if len(watch.sites) == before + 1:
            _set_block(watch.sites[-1], name, output, sizes)

    copy = graft(model, {id(module) for module in model.modules()})
    labels = {id(module): name for name, module in model.named_modules()}
    for key, module in copy.owned.items():
        if evaluate:
            module.training = False
        module.register_forward_pre_hook(begin(labels[key]))
        module.register_forward_hook(end)
    inputs = copy_of(inputs)
    with watch:
        outputs = call(copy, inputs)
    return outputs, watch.sites


def leading_sizes(inputs: Inputs) -> list[int]:
    """Return the first lengths of the tensors among the inputs, those of images first; 1 without such a tensor."""
    images = images_among(inputs)
    tensors = [*images, *(x for x in tensors_in(copy_of(inputs)) if x.ndim)]
    return list(dict.fromkeys(x.shape[0] for x in tensors)) or [1]


def _score_sizes(inputs: Inputs, wanted: Sequence[Site]) -> list[int]:
    """Return the lengths that a vector of scores may have: the number of images, or without an image of samples."""
    images = images_among(inputs)
    if images:
        return [image.shape[0] for image in images]
    return [*leading_sizes(inputs), *(site.q.shape[0] for site in wanted[-1:])]


def _set_block(site: Site, name: str, output: Any, sizes: Sequence[int]) -> None:
    """Record a module as the block of the one attention inside it, if the module returns the attention's tokens.

    A module further outside ends later, and replaces the block: the outermost such module is the block.
    """
    tokens = output[0] if isinstance(output, (tuple, list)) and output else output
    if not isinstance(tokens, Tensor) or tokens.ndim not in (2, 3):
        return
    count, shape = site.q.shape[-2], tuple(tokens.shape[:2])
    packed = tokens.ndim == 2 and shape[0] == count and site.q.shape[0] == 1
    # folded into the batch, the heads are a factor of its length
    batches = [n for n in sizes if (site.q.shape[0] % n == 0 if site.q.ndim == 3 else site.q.shape[0] == n)]
    found = [n for n in batches if tokens.ndim == 3 and shape in ((n, count), (count, n))]
    if found or packed:
        site.block, site.per_token = name, 0 if packed or shape[1] != count else 1
        site.batch = found[0] if found else 1
        # the network may overwrite the tokens after the block
        site.tokens = tokens.clone() if site.delta is not None else None


def _wanted(layers: Layers, sites: list[Site], model: nn.Module, choice: Choice | None) -> list[Site]:
    """Return the attentions that are chosen, or else those in the layers."""
    check_ran(layers, sites, model)
    if choice is not None:
        return [sites[place] for place in choice.places]
    return [site for site in sites if site.full and within(site.name, layers)]


def check_ran(layers: Layers, sites: Sequence[Site], model: nn.Module) -> None:
    """Refuse a layer in which no attention ran."""
    kind = type(model).__name__
    if not sites:
        raise CaptureError(
            f"no attention ran in this {kind}: neither scaled_dot_product_attention, nor nn.MultiheadAttention, nor a "
            "softmax between two matrix products was seen. For a convolutional network take a class activation map, "
            "camfn.explainer(camfn.methods.grad_cam, model, layer); a transformer must not run on kernels of another "
            "package (in Hugging Face, attn_implementation='sdpa')"
        )
    for name in () if layers is None else cast(tuple[str, ...], layers):
        if not any(_inside(site.name, name) for site in sites):
            raise CaptureError(
                f"no attention ran in layer {name!r} of this {kind}. Attention ran in: {patterns_of(sites)}"
            )


def patterns_of(sites: Sequence[Site]) -> str:
    """List the names of attentions, those that differ in numbers alone as one pattern."""
    return ", ".join(dict.fromkeys(repr(pattern(site.name)) for site in sites)) or "none"


def pattern(name: str) -> str:
    """Return the name with "*" for each of its numbers."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def _record(
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
        q=with_heads(site.q),
        k=with_heads(site.k),
        v=with_heads(site.v),
        output=with_heads(site.output),
        output_grads=None if output_grads is None else with_heads(output_grads),
    )


def _own_gradients(
    of: capture_attention,
    model: nn.Module,
    sites: list[Site],
    wanted: list[Site],
    inputs: Inputs,
    score: ScoreFn,
    keep: bool,
    missing: Callable[[Site], None],
    may_end_early: bool,
) -> tuple[list[Site], list[Tensor]]:
    """Differentiate each attention's own score; return the attentions, and gradients as `_gradients` does.

    The rest of the network is what follows the last block of the tower; of the last few blocks, the score may use none.
    """
    _check_blocks(wanted)
    if of.readout is not None:
        return wanted, _gradients_of_own_scores(of, wanted, of.readout, score, keep, missing)
    of_image = images_among(inputs)
    towers = {id(site): tower(model, site.name, of_image) for site in sites}
    own = [site for site in sites if site.block and towers[id(site)] == towers[id(wanted[-1])]]
    # attention that pools gives no tokens for a head behind it
    ends = [site for site in own if site.q.shape[-2] == site.k.shape[-2]] or own
    for tries, last in enumerate(reversed(ends)):
        used = [site for site in wanted if sites.index(site) <= sites.index(last)]
        _check_same_tokens(wanted, last)
        rest = resume(model, last.block, layout=None, differentiable=keep)(inputs)
        try:
            found = _gradients_of_own_scores(of, used or wanted, rest, score, keep, missing)
        except _NoGradient:
            if tries == min(UNUSED_BLOCKS, len(ends) - 1):
                raise
            continue
        if len(used) < len(wanted) and not may_end_early:
            raise _NoGradient(wanted[-1].name)
        return used, found
    raise AssertionError("the last block wanted is one of the ends")


UNUSED_BLOCKS = 3
"""A network may read its features from so many blocks ahead of the last."""


def _check_same_tokens(wanted: list[Site], last: Site) -> None:
    """Refuse blocks with another number of tokens than the last, whose head cannot score them."""
    for site in wanted:
        if site.q.shape[-2] != last.q.shape[-2]:
            raise CaptureError(
                f"the network goes on from the {last.q.shape[-2]} tokens of {last.block!r}, but {site.block!r} gives "
                f"{site.q.shape[-2]}, which the head after the last block cannot score. Name the layers with as many "
                "tokens as the last block, or take scores='model'"
            )


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


def _gradients_of_used(
    wanted: list[Site], scores: Tensor, keep: bool, missing: Callable[[Site], None], may_end_early: bool
) -> tuple[list[Site], list[Tensor]]:
    """Differentiate the model's score; leave out the last attentions where the score does not use them, if allowed."""
    lost: list[Site] = []
    grads = _gradients(wanted, scores, keep, lost.append)
    used = list(wanted)
    while may_end_early and used and any(used[-1] is site for site in lost):
        used.pop()
    if not used:
        used = list(wanted)
    for site in lost:
        if any(site is one for one in used):
            missing(site)
    return used, grads[: 2 * len(used)]


def _gradients_of_own_scores(
    of: capture_attention,
    wanted: list[Site],
    readout: Callable[[Tensor], Any],
    score: ScoreFn,
    create_graph: bool,
    missing: Callable[[Site], None],
) -> list[Tensor]:
    """Differentiate, for each attention, the score of the mean of its block's tokens, or of these tokens.

    Returns:
        For each attention, the gradients of its probabilities and of its output, one after the other.
    """
    grads = []
    for site in wanted:
        assert site.tokens is not None
        mean = site.tokens.mean(site.per_token, keepdim=True).expand_as(site.tokens)
        # networks may view the tokens of a block in other shapes
        tokens = mean.contiguous() if of.average else site.tokens
        grads += _gradients([site], score(readout(tokens)), create_graph, missing)
    return grads

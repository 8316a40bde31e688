"""Run a network, and see all its attentions, with the names of the modules in which they run."""

# tested in tests/attention/test_capture.py

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any, Protocol, TypeAlias, cast

from torch import Tensor, nn

from .._cut.graft import graft
from .._layout.readings import images_among
from .._shared.errors import CaptureError
from .._shared.inputs import call, copy_of, tensors_in
from .._shared.vocabulary import Inputs
from ._watch import Site, Watch

Layers: TypeAlias = "Sequence[str | nn.Module] | str | nn.Module | None"
"""Attentions, or modules that hold some, by name, by pattern or as modules; None for all attentions."""


class Named(Protocol):
    """An attention, of which the name is known."""

    @property
    def name(self) -> str:
        """Dotted name of the module in which it ran."""


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
    queries: Tensor | None = None,
    rows_later: bool = False,
) -> tuple[Any, list[Site]]:
    """Run a copy of the model under a `Watch`; hooks on every module keep the name of the module that is running.

    Args:
        model: the model.
        layers: of which the attentions are recorded in full.
        inputs: of the model.
        zero: as for `Watch`.
        ended: called with the attentions so far whenever one has ended.
        evaluate: whether the copy runs in evaluation mode.
        queries: as for `Watch`.
        rows_later: as for `Watch`.

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
        queries=queries,
        rows_later=rows_later,
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
    sizes = [x.shape[0] for x in tensors]
    # a size that a trace keeps open has no hash
    return [size for i, size in enumerate(sizes) if all(size != other for other in sizes[:i])] or [1]


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


def check_ran(layers: Layers, sites: Sequence[Named], model: nn.Module) -> None:
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


def patterns_of(sites: Sequence[Named]) -> str:
    """List the names of attentions, those that differ in numbers alone as one pattern."""
    return ", ".join(dict.fromkeys(repr(pattern(site.name)) for site in sites)) or "none"


def pattern(name: str) -> str:
    """Return the name with "*" for each of its numbers."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))

"""Run a network once with every module watched: what each call read, what it returned, and what the image changes."""

# tested in tests/test_layers.py

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._cut.graft import graft
from .._cut.layer_checks import naming_misplaced
from .._shared.devices import tensor_on
from .._shared.errors import CamfnError
from .._shared.inputs import Images, all_images_of, call, copy_of, tensors_in


class Read(NamedTuple):
    """A tensor among the arguments of a call.

    Attributes:
        shape: its shape.
        integer: whether it holds integers, such as word numbers.
        source: the index in `Watched.calls` of the call that returned it; None where no module did.
        key: its id, which is its own for the time of the run where a call returned it.
    """

    shape: tuple[int, ...]
    integer: bool
    source: int | None
    key: int


class Ran(NamedTuple):
    """One call of one module.

    Attributes:
        name: dotted name of the module.
        module: the module.
        start: the moment at which the call began; moments count beginnings and ends of calls.
        end: the moment at which it ended.
        reads: the tensors among its arguments.
        outputs: the tensors that it returned.
    """

    name: str
    module: nn.Module
    start: int
    end: int
    reads: tuple[Read, ...]
    outputs: tuple[Tensor, ...]

    @property
    def works(self) -> bool:
        """Whether the module is one operation with parameters of its own."""
        return next(self.module.children(), None) is None and next(self.module.parameters(), None) is not None

    def holds(self, other: Ran) -> bool:
        """Whether another call ran inside of this one."""
        return self.start < other.start and other.end < self.end


class Watched(NamedTuple):
    """A run of a network.

    Attributes:
        calls: its calls, in the order in which they ended.
        outputs: what it returned.
        rewritten: the ids of outputs of calls that were written to later, in place, or of which this is not known.
    """

    calls: list[Ran]
    outputs: Any
    rewritten: set[int]


def watch(model: nn.Module, inputs: Any) -> Watched:
    """Run the model on copies of the inputs, and write down every call of its modules."""
    calls: list[Ran] = []
    open_calls: list[tuple[int, tuple[Read, ...]]] = []
    source_of: dict[int, int] = {}
    versions: list[tuple[Tensor, int]] = []
    moment = 0

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        nonlocal moment
        moment += 1
        reads = [
            Read(
                tuple(x.shape),
                not (x.is_floating_point() or x.is_quantized or x.dtype == torch.bool),
                source_of.get(id(x)),
                id(x),
            )
            for x in tensors_in((args, kwargs))
        ]
        open_calls.append((moment, tuple(reads)))

    def leave(name: str, original: nn.Module) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            nonlocal moment
            moment += 1
            start, reads = open_calls.pop()
            # what a list of images or another object holds is no output that a capture can take
            outputs = tuple(leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor))
            # a tensor that several calls return, one inside the other or in place, comes from the first of them
            # that still stands for it: the next reader looks the last one up
            source_of.update({id(x): len(calls) for x in tensors_in(output)})
            versions.extend((x, -1 if x.is_inference() else x._version) for x in outputs)
            calls.append(Ran(name, original, start, moment, reads, outputs))

        return hook

    names = {id(module): (name, module) for name, module in model.named_modules()}
    watched = graft(model, set(names))
    for key, module in watched.owned.items():
        module.register_forward_pre_hook(enter, with_kwargs=True)
        module.register_forward_hook(leave(*names[key]))
    with torch.inference_mode(False), torch.no_grad(), naming_misplaced(model, inputs):
        outputs = call(watched, copy_of(inputs))
    rewritten = {id(x) for x, version in versions if x.is_inference() or x._version != version}
    return Watched(calls, outputs, rewritten)


def changed_by_the_image(model: nn.Module, inputs: Any, images: Images | None, run: Watched) -> list[Tensor] | None:
    """Say of each call whether another image changes what it returns: tensors () of bool; None if this is not known.

    Position embeddings, anchors and masks stay, and so does a tower that reads the words.
    """
    try:
        found, rebuild = all_images_of(inputs, None if images is None else [images])
        with torch.random.fork_rng(devices=[]):
            again = watch(model, rebuild([_another(image) for image in found]))
    except (CamfnError, RuntimeError, ValueError, IndexError):
        return None  # no image with space, or a network that cannot take this image
    if [one.name for one in again.calls] != [one.name for one in run.calls]:
        return None
    return [_differ(one.outputs, other.outputs) for one, other in zip(run.calls, again.calls)]


def together(flags: Sequence[Tensor]) -> Tensor:
    """Stack flags, tensors () of bool, on one device, an accelerator if one of them is there; nothing waits for it."""
    device = next((flag.device for flag in flags if flag.device.type != "cpu"), torch.device("cpu"))
    return torch.stack([tensor_on(flag, device) for flag in flags])


def _another(image: Tensor) -> Tensor:
    """Make another image of the same range, without random numbers."""
    if not image.numel():
        return image
    wave = torch.arange(image.numel(), device=image.device).remainder(97).to(image.dtype).reshape(image.shape) / 96
    return image.flip(tuple(range(2, image.ndim))) + wave * image.std(correction=0).clamp(min=1)


def _differ(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> Tensor:
    """Whether the tensors of two calls differ."""
    if [x.shape for x in one] != [x.shape for x in other]:
        return torch.tensor(True)
    one, other = (tuple(x.dequantize() if x.is_quantized else x for x in call) for call in (one, other))
    # zeros do not tell: signals may have died out, as with weights that are small
    pairs = [(a != b).any() | ~a.any() for a, b in zip(one, other) if a.numel()]
    if not pairs:
        return torch.tensor(False)
    return together(pairs).any()

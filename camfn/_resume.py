"""The network after the cut, with what came before it replayed, not recomputed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ._check import batch_sizes, chosen_tensor, layer_name, ran_once, shapes_agree
from ._graft import answer, call, copied, graft, lifted, zero_like
from ._types import Inputs, Layout, Select, Tail


def resume(
    model: nn.Module, layer: str | nn.Module, *, select: Select | None = None, layout: Layout | None = None
) -> Callable[[Inputs], Tail]:
    """Cut a model at a layer, and give the part after the cut as a function.

    One forward records what every module that finished before the layer returned; the tail then runs the model again
    with those modules answering from the record and the layer answering the activations it is given. Nothing is traced,
    so any control flow will do, and the work before the cut is never repeated. The tail may be called any number of
    times, under `vmap`, `vjp` and `jvp`, and from several threads.

    Args:
        model: any module; left exactly as it is.
        layer: a dotted name as in `model.named_modules()`, or the module itself.
        select: which tensor, where the layer returns a tuple or a dict: an index, a key or a function.
        layout: the tail then takes activations as (B, C, *spatial), and puts them back into the layer's own shape.

    Returns:
        A function of the inputs that returns the tail: activations to outputs.

    Raises:
        CaptureError: no such layer, it ran never or several times, or its output is not one tensor.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5))
        >>> images = torch.ones(2, 3, 8, 8)
        >>> tail = resume(net, "0")(images)
        >>> torch.equal(tail(net[0](images)), net(images))
        True
    """
    run = record(model, layer, select=select, layout=layout)
    return lambda inputs: run(inputs).tail


class Recorded(NamedTuple):
    """What one recording forward gives.

    Attributes:
        activations: the layer's output, after the layout.
        outputs: what the model returned.
        tail: activations to outputs.
        convolves: whether modules that convolve images are yet to run.
    """

    activations: Tensor
    outputs: Any
    tail: Tail
    convolves: bool


def record(
    model: nn.Module, layer: str | nn.Module, *, select: Select | None = None, layout: Layout | None = None
) -> Callable[[Inputs], Recorded]:
    """Cut a model at a layer and keep both sides: `resume`, with the activations and outputs of its one forward."""
    name = layer_name(model, layer)

    def run(inputs: Inputs) -> Recorded:
        recorder = _Recorder(model, name)
        with torch.inference_mode(False), torch.no_grad():
            outputs = recorder.run(copied(inputs))
        answers, cut, given = recorder.settled()
        raw = chosen_tensor(name, cut.value(), select)
        batches = batch_sizes(inputs, [raw])
        lift_all = repeat = False

        def tail(activations: Tensor) -> Any:
            nonlocal lift_all, repeat
            own, times = _own(activations, raw, layout)
            shapes_agree(f"tail at layer {name!r}, beyond the batch", own.shape[1:], raw.shape[1:])
            while True:
                change = _Change(own, lift_all, times, batches)
                start = given.value(change)
                if not repeat:
                    # most tails read no recorded value: copies for those that do, once they have complained
                    change = change._replace(batches=batches & {1})
                try:
                    return _replay(model, name, answers, start, cut, raw, change)
                except torch.OutOfMemoryError:
                    raise
                except RuntimeError as error:
                    if not lift_all and _in_place_under_vmap(error):
                        lift_all = True
                    elif not repeat and times > 1:
                        repeat = True
                    else:
                        raise

        return Recorded(layout.to_map(raw) if layout else raw, outputs, tail, _convolves(model, name, answers))

    return run


def _convolves(model: nn.Module, name: str, answers: dict[int, list[_Kept]]) -> bool:
    done = [model.get_submodule(name), *(module for module in model.modules() if id(module) in answers)]
    over = {id(part) for module in done for part in module.modules()}
    return any(isinstance(module, nn.Conv2d) and id(module) not in over for module in model.modules())


def repeated(leaf: Any, times: int, batches: set[int]) -> Any:
    """Repeat a value that has one of these batch sizes, `times` batches one after the other."""
    if times == 1 or not isinstance(leaf, Tensor) or not leaf.ndim or leaf.shape[0] not in batches:
        return leaf
    # a single sample needs no memory
    return leaf.expand(times, *leaf.shape[1:]) if leaf.shape[0] == 1 else leaf.repeat(times, *(1,) * (leaf.ndim - 1))


def _own(activations: Tensor, raw: Tensor, layout: Layout | None) -> tuple[Tensor, int]:
    """Activations in the layer's own shape, and how many batches they are."""
    if layout is None:
        return activations, activations.shape[0] // raw.shape[0]
    times = activations.shape[0] // layout.to_map(raw).shape[0]
    return layout.from_map(activations, repeated(raw, times, {raw.shape[0]})), times


class _Change(NamedTuple):
    """What a replay puts in the place of the recorded activations, and what becomes of the other recorded values.

    Attributes:
        own: the activations, in the layer's own shape.
        lift_all: whether all values have to be as batched as `own` is under `vmap`.
        times: how often a value of one of the sizes in `batches` is repeated.
        batches: sizes that such values have, for there are others, as a table of positions.
    """

    own: Tensor
    lift_all: bool
    times: int
    batches: set[int]


_Value: TypeAlias = tuple[list[Any], pytree.TreeSpec]
"""A recorded value while it may still be overwritten: its leaves, tensors as `_Leaf`, and how they are put together."""


class _Leaf:
    """A tensor that a module returned, and a copy of it as it was at `version`."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.refresh()

    def refresh(self) -> None:
        self.copy, self.version = self.tensor.clone(), self.tensor._version

    @property
    def written(self) -> bool:
        """Whether the network itself, which runs again with each tail, overwrote the tensor."""
        return self.tensor._version != self.version


class _Kept(NamedTuple):
    """A recorded value: its leaves, which of them a replay must copy, and how they are put together."""

    leaves: tuple[Any, ...]
    written: tuple[bool, ...]
    spec: pytree.TreeSpec

    def value(self, change: _Change | None = None) -> Any:
        """Return the value, with what the network overwrites (or all) copied and as batched as the change is."""
        if change is None:
            return pytree.tree_unflatten(self.leaves, self.spec)
        leaves: list[Any] = [repeated(leaf, change.times, change.batches) for leaf in self.leaves]
        if change.lift_all or any(self.written):
            zero = zero_like(change.own)
            leaves = [
                lifted(leaf, zero) if isinstance(leaf, Tensor) and (written or change.lift_all) else leaf
                for leaf, written in zip(leaves, self.written)
            ]
        return pytree.tree_unflatten(leaves, self.spec)


class _Recorder:
    """One forward that keeps the output of every maximal module which finished before the layer was called.

    A module that writes to its argument in place, as ReLU may, is not run again; so its writes count as a part of the
    value, and only those of the network itself make a value one that replays have to copy.
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        layer = model.get_submodule(name)
        aliases = [other for other, module in model.named_modules(remove_duplicate=False) if module is layer]
        ancestors = {
            id(model.get_submodule(".".join(parts[:i])))
            for parts in (alias.split(".") for alias in aliases)
            for i in range(len(parts))
        }
        inside = {id(module) for module in layer.modules()}
        self.name, self.depth, self.calls = name, 0, 0
        self.cut: _Value | None = None
        self.leaves: dict[int, _Leaf] = {}
        self.entered: list[tuple[_Leaf, int]] = []
        self.answers: defaultdict[int, list[_Value]] = defaultdict(list)
        outside = {id(module) for module in model.modules()} - ancestors - inside
        self.graft = graft(model, lambda module: id(module) in outside or module is layer)
        for key in outside:
            self.graft.owned[key].register_forward_pre_hook(self.enter, with_kwargs=True)
            self.graft.owned[key].register_forward_hook(self.leave(key), prepend=True)
        self.graft.owned[id(layer)].register_forward_hook(self.reach)

    def run(self, inputs: Any) -> Any:
        self.given = self.keep(inputs)
        try:
            outputs = call(self.graft, inputs)
            ran_once(self.name, self.calls, self.graft.root)
        finally:
            # its hooks hold the recorder: without this the tensors would wait for the next collection
            del self.graft
        return outputs

    def keep(self, output: Any) -> _Value:
        leaves, spec = pytree.tree_flatten(output)
        return [self.leaf(item) if isinstance(item, Tensor) else item for item in leaves], spec

    def leaf(self, tensor: Tensor) -> _Leaf:
        known = self.leaves.get(id(tensor))
        if known is None or known.written:
            known = self.leaves[id(tensor)] = _Leaf(tensor)
        return known

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self.cut is None and self.depth == 0:
            known = [self.leaves[id(item)] for item in pytree.tree_leaves((args, kwargs)) if id(item) in self.leaves]
            self.entered = [(leaf, leaf.tensor._version) for leaf in known]
        self.depth += self.cut is None

    def leave(self, key: int) -> Callable[[nn.Module, Any, Any], None]:
        def left(module: nn.Module, args: Any, output: Any) -> None:
            if self.cut is not None:
                return
            self.depth -= 1
            if self.depth:
                return
            for leaf, version in self.entered:
                if leaf.version == version != leaf.tensor._version:
                    leaf.refresh()
            self.answers[key].append(self.keep(output))

        return left

    def reach(self, module: nn.Module, args: Any, output: Any) -> None:
        self.calls += 1
        if self.cut is None:
            self.cut = self.keep(output)

    def settled(self) -> tuple[dict[int, list[_Kept]], _Kept, _Kept]:
        assert self.cut is not None
        answers = {key: [_settle(value) for value in values] for key, values in self.answers.items()}
        return answers, _settle(self.cut), _settle(self.given)


def _settle(value: _Value) -> _Kept:
    leaves, spec = value
    written = tuple(isinstance(leaf, _Leaf) and leaf.written for leaf in leaves)
    plain = tuple((leaf.copy if leaf.written else leaf.tensor) if isinstance(leaf, _Leaf) else leaf for leaf in leaves)
    return _Kept(plain, written, spec)


def _replay(
    model: nn.Module,
    name: str,
    answers: dict[int, list[_Kept]],
    inputs: Any,
    cut: _Kept,
    raw: Tensor,
    change: _Change,
) -> Any:
    """Run the model with recorded modules answering from the record, and the layer answering what it changed to."""
    layer = model.get_submodule(name)
    replaying = graft(model, lambda module: id(module) in answers or module is layer, zero_like(change.own))
    own = change.own.clone() if any(cut.written) else change.own
    output = pytree.tree_map(
        lambda leaf: own if leaf is raw else repeated(leaf, change.times, change.batches), cut.value()
    )
    for key, values in answers.items():
        module = replaying.owned[key]
        answer(module, _answer(values, change, module.forward))
    at_cut = replaying.owned[id(layer)]
    answer(at_cut, lambda *args, **kwargs: output)
    at_cut.register_forward_hook(lambda module, args, changed_by_other_hooks: output)
    try:
        return call(replaying, inputs)
    finally:
        # a module that holds a function which holds the module would keep its tensors until the next collection
        for module in replaying.owned.values():
            answer(module, None)


def _answer(values: list[_Kept], change: _Change, forward: Callable[..., Any]) -> Callable[..., Any]:
    """Answer the calls that were recorded; run the calls that come after the cut."""
    calls = count()

    def answer(*args: Any, **kwargs: Any) -> Any:
        i = next(calls)
        return values[i].value(change) if i < len(values) else forward(*args, **kwargs)

    return answer


def _in_place_under_vmap(error: RuntimeError) -> bool:
    """Whether `vmap` refused to write batched values into a tensor that is not batched; it has two texts for that."""
    text = str(error)
    return (text.startswith("vmap: ") and "extra_args" in text) or "doesn't match the broadcast shape" in text

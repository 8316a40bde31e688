"""The network after the cut, with what came before it replayed, not recomputed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ._check import CaptureError, bare, batch_sizes, chosen_calls, chosen_tensor, layer_name, shapes_agree
from ._graft import answer, copied, graft, lifted, zero_like
from ._graft import call as run_on
from ._reading import settle
from ._types import AnyLayout, Call, Inputs, Layout, Select, Tail


def resume(
    model: nn.Module,
    layer: str | nn.Module,
    *,
    select: Select | None = None,
    layout: AnyLayout = None,
    call: Call | None = None,
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
        layout: the tail then takes activations as (B, C, *spatial), and puts them back into the layer's own shape;
            "auto" finds it, as `layout.find`.
        call: as for `capture`. The earlier runs of the layer are replayed too, the later ones run again.

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
    run = record(model, layer, select=select, layout=layout, call=call)
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
    model: nn.Module,
    layer: str | nn.Module,
    *,
    select: Select | None = None,
    layout: AnyLayout = None,
    call: Call | None = None,
) -> Callable[[Inputs], Recorded]:
    """Cut a model at a layer and keep both sides: `resume`, with the activations and outputs of its one forward."""
    name, model = layer_name(model, layer), bare(model)

    def run(inputs: Inputs) -> Recorded:
        with torch.inference_mode(False), torch.no_grad():
            at = _first_call(model, name, call, inputs)
            recorder = _Recorder(model, name, at, call)
            outputs = recorder.run(copied(inputs))
        answers, earlier, cuts, given = recorder.settled()
        raws = [chosen_tensor(name, cut.value(), select) for cut in cuts]
        layouts = [settle(layout, model, name, raw, inputs) for raw in raws]
        maps = [found.to_map(raw) if found else raw for raw, found in zip(raws, layouts)]
        batches = batch_sizes(inputs, raws)
        lift_all = repeat = False

        def tail(activations: Tensor) -> Any:
            nonlocal lift_all, repeat
            owns, times = _owns(name, activations, raws, layouts, maps)
            while True:
                change = _Change(owns[0], lift_all, times, batches)
                start = given.value(change)
                if not repeat:
                    # most tails read no recorded value: copies for those that do, once they have complained
                    change = change._replace(batches=batches & {1})
                try:
                    return _replay(model, name, answers, start, _Runs(earlier, cuts, raws, owns), change)
                except torch.OutOfMemoryError:
                    raise
                except RuntimeError as error:
                    if not lift_all and _in_place_under_vmap(error):
                        lift_all = True
                    elif not repeat and times > 1:
                        repeat = True
                    else:
                        raise

        joined = maps[0] if len(maps) == 1 else _joined(name, maps)
        return Recorded(joined, outputs, tail, _convolves(model, name, answers))

    return run


def _joined(name: str, maps: list[Tensor]) -> Tensor:
    if len({(*one.shape[:1], *one.shape[2:]) for one in maps}) > 1:
        shapes = ", ".join(str(tuple(one.shape)) for one in maps)
        raise CaptureError(f"layer {name!r}: its calls give {shapes}, which do not join: take one, as in call=0")
    return torch.cat(maps, 1)


def _first_call(model: nn.Module, name: str, call: Call | None, inputs: Inputs) -> int:
    """Index of the run to cut at; one that is counted from the end takes a forward to count."""
    if call is None or call == "all":
        return 0
    if call >= 0:
        return call
    ran: list[int] = []
    layer = model.get_submodule(name)
    counting = graft(model, lambda module: module is layer)
    counting.owned[id(layer)].register_forward_hook(lambda module, args, output: ran.append(1))
    run_on(counting, copied(inputs))
    return chosen_calls(name, len(ran), call, model)[0]


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


def _owns(
    name: str, activations: Tensor, raws: list[Tensor], layouts: list[Layout | None], maps: list[Tensor]
) -> tuple[list[Tensor], int]:
    """Activations in the layer's own shape, one for each run that is cut, and how many batches they are."""
    parts = [activations] if len(raws) == 1 else list(torch.split(activations, [one.shape[1] for one in maps], 1))
    owns, times = [], 1
    for part, raw, layout, like in zip(parts, raws, layouts, maps):
        # a detector may have found nothing
        times = part.shape[0] // like.shape[0] if like.shape[0] else 1
        own = layout.from_map(part, repeated(raw, times, {raw.shape[0]})) if layout else part
        shapes_agree(f"tail at layer {name!r}, beyond the batch", own.shape[1:], raw.shape[1:])
        owns.append(own)
    return owns, times


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

    def __init__(self, model: nn.Module, name: str, at: int = 0, call: Call | None = None) -> None:
        layer = model.get_submodule(name)
        aliases = [other for other, module in model.named_modules(remove_duplicate=False) if module is layer]
        ancestors = {
            id(model.get_submodule(".".join(parts[:i])))
            for parts in (alias.split(".") for alias in aliases)
            for i in range(len(parts))
        }
        inside = {id(module) for module in layer.modules()}
        self.name, self.at, self.call, self.depth, self.calls = name, at, call, 0, 0
        self.earlier: list[_Value] = []
        self.cuts: list[_Value] = []
        self.leaves: dict[int, _Leaf] = {}
        self.entered: list[tuple[_Leaf, int]] = []
        self.answers: defaultdict[int, list[_Value]] = defaultdict(list)
        outside = {id(module) for module in model.modules()} - ancestors - inside
        self.graft = graft(model, lambda module: id(module) in outside or module is layer)
        for key in outside:
            self.graft.owned[key].register_forward_pre_hook(self.enter, with_kwargs=True)
            self.graft.owned[key].register_forward_hook(self.leave(key), prepend=True)
        if at:
            self.graft.owned[id(layer)].register_forward_pre_hook(self.enter, with_kwargs=True)
        self.graft.owned[id(layer)].register_forward_hook(self.reach)

    def run(self, inputs: Any) -> Any:
        self.given = self.keep(inputs)
        try:
            outputs = run_on(self.graft, inputs)
            chosen_calls(self.name, self.calls, self.call, self.graft.root)
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
        if not self.cuts and self.depth == 0:
            known = [self.leaves[id(item)] for item in pytree.tree_leaves((args, kwargs)) if id(item) in self.leaves]
            self.entered = [(leaf, leaf.tensor._version) for leaf in known]
        self.depth += not self.cuts

    def leave(self, key: int) -> Callable[[nn.Module, Any, Any], None]:
        def left(module: nn.Module, args: Any, output: Any) -> None:
            if self.cuts:
                return
            self.depth -= 1
            if self.depth:
                return
            self.see_writes()
            self.answers[key].append(self.keep(output))

        return left

    def see_writes(self) -> None:
        for leaf, version in self.entered:
            if leaf.version == version != leaf.tensor._version:
                leaf.refresh()

    def reach(self, module: nn.Module, args: Any, output: Any) -> None:
        self.calls += 1
        if self.calls <= self.at:
            self.depth -= 1
            self.see_writes()
            self.earlier.append(self.keep(output))
        elif not self.cuts or self.call == "all":
            self.cuts.append(self.keep(output))

    def settled(self) -> tuple[dict[int, list[_Kept]], list[_Kept], list[_Kept], _Kept]:
        answers = {key: [_settle(value) for value in values] for key, values in self.answers.items()}
        earlier, cuts = ([_settle(value) for value in values] for values in (self.earlier, self.cuts))
        return answers, earlier, cuts, _settle(self.given)


def _settle(value: _Value) -> _Kept:
    leaves, spec = value
    written = tuple(isinstance(leaf, _Leaf) and leaf.written for leaf in leaves)
    plain = tuple((leaf.copy if leaf.written else leaf.tensor) if isinstance(leaf, _Leaf) else leaf for leaf in leaves)
    return _Kept(plain, written, spec)


class _Runs(NamedTuple):
    """The layer's runs up to the last that is cut.

    Attributes:
        earlier: values of those before the cut.
        cuts: values of those that are cut.
        raws: the tensor that is meant, in each of these.
        owns: what stands in its place.
    """

    earlier: list[_Kept]
    cuts: list[_Kept]
    raws: list[Tensor]
    owns: list[Tensor]

    def outputs(self, change: _Change) -> list[Any]:
        """What the layer answers, run by run."""
        answers = [kept.value(change) for kept in self.earlier]
        for cut, raw, own in zip(self.cuts, self.raws, self.owns):
            put = own.clone() if any(cut.written) else own
            answers.append(
                pytree.tree_map(
                    lambda leaf, raw=raw, put=put: put if leaf is raw else repeated(leaf, change.times, change.batches),
                    cut.value(),
                )
            )
        return answers


def _replay(
    model: nn.Module, name: str, answers: dict[int, list[_Kept]], inputs: Any, runs: _Runs, change: _Change
) -> Any:
    """Run the model with recorded modules answering from the record, and the layer answering what it changed to."""
    layer = model.get_submodule(name)
    replaying = graft(model, lambda module: id(module) in answers or module is layer, zero_like(change.own))
    for key, values in answers.items():
        module = replaying.owned[key]
        answer(module, _answer(values, change, module.forward))
    at_cut = replaying.owned[id(layer)]
    outputs, forward, ran = runs.outputs(change), at_cut.forward, count()
    after = count()
    answer(
        at_cut,
        lambda *args, **kwargs: outputs[i] if (i := next(ran)) < len(outputs) else forward(*args, **kwargs),
    )
    # whatever other hooks made of it
    at_cut.register_forward_hook(
        lambda module, args, changed: outputs[i] if (i := next(after)) < len(outputs) else changed
    )
    try:
        return run_on(replaying, inputs)
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

"""One forward with everything kept that a replay of the network after a cut will read."""

# tested in tests/cut/test_resume.py

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._shared.inputs import call as run_on
from .._shared.inputs import clone_as_batched_as, repeated, zero_like
from .._shared.levels import level_of_func
from .._shared.vocabulary import Call
from .graft import graft
from .hidden import HOOKS, attributes, written
from .layer_checks import chosen_calls, inner_transform


class Change(NamedTuple):
    """What a replay puts in the place of the recorded activations, and what becomes of the other recorded values.

    Attributes:
        activations: the activations, in the layer's own shape.
        lift_all: whether all values have to be as batched as `activations` are under `vmap`.
        times: how often a value of one of the sizes in `batches` is repeated.
        batches: sizes that such values have, for there are others, as a table of positions.
    """

    activations: Tensor
    lift_all: bool
    times: int
    batches: tuple[int, ...]


_Value: TypeAlias = tuple[list[Any], pytree.TreeSpec]
"""A recorded value while it may still be overwritten: its leaves, tensors as `_Leaf`, and how they are put together."""


class _Leaf:
    """A tensor that a module returned, and a copy of it as it was at `version`."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.refresh()

    def refresh(self) -> None:
        """Copy the tensor as it is now."""
        self.copy, self.version = self.tensor.clone(), _version(self.tensor)

    @property
    def written(self) -> bool:
        """Whether the network itself, outside of recorded modules, overwrote the tensor since."""
        return _version(self.tensor) != self.version


def _version(tensor: Tensor) -> int:
    """Return a number that another write to a tensor changes."""
    if not tensor.is_inference():
        return tensor._version
    # a tensor of inference mode counts no writes: its numbers tell
    return hash(tensor.flatten().view(torch.uint8).numpy(force=True).tobytes())


class Kept(NamedTuple):
    """A recorded value: its leaves, which of them a replay must copy, and how they are put together."""

    leaves: tuple[Any, ...]
    written: tuple[bool, ...]
    spec: pytree.TreeSpec

    def value(self, change: Change | None = None) -> Any:
        """Return the value, with what the network overwrites (or all) copied and as batched as the change is."""
        if change is None:
            return pytree.tree_unflatten(self.leaves, self.spec)
        leaves: list[Any] = [repeated(leaf, change.times, change.batches) for leaf in self.leaves]
        if change.lift_all or any(self.written):
            zero = zero_like(change.activations)
            leaves = [
                clone_as_batched_as(leaf, zero) if isinstance(leaf, Tensor) and (written or change.lift_all) else leaf
                for leaf, written in zip(leaves, self.written)
            ]
        return pytree.tree_unflatten(leaves, self.spec)


class Recorder:
    """One forward that keeps the output of every maximal module which finished before the layer was called.

    Recorded modules are not rerun. If one modified its input in place, as ReLU may, the recorder keeps the input after
    that change. If the network itself modified a recorded value, a replay modifies it again: each replay gets a copy.
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
        self.level: int | None = None
        self.keeping: set[int] = set()
        self.earlier: list[_Value] = []
        self.cuts: list[_Value] = []
        self.leaves: dict[int, _Leaf] = {}
        self.entered: list[tuple[_Leaf, int]] = []
        self.answers: defaultdict[int, list[_Value | None]] = defaultdict(list)
        outside = {id(module) for module in model.modules()} - ancestors - inside
        self.graft = graft(model, outside | {id(layer)})
        # parts in TorchScript have no copy: the replay runs them again. So it does with what holds modules that have
        # hooks or lead to other modules, for these may keep what the network reads later
        outside &= self.graft.owned.keys()
        if referring := self.graft.referring:
            outside -= {id(part) for part in model.modules() if _leads(part, referring)}
        self.parts = {id(part): {id(one) for one in part.modules()} for part in model.modules() if id(part) in outside}
        self.before = {key: attributes(self.graft.owned[key]) for key in outside}
        for key in outside:
            self.graft.owned[key].register_forward_pre_hook(self.enter, with_kwargs=True)
            self.graft.owned[key].register_forward_hook(self.leave(key), prepend=True)
        if at:
            self.graft.owned[id(layer)].register_forward_pre_hook(self.enter, with_kwargs=True)
        self.graft.owned[id(layer)].register_forward_hook(self.reach, prepend=True)

    def run(self, inputs: Any) -> Any:
        """Run the network once, recording; return its outputs."""
        self.given, self.level = self.keep(inputs), level_of_func()
        try:
            outputs = run_on(self.graft, inputs)
            # what keeps a value on itself, as the network may read it later, runs again too
            self.keeping = {key for key, before in self.before.items() if written(self.graft.owned[key], before)}
            chosen_calls(self.name, self.calls, self.call, self.graft.root)
        finally:
            # its hooks hold the recorder: without this the tensors would wait for the next collection
            del self.graft, self.before
        return outputs

    def keep(self, output: Any) -> _Value:
        """Keep a value whose tensors may still be overwritten before the forward ends."""
        leaves, spec = pytree.tree_flatten(output)
        return [self.leaf(item) if isinstance(item, Tensor) else item for item in leaves], spec

    def leaf(self, tensor: Tensor) -> _Leaf:
        """Return the leaf of a tensor; a new one if the network overwrote the tensor since."""
        known = self.leaves.get(id(tensor))
        if known is None or known.written:
            known = self.leaves[id(tensor)] = _Leaf(tensor)
        return known

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Note the versions of a maximal module's arguments before it runs."""
        if not self.cuts and self.depth == 0:
            known = [self.leaves[id(item)] for item in pytree.tree_leaves((args, kwargs)) if id(item) in self.leaves]
            self.entered = [(leaf, _version(leaf.tensor)) for leaf in known]
        if not self.cuts:
            self.depth += 1

    def leave(self, key: int) -> Callable[[nn.Module, Any, Any], None]:
        """Return the hook that records the output of the module with this id, if it is maximal and before the cut."""

        def left(module: nn.Module, args: Any, output: Any) -> None:
            if self.cuts:
                return
            self.depth -= 1
            if self.depth:
                return
            self.see_writes()
            # inside a transform that the model calls, a value ends with it: the replay runs the module again
            self.answers[key].append(self.keep(output) if level_of_func() == self.level else None)

        return left

    def see_writes(self) -> None:
        """Refresh the arguments that the module which just ran wrote to."""
        for leaf, version in self.entered:
            if leaf.version == version != _version(leaf.tensor):
                leaf.refresh()

    def reach(self, module: nn.Module, args: Any, output: Any) -> None:
        """Record a run of the layer: before the cut as an earlier run, at the cut as the value to replace."""
        if level_of_func() != self.level:
            raise inner_transform(self.name)
        self.calls += 1
        if self.calls <= self.at:
            self.depth -= 1
            self.see_writes()
            self.earlier.append(self.keep(output))
        elif not self.cuts or self.call == "all":
            self.cuts.append(self.keep(output))

    def finished(self) -> tuple[dict[int, list[Kept | None]], list[Kept], list[Kept], Kept]:
        """Return the recorded values by module, the earlier runs of the layer, its runs at the cut, and the inputs."""
        answers = {
            key: [None if value is None else _finish(value) for value in values]
            for key, values in self.answers.items()
            if self.keeping.isdisjoint(self.parts[key])
        }
        earlier, cuts = ([_finish(value) for value in values] for values in (self.earlier, self.cuts))
        return answers, earlier, cuts, _finish(self.given)


def _leads(module: nn.Module, referring: Mapping[int, list[str]]) -> bool:
    """Whether a module leads to others by its attributes, or has a part that does or that has hooks."""
    return any(
        name not in HOOKS or part is not module for part in module.modules() for name in referring.get(id(part), ())
    )


def _finish(value: _Value) -> Kept:
    """Fix a value as the forward left it: the copy of a tensor that the network overwrote, else the tensor itself."""
    leaves, spec = value
    written = tuple(isinstance(leaf, _Leaf) and leaf.written for leaf in leaves)
    plain = tuple((leaf.copy if leaf.written else leaf.tensor) if isinstance(leaf, _Leaf) else leaf for leaf in leaves)
    return Kept(plain, written, spec)

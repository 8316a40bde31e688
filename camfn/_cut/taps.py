"""A model some of whose modules report each of their calls: a graft with hooks, or the traced model itself."""

# tested in tests/cut/test_derive.py

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeAlias

import torch
from torch import nn

from .._shared.inputs import call, copy_of
from .graft import graft
from .layer_checks import naming_misplaced
from .traced import Traced, entering, leaving

Around: TypeAlias = Callable[[], AbstractContextManager[Any]]
"""Makes the context that a network runs in."""

Leave: TypeAlias = Callable[[str, Any], Any]
"""Takes the name and the output of a tapped module that finished; returns the output that the network goes on with."""

Enter: TypeAlias = Callable[[str, nn.Module, tuple[Any, ...], Mapping[str, Any]], None]
"""Takes the name, the module and the arguments of a tapped module that begins."""


class Tapped(Protocol):
    """A model some of whose modules report each of their calls.

    Attributes:
        names: dotted names of the tapped modules, in the order they were given.
        root: the module that runs, which errors name.
    """

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def root(self) -> nn.Module: ...

    def run(self, inputs: Any, leave: Leave, enter: Enter | None = None, around: Around = nullcontext) -> Any:
        """Run the model on a copy of the inputs; `enter` needs a `planter` with `enter=True`."""
        ...


def planter(
    model: nn.Module, tapped: Callable[[], Mapping[str, nn.Module]], *, enter: bool = False
) -> Callable[[], Tapped]:
    """Return a function that makes a fresh `Tapped`, so that calls share no state and see the model as it is.

    Args:
        model: the user's; left as it is.
        tapped: returns the modules to tap, by dotted name; called for each graft.
        enter: whether the modules report when they begin, too.
    """

    def plant() -> Tapped:
        return Traced(model, tapped()) if torch.compiler.is_compiling() else Grafted(model, tapped(), enter)

    return plant


class _Slot:
    """Holds the callbacks that the hooks of a graft call; `Grafted.run` sets them for the time of one run."""

    leave: Leave
    enter: Enter


class Grafted:
    """A graft whose hooks report: they read a layer's output before the user's hooks do."""

    def __init__(self, model: nn.Module, modules: Mapping[str, nn.Module], enter: bool) -> None:
        self.slot = slot = _Slot()
        self.names = tuple(modules)
        self.graft = graft(model, {id(module) for module in modules.values()})
        self.root = self.graft.root
        for name, module in modules.items():
            own = self.graft.owned[id(module)]
            if enter:
                own.register_forward_pre_hook(entering(name, lambda *args: slot.enter(*args)), with_kwargs=True)
            own.register_forward_hook(leaving(name, lambda *args: slot.leave(*args)), prepend=True)

    def run(self, inputs: Any, leave: Leave, enter: Enter | None = None, around: Around = nullcontext) -> Any:
        self.slot.leave = leave
        if enter is not None:
            self.slot.enter = enter
        with around(), naming_misplaced(self.root, inputs):
            outputs = call(self.graft, copy_of(inputs))
        del self.slot.leave
        if enter is not None:
            del self.slot.enter
        return outputs

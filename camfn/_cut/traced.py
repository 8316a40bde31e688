"""A model that reports its modules' calls while the compiler traces it: the model itself, with hooks in the trace only.

The compiler sees the parameters, buffers, mode and children that the model has when the compiled function is called,
and recompiles if they change. The hooks live in the trace: what the compiled code writes back are the registries that
the model had.
"""

# tested in tests/cut/test_compile.py

from __future__ import annotations

import contextlib
import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.func import functional_call

from .._shared.inputs import call, clone_as_batched_as, copy_of, floating_leaves, zero_like
from .batch_norm import arithmetic, is_plain_norm
from .recurrent import stepwise

Function = TypeVar("Function", bound=Callable[..., Any])


_KEEPS_EMPTY = torch.__version__ >= "2.14"


class Traced:
    """As `Grafted`, under the compiler."""

    def __init__(self, model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
        self.names, self.root, self.modules = tuple(modules), model, modules

    def run(
        self,
        inputs: Any,
        leave: Callable[[str, Any], Any],
        enter: Callable[..., None] | None = None,
        around: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> Any:
        with around(), _tapped(self.modules, leave, enter), _mended(self.root), _stepwise(self.root):
            return call(self._run, copy_of(inputs))

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        """Run on copies of the buffers that training would write to."""
        written = {
            name: value
            for path, module in self.root.named_modules()
            if module.training
            for key, value in module._buffers.items()
            if value is not None
            for name in [f"{path}.{key}".lstrip(".")]
        }
        if not written:
            return self.root(*args, **kwargs)
        leaves = floating_leaves((args, kwargs))
        zero = zero_like(leaves[0]) if leaves else None
        copies: dict[str, Tensor] = {name: clone_as_batched_as(value, zero) for name, value in written.items()}
        return functional_call(self.root, copies, args, kwargs)


@contextlib.contextmanager
def _tapped(
    modules: Mapping[str, nn.Module], leave: Callable[[str, Any], Any], enter: Callable[..., None] | None
) -> Iterator[None]:
    """Put hooks in new registries, for the compiler does not trace a change of those there are."""
    names = ("_forward_hooks", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs")
    before = [tuple(_registry(module, name) for name in names) for module in modules.values()]
    for name, module in modules.items():
        hooks, first, with_kwargs = (getattr(module, key) for key in names)
        module._forward_hooks = OrderedDict([(-2, leaving(name, leave)), *hooks.items()])
        if enter is not None:
            module._forward_pre_hooks = OrderedDict([*first.items(), (-2, entering(name, enter))])
            module._forward_pre_hooks_with_kwargs = OrderedDict([*with_kwargs.items(), (-2, True)])
    try:
        yield
    finally:
        for module, (hooks, first, with_kwargs) in zip(modules.values(), before):
            module._forward_hooks = hooks
            module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs = first, with_kwargs


@contextlib.contextmanager
def _mended(model: nn.Module) -> Iterator[None]:
    """Let norms answer in arithmetic: `batch_norm.mend_backward` needs a graph, which a trace has not."""
    norms = [module for module in model.modules() if is_plain_norm(module)]
    before = [_registry(module, "_forward_hooks") for module in norms]
    for module in norms:
        module._forward_hooks = OrderedDict([(-1, _in_arithmetic), *module._forward_hooks.items()])
    try:
        yield
    finally:
        for module, hooks in zip(norms, before):
            module._forward_hooks = hooks


def _in_arithmetic(module: nn.Module, args: Any, output: Any) -> Any:
    return arithmetic(module, args[0]) if args[0].ndim > 2 else output


class _Stepwise(nn.Module):
    """Stands in for a recurrent module: its forward step by step, its hooks."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.__dict__["stands_for"] = module
        self._forward_hooks, self._forward_pre_hooks = module._forward_hooks, module._forward_pre_hooks

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        forward = stepwise(self.__dict__["stands_for"])
        assert forward is not None
        return forward(*args, **kwargs)


@contextlib.contextmanager
def _stepwise(model: nn.Module) -> Iterator[None]:
    """Put stand-ins in the place of recurrent modules, whose kernels the transforms refuse."""
    parents = [part for part in model.modules() if any(isinstance(child, nn.RNNBase) for child in part.children())]
    before = [parent._modules for parent in parents]
    for parent in parents:
        parent._modules = {
            name: _Stepwise(child) if isinstance(child, nn.RNNBase) and stepwise(child) else child
            for name, child in parent._modules.items()
        }
    try:
        yield
    finally:
        for parent, children in zip(parents, before):
            parent._modules = children


@contextlib.contextmanager
def traced_with(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Put tensors in the place of a model's parameters and buffers of these names, and of those tied to them."""
    held = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    put: dict[int, Any] = {id(tensor): tensors[name] for name, tensor in held if name in tensors}
    modules = list(model.modules())
    before = [(module._parameters, module._buffers) for module in modules]
    for module in modules:
        module._parameters = {name: put.get(id(old), old) for name, old in module._parameters.items()}
        module._buffers = {name: put.get(id(old), old) for name, old in module._buffers.items()}
    try:
        yield
    finally:
        for module, (parameters, buffers) in zip(modules, before):
            module._parameters, module._buffers = parameters, buffers


def _registry(module: nn.Module, name: str) -> Any:
    """Return a registry of hooks to put back: before torch 2.14 compiled code puts a plain dict for an empty one."""
    registry = getattr(module, name)
    return registry if _KEEPS_EMPTY or registry else OrderedDict()


def leaving(name: str, leave: Callable[[str, Any], Any]) -> Callable[[nn.Module, Any, Any], Any]:
    return lambda module, args, output: leave(name, output)


def entering(name: str, enter: Callable[..., None]) -> Callable[[nn.Module, Any, Any], None]:
    return lambda module, args, kwargs: enter(name, module, args, kwargs)


def outside_the_compiler(function: Function) -> Function:
    """Return the function, before which compiled code breaks off, and which runs eagerly."""
    eager = _disable_dynamo(function)

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        # the import that the eager one makes at its first call takes seconds
        return (eager if torch.compiler.is_compiling() else function)(*args, **kwargs)

    return cast(Function, run)

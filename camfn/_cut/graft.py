"""A private copy of the modules that must behave differently, sharing everything else with the user's model.

Only this file, `hidden.py` and `traced.py` touch the insides of `nn.Module`.
"""

# tested in tests/cut/test_capture.py

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .._shared.errors import CaptureError, DerivativeError
from .._shared.inputs import call, clone_as_batched_as, floating_leaves, tensors_in, zero_like
from .._shared.levels import is_differentiated, is_open
from .batch_norm import arithmetic, is_plain_norm, mend_backward
from .hidden import apart, attributes, holds_no_references, rebound, references
from .recurrent import stepwise

_OWN = (
    "_modules",
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


@dataclass(frozen=True)
class Graft:
    """A model that shares its parameters with another, and owns some of its modules.

    Attributes:
        root: what to call in place of the model.
        owned: the private copy of each module of the model that has one, by the original's id.
        referring: by the original's id, the attributes of a module that may lead to other modules, and its hooks.
        statistics: the buffers that a module in training mode may write to: the name in `root`, the user's module, and
            the buffer's name there.
        zero: a zero that `vmap` batches like the values written to these buffers; None makes one from the inputs.
    """

    root: nn.Module
    owned: dict[int, nn.Module]
    referring: Mapping[int, list[str]]
    statistics: tuple[tuple[str, nn.Module, str], ...]
    zero: Tensor | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model, on copies of the buffers that training would write to; the graph's BatchNorms are mended."""
        outputs = self._run(*args, **kwargs)
        if torch.is_grad_enabled():
            mend_backward(tensors_in(outputs))
        return outputs

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        if not self.statistics:
            return self.root(*args, **kwargs)
        zero = self.zero
        if zero is None and (leaves := floating_leaves((args, kwargs))):
            zero = zero_like(leaves[0])
        copies: dict[str, Tensor] = {
            name: clone_as_batched_as(module.get_buffer(buffer), zero) for name, module, buffer in self.statistics
        }
        return functional_call(self.root, copies, args, kwargs)


def graft(model: nn.Module, wanted: Collection[int] = (), zero: Tensor | None = None) -> Graft:
    """Copy the modules with the `wanted` ids, those in training that hold buffers, and the ancestors of both.

    It also copies recurrent modules, whose copies run a forward that `torch.func` accepts; quantized modules, whose
    copies raise an error where torch would return a zero derivative; modules that were compiled in place, whose copies
    run the plain code; modules that checkpoint, whose copies do not; and torch's encoders of transformers, whose copies
    make no nested tensor of a padded batch. A module registered at several places has one copy, which stands at all of
    them.
    """
    copier = _Copier(wanted)
    root, owned = copier.copy(model), copier.owned
    for key, copy in owned.items():
        if is_quantized(copy):
            copy.register_forward_pre_hook(_refuse_derivative(key, model))
    writing = {key for key, module in owned.items() if _writes(module)}
    users = {id(module): module for module in model.modules() if id(module) in writing} if writing else {}
    names = {id(module): name for name, module in root.named_modules()} if writing else {}
    held = {id(buffer): None for user in users.values() for buffer in user._buffers.values()}
    statistics = tuple(
        (f"{names[id(owned[key])]}.{buffer}".lstrip("."), user, buffer)
        for key, user in users.items()
        if id(owned[key]) in names
        for buffer, value in user._buffers.items()
        # of buffers that are tied, `functional_call` wants one
        if value is not None and held.pop(id(value), value) is None
    )
    return Graft(root, owned, copier.referring, statistics, zero)


_HOOKS_ITSELF, _IS_HOOKED = "_can_record_outputs", "_output_capturing_hooks_installed"
"""How a model of transformers says that it collects hidden states by hooks, and that these are in place."""

_CHECKPOINT_SWITCHES = ("grad_checkpointing", "gradient_checkpointing", "use_checkpoint")


def _checkpoint_switch(module: nn.Module) -> str | None:
    """Return the name of the switch by which a module checkpoints, in timm, transformers and torchvision."""
    own = module.__dict__
    for name in _CHECKPOINT_SWITCHES:
        if own.get(name) is True:
            return name
    # any_requires_grad is a method of the densenets, whose switch has too common a name
    return "memory_efficient" if own.get("memory_efficient") and hasattr(module, "any_requires_grad") else None


def _refuse_derivative(key: int, model: nn.Module) -> Callable[[nn.Module, Any], None]:
    """Return a hook that raises where autograd or `torch.func` differentiates a quantized module."""

    def refuse(module: nn.Module, args: Any) -> None:
        recorded = torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in args)
        if recorded or any(map(is_differentiated, args)):
            raise no_derivative(next(other for other in model.modules() if id(other) == key), model)

    return refuse


def _writes(module: nn.Module) -> bool:
    """Whether a module may write to its buffers, as BatchNorm does in training."""
    return module.training and bool(module._buffers)


class _Copier:
    """Copies what needs a copy in one walk over a model, a few hundred modules in less than a millisecond."""

    def __init__(self, wanted: Collection[int]) -> None:
        self.wanted = wanted
        self.owned: dict[int, nn.Module] = {}
        self.seen: dict[int, nn.Module] = {}
        self.kinds: dict[type[nn.Module], tuple[bool, bool]] = {}
        self.plain: set[type[nn.Module]] = set()
        self.referring: dict[int, list[str]] = {}
        # PyTorch's reverse derivative of the forward one is wrong where a norm computes its statistics from its input
        self.norms_in_arithmetic = is_open("Jvp")

    def copy(self, model: nn.Module) -> nn.Module:
        """Return the copy of a model whose hooks and attributes lead to the copies of modules, not to the originals."""
        root = self.visit(model)
        for key, names in self.referring.items():
            own = vars(self.owned[key])
            own.update({name: rebound(own[name], self.owned) for name in names})
        return root

    def visit(self, module: nn.Module) -> nn.Module:
        """Return the copy of `module`, or `module` itself where neither it nor a module below it needs a copy."""
        if self._is_plain_leaf(module):
            return module
        if id(module) in self.seen:
            return self.seen[id(module)]
        if isinstance(module, torch.jit.ScriptModule):
            # runs code that is not Python: no part of it can be copied, nor tapped
            if any(map(_writes, module.modules())):
                raise CaptureError(
                    "a TorchScript part of the model is in training mode and has buffers: call model.eval()"
                )
            return module
        special, wraps = self._kind(module)
        inner = wrapped(module) if wraps else None
        if inner is not None:
            return self._unwrap(module, inner)
        if getattr(type(module), _HOOKS_ITSELF, None) and not module.__dict__.get(_IS_HOOKED):
            # on its first run it hooks modules of its own, and notes so on itself: on copies, both
            self.wanted = {*self.wanted, *map(id, module.modules())}
        changed = {}
        for name, child in module._modules.items():
            if child is not None and (own := self.visit(child)) is not child:
                changed[name] = own
        copy = module
        names = references(module)
        if names:
            self.referring[id(module)] = names
        norm = self.norms_in_arithmetic and is_plain_norm(module)
        if changed or special or names or norm or self._needs_own_copy(module):
            copy = self.owned[id(module)] = shallow_copy(module)
            copy._modules.update(changed)
            if isinstance(module, nn.RNNBase) and (forward := stepwise(module)) is not None:
                replace_forward(copy, forward)
            if norm:
                replace_forward(copy, partial(arithmetic, module))
        self.seen[id(module)] = copy
        return copy

    def _is_plain_leaf(self, module: nn.Module) -> bool:
        """Whether a module holds no other and is as its class made it, a class whose modules need no copy."""
        own = module.__dict__
        return (
            type(module) in self.plain
            and not own["_modules"]
            and not (own["training"] and own["_buffers"])
            and not own["_forward_hooks"]
            and not own["_forward_pre_hooks"]
            and "forward" not in own
            and "_compiled_call_impl" not in own
            and id(module) not in self.wanted
        )

    def _kind(self, module: nn.Module) -> tuple[bool, bool]:
        """Whether modules of this class always need a copy, and whether they may wrap another."""
        kind = type(module)
        if kind not in self.kinds:
            wraps = isinstance(module, _WRAPPERS) or kind.__name__ == _COMPILED
            special = isinstance(module, (nn.RNNBase, nn.TransformerEncoder)) or is_quantized(module)
            self.kinds[kind] = special, wraps
            if not special and not wraps and holds_no_references(kind) and not self.norms_in_arithmetic:
                self.plain.add(kind)
        return self.kinds[kind]

    def _needs_own_copy(self, module: nn.Module) -> bool:
        """Whether a module is wanted, or behaves differently in a graft."""
        return (
            id(module) in self.wanted
            or _writes(module)
            or "_compiled_call_impl" in module.__dict__
            or _checkpoint_switch(module) is not None
        )

    def _unwrap(self, module: nn.Module, inner: nn.Module) -> nn.Module:
        """Drop a wrapper: it would call the original, not our copy, and compiled code refuses a derivative."""
        within = self.visit(inner)
        if within is inner and (self._kind(inner)[0] or self._needs_own_copy(module)):
            within = self.owned[id(inner)] = self.seen[id(inner)] = shallow_copy(inner)
        if within is not inner:
            self.owned[id(module)] = within
        self.seen[id(module)] = within
        return within


def with_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Copy a model with other tensors in the place of parameters and buffers of these names, and of those tied to them.

    Raises:
        CaptureError: one of them belongs to a part that is TorchScript.
    """
    held = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    scripted = [name for name, module in model.named_modules() if isinstance(module, torch.jit.ScriptModule)]
    for name, tensor in held:
        if name in tensors and tensors[name] is not tensor and name.startswith(tuple(f"{path}." for path in scripted)):
            raise CaptureError(f"{name!r} belongs to a TorchScript part of the model, whose tensors stay: leave it out")
    return with_others(model, {id(tensor): tensors[name] for name, tensor in held if name in tensors})


def with_others(model: nn.Module, put: Mapping[int, Tensor]) -> nn.Module:
    """Copy a model with other tensors in the place of the parameters and buffers of these ids, but not in TorchScript.

    Modules that hold none of them are the model's own.
    """
    owners = [
        module
        for module in model.modules()
        if not isinstance(module, torch.jit.ScriptModule)
        and any(id(tensor) in put for tensor in (*module._parameters.values(), *module._buffers.values()))
    ]
    copier = _Copier({id(module) for module in owners})
    root, owned = copier.copy(model), copier.owned
    for module in owners:
        for registry in ("_parameters", "_buffers"):
            own = getattr(module, registry)
            owned[id(module)].__dict__[registry] = {name: put.get(id(old), old) for name, old in own.items()}
    return root


def shallow_copy(module: nn.Module) -> nn.Module:
    """Copy one module: same class, children and hooks in registries of its own, the very registries of its tensors.

    Since the registries are the user's own, the copy sees parameters that are replaced later.

    `copy.copy` would go through `__getstate__`, which parametrized modules forbid.
    """
    copy: nn.Module = object.__new__(type(module))
    copy.__dict__.update(module.__dict__)
    copy.__dict__.update({key: type(module.__dict__[key])(module.__dict__[key]) for key in _OWN})
    copy.__dict__["_compiled_call_impl"] = None
    if _writes(module):
        # a run puts copies of the buffers there
        copy.__dict__["_buffers"] = dict(module._buffers)
    if switch := _checkpoint_switch(module):
        copy.__dict__[switch] = False
    if isinstance(module, nn.TransformerEncoder):
        # without autograd it packs a padded batch in a nested tensor, which its layers take in a fused kernel alone
        copy.__dict__["use_nested_tensor"] = False
    return copy


def replace_parameters(copy: nn.Module, **tensors: Tensor) -> None:
    """Give a private copy other tensors in the place of its parameters of these names."""
    copy.__dict__["_parameters"] = {name: value for name, value in copy._parameters.items() if name not in tensors}
    copy.__dict__.update(tensors)


def replace_forward(copy: nn.Module, forward: Callable[..., Any] | None) -> None:
    """Replace the `forward` of a private copy; None restores the `forward` of its class. The hooks stay."""
    if forward is None:
        copy.__dict__.pop("forward", None)
    else:
        copy.__dict__["forward"] = forward


def has_hooks(module: nn.Module) -> bool:
    """Whether a module has hooks of the user's."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def run_apart(model: nn.Module, inputs: Any) -> Any:
    """Run a model as it is, on copies of the buffers that training would write to."""
    return call(graft(model), inputs)


def evaluating(model: nn.Module) -> nn.Module:
    """Return private copies of all modules, in evaluation mode: parameters are shared, buffers are copied.

    The model keeps its modes, and nothing that a run of the copies writes to a buffer or an attribute reaches it, nor
    what it draws from a generator of the model's. Attributes of classes of the user's are shared.

    Raises:
        CaptureError: a part that was exported as TorchScript is in training mode.
    """
    copied = graft(model, {id(module) for module in model.modules()})
    memo: dict[int, Any] = {}
    for module in copied.owned.values():
        own = {name: apart(buffer, memo) for name, buffer in module._buffers.items()}
        held = {name: apart(value, memo) for name, value in attributes(module).items()}
        module.__dict__.update(held, training=False, _buffers=own)
    return copied.root


def bare(model: nn.Module) -> nn.Module:
    """Take a model out of the wrappers that run it as a whole: `torch.compile`, `DataParallel` and its kin."""
    while (inner := wrapped(model)) is not None:
        model = inner
    return model


_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_COMPILED = "OptimizedModule"
"""torch's class for compiled modules, known by name since its import takes seconds."""


def wrapped(module: nn.Module) -> nn.Module | None:
    """Return what a wrapper wraps; None for any other module."""
    inner = None
    if isinstance(module, _WRAPPERS):
        inner = module.module
    elif type(module).__name__ == _COMPILED:
        inner = getattr(module, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else None


def is_quantized(module: nn.Module) -> bool:
    """Whether a module is one of torch's quantized ones, whose outputs have no derivative."""
    return "quantized" in type(module).__module__


WITHOUT_GRADIENTS = (
    "Take a method without gradients (ablation_cam, recipro_cam, score_cam, eigen_cam), or the model before it was "
    "quantized"
)


def no_derivative(module: nn.Module, model: nn.Module) -> DerivativeError:
    """Say that a quantized module cuts the score off from the layer."""
    name = next((name for name, other in model.named_modules() if other is module), type(module).__name__)
    return DerivativeError(
        f"the score has no derivative at the layer, for {name!r} is a quantized module, which has none. "
        f"{WITHOUT_GRADIENTS}"
    )

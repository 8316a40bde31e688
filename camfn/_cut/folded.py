"""A network for many runs without a derivative: BatchNorm folded into the convolution before it, in a private copy."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from .._shared.checks import holds_data
from .._shared.inputs import call, copy_of, floating_leaves
from .._shared.levels import inside_transform
from .._shared.maps import same_numbers
from .graft import Graft, graft, has_hooks, replace_forward, replace_parameters, run_apart

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

_BY_NAME = {"Conv2dSame": "convolution", "BatchNormAct2d": "norm"}
"""Classes of timm that compute what torch's do, with a padding before or with `drop` and `act` after."""

Pairs = dict[int, nn.Module]
"""A convolution by its id, and the BatchNorm that its output goes into."""

PREPARED = "_camfn_prepared"
"""Attribute of a network that `prepare` returned: the compiled network, or None."""


FOLDED_BY = "_camfn_folded_by"
"""Attribute of a module in a prepared network whose output changed: the name of the BatchNorm that was folded."""


BIAS_FOLDED = "_camfn_bias_folded"
"""Attribute of a convolution in a prepared network that had a bias before a BatchNorm was folded into it."""


class BatchNormFolded:
    """Runs a network in evaluation mode as it is once, and from then on with BatchNorm folded.

    A pair is folded if, in the first run, the BatchNorm was given the very tensor that the convolution returned, and
    each ran once. If another module also read that tensor, the second run differs from the first by more than rounding,
    and nothing is folded. Images then lie channels last in memory, where convolutions are fastest, unless
    the network asks for the usual order, as by `view`. Under a transform of `torch.func`, where neither can be checked,
    nothing new is folded. A network that `prepare` returned runs as it is, or as it was compiled.

    Args:
        model: the user's; left as it is.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.graft: Graft | None = None
        self.memory = torch.contiguous_format

    def __call__(self, inputs: Any) -> Any:
        """Run on inputs that may be written to."""
        if torch.is_grad_enabled() or not all(map(holds_data, floating_leaves(inputs))):
            return run_apart(self.model, inputs)
        if PREPARED in vars(self.model):
            compiled: Callable[[nn.Module, Any], Any] | None = vars(self.model)[PREPARED]
            return run_apart(self.model, inputs) if compiled is None else compiled(self.model, inputs)
        if inside_transform():
            # a batch of `vmap` has no order in memory that could be asked for
            return run_apart(self.model, inputs) if self.graft is None else call(self.graft, inputs)
        if self.graft is None:
            return self.first(inputs)
        return call(self.graft, _laid(inputs, self.memory))

    def first(self, inputs: Any) -> Any:
        """Run as it is and folded, and keep what is right."""
        # an inference tensor does not tell whether it was written to
        with torch.inference_mode(False), torch.no_grad():
            again = copy_of(inputs)
            outputs, pairs = watched(self.model, copy_of(inputs))
            self.graft = _folded(self.model, {}, self.memory)
            for memory in (torch.channels_last, torch.contiguous_format) if pairs else ():
                folding = _folded(self.model, pairs, memory)
                try:
                    found = call(folding, _laid(copy_of(again), memory))
                except RuntimeError:
                    continue  # a `view` of what does not lie one behind the other
                # who watches the run for what the network reads must not see that this reads
                with _disable_current_modes():
                    same = same_outputs(outputs, found)
                if same:
                    self.graft, self.memory = folding, memory
                break
        return outputs


def rows_at_once(model: Any, batch: int) -> int | None:
    """How many batches fill a network that `prepare` compiled; None for any other."""
    compiled = vars(model).get(PREPARED)
    return None if compiled is None else max(1, compiled.size // max(1, batch))


def _laid(inputs: Any, memory: torch.memory_format) -> Any:
    """Put images channels last in memory, if `memory` is that format."""
    if memory is not torch.channels_last:
        return inputs
    if isinstance(inputs, Mapping):
        inputs = dict(inputs)
    return pytree.tree_map(
        lambda leaf: leaf.contiguous(memory_format=memory) if isinstance(leaf, Tensor) and leaf.ndim == 4 else leaf,
        inputs,
    )


def _is_convolution(module: nn.Module) -> bool:
    return type(module) in _CONVOLUTIONS or _BY_NAME.get(type(module).__name__) == "convolution"


def _is_norm(module: nn.Module) -> bool:
    return type(module) in _NORMS or _BY_NAME.get(type(module).__name__) == "norm"


def _may_be_folded(module: nn.Module) -> bool:
    return (_is_convolution(module) or _is_norm(module)) and not has_hooks(module)


def without_norm(norm: nn.Module) -> nn.Module:
    """Return what a norm does after it normalized: nothing, or the dropout and activation of timm's class."""
    after = OrderedDict(norm.named_children())
    return (nn.Sequential(after) if after else nn.Identity()).eval()


def watched(model: nn.Module, inputs: Any) -> tuple[Any, Pairs]:
    """Run the network, and see which BatchNorm was given what a convolution returned."""
    watching = graft(
        model,
        {
            id(module)
            for module in model.modules()
            if (_is_convolution(module) or _is_norm(module)) and not has_hooks(module)
        },
    )
    returned: dict[int, tuple[weakref.ref[Tensor], int, int]] = {}
    pairs: Pairs = {}
    calls: dict[int, int] = {}

    def leave(key: int, output: Tensor) -> None:
        calls[key] = calls.get(key, 0) + 1
        if not output.is_inference():
            returned[id(output)] = (weakref.ref(output), output._version, key)

    def enter(norm: nn.Module, key: int, x: Tensor) -> None:
        calls[key] = calls.get(key, 0) + 1
        made, version, convolution = returned.get(id(x), (None, 0, 0))
        if made is not None and made() is x and version == x._version:
            pairs[convolution] = norm

    originals = {id(module): module for module in model.modules()}
    for key, module in watching.owned.items():
        if _is_convolution(module):
            module.register_forward_hook(lambda _, args, output, key=key: leave(key, output))
        elif _is_norm(module) and module.running_mean is not None:
            module.register_forward_pre_hook(lambda _, args, key=key: enter(originals[key], key, args[0]))
    outputs = call(watching, inputs)
    return outputs, {key: norm for key, norm in pairs.items() if calls[key] == calls[id(norm)] == 1}


def _folded(model: nn.Module, pairs: Pairs, memory: torch.memory_format) -> Graft:
    folding = graft(model, {*pairs, *map(id, pairs.values())})
    for key, norm in pairs.items():
        replace_parameters(folding.owned[key], **folded_parameters(folding.owned[key], norm, memory))
        replace_forward(folding.owned[id(norm)], without_norm(norm))
    return folding


def folded_parameters(convolution: Any, norm: Any, memory: torch.memory_format) -> dict[str, Tensor]:
    """Write `gamma (W x + b - mean) / sqrt(var + eps) + beta` as one convolution."""
    scale = (norm.running_var + norm.eps).rsqrt()
    scale = scale if norm.weight is None else norm.weight * scale
    bias = -norm.running_mean if convolution.bias is None else convolution.bias - norm.running_mean
    bias = bias * scale if norm.bias is None else bias * scale + norm.bias
    weight = convolution.weight * scale.reshape(-1, *[1] * (convolution.weight.ndim - 1))
    if weight.ndim == 4:
        # as the images are, else torch copies them for each run
        weight = weight.contiguous(memory_format=memory)
    return {"weight": weight.to(convolution.weight.dtype), "bias": bias.to(convolution.weight.dtype)}


def same_outputs(first: Any, second: Any) -> bool:
    """Whether all that two outputs hold has the same numbers."""
    pairs = list(zip(pytree.tree_leaves(first), pytree.tree_leaves(second)))
    tensors = [(one, other) for one, other in pairs if isinstance(one, Tensor) and one.is_floating_point()]
    return all(same_numbers(one, other) for one, other in tensors)

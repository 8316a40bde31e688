"""Checks and the texts of their errors; a text is built only once its check has failed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree


class CaptureError(ValueError):
    """A layer cannot be captured as asked; the message says what to ask instead."""


def bare(model: nn.Module) -> nn.Module:
    """Take a model out of the wrappers that run it as a whole: `torch.compile`, `DataParallel` and its kin."""
    while (inner := wrapped(model)) is not None:
        model = inner
    return model


def wrapped(module: nn.Module) -> nn.Module | None:
    """Return what a wrapper wraps; None for any other module."""
    inner = None
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        inner = module.module
    elif type(module).__name__ == "OptimizedModule":
        # torch's class for compiled modules, known by name since its import takes seconds
        inner = getattr(module, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else None


def layer_name(model: nn.Module, layer: str | nn.Module) -> str:
    """Dotted name of `layer` in `model`, which may be given by that name or as the module itself."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {describe(model)}")
    if any(is_lazy(parameter) for parameter in model.parameters()):
        raise CaptureError("the model has lazy modules that never ran: call it once on real inputs, then capture")
    away = next((name for name, parameter in model.named_parameters() if parameter.is_meta), None)
    if away:
        raise CaptureError(
            f"the parameter {away!r} is on the meta device, without data: it was never loaded, or is offloaded. Load "
            "the whole model on one device first, for example without device_map, or model.to_empty(device='cpu') and "
            "load_state_dict"
        )
    inner = bare(model)
    if isinstance(layer, nn.Module):
        layer = inner if layer is model else bare(layer)
        found = [name for name, module in inner.named_modules() if module is layer]
        if found:
            return str(found[0])
        raise CaptureError(
            f"the layer given, a {type(layer).__name__}, is not a part of this {type(model).__name__}. "
            "Pass one of its own modules, or a dotted name from model.named_modules()."
        )
    if not isinstance(layer, str):
        raise TypeError(f"layer: expected a dotted name or a module, got {type(layer).__name__}")
    names = [name for name, _ in inner.named_modules(remove_duplicate=False)]
    if layer in names:
        return layer
    # a dotted name as the wrapper around the model has it
    short = re.sub(r"^((_orig_mod|module)(\.|$))+", "", layer)
    if inner is not model and short in names:
        return short
    raise CaptureError(f"{type(model).__name__} has no layer {layer!r}. {near(layer, names)}")


def near(name: str, names: Iterable[str]) -> str:
    """Say which names are close to `name`, or name a few of them."""
    known = [candidate for candidate in names if candidate]
    close = [candidate for candidate in known if candidate.endswith("." + name)][:3]
    close += [match for match in get_close_matches(name, known, n=3, cutoff=0.6) if match not in close]
    if close:
        return "Did you mean " + " or ".join(map(repr, close[:4])) + "?"
    return f"It has {', '.join(map(repr, known[:8]))}{' ...' if len(known) > 8 else ''}."


def chosen_calls(name: str, ran: int, call: Any, model: nn.Module) -> list[int]:
    """Which of the runs of a layer in one forward are meant; refuse one that ran never, or several times unasked."""
    if ran == 0:
        inside = [other for other, _ in model.named_modules() if other.startswith(name + ".")]
        raise CaptureError(
            f"layer {name!r} never ran in this forward: it is a container whose parts are called one by one, a branch "
            f"that was not taken, or replaced by a fused kernel.{' ' + near(name, inside) if inside else ''}"
        )
    if call == "all":
        return list(range(ran))
    if call is None:
        if ran == 1:
            return [0]
        raise CaptureError(
            f"layer {name!r} ran {ran} times in this forward, so its activations are ambiguous. Say which run is "
            f"meant, call=0 to call={ran - 1}, or call='all'; or take a layer that runs once, the block around it."
        )
    if not isinstance(call, int) or isinstance(call, bool):
        raise TypeError(f"call: expected an index, 'all' or None, got {call!r}")
    if not -ran <= call < ran:
        raise CaptureError(f"call={call} is out of range: layer {name!r} ran {ran} times, call=0 to call={ran - 1}")
    return [call % ran]


def is_quantized(module: nn.Module) -> bool:
    """Whether a module is one of torch's quantized ones, whose outputs have no derivative."""
    return "quantized" in type(module).__module__


def no_derivative(module: nn.Module, model: nn.Module) -> CaptureError:
    """Say that a quantized module cuts the score off from the layer."""
    name = next((name for name, other in model.named_modules() if other is module), type(module).__name__)
    return CaptureError(
        f"the score has no derivative at the layer, for {name!r} is a quantized module, which has none. Take a "
        "method without gradients (ablation_cam, recipro_cam, score_cam, eigen_cam), or the model before it was "
        "quantized"
    )


def connected(grads: Iterable[Tensor | None], model: nn.Module) -> None:
    """Refuse a network whose quantized modules cut the score off from the layer."""
    if any(grad is None for grad in grads):
        cut = next(filter(is_quantized, model.modules()), None)
        if cut is not None:
            raise no_derivative(cut, model)


def is_differentiated(value: Any) -> bool:
    """Whether `torch.func` is taking a derivative through a tensor."""
    inside = torch._C._functorch
    while isinstance(value, Tensor) and inside.is_functorch_wrapped_tensor(value):
        if inside.is_gradtrackingtensor(value) and value.requires_grad:
            return True
        value = inside.get_unwrapped(value)
    return False


def chosen_tensor(name: str, output: Any, select: Any) -> Tensor:
    """Pick the tensor of a layer's output: the one there is, or the one `select` says."""
    if select is None:
        if isinstance(output, Tensor):
            return output
        leaves = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
        if len(leaves) == 1:
            return leaves[0]
        final = output.get("last_hidden_state") if isinstance(output, dict) else None
        if isinstance(final, Tensor):
            return final
        maps = _without_attention([leaf for leaf in leaves if leaf.ndim > 2 and leaf.is_floating_point()])
        if len(maps) == 1:
            return maps[0]
        raise CaptureError(
            f"layer {name!r} returns {describe(output)}: say which tensor is meant, "
            "as in select=0, select='hidden_states' or select=lambda output: output[0]."
        )
    try:
        picked = select(output) if callable(select) else output[select]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise CaptureError(
            f"select={select!r} does not fit the output of layer {name!r}, {describe(output)}"
        ) from error
    if not isinstance(picked, Tensor) or not any(leaf is picked for leaf in pytree.tree_leaves(output)):
        raise CaptureError(
            f"select={select!r} must pick one of the tensors that layer {name!r} returns, {describe(output)}; "
            f"it gave {describe(picked)}"
        )
    return picked


def _without_attention(tensors: list[Tensor]) -> list[Tensor]:
    """Leave out the (B, heads, N, N) that transformers return beside tokens (B, N, C)."""
    matrices = {(tokens.shape[0], tokens.shape[1], tokens.shape[1]) for tokens in tensors if tokens.ndim == 3}
    return [x for x in tensors if x.ndim != 4 or (x.shape[0], *x.shape[2:]) not in matrices]


def floating(name: str, activations: Tensor) -> Tensor:
    """Refuse activations that have no derivative."""
    if activations.is_floating_point():
        return activations
    raise CaptureError(f"layer {name!r} returns {activations.dtype}, in which nothing can be differentiated")


def describe(value: Any) -> str:
    """Name a value by type and shape, as an error shows it."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, dict):
        return f"a {type(value).__name__} with keys {list(value)}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)} ({', '.join(type(item).__name__ for item in value)})"
    return f"a {type(value).__name__}"


def batch_sizes(inputs: Any, activations: Iterable[Tensor]) -> set[int]:
    """Sizes that a batch of scores may have: the activations', or the first input's for windowed layers."""
    leaves = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.ndim]
    return {leaf.shape[0] for leaf in leaves[:1]} | {a.shape[0] for a in activations if a.ndim}


def one_score_a_sample(scores: Any, batches: set[int]) -> Tensor:
    """Refuse a target that does not return one floating-point number a sample."""
    if isinstance(scores, Tensor) and scores.ndim == 1 and scores.shape[0] in batches and scores.is_floating_point():
        return scores
    sizes = " or ".join(f"({size},)" for size in sorted(batches))
    kind = f" of {scores.dtype}" if isinstance(scores, Tensor) else ""
    raise ValueError(
        f"the target must return one floating-point number a sample, shape {sizes}; it returned "
        f"{describe(scores)}{kind}. For example: target=lambda outputs: outputs[:, 281]"
    )


def is_concrete(value: Tensor) -> bool:
    """Whether the data of `value` may be read in Python: not while compiling, not inside `vmap`."""
    if torch.compiler.is_compiling():
        return False
    wrapped = torch._C._functorch
    while wrapped.is_functorch_wrapped_tensor(value):
        if wrapped.is_batchedtensor(value):
            return False
        value = wrapped.get_unwrapped(value)
    return True


def inside_transform() -> bool:
    """Whether this runs under `vmap`, `vjp` or another transform of `torch.func`, or is being compiled."""
    return torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None


def class_in_range(classes: int | Tensor, count: int) -> None:
    """Refuse a class outside [0, count), where that can be read."""
    if isinstance(classes, int):
        low = high = classes
    elif is_concrete(classes):
        low, high = int(classes.min()), int(classes.max())
    else:
        return
    if low < 0 or high >= count:
        bad = low if low < 0 else high
        raise ValueError(f"class {bad} is out of range: the model has {count} classes, 0 to {count - 1}")


def length_matches(what: str, got: int, batch: int) -> None:
    """Refuse a list of per-sample things whose length is not the batch's."""
    if got != batch:
        raise ValueError(f"{what}: expected one for each of the {batch} samples, got {got}")


def spatial_map(name: str, activations: Tensor, layout: Any) -> None:
    """Refuse activations that are not (B, C, *spatial) with one to three spatial dimensions."""
    if activations.ndim in (3, 4, 5):
        return
    after = "after its layout" if layout is not None else "without a layout"
    raise CaptureError(
        f"layer {name!r} gives shape {tuple(activations.shape)} {after}; a class activation map needs (B, C, *spatial) "
        "with one to three spatial dimensions. Take an earlier layer, before the pooling."
    )


def shapes_agree(what: str, got: Sequence[int], expected: Sequence[int]) -> None:
    """Refuse a tensor of another shape than the one it stands for."""
    if tuple(got) != tuple(expected):
        raise ValueError(f"{what}: expected shape {tuple(expected)}, got {tuple(got)}")

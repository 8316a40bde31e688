"""Checks of a layer: its name, its runs in one forward, the tensor it returns."""

# tested in tests/cut/test_capture.py and test_inputs.py

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from .._layout.readings import check_layout
from .._shared.checks import describe
from .._shared.errors import ArgumentTypeError, CaptureError, DerivativeError, first_line
from .._shared.inputs import check_images
from .._shared.levels import is_differentiated
from .._shared.spelling import near
from .folded import FOLDED_BY
from .graft import WITHOUT_GRADIENTS, bare, is_quantized, no_derivative
from .wrappers import is_wrapper, network_in


def check_model(model: nn.Module) -> None:
    """Refuse a model that is no module, one that wraps a network in a call of its own, and lazy modules."""
    if type(model).__name__ == "ExportedProgram":
        raise ArgumentTypeError(
            "model: expected a torch.nn.Module, got an ExportedProgram, which is a graph without modules: "
            "torch.export.unflatten(program) makes a module of it whose layers have the names of the original, and "
            "can be cut as exactly"
        )
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"model: expected a torch.nn.Module, got {describe(model)}{network_in(model)}")
    if isinstance(model, torch.jit.ScriptModule):
        raise ArgumentTypeError(
            "model: expected a torch.nn.Module of Python, got a TorchScript module, whose layers no hook can tap: pass "
            "the model that was scripted or traced, or build it and load its state dict"
        )
    if is_wrapper(model):
        raise ArgumentTypeError(
            f"model: expected a network, got a {type(model).__name__}, which has no forward and does more than run one "
            f"when it is called{network_in(model)}"
        )
    if any(is_lazy(parameter) for parameter in model.parameters()):
        raise CaptureError("the model has lazy modules that never ran: call it once on real inputs, then capture")


@contextmanager
def naming_misplaced(model: nn.Module, inputs: Any) -> Iterator[None]:
    """Where a run fails, name a parameter without data, or inputs of another device or dtype than the parameters."""
    try:
        yield
    except RuntimeError as error:
        leaves = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
        away = next((name for name, parameter in model.named_parameters() if parameter.is_meta), None)
        if away and not all(leaf.is_meta for leaf in leaves):
            raise CaptureError(
                f"the parameter {away!r} is on the meta device, without data: it was never loaded, or is offloaded. "
                "Load the whole model on one device first, for example without device_map, or "
                "model.to_empty(device='cpu') and load_state_dict. For shapes alone, pass inputs on the meta device too"
            ) from error
        _name_what_differs(model, [leaf for leaf in leaves if leaf.is_floating_point()], error)
        raise


def _name_what_differs(model: nn.Module, leaves: list[Tensor], error: RuntimeError) -> None:
    """Raise an error about inputs of another device or dtype, where the floating parameters share one of each."""
    parameters = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
    for what in ("device", "dtype"):
        known = {getattr(parameter, what) for parameter in parameters}
        other = next((leaf for leaf in leaves if getattr(leaf, what) not in known), None)
        if len(known) == 1 and other is not None:
            (its,) = known
            call = f"{str(its)!r}" if what == "device" else f"{its}"
            raise CaptureError(
                f"the model's parameters have {what} {its}, an input of shape {tuple(other.shape)} has {what} "
                f"{getattr(other, what)}, and the run failed: {first_line(error)}. Pass inputs.to({call})"
            ) from error


def dequantized(activations: Tensor) -> Tensor:
    """Return a quantized layer's output in floating point; any other as it is."""
    return activations.dequantize() if activations.is_quantized else activations


def quantized_like(name: str, activations: Tensor, raw: Tensor) -> Tensor:
    """Quantize activations with the scale and zero point of the layer's own output, if that is quantized.

    torch would return a zero derivative: where one is taken, that is an error.
    """
    if not raw.is_quantized:
        return activations
    if is_differentiated(activations) or (torch.is_grad_enabled() and activations.requires_grad):
        raise DerivativeError(_no_derivative_of(name, raw))
    if torch._C._functorch.is_batchedtensor(activations):
        # torch would run its quantized operations in a loop each, with a warning for each
        raise CaptureError(f"layer {name!r} returns {raw.dtype}, a quantized tensor, for which vmap has no rules")
    if raw.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return torch.quantize_per_tensor(activations, raw.q_scale(), raw.q_zero_point(), raw.dtype)
    scales, zeros, axis = raw.q_per_channel_scales(), raw.q_per_channel_zero_points(), raw.q_per_channel_axis()
    return torch.quantize_per_channel(activations, scales, zeros, axis, raw.dtype)


def _no_derivative_of(name: str, raw: Tensor) -> str:
    return f"layer {name!r} returns {raw.dtype}, a quantized tensor, which has no derivative. {WITHOUT_GRADIENTS}"


_COMPILED_PART = re.compile(r"(^|\.)_orig_mod(?=\.|$)")


def layer_name(model: nn.Module, layer: str | nn.Module) -> str:
    """Check the model, and return the dotted name in it of `layer`, a dotted name or a module."""
    if not torch.compiler.is_compiling():
        check_model(model)
    name = _name_in(model, layer)
    if not torch.compiler.is_compiling() and isinstance(bare(model).get_submodule(name), torch.jit.ScriptModule):
        raise CaptureError(
            f"layer {name!r} is TorchScript, which no hook can tap: take a layer around, before or after it, or the "
            "module before it was scripted or traced"
        )
    norm = getattr(bare(model).get_submodule(name), FOLDED_BY, None)
    if norm is not None:
        raise CaptureError(
            f"layer {name!r} has no output of its own in a prepared network, where the BatchNorm {norm!r} is folded "
            f"into the convolution before it. Take the layer {norm!r}, or the model that was prepared"
        )
    return name


def _name_in(model: nn.Module, layer: Any) -> str:
    """Return the dotted name in the model of `layer`, a dotted name or a module."""
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
    if isinstance(layer, (list, tuple)):
        raise ArgumentTypeError(
            f"layer: expected one dotted name or module, got {describe(layer)}. For several layers: "
            "camfn.transforms.fuse(method, model, layers), or camfn.capture_many(model, layers)"
        )
    if not isinstance(layer, str):
        raise ArgumentTypeError(
            f"layer: expected a dotted name as in model.named_modules(), or a module, got {describe(layer)}; "
            "camfn.layers.suggest(model, images) lists the layers"
        )
    names = [name for name, _ in inner.named_modules(remove_duplicate=False)]
    if layer in names:
        return layer
    # the name may begin with the prefix of a wrapper around the model, "module." or "_orig_mod."
    short = re.sub(r"^((_orig_mod|module)(\.|$))+", "", layer)
    if inner is not model and short in names:
        return short
    # or leave out, or have, the segment "_orig_mod" of a part that is compiled
    plain = {_COMPILED_PART.sub("", name).lstrip("."): name for name in reversed(names)}
    if (name := plain.get(_COMPILED_PART.sub("", short).lstrip("."))) is not None and layer:
        return str(name)
    raise CaptureError(f"{type(model).__name__} has no layer {layer!r}. {near(layer, names)}")


def fitting(model: nn.Module, pattern: str) -> list[str] | None:
    """Return the names of the layers that fit a pattern, as in `fnmatch`; None for a string that is no pattern.

    Raises:
        CaptureError: no layer fits.
    """
    known = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    if pattern in known or not set("*?[") & set(pattern):
        return None
    names = [name for name in known if fnmatchcase(name, pattern)]
    if not names:
        plain = pattern.translate(str.maketrans("", "", "*?[]!")).strip(".")
        raise CaptureError(f"no layer of this {type(model).__name__} fits {pattern!r}. {near(plain, known)}")
    return names


def chosen_calls(name: str, ran: int, call: Any, model: nn.Module) -> list[int]:
    """Return the indices of the runs that `call` chooses; refuse a layer with no run, or several if call is None."""
    if ran == 0:
        inside = [other for other, _ in model.named_modules() if other.startswith(name + ".")]
        raise CaptureError(
            f"layer {name!r} never ran in this forward: it is a container whose parts are called one by one, a branch "
            f"that was not taken, or replaced by a fused kernel.{' ' + near(name, inside) if inside else ''}"
        )
    check_call(call)
    if call == "all":
        return list(range(ran))
    if call is None:
        if ran == 1:
            return [0]
        raise CaptureError(
            f"layer {name!r} ran {ran} times in this forward, so its activations are ambiguous. Say which run is "
            f"meant, call=0 to call={ran - 1}, or call='all'; or take a layer that runs once, the block around it."
        )
    if not -ran <= call < ran:
        raise CaptureError(f"call={call} is out of range: layer {name!r} ran {ran} times, call=0 to call={ran - 1}")
    return [call % ran]


def check_call(call: Any) -> None:
    """Refuse anything but an index, "all" or None."""
    if (
        call is None
        or (isinstance(call, int) and not isinstance(call, bool))
        or (isinstance(call, str) and call == "all")
    ):
        return
    raise ArgumentTypeError(f"call: expected an index of a run of the layer, 'all' or None, got {call!r:.60}")


def check_select(select: Any) -> None:
    """Refuse anything but an index, a key, a function or None."""
    if select is None or callable(select) or (isinstance(select, (int, str)) and not isinstance(select, bool)):
        return
    raise ArgumentTypeError(
        "select: expected the index or the key of a tensor that the layer returns, or a function of what it returns; "
        f"got {describe(select)}"
    )


def check_picks(select: Any, layout: Any, call: Any = None, images: Any = None) -> None:
    """Refuse a `select`, a layout, a `call` or an `images` that is none, ahead of any forward."""
    check_select(select)
    check_layout(layout)
    check_call(call)
    check_images(images)


def layer_names(model: nn.Module, layers: Any) -> tuple[str, ...]:
    """Check a list of layers, and return their dotted names."""
    if isinstance(layers, (str, nn.Module)):
        layers = [layers]
    if not isinstance(layers, (list, tuple)):
        raise ArgumentTypeError(f"layers: expected a list of dotted names or modules, got {describe(layers)}")
    if not layers:
        raise CaptureError("expected at least one layer, got an empty list")
    return tuple(layer_name(model, layer) for layer in layers)


def refuse_quantized_cut(grads: Iterable[Tensor | None], model: nn.Module) -> None:
    """Refuse a network whose quantized modules cut the score off from the layer."""
    if any(grad is None for grad in grads):
        cut = next(filter(is_quantized, model.modules()), None)
        if cut is not None:
            raise no_derivative(cut, model)


def chosen_tensor(name: str, output: Any, select: Any) -> Tensor:
    """Return the tensor that `select` picks from a layer's output; without `select`, the only tensor, or only map."""
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
    check_select(select)
    try:
        picked = select(output) if callable(select) else output[select]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise CaptureError(
            f"select={select!r} does not fit the output of layer {name!r}, {describe(output)}: expected an index or a "
            "key of it, or a function that picks one of its tensors"
        ) from error
    if not isinstance(picked, Tensor) or not any(leaf is picked for leaf in pytree.tree_leaves(output)):
        raise CaptureError(
            f"select={select!r} must pick one of the tensors that layer {name!r} returns, {describe(output)}; "
            f"it gave {describe(picked)}"
        )
    return picked


def _without_attention(tensors: list[Tensor]) -> list[Tensor]:
    """Leave out the (B, heads, N, N) that transformers return beside tokens (B, N, C)."""
    # an open size of a trace has no hash
    matrices = [(tokens.shape[0], tokens.shape[1], tokens.shape[1]) for tokens in tensors if tokens.ndim == 3]
    return [x for x in tensors if x.ndim != 4 or (x.shape[0], *x.shape[2:]) not in matrices]


def floating(name: str, activations: Tensor) -> Tensor:
    """Refuse activations that have no derivative."""
    if activations.is_floating_point():
        return activations
    if activations.is_quantized:
        raise DerivativeError(_no_derivative_of(name, activations))
    raise CaptureError(f"layer {name!r} returns {activations.dtype}, in which nothing can be differentiated")


def spatial_map(name: str, activations: Tensor, layout: Any) -> None:
    """Refuse activations that are not (B, C, *spatial) with one to three spatial dimensions."""
    if activations.ndim in (3, 4, 5):
        return
    after = "after its layout" if layout is not None else "without a layout"
    raise CaptureError(
        f"layer {name!r} gives shape {tuple(activations.shape)} {after}; a class activation map needs (B, C, *spatial) "
        "with one to three spatial dimensions. Take an earlier layer, before the pooling."
    )


def inner_transform(name: str) -> CaptureError:
    """Return the error of a layer that the model itself runs under a transform, where its tensors have no meaning."""
    return CaptureError(
        f"layer {name!r} runs inside torch.vmap, or another transform of torch.func, that the model's own forward "
        "calls, so that its output does not exist outside of it: take the layer around it, or one before or after"
    )

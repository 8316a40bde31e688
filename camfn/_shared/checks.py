"""Checks and the texts of their errors; a text is built only once its check has failed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import _get_dispatch_mode_pre_dispatch
from torch._subclasses.fake_tensor import is_fake
from torch.utils import _pytree as pytree

from .._shared.errors import ArgumentTypeError, CamfnError
from .levels import inside_transform, is_differentiated, is_open, levels_of


def refuse_lost_graph(name: str, model: nn.Module, inputs: Any, remedy: str = "Pass differentiable=True") -> None:
    """Refuse to drop a graph in which `torch.func.grad`, `vjp` or `jacrev` is taking a derivative."""
    if not inside_transform() or not torch.is_grad_enabled():
        return
    if torch.compiler.is_compiling() and not _trace_takes_a_derivative():
        return
    inputs = dict(inputs) if isinstance(inputs, Mapping) else inputs
    held = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    if _any_is_differentiated([*held, *model.parameters(), *model.buffers()]):
        raise CamfnError(
            f"{name}: torch.func.grad, vjp or jacrev asks for the derivative of the map, which was made without a "
            f"graph and would come out as zero. {remedy}; or detach the inputs and parameters, to take "
            "the map as a constant"
        )


def keeps_graph(
    name: str, model: nn.Module, inputs: Any, differentiable: bool, remedy: str = "Pass differentiable=True"
) -> bool:
    """Whether to keep the graph: the caller wants it, and autograd is on; if the caller does not, refuse to drop one.

    Ask before `torch.inference_mode(False)`, which switches autograd on.
    """
    if not differentiable:
        refuse_lost_graph(name, model, inputs, remedy)
    return differentiable and torch.is_grad_enabled()


def _any_is_differentiated(tensors: list[Tensor]) -> bool:
    if not torch.compiler.is_compiling():
        return any(map(is_differentiated, tensors))
    _look(*tensors)
    return _seen_in_the_trace()


_in_the_trace: list[bool] = []
"""What `_look` found last; the compiler traces one function at a time."""


def _look(*tensors: Tensor) -> None:
    """Note whether one is differentiated: stands in the graph, so that it runs on the tensors of the trace.

    The compiler traces no question about levels of `torch.func`, but runs these levels while it traces.
    """
    _in_the_trace.append(any(map(is_differentiated, tensors)))


def _trace_takes_a_derivative() -> bool:
    """Whether a level of differentiation is open in a trace; if so, `_look` may be called."""
    if not is_open("Grad"):
        return False
    _in_the_trace.clear()
    # needs the compiler, whose import takes seconds: here it is there
    torch.compiler.allow_in_graph(_look)  # type: ignore[no-untyped-call]
    return True


def _seen_in_the_trace() -> bool:
    return any(_in_the_trace)


for _function in (_trace_takes_a_derivative, _seen_in_the_trace):
    # as torch.compiler.assume_constant_result, without its import: the compiler runs them, and takes what they return
    _function._dynamo_marked_constant = True  # type: ignore[attr-defined]


def describe(value: Any) -> str:
    """Name a value by type and shape, as an error shows it."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, dict):
        return f"a {type(value).__name__} with keys {list(value)}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)} ({', '.join(type(item).__name__ for item in value)})"
    return f"a {type(value).__name__}"


def check_inputs(inputs: Any) -> None:
    """Refuse what no model takes for its inputs: no tensor at all, an array, a picture of Pillow, bytes for floats."""
    if isinstance(inputs, Tensor):
        if inputs.dtype is torch.uint8 and inputs.ndim > 2:
            raise ArgumentTypeError(
                f"inputs: expected images in floating point, got {describe(inputs)} of torch.uint8: pass "
                "images.float() / 255, normalized as in the training of the model"
            )
        return
    known = isinstance(inputs, (tuple, list, Mapping))
    leaves = pytree.tree_leaves(dict(inputs) if isinstance(inputs, Mapping) else inputs)
    foreign = [leaf for leaf in leaves if type(leaf).__module__.split(".")[0] in ("builtins", "numpy", "PIL")]
    if leaves and len(foreign) < len(leaves):
        return
    if known and leaves and any(isinstance(leaf, (int, float)) for leaf in leaves):
        return
    raise ArgumentTypeError(
        f"inputs: expected a tensor (B, C, *spatial), a tuple of positional arguments or a dict of keyword arguments, "
        f"got {describe(inputs)}; torch.as_tensor(array) makes a tensor of an array, and "
        "torchvision.transforms.functional.to_tensor(picture)[None] of a picture"
    )


def batch_sizes(inputs: Any, activations: Iterable[Tensor]) -> tuple[int, ...]:
    """Return the lengths that a vector of scores may have: the batch of the first input, or of the activations.

    Keywords have no first, and tiles of a picture may stand beside one text: the batch of any of them will do.

    The two differ for layers in windowed attention. Lengths may repeat: a set would read the number of a size that the
    compiler keeps open.
    """
    named = isinstance(inputs, Mapping)
    leaves = [leaf for leaf in pytree.tree_leaves(dict(inputs) if named else inputs) if isinstance(leaf, Tensor)]
    sizes = [leaf.shape[0] for leaf in leaves if leaf.ndim]
    return (*(sizes if named else sizes[:1]), *(a.shape[0] for a in activations if a.ndim))


def one_score_a_sample(scores: Any, batches: Iterable[int]) -> Tensor:
    """Refuse a target that does not return one floating-point number a sample."""
    if isinstance(scores, Tensor) and scores.ndim == 1 and scores.is_floating_point():
        length = scores.shape[0]
        # `in` would compare with every size, and so fix the sizes that the compiler keeps open
        if any(length == size for size in batches):
            return scores
    sizes = " or ".join(f"({size},)" for size in sorted(set(batches)))
    kind = f" of {scores.dtype}" if isinstance(scores, Tensor) else ""
    raise CamfnError(
        f"the target must return one floating-point number a sample, shape {sizes}; it returned "
        f"{describe(scores)}{kind}. For example: target=lambda outputs: outputs[:, 281]"
    )


_WHOLE: Any = (Integral, torch.SymInt)
_REAL: Any = (Real, torch.SymInt, torch.SymFloat)
"""The types of numbers, those of NumPy and of the compiler among them."""


def whole(name: str, value: Any, least: int = 1) -> None:
    """Refuse anything but a whole number from `least`; `name` says which argument of which function it is."""
    if isinstance(value, _WHOLE) and not isinstance(value, bool) and value >= least:
        return
    text = f"{name}: expected a whole number from {least}, got {_given(value)}"
    raise _refused(text, value, _WHOLE)


def number(name: str, value: Any, interval: str = "(-inf, inf)", advice: str = "") -> None:
    """Refuse anything but a number in an interval, such as "(0, 1]"; a tensor () is read on the CPU."""
    if isinstance(value, Tensor) and not value.ndim and value.dtype.is_floating_point:
        if value.device.type != "cpu" or not is_concrete(value):
            return
        value = value.item()
    low, high = map(float, interval[1:-1].split(", "))
    if isinstance(value, _REAL) and not isinstance(value, bool):
        above = value >= low if interval[0] == "[" else value > low
        below = value <= high if interval[-1] == "]" else value < high
        if above and below:
            return
    span = "a finite number" if math.isinf(low) and math.isinf(high) else f"a number in {interval}"
    raise _refused(f"{name}: expected {span}, got {_given(value)}{advice and '. '}{advice}", value, _REAL)


def one_of(name: str, value: Any, options: Iterable[Any]) -> None:
    """Refuse anything but one of these words."""
    known = list(options)
    # comparing a tensor, or an array, with a word gives no bool
    if isinstance(value, (str, type(None), bool)) and value in known:
        return
    *first, last = [repr(option) for option in known]
    expected = f"{', '.join(first)} or {last}" if first else last
    raise _refused(f"{name}: expected {expected}, got {_given(value)}", value, str)


def tensor(name: str, value: Any, advice: str = "") -> None:
    """Refuse anything but a tensor."""
    if not isinstance(value, Tensor):
        advice = advice or f"torch.as_tensor makes a tensor of an array: pass {name.rsplit(' ')[-1]} as one"
        raise ArgumentTypeError(f"{name}: expected a tensor, got {_given(value)}; {advice}")


def function(name: str, value: Any, advice: str) -> None:
    """Refuse anything that cannot be called."""
    if not callable(value):
        raise ArgumentTypeError(f"{name}: expected a function, got {_given(value)}; {advice}")


def _given(value: Any) -> str:
    """Name what came: a number or a word as it is, other things by type and shape."""
    return repr(value) if isinstance(value, (str, int, float, type(None))) else describe(value)


def _refused(text: str, value: Any, kind: Any) -> CamfnError:
    """Return the error of a value out of range, or, for a value of another kind, that of its type."""
    return CamfnError(text) if isinstance(value, kind) and not isinstance(value, bool) else ArgumentTypeError(text)


def is_concrete(value: Tensor) -> bool:
    """Whether Python may read the data of `value`: neither inside `vmap`, nor where there is none (`holds_data`)."""
    return holds_data(value) and not any(map(torch._C._functorch.is_batchedtensor, levels_of(value)))


_TRACING = torch._C._TorchDispatchModeKey.__members__
"""The modes in which tensors stand for others: fake tensors, `make_fx`, functionalization."""


def holds_data(value: Tensor) -> bool:
    """Whether there are numbers behind a tensor: it is neither fake nor on the meta device, and nothing is traced.

    The compiler, `make_fx` and `functionalize` trace: what is computed from data while they do is no part of the graph.
    """
    if torch.compiler.is_compiling() or value.is_meta or is_fake(value):
        return False
    if any(torch._C._get_dispatch_mode(key) is not None for key in _TRACING.values()):
        return False
    if _get_dispatch_mode_pre_dispatch(_TRACING["PROXY"]) is not None:  # type: ignore[no-untyped-call]
        return False
    return not any(map(torch._C._functorch.is_functionaltensor, levels_of(value)))


def is_at_hand(value: Tensor) -> bool:
    """Whether Python may read the data of `value` without waiting: an accelerator would first end all it was given."""
    return value.device.type == "cpu" and is_concrete(value)


def seen_false(condition: Tensor) -> bool:
    """Whether a condition is false somewhere; False where its data cannot be read."""
    return is_concrete(condition) and not bool(condition.all())


def class_in_range(classes: int | Tensor, count: int, *, waits: bool = False) -> None:
    """Refuse a class outside [0, count); a tensor whose data cannot be read passes.

    So does one on an accelerator, unless the check `waits` for it: a `gather` by such classes is refused by the device.
    """
    if isinstance(classes, int):
        low = high = classes
    elif classes.numel() and (is_concrete(classes) if waits else is_at_hand(classes)):
        low, high = int(classes.min()), int(classes.max())
    else:
        return
    if low < 0 or high >= count:
        bad = low if low < 0 else high
        raise CamfnError(f"class {bad} is out of range: the model has {count} classes, 0 to {count - 1}")


def length_matches(name: str, got: int, batch: int) -> None:
    """Refuse a list with one item a sample whose length is not the batch size."""
    if got != batch:
        raise CamfnError(f"{name}: expected one for each of the {batch} samples, got {got}")


def shapes_agree(name: str, got: Sequence[int], expected: Sequence[int]) -> None:
    """Refuse a tensor of another shape than expected."""
    if len(got) == len(expected) and all(one == other for one, other in zip(got, expected)):
        return
    raise CamfnError(f"{name}: expected shape {tuple(expected)}, got {tuple(got)}")


def within(x: Tensor, low: float, high: float) -> bool:
    """Whether all numbers lie in [low, high]; True where Python may not read them."""
    return not is_concrete(x) or bool(((x >= low) & (x <= high)).all())


def same_device(name: str, got: Tensor, like: Tensor, of: str) -> None:
    """Refuse a tensor on another device than `like`, which `of` names."""
    if got.device != like.device:
        raise CamfnError(
            f"{name}: expected a tensor on the device of the {of}, {like.device}, got one on {got.device}; pass "
            f"{name.rsplit(' ')[-1]}.to({of}.device)"
        )


def progress_bar(name: str, value: Any) -> None:
    """Refuse a progress that cannot be called."""
    if value is not None:
        function(f"{name}: progress", value, "a function of the number done and the number in all, or None")


def check_chunk_size(name: str, value: Any) -> None:
    """Refuse anything but a number of rows from 1, None for all, or "auto"."""
    if value is None or (isinstance(value, str) and value == "auto"):
        return
    if not isinstance(value, _WHOLE) or isinstance(value, bool) or value < 1:
        text = f"{name}: chunk_size: expected a number of rows from 1, None for all, or 'auto', got {_given(value)}"
        raise _refused(text, value, _WHOLE)


def space(name: str, value: Any, count: int | None = None, *, least: int = 1) -> tuple[int, ...]:
    """Return a size, one whole number for each of `count` dimensions; refuse anything else."""
    call = {1: "(length,)", 2: "(height, width)", 3: "(depth, height, width)"}.get(count or 2, "(height, width)")
    if not isinstance(value, (list, tuple)) or len(value) != (count or len(value)) or not value:
        many = f"{count} whole numbers" if count else "one whole number for each spatial dimension"
        raise _refused(f"{name}: expected {many}, {call}, got {_given(value)}", value, (list, tuple))
    for side in value:
        whole(f"{name} {call}", side, least)
    return tuple(value)


def generator_of(name: str, value: Any) -> None:
    """Refuse anything but a generator."""
    if not isinstance(value, torch.Generator):
        raise ArgumentTypeError(
            f"{name}: generator: expected a torch.Generator, got {_given(value)}; for example "
            "generator=torch.Generator().manual_seed(0)"
        )

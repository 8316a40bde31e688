"""Prepare a network for many explanations: a private copy that runs faster and gives the same numbers."""

from __future__ import annotations

import copy
import weakref
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._shared.checks import describe
from .._shared.errors import ArgumentTypeError, CamfnError, first_line
from .._shared.inputs import call, copy_of, floating_leaves
from .._shared.levels import inside_transform
from .._shared.maps import same_numbers
from .._shared.vocabulary import Inputs
from .folded import (
    BIAS_FOLDED,
    FOLDED_BY,
    PREPARED,
    Pairs,
    folded_parameters,
    same_outputs,
    watched,
    without_norm,
)
from .graft import bare, graft, run_apart
from .layer_checks import check_model

Seen = dict[str, list[Tensor]]
"""What each module returned for the first sample, run by run."""


def prepare(model: nn.Module, example: Inputs, *, compile: bool = False) -> nn.Module:  # noqa: A002  (named as torch.compile)
    """Copy a network for many explanations: faster, with the same numbers but for rounding.

    In the copy, BatchNorm is folded into the convolution before it, convolutions of images on a CPU (or in half
    precision) keep channels last in memory, and no parameter asks for a gradient. The copy is a module with the names
    of the model's layers and goes wherever a model goes. A module whose own output no longer exists, as that of
    a convolution with its BatchNorm folded in, is refused as a layer: take the BatchNorm. Both were run on the example,
    and agree there. The copy keeps the parameters of its time.

    Args:
        model: in evaluation mode; left exactly as it is.
        example: inputs as the model takes them; a sample or a few.
        compile: compile the copy too, with its parameters as constants, for what runs many forwards and needs no
            derivative: Score-CAM and its kin, RISE, metrics. The code runs as many samples at once as the example has
            (four are enough on a CPU), of its shapes and dtypes; the plain copy runs all else. Takes from seconds to a
            minute, and a C++ compiler for a CPU. A copy of the copy, and one whose parameters changed, is not compiled.

    Returns:
        The copy.

    Raises:
        CamfnError: the model, or a part of it, is in training mode; with `compile`, there is no compiler, or torch
            cannot compile the network, or an output does not have a row for each sample.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
        >>> images = torch.ones(2, 3, 8, 8)
        >>> prepared = prepare(net.eval(), images)
        >>> torch.allclose(prepared(images), net(images), atol=1e-5)
        True
        >>> [name for name, _ in prepared.named_parameters()]
        ['0.weight', '0.bias', '4.weight', '4.bias']
    """
    check_model(model)
    model = bare(model)
    _in_evaluation(model)
    if not floating_leaves(example) or not _batch(example):
        raise ArgumentTypeError(
            f"prepare: example: expected inputs of the model, at least one sample, got {describe(example)}"
        )
    if compile:
        _has_compiler(floating_leaves(example)[0].device)
    with torch.inference_mode(False), torch.no_grad():
        example = copy_of(example)
        prepared = _prepared(model, example)
        for parameter in prepared.parameters():
            parameter.requires_grad_(False)
        setattr(prepared, PREPARED, Compiled(prepared, example) if compile else None)
    return prepared


def _in_evaluation(model: nn.Module) -> None:
    training = next((name for name, module in model.named_modules() if module.training), None)
    if training is not None:
        part = f"its part {training!r}" if training else f"this {type(model).__name__}"
        raise CamfnError(f"prepare: {part} is in training mode, where BatchNorm cannot be folded: call model.eval()")


def _prepared(model: nn.Module, example: Any) -> nn.Module:
    """Return the fastest copy that gives what the model gives."""
    _, pairs = watched(model, copy_of(example))
    outputs, seen = _run_and_see(model, example)
    lasts = (True, False) if _favors_channels_last(model, floating_leaves(example)[0]) else (False,)
    for folded, last in [(pairs, last) for last in lasts] + [({}, last) for last in lasts if pairs]:
        prepared = _copy(model, folded, torch.channels_last if last else torch.contiguous_format)
        try:
            found, now = _run_and_see(prepared, example)
        except (RuntimeError, AttributeError):
            continue  # a `view` of what does not lie one behind the other; a network that reads its BatchNorm
        if same_outputs(outputs, found):
            _note_changes(model, prepared, pairs, seen, now)
            return prepared
    return copy.deepcopy(model)


def _favors_channels_last(model: nn.Module, images: Tensor) -> bool:
    """Whether convolutions of images run faster channels last: by oneDNN, and by cuDNN in half precision."""
    narrow = images.dtype in (torch.bfloat16, torch.float16)
    fast = narrow or (images.device.type == "cpu" and images.dtype is torch.float32)
    return fast and any(isinstance(module, nn.Conv2d) for module in model.modules())


def _copy(model: nn.Module, pairs: Pairs, memory: torch.memory_format) -> nn.Module:
    """Copy the model with the pairs folded, its convolutions of images in this order in memory."""
    prepared = copy.deepcopy(model)
    copies = dict(zip(map(id, model.modules()), prepared.modules()))
    for module in prepared.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=memory)
    for key, norm in pairs.items():
        convolution = copies[key]
        setattr(convolution, BIAS_FOLDED, convolution.bias is not None)
        for name, tensor in folded_parameters(convolution, norm, memory).items():
            setattr(convolution, name, nn.Parameter(tensor, requires_grad=False))
        for parent in prepared.modules():
            for name, child in parent.named_children():
                if child is copies[id(norm)]:
                    setattr(parent, name, without_norm(child))
    return prepared


def _run_and_see(model: nn.Module, inputs: Any) -> tuple[Any, Seen]:
    """Run a network; return its outputs, and what its modules returned for the first sample."""
    seen: Seen = defaultdict(list)
    seeing = graft(model, set(map(id, model.modules())))

    def see(name: str, output: Any) -> None:
        seen[name] += [leaf[:1].clone() if leaf.ndim else leaf.clone() for leaf in floating_leaves(output)]

    for name, module in model.named_modules():
        if id(module) in seeing.owned:
            seeing.owned[id(module)].register_forward_hook(lambda _, args, output, name=name: see(name, output))
    return call(seeing, copy_of(inputs)), seen


def _note_changes(model: nn.Module, prepared: nn.Module, pairs: Pairs, before: Seen, now: Seen) -> None:
    """Note at each module whose output is no longer the model's which BatchNorm was folded into it."""
    names = {id(module): name for name, module in model.named_modules()}
    swallowed = {names[key]: names[id(norm)] for key, norm in pairs.items()}
    for name, values in before.items():
        if len(values) == len(now[name]) and all(map(same_numbers, values, now[name])):
            continue
        inside = (norm for other, norm in swallowed.items() if other == name or other.startswith(f"{name}."))
        setattr(prepared.get_submodule(name), FOLDED_BY, next(inside, next(iter(swallowed.values()), "")))


def _has_compiler(device: torch.device) -> None:
    """Refuse to compile for a CPU without a C++ compiler."""
    if device.type != "cpu":
        return
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:
        raise CamfnError(
            "prepare: compile=True needs a C++ compiler, and this machine has none: install g++ or clang, or set CXX; "
            "prepare(model, example) needs none"
        ) from error


class Compiled:
    """A network compiled with its parameters as constants, for batches of one size.

    Args:
        network: in evaluation mode; the compiled network is right as long as its parameters stay.
        example: inputs of the network.
    """

    def __init__(self, network: nn.Module, example: Any) -> None:
        self.of = weakref.ref(network)
        self.state = _state(network)
        self.size = _batch(example)
        example = next(_parts(example, self.size))
        self.form = _form(example)
        expected = call(network, copy_of(example))
        if any(not leaf.ndim or leaf.shape[0] != self.size for leaf in _tensors(expected)):
            shapes = ", ".join(str(tuple(leaf.shape)) for leaf in _tensors(expected))
            raise CamfnError(
                f"prepare: compile=True needs outputs with a row for each of {self.size} samples; this network returns "
                f"{shapes or describe(expected)}. prepare(model, example) takes any network"
            )
        from torch._inductor import config

        try:
            # the tracer reads this setting as well, so that it cannot be given to torch.compile as an option
            with config.patch(freezing=True):
                self.run = torch.compile(network, dynamic=False)
                found = call(self.run, copy_of(example))
        except Exception as error:
            raise CamfnError(
                f"prepare: torch cannot compile this network: {type(error).__name__}: {first_line(error)}. "
                "prepare(model, example) needs no compiler"
            ) from error
        if not same_outputs(expected, found):
            raise CamfnError(
                "prepare: the network gives other numbers once torch has compiled it: take prepare(model, example)"
            )

    def __call__(self, network: nn.Module, inputs: Any) -> Any:
        """Run the network, without a derivative, on inputs that may be written to."""
        total = _batch(inputs)
        parts = list(_parts(inputs, self.size)) if self.fits(network) else []
        if not parts or any(_form(part) != self.form for part in parts):
            return run_apart(network, inputs)
        outputs = [pytree.tree_flatten(call(self.run, part)) for part in parts]
        leaves = zip(*(found for found, _ in outputs))
        joined = [torch.cat(found)[:total] if isinstance(found[0], Tensor) else found[0] for found in leaves]
        return pytree.tree_unflatten(joined, outputs[0][1])

    def fits(self, network: nn.Module) -> bool:
        """Whether the compiled code is right, and would not be compiled anew, for the network as it is here and now."""
        return (
            self.of() is network
            and not torch.is_grad_enabled()
            and not inside_transform()
            and not torch.is_autocast_enabled(_device_type(self.form))
            and not network.training
            and self.state == _state(network)
        )

    def __deepcopy__(self, memo: Any) -> None:
        """A copy of the network is not compiled."""

    def __reduce__(self) -> Any:
        return _not_compiled, ()


def _not_compiled() -> None:
    """What a pickled network has in the place of its compiled code."""


def _device_type(form: Any) -> str:
    """Type of the device that the compiled code runs on."""
    return str(next(device for _, dtype, device in form[0] if dtype.is_floating_point).split(":")[0])


def _state(network: nn.Module) -> list[tuple[int, int]]:
    """Where the parameters and buffers are, and how often they were written to."""
    tensors = (*network.parameters(), *network.buffers())
    return [(tensor.data_ptr(), tensor._version) for tensor in tensors if not tensor.is_inference()]


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _batch(inputs: Any) -> int:
    """Number of samples."""
    images = floating_leaves(inputs)[0]
    return images.shape[0] if images.ndim else 0


def _form(inputs: Any) -> Any:
    """All that compiled code may depend on beside the numbers in tensors."""
    leaves, spec = pytree.tree_flatten(inputs)
    tensors = [(tuple(x.shape), x.dtype, str(x.device)) for x in leaves if isinstance(x, Tensor)]
    return tensors, [x for x in leaves if not isinstance(x, Tensor)], spec


def _parts(inputs: Any, size: int) -> Iterator[Any]:
    """Split n samples into batches of `size`; the last sample fills the last batch."""
    total = _batch(inputs)
    for start in range(0, total, size):
        index = torch.arange(start, start + size).clamp(max=total - 1)

        def part(leaf: Any, index: Tensor = index) -> Any:
            batched = isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == total
            return leaf.index_select(0, index.to(leaf.device)) if batched else leaf

        yield pytree.tree_map(part, dict(inputs) if isinstance(inputs, dict) else inputs)

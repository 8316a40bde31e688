"""Sanity checks: whether a map changes when the network's parameters are drawn anew, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from ..._cut.layer_checks import check_model, layer_name
from ..._shared.checks import describe, function, generator_of, tensor
from ..._shared.devices import brought
from ..._shared.errors import ArgumentTypeError, CamfnError
from .._common.likeness import spearman

Redraw: TypeAlias = Callable[[str, Tensor, torch.Generator], Tensor]
"""Name of a parameter, its value and a generator, to a value of the same shape."""


class Cascade(NamedTuple):
    """Similarity of maps to the original ones, as more and more of the network is random.

    Attributes:
        names: names of S modules, the top one first.
        similarity: (B, S), after the module and (cascading) all before it in `names` were drawn anew.
    """

    names: tuple[str, ...]
    similarity: Tensor


def resampled(name: str, value: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a parameter anew: normal, with the mean and deviation of its own entries.

    BatchNorm statistics stay as they are, and activations keep their scale. The paper draws from the initializer of
    each layer instead; for that, pass a function of yours as `redraw`.

    Args:
        name: the parameter's name, which this function does not use.
        value: its trained value.
        generator: draws the new value, on its own device.

    Returns:
        Same shape, dtype and device; a parameter whose entries are all equal stays as it is.

    Example:
        >>> resampled("bias", torch.zeros(3), torch.Generator())
        tensor([0., 0., 0.])
    """
    generator_of("resampled", generator)
    tensor("resampled: value", value)
    if not value.is_floating_point():
        raise ArgumentTypeError(
            f"resampled: value: expected a floating-point parameter, got {value.dtype}; give a redraw of yours"
        )
    if not value.numel():
        return value.detach().clone()
    draw = torch.randn(value.shape, generator=generator, device=generator.device, dtype=torch.float32)
    wide = value.detach().float()
    drawn = wide.mean() + brought(draw, wide) * wide.std(correction=0)
    return drawn.to(value.dtype)


def randomized(
    model: nn.Module,
    *,
    generator: torch.Generator,
    names: Iterable[str] | None = None,
    redraw: Redraw = resampled,
    cascading: bool = True,
) -> Iterator[tuple[str, nn.Module]]:
    """Copy a model again and again, with more and more parameters drawn anew, from the top down.

    The model itself stays unchanged, also while a copy runs, which `torch.func.functional_call` would not ensure: each
    copy has modules and buffers of its own, and shares the parameters that keep their values.

    Args:
        model: any module.
        generator: draws the new values.
        names: dotted names of modules, the top one first; all parameters inside a module are drawn anew. By default
            every module with parameters of its own, in the reverse of the order in which they were registered.
        redraw: (name, value, generator) to a new value.
        cascading: keep the values drawn for earlier modules; False draws one module at a time.

    Yields:
        The name, and a copy of the model.

    Raises:
        CaptureError: no such module.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
        >>> [name for name, copy in randomized(net, generator=torch.Generator())]
        ['1', '0']
    """
    for name, drawn in redrawn(model, generator, names, redraw, cascading):
        yield name, copy_with(model, drawn)


def redrawn(
    model: nn.Module, generator: torch.Generator, names: Iterable[str] | None, redraw: Redraw, cascading: bool
) -> Iterator[tuple[str, dict[int, Tensor]]]:
    """Draw parameters anew as `randomized` does: the name of a module, and all new values by the parameter's `id`."""
    check_model(model)
    generator_of("randomized", generator)
    function("randomized: redraw", redraw, "from the name of a parameter, its value and a generator to a new value")
    if names is not None and (isinstance(names, (str, Mapping, Tensor)) or not isinstance(names, Iterable)):
        raise ArgumentTypeError(
            f"randomized: names: expected a list of names of modules, got {describe(names)}; for example "
            "names=['fc', 'layer4']"
        )
    owners = [name for name, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))]
    chosen = list(reversed(owners)) if names is None else [layer_name(model, name) for name in names]
    drawn: dict[int, Tensor] = {}
    for name in chosen:
        drawn = dict(drawn) if cascading else {}
        for key, parameter in model.get_submodule(name).named_parameters():
            if id(parameter) not in drawn:
                drawn[id(parameter)] = redraw(f"{name}.{key}" if name else key, parameter.detach(), generator)
        yield name, drawn


def randomization(
    explain: Callable[[nn.Module], Tensor],
    model: nn.Module,
    *,
    generator: torch.Generator,
    similarity: Callable[[Tensor, Tensor], Tensor] | None = None,
    names: Iterable[str] | None = None,
    redraw: Redraw = resampled,
    cascading: bool = True,
) -> Cascade:
    """Sanity check by randomization: the similarity of maps while parameters are drawn anew from the top down.

    A map that does not change does not depend on the trained parameters. Methods without a class, such as Eigen-CAM,
    stay at 1 until the cascade reaches their layer, since they read nothing above it. It costs one explanation for each
    module.

    Source: arXiv 1810.03292, section 3.

    Args:
        explain: a model to maps (B, *S), always of the same images and classes, such as
            `lambda net: explainer(grad_cam, net, "layer4")(images, classes)`.
        model: any module; stays unchanged.
        generator: draws the new values.
        similarity: two batches of maps to (B,); by default `spearman`.
        names: as in `randomized`.
        redraw: as in `randomized`.
        cascading: as in `randomized`.

    Returns:
        A `Cascade`; lower is better.

    Raises:
        CaptureError: no such module.
        CamfnError: NaN or infinity in a map, naming the samples.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Flatten(), nn.Linear(4, 2))
        >>> images = torch.arange(16.0).reshape(1, 1, 4, 4)
        >>> explain = lambda net: net[0](images)[:, 0]
        >>> cascade = randomization(explain, net, generator=torch.Generator().manual_seed(0), names=["2"])
        >>> cascade.similarity
        tensor([[1.]])
    """
    function("randomization: explain", explain, "from a model to maps, such as lambda model: explainer(...)(images)")
    if similarity is not None:
        function("randomization: similarity", similarity, "from two batches of maps to (B,), or None for spearman")
    check_model(model)
    compare = similarity or spearman
    original = explain(model).detach()
    modules, columns = [], []
    for name, copy in randomized(model, generator=generator, names=names, redraw=redraw, cascading=cascading):
        modules.append(name)
        columns.append(compare(original, explain(copy).detach()))
    if not columns:
        raise CamfnError("randomization: names: expected at least one name of a module, or None for all; got none")
    return Cascade(tuple(modules), torch.stack(columns, 1))


def copy_with(model: nn.Module, drawn: dict[int, Tensor]) -> nn.Module:
    """Copy a model with new values for some parameters, by the `id` of the parameter; the copy shares the others."""
    copy = deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    names = model.named_parameters(remove_duplicate=False)
    new = {name: drawn[id(parameter)] for name, parameter in names if id(parameter) in drawn}
    copy.load_state_dict(new, strict=False, assign=True)
    return copy

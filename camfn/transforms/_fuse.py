"""Maps of several layers fused into one: the choice of layers, the scaling of each map, and the rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, field
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from .._cut.capture import capture_many
from .._cut.explainer import explainer
from .._cut.layer_checks import check_model, fitting, layer_name, spatial_map
from .._cut.sight import Reads, refuse_parts
from .._cut.signature import read_signature
from .._shared.checks import describe, number, one_of, refuse_lost_graph, same_device, space
from .._shared.devices import tensor_on
from .._shared.errors import ArgumentTypeError, CamfnError, CaptureError
from .._shared.inputs import Images
from .._shared.maps import largest_space, min_max, resize, safe_divide, widen
from .._shared.value import Value, frozen
from .._shared.vocabulary import AnyLayout, Inputs, Select, Target

Fusion: TypeAlias = Literal["mean", "max", "tanh_max", "product", "weighted"]
"""The rule that combines several maps."""

Scaling: TypeAlias = Literal["relu_minmax", "relu_max", "minmax", "max", "none"]
"""The scaling that makes maps of different magnitude comparable, each sample by itself."""

_PAPERS: dict[str, Scaling] = {
    "mean": "relu_minmax",
    "max": "relu_minmax",
    "weighted": "relu_minmax",
    "tanh_max": "relu_max",
    "product": "relu_minmax",
}


def fuse_maps(
    maps: Sequence[Tensor],
    *,
    how: Fusion = "mean",
    size: Sequence[int] | None = None,
    scaling: Scaling | None = None,
    gamma: float = 2.0,
    weights: Sequence[float] | Tensor | None = None,
) -> Tensor:
    """Combine maps of the same samples at several layers.

    With `s` the scaling, `up` the resizing and `L_l` the map of layer l:

    - "mean", of pytorch-grad-cam: `mean_l up(s(L_l))`, s clipping at zero and stretching to [0, 1]. That library then
      stretches the mean once more, which is left to `image.normalize`; with that this is `image.peer_postprocess`.
    - "max": `max_l up(s(L_l))`, with the same scaling.
    - "tanh_max", of LayerCAM (eq. 9): `max_l up(tanh(gamma s(L_l)))`, s clipping at zero, as the outer ReLU of that
      paper does, and dividing by the maximum. torch-cam leaves the division to its own stretching.
    - "product", of RefineCAM (2605.14641): `prod_l s(up(L_l))`, s clipping at zero and stretching to [0, 1], after the
      resizing as in pytorch-grad-cam; torch-cam stretches before. Both stretch the product once more.
    - "weighted": `sum_l w_l up(s(L_l)) / sum_l w_l`, scaled as for the mean.

    One layer gives `up(s(L))` whatever `how` is, but for the tanh. The product is never above the smallest of its
    factors, and zero where one of them is.

    Args:
        maps: raw maps (B, *S_l), one a layer, of any sizes.
        how: the rule.
        size: the spatial shape of the result, such as (224, 224); None is that of the map with most positions.
        scaling: in place of the rule's own: "relu_minmax" `(m - min) / (max - min)` of the part above zero; "relu_max"
            that part over its maximum; "minmax" the stretching alone and "max" division by the largest magnitude, both
            of which clip nothing; "none". A constant map becomes 0 where it is stretched.
        gamma: of "tanh_max".
        weights: of "weighted", one number a layer, or (L, B).

    Returns:
        (B, *size), device and dtype of the first map.

    Raises:
        CamfnError: no maps, maps of other samples or dimensions, an unknown rule or scaling, weights that do not fit.

    Example:
        >>> import torch
        >>> deep, shallow = torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 1.0, 4.0, 2.0]])
        >>> fuse_maps([deep, shallow], how="product")
        tensor([[0.0000, 0.0625, 0.7500, 0.5000]])
    """
    if not isinstance(maps, (list, tuple)) or not all(isinstance(m, Tensor) for m in maps):
        raise ArgumentTypeError(
            f"fuse_maps: maps: expected a list of maps (B, *spatial), one a layer, got {describe(maps)}; for example "
            "fuse_maps([grad_cam(*c) for c in captured.values()])"
        )
    check_rule(how, scaling, size, gamma)
    given = list(maps)
    for m in given:
        if not m.is_floating_point() or 0 in m.shape[1:]:
            raise CamfnError(f"fuse_maps: expected maps of floats, none empty, got {tuple(m.shape)} of {m.dtype}")
        same_device("fuse_maps: maps", m, given[0], "first map")
    if not given or any(m.ndim != given[0].ndim or m.shape[0] != given[0].shape[0] or m.ndim < 2 for m in given):
        raise CamfnError(
            f"fuse_maps: expected maps (B, *spatial) of the same samples, one a layer, got "
            f"{[tuple(m.shape) for m in given]}; for example fuse_maps([grad_cam(*c) for c in captured.values()])"
        )
    rule = scaling or _PAPERS[how]
    target = tuple(size) if size is not None else largest_space(given)
    wide = [widen(m) for m in given]
    if how == "product":
        scaled = [_rescale(resize(m[:, None], target)[:, 0], rule) for m in wide]
    else:
        bend = (lambda m: torch.tanh(gamma * m)) if how == "tanh_max" else (lambda m: m)
        scaled = [resize(bend(_rescale(m, rule))[:, None], target)[:, 0] for m in wide]
    return _combine(torch.stack(scaled), how, weights).to(given[0].dtype)


def check_rule(how: Any, scaling: Any, size: Any = None, gamma: Any = 1.0) -> None:
    """Refuse an unknown rule or scaling, and a size or gamma that is none."""
    one_of("how", how, _PAPERS)
    one_of("scaling", scaling, (None, *get_args(Scaling)))
    number("gamma", gamma, "(0, inf)")
    if size is not None:
        space("size", size)


def _rescale(m: Tensor, rule: Scaling) -> Tensor:
    """Scale each map (B, *S) by itself."""
    dims = tuple(range(1, m.ndim))
    if rule in ("relu_minmax", "relu_max"):
        m = m.relu()
    if rule in ("relu_minmax", "minmax"):
        return min_max(m, dims)
    if rule in ("relu_max", "max"):
        return safe_divide(m, m.abs().amax(dims, keepdim=True))
    return m


def _combine(stacked: Tensor, how: Fusion, weights: Sequence[float] | Tensor | None) -> Tensor:
    """Combine the maps of L layers, (L, B, *S), into one, (B, *S)."""
    if how != "weighted":
        if weights is not None:
            raise CamfnError(f"weights belong to how='weighted', got how={how!r}: pass how='weighted', or no weights")
        if how == "mean":
            return stacked.mean(0)
        return stacked.prod(0) if how == "product" else stacked.amax(0)
    count, batch = stacked.shape[:2]
    if weights is not None and not isinstance(weights, Tensor):
        if not isinstance(weights, (list, tuple)):
            raise ArgumentTypeError(f"weights: expected a list of numbers, one a layer, got {describe(weights)}")
        for weight in weights:
            number("weights", weight)
    w = tensor_on([] if weights is None else weights, stacked.device, stacked.dtype)
    if tuple(w.shape) not in ((count,), (count, batch)):
        raise CamfnError(f"weights: expected ({count},) or ({count}, {batch}), one a layer, got {tuple(w.shape)}")
    w = w.reshape(count, -1, *(1,) * (stacked.ndim - 2))
    return safe_divide((w * stacked).sum(0), w.sum(0))


@frozen
class fuse(Value):
    """Compose a method with several layers of a model, and combine their maps by `fuse_maps`.

    A method that takes gradients and nothing else of the network costs one forward and one backward, however many the
    layers. Any other runs once a layer. The layers must see the same part of the image, all or a crop.

    Call it with the inputs and a target: it returns the fused map, (B, *size).

    Args:
        method: one of `camfn.methods`, a `functools.partial` of one, `eigen_smooth` of one, or a function of yours.
        model: any module; left exactly as it is.
        layers: dotted names or modules; or a pattern, or names with patterns among them, matched with
            `model.named_modules()` as by `fnmatch`, so that `*` also matches dots: "layer[34]", "features.*.conv".
        how: as for `fuse_maps`.
        size: as for `fuse_maps`.
        scaling: as for `fuse_maps`.
        gamma: as for `fuse_maps`.
        weights: as for `fuse_maps`, in the order of the layers; a pattern gives them in the order of the model.
        select: as for `explainer`, for every layer.
        layout: as for `explainer`, for every layer.
        images: as for `explainer`.
        chunk_size: as for `explainer`.
        progress: as for `explainer`; starts anew with every layer.
        differentiable: as for `explainer`.

    Raises:
        CaptureError: no layer fits a name or pattern, or what `capture` refuses.
        CamfnError: as for `fuse_maps`; layers that see different parts of the image.

    Example:
        >>> import torch
        >>> from camfn.methods import grad_cam
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5))
        >>> fuse(grad_cam, net, "[0]")(torch.ones(2, 3, 8, 8), 4).shape
        torch.Size([2, 6, 6])
    """

    method: Callable[..., Tensor]
    model: nn.Module
    layers: str | Sequence[str | nn.Module]
    _: KW_ONLY
    how: Fusion = "mean"
    size: Sequence[int] | None = None
    scaling: Scaling | None = None
    gamma: float = 2.0
    weights: Sequence[float] | Tensor | None = None
    select: Select | None = None
    layout: AnyLayout = "auto"
    images: Images | None = None
    chunk_size: int | Literal["auto"] | None = None
    progress: Callable[[int, int], None] | None = None
    differentiable: bool = False
    _together: Callable[..., Any] | None = field(init=False)
    _apart: tuple[explainer, ...] = field(init=False)
    _takes: int = field(init=False)

    def __post_init__(self) -> None:
        names, needs = matching(self.model, self.layers), read_signature(self.method)
        if not isinstance(self.layers, str):
            given = [self.layers] if isinstance(self.layers, nn.Module) else self.layers
            named = [layer_name(self.model, one) if isinstance(one, nn.Module) else one for one in given]
            object.__setattr__(self, "layers", named)
        check_rule(self.how, self.scaling, self.size, self.gamma)
        see: dict[str, Any] = {"select": self.select, "layout": self.layout, "images": self.images}
        see["differentiable"] = self.differentiable
        knobs: dict[str, Any] = {"chunk_size": self.chunk_size, "progress": self.progress}
        apart = [explainer(self.method, self.model, name, **knobs, **see) for name in names]
        together = needs.gradients and not needs.context - {"chunk_size"}
        object.__setattr__(self, "_together", capture_many(self.model, names, **see) if together else None)
        object.__setattr__(self, "_apart", tuple(apart))
        object.__setattr__(self, "_takes", needs.positional)

    def __call__(self, inputs: Inputs, target: Target = None) -> Tensor:
        """Return the fused map, (B, *size)."""
        if self._together is None:
            cams = self._one_by_one(inputs, target)
        else:
            if not self.differentiable:
                refuse_lost_graph("fuse", self.model, inputs)
            with (reads := Reads(inputs, derives=True)):
                by_layer = self._together(inputs, target)
            if len(by_layer) > 1:
                maps = {name: captured.activations for name, captured in by_layer.items()}
                refuse_parts("fuse", self.model, maps, reads, self.images)
            for name, captured in by_layer.items():
                spatial_map(name, captured.activations, self.layout)
            cams = [self.method(*captured[: self._takes]) for captured in by_layer.values()]
        return fuse_maps(
            cams, how=self.how, size=self.size, scaling=self.scaling, gamma=self.gamma, weights=self.weights
        )

    def _one_by_one(self, inputs: Inputs, target: Target) -> list[Tensor]:
        """Return the map of each layer, each from its own run."""
        first, *others = self._apart
        if not others:
            return [first(inputs, target)]
        # of a method that perturbs, one run tells as much as all
        perturbs = bool(first._needs.context - {"chunk_size", "progress"})
        with (reads := Reads(inputs)):
            told = first._see(inputs)[0] if perturbs else first(inputs, target)
        if reads.in_doubt:
            maps = {str(explain.layer): explain._see(inputs)[0] for explain in self._apart}
            refuse_parts("fuse", self.model, maps, reads, self.images)
        return [first(inputs, target) if perturbs else told, *(explain(inputs, target) for explain in others)]


def matching(model: nn.Module, layers: str | Sequence[str | nn.Module]) -> list[str]:
    """Return the names of the layers that names, modules and patterns stand for, each name once."""
    check_model(model)
    if not isinstance(layers, (str, nn.Module, list, tuple)):
        raise ArgumentTypeError(f"layers: expected names, patterns or modules, got {describe(layers)}")
    names: list[str] = []
    for layer in [layers] if isinstance(layers, (str, nn.Module)) else layers:
        names += (fitting(model, layer) if isinstance(layer, str) else None) or [layer_name(model, layer)]
    if not names:
        raise CaptureError("fuse: expected at least one layer, got an empty list")
    return list(dict.fromkeys(names))

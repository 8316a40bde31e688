"""camfn in the forms of other packages: Quantus' explain_func, Captum's attribute, a metric of torchmetrics.

Only `torchmetric` imports the other package, and only when it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from . import explainer
from ._cut.layer_checks import layer_name
from ._shared.checks import function
from ._shared.errors import ArgumentTypeError, MissingPackageError
from ._shared.value import Value, shown
from .image import normalize, upsample


class _Composed(Value):
    """What composes an explainer later on, and keeps the options for it."""

    options: Mapping[str, Any]

    def __repr__(self) -> str:
        plain = super().__repr__()
        text = "".join(f", {name}={shown(value)}" for name, value in self.options.items())
        return f"{plain[: plain.rindex(', options=')]}{text})"

    def _set(self, options: Mapping[str, Any], **fields: Any) -> None:
        """Set the fields of a frozen dataclass; refuse options that `explainer` does not have."""
        known = [name for name, one in signature(explainer).parameters.items() if one.kind is one.KEYWORD_ONLY]
        for name in options:
            if name not in known:
                raise ArgumentTypeError(f"{type(self).__name__}: explainer has no option {name!r}; it has {known}")
        for name, value in {**fields, "options": dict(options)}.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, eq=False, repr=False, init=False)
class quantus_explain(_Composed):
    """Make the `explain_func` that Quantus asks for: (model, inputs, targets) in numpy, one heatmap a sample back.

    Args:
        method: one of `camfn.methods`, or a function of yours.
        layer: a dotted name in the model.
        signed: keep negative values; by default maps are clipped at zero and stretched to [0, 1].
        options: of `explainer`, as layout and chunk_size; each as a keyword, or as `options={...}`.

    Returns:
        A function of model, inputs (B, C, *S) and targets (B,), arrays or tensors, that returns an array (B, 1, *S).
        It ignores the other keywords that Quantus passes, such as device.

    Example:
        >>> import numpy as np
        >>> from camfn.methods import grad_cam
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5))
        >>> explain = quantus_explain(grad_cam, "0")
        >>> explain(model=net, inputs=np.ones((2, 3, 8, 8), np.float32), targets=np.array([1, 4])).shape
        (2, 1, 8, 8)
    """

    method: Callable[..., Tensor]
    layer: str
    _: KW_ONLY
    signed: bool = False
    options: Mapping[str, Any]

    def __init__(
        self,
        method: Callable[..., Tensor],
        layer: str,
        *,
        signed: bool = False,
        options: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> None:
        function("method", method, "one of camfn.methods")
        self._set({**(options or {}), **more}, method=method, layer=layer, signed=signed)

    def __call__(self, model: nn.Module, inputs: Any, targets: Any, **_: Any) -> Any:
        """Explain a batch: arrays or tensors in, an array out."""
        like = next(model.parameters())
        images = torch.as_tensor(inputs).to(like)
        classes = torch.as_tensor(targets).to(like.device).long().reshape(-1)
        cam = explainer(self.method, model, self.layer, **self.options)(images, classes)
        heatmap = upsample(cam if self.signed else normalize(cam), images.shape[2:])
        return heatmap[:, None].detach().cpu().numpy()


@dataclass(frozen=True, eq=False, repr=False, init=False)
class LayerAttribution(_Composed):
    """A method in the form of Captum's layer attributions: `LayerAttribution(grad_cam, net, "0").attribute(x, 3)`.

    Args:
        method: one of `camfn.methods`, or a function of yours.
        model: any module.
        layer: a dotted name, or the module itself.
        options: of `explainer`; each as a keyword, or as `options={...}`.

    Example:
        >>> from camfn.methods import grad_cam
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5))
        >>> LayerAttribution(grad_cam, net, "0").attribute(torch.ones(2, 3, 8, 8), target=4).shape
        torch.Size([2, 1, 6, 6])
    """

    method: Callable[..., Tensor]
    model: nn.Module
    layer: str | nn.Module
    _: KW_ONLY
    options: Mapping[str, Any]

    def __init__(
        self,
        method: Callable[..., Tensor],
        model: nn.Module,
        layer: str | nn.Module,
        *,
        options: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> None:
        self._set({**(options or {}), **more}, method=method, model=model, layer=layer_name(model, layer))
        _ = self.explain  # which checks the rest

    @property
    def forward_func(self) -> nn.Module:
        """The model, by Captum's name."""
        return self.model

    @property
    def explain(self) -> Callable[..., Tensor]:
        """The explainer: inputs and a target to a map."""
        return explainer(self.method, self.model, self.layer, **self.options)

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: int | Tensor | None = None,
        additional_forward_args: Any = None,
        *,
        interpolate: bool = False,
    ) -> Tensor:
        """Explain, in Captum's order of arguments.

        Args:
            inputs: (B, C, *S), or a tuple of the model's inputs with that first.
            target: one class, one a sample, or None for the top class, where Captum expects a scalar output.
            additional_forward_args: further arguments of the model, one or a tuple.
            interpolate: return the map at the size of the inputs.

        Returns:
            (B, 1, *spatial), raw and signed, at the layer's resolution: what `captum.attr.LayerGradCam` returns.
        """
        images = inputs if isinstance(inputs, tuple) else (inputs,)
        if additional_forward_args is not None:
            more = additional_forward_args
            images = (*images, *(more if isinstance(more, tuple) else (more,)))
        cam = self.explain(images if len(images) > 1 else images[0], target)
        if interpolate:
            cam = upsample(cam, images[0].shape[2:])
        return cam[:, None]


def torchmetric(
    metric: Callable[..., Tensor], *, join: Callable[[Tensor], Tensor] | None = None, **options: Any
) -> Any:
    """Make a `torchmetrics.Metric` of a metric a sample: `update` with its arguments, `compute` for the mean.

    The metric adds up over batches and over processes, resets, clones, pickles, and goes into a `MetricCollection`.

    Args:
        metric: arguments to (B,) numbers, as `metrics.energy_in_box`; or, with `join`, to (B, T).
        join: all samples' (n, T) to the result, as `metrics.max_box_acc` of `metrics.box_ious`; by default the mean.
        options: bound to the metric's keywords.

    Returns:
        An instance of a subclass of `torchmetrics.Metric`.

    Raises:
        ImportError: torchmetrics is missing.

    Example:
        >>> from camfn.metrics import complexity
        >>> mean = torchmetric(complexity)
        >>> mean.update(torch.tensor([[0.0, 1.0], [0.25, 0.25]]))
        >>> mean.compute().item()
        0.375
    """
    try:
        import torchmetrics
    except ModuleNotFoundError as error:
        raise MissingPackageError("torchmetric makes a torchmetrics.Metric: pip install 'camfn[adapters]'") from error

    class Accumulated(torchmetrics.Metric):  # type: ignore[misc, name-defined, unused-ignore]
        """The metric of all samples so far, kept until `compute`."""

        full_state_update = False
        total: Tensor
        count: Tensor
        numbers: Any

        def __init__(self) -> None:
            super().__init__()
            if join is None:
                self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
                self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
            else:
                self.add_state("numbers", [], dist_reduce_fx="cat")

        def __reduce__(self) -> tuple[Any, ...]:
            return _again, (metric, join, options), self.__getstate__()

        def update(self, *arguments: Any, **keywords: Any) -> None:
            values = metric(*arguments, **(options | keywords)).detach()
            if join is None:
                self.total += values.double().sum()
                self.count += len(values)
            else:
                self.numbers.append(values)

        def compute(self) -> Tensor:
            if join is None:
                return self.total / self.count
            return join(self.numbers if isinstance(self.numbers, Tensor) else torch.cat(self.numbers))

    Accumulated.__name__ = Accumulated.__qualname__ = getattr(metric, "__name__", "Accumulated")
    return Accumulated()


def _again(metric: Callable[..., Tensor], join: Callable[[Tensor], Tensor] | None, options: dict[str, Any]) -> Any:
    """Make the metric of a pickle, which cannot hold a class that is made in a function."""
    return torchmetric(metric, join=join, **options)

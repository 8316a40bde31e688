"""Guided backpropagation and deconvnet, whose ReLUs pass positive gradients only, and Guided Grad-CAM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .._cut.explainer import explainer
from .._cut.graft import bare, graft
from .._cut.layer_checks import layer_name
from .._cut.sight import lay_over, may_see_parts, seen_by
from .._shared.errors import CamfnError
from .._shared.inputs import call, copy_of
from .._shared.maps import resize
from .._shared.value import Value, frozen
from .._shared.vocabulary import AnyLayout, Inputs, Select, Target
from ..methods._gradient.gradient import grad_cam
from ._biases import on_a_grid
from ._level import OnNetwork
from ._rectify import Rectify, Rule

_FORWARD_ONLY = (
    "Take torch.func.jvp or jacfwd: in reverse mode the rule would take the place of the derivative of its ReLUs too"
)


class _Rectified(OnNetwork):
    """A method whose ReLUs have a rule in the place of their derivative, which any other derivative would meet too."""

    _remedy = _FORWARD_ONLY

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.differentiable:
            raise CamfnError(f"{type(self).__name__}: differentiable=True cannot be had. {_FORWARD_ONLY}")
        scripted = next(
            (name for name, part in self.model.named_modules() if isinstance(part, torch.jit.ScriptModule)), None
        )
        if scripted is not None:
            raise CamfnError(
                f"{type(self).__name__}: {scripted!r} is a TorchScript module, whose ReLUs cannot be seen: pass the "
                "model as it was before it was scripted or traced"
            )


@frozen
class guided_backprop(_Rectified):
    """Guided backpropagation: the input gradient, where each ReLU passes only positive gradients back.

    At a ReLU of input z, `df/dz := g [g > 0] [z > 0]` of the gradient g in its output; everything else as in the
    gradient. One forward and one backward. The result shows edges of the image more than
    evidence for the class: it hardly changes when the last layers are randomized (arXiv 1810.03292).

    ReLUs are found where they are called: `nn.ReLU` and `nn.ReLU6` modules, `F.relu`, `torch.relu`, `x.relu()`, in
    place or not, once or many times, `F.hardtanh`, `clamp` and `threshold` from zero. The model is not edited. Other
    activations (GELU, SiLU, Hardswish, LeakyReLU, sigmoid gates ...) keep their own derivative: `unguided` names them.
    A network with such activations and no ReLU is refused, for its result would be the plain gradient; so is one with
    modules of `torch.jit`. ReLUs inside scripted functions and custom autograd functions are not seen.

    pytorch-grad-cam replaces `nn.ReLU` modules in the model itself, loses their `inplace`, does not see functional
    ones, and returns the first sample of a batch only.

    Source: arXiv 1412.6806.

    Call it with the inputs and a target (as for `camfn.capture`): it returns (B, C, *S), like the image.

    Args:
        model: any module; left exactly as it is.
        images: which input is the image, where several have space: an index, a key, a path of these such as
            ("pixels", 0), or a function of the inputs.
        differentiable: refused: in reverse mode the rule would take the place of the derivative of the ReLUs. Forward
            mode, `torch.func.jvp` and `jacfwd`, is right.

    Raises:
        CamfnError: no ReLU ran but other activations did; the target does not give one number a sample.
        TypeError: the inputs hold no floating-point tensor.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
        >>> net[0].weight.data, net[2].weight.data = torch.eye(2), torch.tensor([[1.0, -1.0]])
        >>> guided_backprop(net)(torch.tensor([[2.0, 3.0]]), 0)  # the gradient is (1, -1)
        tensor([[1., 0.]])
    """

    def __call__(self, inputs: Inputs, target: Target = None) -> Tensor:
        """Return the gradient, of the shape of the image."""
        return _rectified_gradient(self, "guided", inputs, target)


@frozen
class deconvnet(_Rectified):
    """Deconvnet: the input gradient with the positive part of the gradient in the place of each ReLU's own backward.

    At a ReLU, `df/dz := g [g > 0]`, wherever its input is; everything else as in the gradient, which for max pooling is
    the unpooling with switches and for a convolution the transposed one. ReLUs and other activations are treated as
    by `guided_backprop`. One forward and one backward. The image enters through the switches of max pooling alone:
    without max pooling, the result is the same for every image.

    Source: arXiv 1311.2901, and as a rule for the backward arXiv 1412.6806. Normalizations, which it does not treat,
    are differentiated.

    Call it with the inputs and a target (as for `camfn.capture`): it returns (B, C, *S), like the image.

    Args:
        model: any module; left exactly as it is.
        images: which input is the image, where several have space: an index, a key, a path of these such as
            ("pixels", 0), or a function of the inputs.
        differentiable: refused: in reverse mode the rule would take the place of the derivative of the ReLUs. Forward
            mode, `torch.func.jvp` and `jacfwd`, is right.

    Raises:
        CamfnError: no ReLU ran but other activations did; the target does not give one number a sample.
        TypeError: the inputs hold no floating-point tensor.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
        >>> net[0].weight.data, net[2].weight.data = torch.eye(2), torch.tensor([[1.0, -1.0]])
        >>> deconvnet(net)(torch.tensor([[-2.0, 3.0]]), 0)  # the gradient is (0, -1)
        tensor([[1., 0.]])
    """

    def __call__(self, inputs: Inputs, target: Target = None) -> Tensor:
        """Return the gradient, of the shape of the image."""
        return _rectified_gradient(self, "deconv", inputs, target)


@frozen
class guided_grad_cam(_Rectified):
    """Guided Grad-CAM: guided backpropagation where Grad-CAM is positive.

    `G(c, p) = guided(c, p) upsample(ReLU(L))(p)`, L the Grad-CAM map, upsampled linearly between half-pixel centers as
    everywhere in camfn. Nothing is stretched. Two forwards, one backward to the layer and one through all. captum
    upsamples to the nearest neighbor by default; pytorch-grad-cam has only the parts, and stretches the map.

    Source: arXiv 1610.02391, the section on Guided Grad-CAM.

    Call it with the inputs and a target (as for `camfn.capture`): it returns (B, C, *S), like the image.

    Args:
        model: any module; left exactly as it is.
        layer: where Grad-CAM is taken, a dotted name or the module itself.
        select: which tensor, where the layer returns a tuple or a dict.
        layout: turns the layer's own shape into (B, C, *S), as for `explainer`.
        images: which input is the image, where several have space: an index, a key, a path of these such as
            ("pixels", 0), or a function of the inputs.
        differentiable: refused: in reverse mode the rule would take the place of the derivative of the ReLUs. Forward
            mode, `torch.func.jvp` and `jacfwd`, is right.

    Raises:
        CamfnError: as for `guided_backprop`; a map of another number of spatial dimensions than the image.
        CaptureError: no such layer, or its activations are not a map.
        TypeError: the inputs hold no floating-point tensor.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
        >>> guided_grad_cam(net, "1")(torch.ones(2, 3, 8, 8), 4).shape
        torch.Size([2, 3, 8, 8])
    """

    layer: str | nn.Module
    _: KW_ONLY
    select: Select | None = None
    layout: AnyLayout = "auto"
    _locate: Callable[..., Tensor] = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layer", layer_name(self.model, self.layer))
        locate = explainer(
            grad_cam,
            self.model,
            self.layer,
            select=self.select,
            layout=self.layout,
            images=self.images,
        )
        object.__setattr__(self, "_locate", locate)

    def __call__(self, inputs: Inputs, target: Target = None) -> Tensor:
        """Return the product, of the shape of the image."""
        keep = self.keeps_graph(inputs)
        with torch.inference_mode(False), torch.set_grad_enabled(keep):
            where = self._locate(inputs, target).relu()[:, None]
            around = partial(_rectified, "guided_grad_cam", "guided")
            guided = self.derived(inputs, target, taps=on_a_grid, around=around)
            size = guided.image_grad.shape[2:]
            image, rebuild = self.image_of(inputs)
            if may_see_parts(inputs, image, guided.reads):
                name = str(self.layer)
                layer = bare(self.model).get_submodule(name)
                seen = seen_by("guided_grad_cam", self.model, image, rebuild, lambda module: module is layer)
                over = lay_over(where, seen[name], size)
            else:
                over = resize(where, size)
            return guided.image_grad * over.to(guided.image_grad.dtype)


@frozen
class unguided(Value):
    """Name the activations that `guided_backprop` and `deconvnet` leave alone: those that are no ReLU.

    One forward, without a backward.

    Source: none; arXiv 1412.6806 does not treat other activations.

    Call it with the inputs: it returns, for each module that called such an activation, its dotted name and what it
    called, several joined by ", ". The name is that of the innermost module; "" is the model itself. Empty where all
    activations are guided.

    Args:
        model: any module; left exactly as it is.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> unguided(net)(torch.ones(1, 4))
        {'1': 'gelu'}
    """

    model: nn.Module

    def __call__(self, inputs: Inputs) -> dict[str, str]:
        """Return the dotted names, and what each module called."""
        inside: list[str] = []
        activations: dict[str, list[str]] = {}

        def note(activation: str) -> None:
            activations.setdefault(inside[-1] if inside else "", []).append(activation)

        mode = Rectify("guided", note)
        copy = graft(self.model, {id(module) for module in self.model.modules()})
        for name, module in self.model.named_modules():
            _announce(copy.owned[id(module)], name, inside)
        with torch.inference_mode(False), torch.no_grad(), mode:
            call(copy, copy_of(inputs))
        return {name: ", ".join(dict.fromkeys(called)) for name, called in activations.items()}


def _announce(module: nn.Module, name: str, inside: list[str]) -> None:
    """Keep the names of the modules that are running in `inside`, the innermost last."""

    def enter(module: nn.Module, args: Any) -> None:
        inside.append(name)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        inside.pop()

    module.register_forward_pre_hook(enter)
    module.register_forward_hook(leave)


def _rectified_gradient(of: OnNetwork, rule: Rule, inputs: Inputs, target: Target) -> Tensor:
    """Return the input gradient under the rule."""
    return of.derived(inputs, target, around=lambda: _rectified(type(of).__name__, rule)).image_grad


@contextmanager
def _rectified(name: str, rule: Rule) -> Iterator[None]:
    """Run a network under the rule; refuse a network that has other activations and no ReLU."""
    others: list[str] = []
    mode = Rectify(rule, others.append)
    with mode:
        yield
    if others and not mode.guided:
        kinds = ", ".join(dict.fromkeys(others))
        raise CamfnError(
            f"{name}: no ReLU ran in this network, but {kinds} did, which keep their own derivative, so the result "
            "would be the plain gradient. Take camfn.network.input_gradient(model) for that, or smooth_grad; "
            "camfn.network.unguided(model)(inputs) names the modules"
        )

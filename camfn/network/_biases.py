"""The bias of each kind of module: its output less the linear part."""

# tested in tests/network/test_full.py

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import vjp
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from .._cut.folded import BIAS_FOLDED
from .._shared.errors import CamfnError
from .._shared.maps import widen

CLIPPED = (nn.Hardtanh, nn.ReLU6)
"""Modules that are linear in pieces, with an offset on some pieces."""

SMOOTH = (
    nn.CELU, nn.ELU, nn.GELU, nn.GLU, nn.Hardsigmoid, nn.Hardswish, nn.LogSigmoid, nn.LogSoftmax, nn.Mish,
    nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softmax, nn.Softmax2d, nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh,
    nn.Tanhshrink, nn.Threshold, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, _InstanceNorm,
)  # fmt: skip
"""Modules of one tensor that are not linear in pieces through zero, and that `torch.func` differentiates twice."""


def on_a_grid(module: nn.Module) -> bool:
    """Whether a module adds a bias at every position of a (B, C, *S) map: the layers of a FullGrad map."""
    return isinstance(module, _BatchNorm) or (isinstance(module, _ConvNd) and module.bias is not None)


def biased(module: nn.Module) -> bool:
    """Whether a module is affine, or linear in pieces, with an offset."""
    if isinstance(module, nn.Linear):
        return module.bias is not None
    return on_a_grid(module) or isinstance(module, CLIPPED)


def biased_or_smooth(module: nn.Module) -> bool:
    """Whether a module is known not to be positively homogeneous: it has an offset, or is smooth."""
    return biased(module) or isinstance(module, SMOOTH)


def offset_of(module: nn.Module, z: Tensor) -> Tensor:
    """Return `f(z) - J_f(z) z`, the bias of an affine module; it broadcasts to the output of the module."""
    if getattr(module, BIAS_FOLDED, False):
        raise CamfnError(
            f"FullGrad takes the bias of a {type(module).__name__} and that of its BatchNorm apart, and in a prepared "
            "network they are one. Give it the model that was prepared"
        )
    if not z.is_meta and any(
        own.is_meta for own in (*module.parameters(recurse=False), *module.buffers(recurse=False))
    ):
        raise CamfnError(
            f"FullGrad reads the bias of a {type(module).__name__}, which is offloaded and not at hand. Load the model "
            "without offloading, or take grad_cam, which reads no weights"
        )
    if isinstance(module, _BatchNorm):
        if module.training or module.running_mean is None or module.running_var is None:
            raise CamfnError(
                "FullGrad needs BatchNorm with fixed statistics, since statistics of the batch make samples depend "
                f"on each other; this {type(module).__name__} takes those of the batch. Call model.eval() first"
            )
        if type(module).forward is _BatchNorm.forward:
            return _spread(_batch_norm_bias(module), z.ndim - 2)
    if isinstance(module, (_ConvNd, nn.Linear)) and module.bias is not None:
        return _spread(module.bias, len(module.kernel_size) if isinstance(module, _ConvNd) else 0)
    at = z.clone()
    value, pullback = cast(Any, vjp(lambda x: module.forward(x.clone()), at))
    # J z is the transpose of the pullback, applied to z; torch.func.jvp would script decompositions first and warn
    push: Any = vjp(lambda u: pullback(u)[0], torch.zeros_like(value))[1]
    rest: Tensor = value - push(at)[0]
    return rest


def _batch_norm_bias(module: _BatchNorm) -> Tensor:
    """Return `beta - gamma mu / sqrt(var + eps)`."""
    assert module.running_mean is not None
    assert module.running_var is not None
    mean, var = widen(module.running_mean, module.running_var)
    bias = -mean / (var + module.eps).sqrt()
    if module.affine:
        bias = module.bias + module.weight * bias
    return bias


def _spread(bias: Tensor, spatial: int) -> Tensor:
    """Give a bias (C,) as many spatial dimensions of size 1: (C, 1, ..., 1)."""
    return bias.reshape(-1, *(1,) * spatial)

"""Copies of the activations with one channel replaced each, and a cheap first convolution of these copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..._shared.rows import readable

_CONVOLUTIONS = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
_NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


class Ablated:
    """Copies of the activations; each copy has one channel of the baseline.

    The channels are (n, 1), the same for all samples, or (n, B), each sample's own.

    Attributes:
        rows: (n, B, C, *S), the copies; channels last in memory if convolutions of images on a CPU are to follow.
        change: (n, B, *S), the replaced channel of each copy less the channel of the activations.
    """

    def __init__(
        self, activations: Tensor, baseline: Tensor, channels: Tensor, *, has_convolutions_left: bool = False
    ) -> None:
        self.activations, self.channels = activations, channels
        images = has_convolutions_left and activations.ndim == 4 and activations.device.type == "cpu"
        form = torch.channels_last if images else torch.contiguous_format
        shape = (len(channels) * len(activations), *activations.shape[1:])
        own = torch.empty(shape, dtype=activations.dtype, device=activations.device, memory_format=form)
        self.rows = own.view(len(channels), *activations.shape)
        self.rows.copy_(activations.contiguous(memory_format=form))
        samples = torch.arange(len(activations), device=own.device)
        filled = baseline[samples, channels]
        self.rows[torch.arange(len(channels), device=own.device)[:, None], samples, channels] = filled
        self.change = filled - activations[samples, channels]
        # An infinite channel hides the others in a sum, so that the change cannot be added to the convolution.
        # Inference tensors have no version counter: we could not tell whether the network wrote to the rows.
        can_split = readable(own) and not own.is_inference() and bool(activations.isfinite().all())
        self._version = own._version if can_split else None

    def through(self, score_many: Callable[[Tensor], Tensor]) -> Tensor:
        """Run `score_many(rows)`, and replace each convolution of the rows by a cheaper sum.

        A convolution is linear: its result for row i is its result for the activations plus its result for the change
        in channel i. The first term is the same for all rows, and the second costs one channel instead of C.
        """
        with _Split(self):
            return score_many(self.rows)

    def is_in(self, x: Any) -> bool:
        """Whether a tensor is the rows as one batch, and no operation has written to the rows since they were made."""
        return (
            isinstance(x, Tensor)
            and x.data_ptr() == self.rows.data_ptr()
            and x.shape == self.rows.flatten(0, 1).shape
            and x.dtype == self.rows.dtype
            and self._version is not None
            and x._version == self._version
        )

    def convolved(self, convolution: Callable[..., Tensor], settings: dict[str, Any], ndim: int) -> Tensor:
        """Return the convolution of the rows, as one batch: that of the activations plus that of each change."""
        weight, stride, padding = settings["weight"], _each(settings["stride"], ndim), _each(settings["padding"], ndim)
        windows = F.pad(self.change, [side for width in reversed(padding) for side in (width, width)])
        for axis, (size, step) in enumerate(zip(weight.shape[2:], stride)):
            windows = windows.unfold(2 + axis, size, step)
        space = windows.shape[2 : 2 + ndim]
        # n rows of B samples, or n * B rows of one: (rows, samples * places, places of the kernel) times
        # (rows, places of the kernel, O)
        kernels = weight[:, self.channels.flatten()].flatten(2).permute(1, 2, 0)
        change = torch.bmm(windows.reshape(len(kernels), -1, kernels.shape[1]), kernels)
        change = change.reshape(*windows.shape[:2], *space, kernels.shape[2]).movedim(-1, 2)
        return torch.flatten(change + convolution(**{**settings, "input": self.activations}), 0, 1)


class _Split(TorchFunctionMode):
    """Calls `Ablated.convolved` where the network convolves the rows.

    Why a mode: the convolution is somewhere inside the network, behind any number of modules, and its weight is known
    only when the network calls it. The mode sees every call of `torch.conv1d`, `conv2d` and `conv3d`. A convolution is
    replaced only if its input is the memory of the rows (the same address, shape and dtype) and the version counter of
    the rows has not moved: then the input holds the rows for certain. Grouped and dilated convolutions, and padding by
    name, run as they are. Any view or copy of the rows has another address or shape and runs as it is, too.
    """

    def __init__(self, ablated: Ablated) -> None:
        super().__init__()
        self.ablated = ablated

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _CONVOLUTIONS:
            settings: dict[str, Any] = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
            settings |= {**dict(zip(_NAMES, args)), **kwargs}
            ndim = _CONVOLUTIONS[func]
            simple = settings["groups"] == 1 and set(_each(settings["dilation"], ndim)) == {1}
            if simple and not isinstance(settings["padding"], str) and self.ablated.is_in(settings["input"]):
                return self.ablated.convolved(func, settings, ndim)
        return func(*args, **kwargs)


def _each(value: int | tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """Return one number for each dimension."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * ndim if len(values) == 1 else values

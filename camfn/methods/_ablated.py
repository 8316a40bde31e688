"""Activations without one channel each, and the first convolution that sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .._shared.rows import readable

_CONVOLUTIONS = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
_NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


class Ablated:
    """Copies of the activations, in each of which one channel is what it is in the baseline.

    Attributes:
        rows: (n, B, C, *S), in memory as a CPU convolves them fastest where that is asked for.
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
        filled = baseline[:, channels].transpose(0, 1)
        self.rows[torch.arange(len(channels), device=own.device), :, channels] = filled
        self.change = filled - activations[:, channels].transpose(0, 1)
        # a sum with an infinite channel has forgotten the others, and what counts no versions may have been written to
        sound = readable(own) and not own.is_inference() and bool(activations.isfinite().all())
        self._version = own._version if sound else None

    def through(self, score_many: Callable[[Tensor], Tensor]) -> Tensor:
        """Run `score_many(rows)`, with convolutions of the rows themselves taken apart.

        A convolution is linear: what it makes of row i is what it makes of the activations and what it makes of the
        change in channel i. The first is the same for all rows, the second costs one channel instead of C.
        """
        with _Split(self):
            return score_many(self.rows)

    def is_in(self, x: Any) -> bool:
        """Whether a tensor is these rows as one batch, and nothing was written to them since."""
        return (
            isinstance(x, Tensor)
            and x.data_ptr() == self.rows.data_ptr()
            and x.shape == self.rows.flatten(0, 1).shape
            and x.dtype == self.rows.dtype
            and self._version is not None
            and x._version == self._version
        )

    def convolved(self, convolution: Callable[..., Tensor], settings: dict[str, Any], ndim: int) -> Tensor:
        """What a convolution makes of the rows, as one batch."""
        weight, stride, padding = settings["weight"], _each(settings["stride"], ndim), _each(settings["padding"], ndim)
        windows = F.pad(self.change, [side for width in reversed(padding) for side in (width, width)])
        for axis, (size, step) in enumerate(zip(weight.shape[2:], stride)):
            windows = windows.unfold(2 + axis, size, step)
        space = windows.shape[2 : 2 + ndim]
        # (n, B * places, places of the kernel) times (n, places of the kernel, O)
        kernels = weight[:, self.channels].flatten(2).permute(1, 2, 0)
        change = torch.bmm(windows.reshape(len(windows), -1, kernels.shape[1]), kernels)
        change = change.reshape(len(change), -1, *space, kernels.shape[2]).movedim(-1, 2)
        return torch.flatten(change + convolution(**{**settings, "input": self.activations}), 0, 1)


class _Split(TorchFunctionMode):
    def __init__(self, ablated: Ablated) -> None:
        super().__init__()
        self.ablated = ablated

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _CONVOLUTIONS:
            settings: dict[str, Any] = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
            settings |= {**dict(zip(_NAMES, args)), **kwargs}
            ndim = _CONVOLUTIONS[func]
            plain = settings["groups"] == 1 and set(_each(settings["dilation"], ndim)) == {1}
            if plain and not isinstance(settings["padding"], str) and self.ablated.is_in(settings["input"]):
                return self.ablated.convolved(func, settings, ndim)
        return func(*args, **kwargs)


def _each(value: int | tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """One number a dimension."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * ndim if len(values) == 1 else values

"""What a model itself says about how it cuts an image: patches, tokens without a place, other sequences."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils import _pytree as pytree

_PREFIX = re.compile(r"(^|\.|_)(cls|class|dist|distillation|reg|register)_?(tokens?|embedding)$")
_SUFFIX = re.compile(r"(^|\.|_)(detection)_tokens?$")
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_FIRST = (
    *_CONVOLUTIONS,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
)
_WIDTHS = ("out_channels", "out_features", "num_features", "num_channels")


class Stem(NamedTuple):
    """The convolution that reads the image.

    Attributes:
        name: dotted.
        grid: spatial shape of what it returns.
        stride: along each dimension.
        width: its channels.
        patches: whether it cuts the image into patches that do not overlap.
    """

    name: str
    grid: tuple[int, ...]
    stride: tuple[int, ...]
    width: int
    patches: bool


class Facts(NamedTuple):
    """What holds for a layer.

    Attributes:
        stem: of the tower that the layer is a part of, if it has one.
        prefix: number of tokens with no place that come first.
        suffix: number of those that come last.
        source: where the model says so.
    """

    stem: Stem | None
    prefix: int
    suffix: int
    source: str


def facts(model: nn.Module, name: str, image: Sequence[int]) -> Facts:
    """Collect the facts from the smallest part of the model around the layer that reads the image.

    Args:
        model: the whole.
        name: of the layer.
        image: (C, *spatial).
    """
    for path, part in around(model, name):
        stem = _stem(path, part, image)
        if stem:
            return Facts(stem, *_counts(part))
    return Facts(None, *_counts(model))


def around(model: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """The layer and what it is a part of, from the inside out."""
    parts = name.split(".") if name else []
    for end in range(len(parts), -1, -1):
        path = ".".join(parts[:end])
        yield path, model.get_submodule(path)


def _stem(path: str, part: nn.Module, image: Sequence[int]) -> Stem | None:
    for below, module in part.named_modules():
        if not isinstance(module, _CONVOLUTIONS) or module.in_channels != image[0]:
            continue
        if len(module.kernel_size) != len(image) - 1:
            continue
        grid = tuple(_convolved(module, i, size) for i, size in enumerate(image[1:]))
        stride = tuple(module.stride)
        name = f"{path}.{below}".strip(".")
        return Stem(name, grid, stride, module.out_channels, stride == tuple(module.kernel_size) and max(stride) > 1)
    return None


def _convolved(module: Any, i: int, size: int) -> int:
    stride: int = module.stride[i]
    if module.padding == "same":
        return math.ceil(size / stride)
    padding: int = 0 if module.padding == "valid" else module.padding[i]
    reach: int = module.dilation[i] * (module.kernel_size[i] - 1) + 1
    return (size + 2 * padding - reach) // stride + 1


def _counts(part: nn.Module) -> tuple[int, int, str]:
    """Tokens with no place, before and after the others."""
    named = dict(part.named_parameters())
    first = {name: p for name, p in named.items() if _PREFIX.search(name)}
    last = sum(_length(p) for name, p in named.items() if _SUFFIX.search(name))
    for module in part.modules():
        count = getattr(module, "num_prefix_tokens", None)
        if isinstance(count, int):
            return count, last, f"num_prefix_tokens={count}"
    words = ", ".join(name.rpartition(".")[2] for name in first) or "no class token"
    return sum(_length(p) for p in first.values()), last, words


def _length(token: Tensor) -> int:
    return int(token.shape[-2]) if token.ndim > 1 else 1


def unrelated_lengths(model: nn.Module, inputs: Any) -> dict[int, str]:
    """Lengths of sequences that have nothing to do with the image, in words: text, queries, states."""
    found = {
        leaf.shape[1]: f"the {leaf.shape[1]} tokens of the text"
        for leaf in pytree.tree_leaves(inputs)
        if isinstance(leaf, Tensor) and leaf.ndim == 2 and not leaf.is_floating_point()
    }
    for module in model.modules():
        for holder in (module, getattr(module, "config", None)):
            for key, word in (("num_queries", "queries"), ("state_dim", "states")):
                count = getattr(holder, key, None)
                if isinstance(count, int):
                    found[count] = f"the {count} {word}"
    return {count: f"{words}, which have no place: take a layer that sees the image" for count, words in found.items()}


def axis(module: nn.Module, shape: Sequence[int]) -> int | None:
    """Axis of the channels in what a single operation returns, where its class or its own numbers tell: 1 or -1."""
    if isinstance(module, _FIRST):
        return 1
    if isinstance(module, nn.Linear):
        return -1
    return _norm_axis(module, shape)


def _norm_axis(module: nn.Module, shape: Sequence[int]) -> int | None:
    if not is_norm(module):
        return None
    # timm, torchvision and transformers have layer norms over axis 1, of the same base class
    width = width_of(module)
    fits = [place for place in (1, -1) if width == shape[place]]
    if len(fits) == 1:
        return fits[0]
    if type(module) in (nn.LayerNorm, nn.RMSNorm):
        return -1
    return 1 if type(module).__name__.endswith("2d") else None


def is_norm(module: nn.Module) -> bool:
    """Whether it normalizes over the channels of each place."""
    return isinstance(module, nn.LayerNorm) or re.search("layernorm|rmsnorm", type(module).__name__.lower()) is not None


def width_of(module: nn.Module) -> int | None:
    """Number of channels of what a module returns, as its last part with such a number has it."""
    for part in reversed(list(module.modules())):
        for key in _WIDTHS:
            value = getattr(part, key, None)
            if isinstance(value, int):
                return value
        shape = getattr(part, "normalized_shape", None)
        if isinstance(shape, (tuple, list)) and shape:
            return int(shape[-1])
    return None

"""Facts that a model states about a layer: its patches, its class and register tokens, its other sequences."""

# tested in tests/layout/test_find.py

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils import _pytree as pytree

_PREFIX_PARAMETER = re.compile(r"(^|\.|_)(cls|class|dist|distillation|reg|register)_?(tokens?|embedding)$")
_SUFFIX_PARAMETER = re.compile(r"(^|\.|_)(detection)_tokens?$")
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CHANNELS_ON_AXIS_1 = (
    *CONVOLUTIONS,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
)
_WIDTH_ATTRIBUTES = ("out_channels", "out_features", "num_features", "num_channels")


class Stem(NamedTuple):
    """The convolution that reads the image.

    Attributes:
        name: dotted name of the convolution.
        grid: spatial shape of its output.
        stride: its stride along each dimension.
        width: number of its output channels.
        patches: whether it cuts the image into patches that do not overlap.
    """

    name: str
    grid: tuple[int, ...]
    stride: tuple[int, ...]
    width: int
    patches: bool


class Facts(NamedTuple):
    """Facts about the tower that a layer is a part of.

    Attributes:
        stem: the convolution that reads the image, if the tower has one.
        prefix: number of tokens before the patches that stand for no place in the image, such as a class token.
        suffix: number of such tokens after the patches.
        source: the part of the model that states the prefix.
    """

    stem: Stem | None
    prefix: int
    suffix: int
    source: str


class LayerContext:
    """A layer, the modules around it and the image: the ancestors and the facts are collected once, when needed.

    Attributes:
        model: the model that holds the layer.
        name: dotted name of the layer.
        image: shape of the batch of images, (B, C, *spatial).
        module: the layer.
    """

    def __init__(self, model: nn.Module, name: str, image: Sequence[int]) -> None:
        self.model, self.name, self.image = model, name, tuple(image)
        self.module = model.get_submodule(name)
        # no functools.cached_property: torch.compile cannot trace the lock that it takes before Python 3.12
        self._ancestors: list[tuple[str, nn.Module]] | None = None
        self._facts: Facts | None = None

    @property
    def ancestors(self) -> list[tuple[str, nn.Module]]:
        """The layer and each module that holds it, with their names, from the layer to the model."""
        if self._ancestors is None:
            parts = self.name.split(".") if self.name else []
            paths = [".".join(parts[:end]) for end in range(len(parts), -1, -1)]
            self._ancestors = [(path, self.model.get_submodule(path)) for path in paths]
        return self._ancestors

    @property
    def facts(self) -> Facts:
        """Facts of the innermost ancestor that reads the image."""
        if self._facts is None:
            self._facts = self._collect_facts()
        return self._facts

    def _collect_facts(self) -> Facts:
        for path, ancestor in self.ancestors:
            stem = _stem(path, ancestor, self.image[1:])
            if stem:
                return Facts(stem, *_unplaced_tokens(ancestor))
        return Facts(None, *_unplaced_tokens(self.model))


def read_by_tower(model: nn.Module, name: str, images: list[Tensor]) -> list[Tensor]:
    """Keep the images that the innermost module around a layer reads with a convolution; all where there is none."""
    for path, ancestor in LayerContext(model, name, images[0].shape).ancestors:
        read = [image for image in images if _stem(path, ancestor, image.shape[1:])]
        if read:
            return read
    return images


def tower(model: nn.Module, name: str, images: Sequence[Tensor]) -> str:
    """Return the name of the tower that a layer is a part of.

    It is the innermost module around the layer that reads an image with a convolution; without any, the innermost that
    holds its layers by number.
    """
    for path, ancestor in LayerContext(model, name, ()).ancestors:
        if any(_stem(path, ancestor, image.shape[1:]) for image in images):
            return path
    parts = name.split(".")
    return ".".join(parts[: next((i for i, part in enumerate(parts) if part.isdigit()), len(parts))])


def _stem(path: str, part: nn.Module, image: Sequence[int]) -> Stem | None:
    """Find the first convolution in a module that takes as many channels and dimensions as the image (C, *spatial)."""
    for below, module in part.named_modules():
        if not isinstance(module, CONVOLUTIONS) or module.in_channels != image[0]:
            continue
        if len(module.kernel_size) != len(image) - 1:
            continue
        grid = tuple(convolved_length(module, i, size) for i, size in enumerate(image[1:]))
        stride = tuple(module.stride)
        name = f"{path}.{below}".strip(".")
        return Stem(name, grid, stride, module.out_channels, stride == tuple(module.kernel_size) and max(stride) > 1)
    return None


def reads_a_picture(layer: LayerContext) -> bool:
    """Whether the part around a layer takes a spectrogram (B, time, frequency) for a picture of one channel."""
    for _, part in layer.ancestors:
        kinds = {type(module): module.in_channels for module in _last_first_convolutions(part)}
        if kinds:
            return kinds.get(nn.Conv2d) == 1 and nn.Conv1d not in kinds
    return False


def _last_first_convolutions(part: nn.Module) -> list[Any]:
    return [module for module in reversed(list(part.modules())) if isinstance(module, CONVOLUTIONS)]


def convolved_length(module: Any, i: int, size: int) -> int:
    """Length of a convolution's output along dimension `i`, for an input of length `size`."""
    stride: int = module.stride[i]
    if module.padding == "same":
        return math.ceil(size / stride)
    padding: int = 0 if module.padding == "valid" else module.padding[i]
    reach: int = module.dilation[i] * (module.kernel_size[i] - 1) + 1
    return (size + 2 * padding - reach) // stride + 1


def _unplaced_tokens(part: nn.Module) -> tuple[int, int, str]:
    """Count the tokens that stand for no place, before and after the patches, and name the source of the first."""
    named = dict(part.named_parameters())
    first = {name: p for name, p in named.items() if _PREFIX_PARAMETER.search(name)}
    last = sum(_length(p) for name, p in named.items() if _SUFFIX_PARAMETER.search(name))
    for module in part.modules():
        count = attribute(module, "num_prefix_tokens")
        if isinstance(count, int):
            return count, last, f"num_prefix_tokens={count}"
    words = ", ".join(name.rpartition(".")[2] for name in first) or "no class token"
    return sum(_length(p) for p in first.values()), last, words


def _length(token: Tensor) -> int:
    """Number of tokens that a parameter (..., n, C) or (C,) holds."""
    return int(token.shape[-2]) if token.ndim > 1 else 1


def attribute(module: nn.Module, key: str) -> Any:
    """Return an attribute that is no part and no tensor, or None. `getattr` takes ten times as long to find none."""
    own = vars(module)
    if key in own:
        return own[key]
    return getattr(module, key, None) if hasattr(type(module), key) else None


def unrelated_lengths(model: nn.Module, inputs: Any) -> dict[int, str]:
    """Map the length of each sequence that is not made of places in the image (text, queries, states) to its name."""
    lengths = {
        leaf.shape[1]: f"the {leaf.shape[1]} tokens of the text"
        for leaf in pytree.tree_leaves(inputs)
        if isinstance(leaf, Tensor) and leaf.ndim == 2 and not leaf.is_floating_point()
    }
    for module in model.modules():
        config = attribute(module, "config")
        for key, word in (("num_queries", "queries"), ("state_dim", "states")):
            for count in (attribute(module, key), getattr(config, key, None)):
                if isinstance(count, int):
                    lengths[count] = f"the {count} {word}"
    return {
        count: f"{words}, which have no place: take a layer that sees the image" for count, words in lengths.items()
    }


def channel_axis(module: nn.Module, shape: Sequence[int]) -> int | None:
    """Axis of the channels in the output of one operation, 1 or -1; None where its class and its width do not say."""
    if isinstance(module, _CHANNELS_ON_AXIS_1):
        return 1
    if isinstance(module, nn.Linear):
        return -1
    return _norm_axis(module, shape)


def _norm_axis(module: nn.Module, shape: Sequence[int]) -> int | None:
    """Axis of the channels in the output of a layer norm."""
    if not is_norm(module):
        return None
    # timm, torchvision and transformers have layer norms over axis 1, of the same base class
    width = width_of(module)
    fitting_axes = [axis for axis in (1, -1) if width == shape[axis]]
    if len(fitting_axes) == 1:
        return fitting_axes[0]
    if type(module) in (nn.LayerNorm, nn.RMSNorm):
        return -1
    return 1 if type(module).__name__.endswith("2d") else None


def is_norm(module: nn.Module) -> bool:
    """Whether a module normalizes over the channels of each place."""
    name = type(module).__name__.lower()
    # the compiler of torch 2.11 cannot trace `re`
    return isinstance(module, nn.LayerNorm) or "layernorm" in name or "rmsnorm" in name


def width_of(module: nn.Module) -> int | None:
    """Number of channels of a module's output: the width of its last part that has one."""
    for child in reversed(list(module.children())):
        if (width := width_of(child)) is not None:
            return width
    for key in _WIDTH_ATTRIBUTES:
        value = attribute(module, key)
        if isinstance(value, int):
            return value
    shape = attribute(module, "normalized_shape")
    if isinstance(shape, (tuple, list)) and shape:
        return int(shape[-1])
    return None

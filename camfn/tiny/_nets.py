"""The five models, and their weights."""

# tested in tests/tiny/test_tiny.py

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from .._shared.errors import CamfnError
from ._scenes import SIZE

DATA: Path = Path(__file__).with_name("data")
"""Where the digits and the weights are."""

DIGITS: list[str] = [str(digit) for digit in range(10)]
"""Class names, by index."""


def load(name: str, *, trained: bool = True) -> nn.Module:
    """Load a trained model of the tiny world.

    All take images (B, 3, 64, 64), RGB in [0, 1].

    - "cnn": logits (B, 10), one a digit that may be there; convolutions, global average pooling and a linear layer. Its
      last map is `body`, (16, 16).
    - "vit": the same from a vision transformer with a convolutional stem and a class token; its last tokens with a
      gradient are `blocks.2.norm1`, 1 + 64 of them.
    - "segmenter": logits (B, 11, 64, 64), background first, in a dict under "out", as torchvision has it.
    - "detector": candidates (B, 256, 15) before any suppression: center x, center y, width and height in pixels, and
      the logits of there being an object and of the ten classes, as a YOLO has them.
    - "cnn-idsds": "cnn", trained further for 150 steps on batches of which half of the scenes lost one cell of 4 x 4:
      IDSDS (2407.11910) compares networks only after such a training. Its attribute `trained_further` says how.

    Args:
        name: of the five.
        trained: with the weights that ship; otherwise random ones, always the same.

    Returns:
        The model in evaluation mode, on the CPU, in float32.

    Raises:
        CamfnError: another name.

    Example:
        >>> import torch
        >>> load("cnn")(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 10])
    """
    if name not in NETS:
        raise CamfnError(f"no model {name!r} of the tiny world: expected one of {', '.join(NAMES)}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = NETS[name]().eval()
    if not trained:
        return model
    state = torch.load(DATA / f"{name}.pt", map_location="cpu", weights_only=True)
    model.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in state.items()})
    if name in FURTHER:
        vars(model)["trained_further"] = FURTHER[name]
    return model


def _conv(into: int, out: int, stride: int = 1) -> nn.Sequential:
    """Build a convolution, a BatchNorm and a ReLU."""
    return nn.Sequential(nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True))


def _body(width: int = 64) -> nn.Sequential:
    """(B, 3, 64, 64) to (B, width, 16, 16)."""
    return nn.Sequential(_conv(3, 24, 2), _conv(24, 32), _conv(32, width, 2), _conv(width, width), _conv(width, width))


def _cnn() -> nn.Module:
    """Build the convolutional classifier: body, global pooling, linear head."""
    parts = [("body", _body()), ("pool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten())]
    return nn.Sequential(OrderedDict([*parts, ("head", nn.Linear(64, 10))]))


class ViT(nn.Module):
    """A vision transformer with a convolutional stem: patches of 8 pixels, a class token."""

    def __init__(self, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        self.body = _body()
        self.patches = nn.Conv2d(64, width, 2, 2)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(0.02 * torch.randn(1, 1 + (SIZE // 8) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 64, 64) to logits (B, 10)."""
        patches = self.patches(self.body(images)).flatten(2).mT
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), patches], 1) + self.places
        return cast(Tensor, self.head(self.norm(self.blocks(tokens))[:, 0]))


class Block(nn.Module):
    """A transformer block, normalized ahead of attention and perceptron."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) to the same."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(mixed)
        return cast(Tensor, x + self.mlp(self.norm2(x)))


class Segmenter(nn.Module):
    """An encoder, and a decoder with one skip."""

    def __init__(self) -> None:
        super().__init__()
        self.body = _body()
        self.reduce = nn.Conv2d(64, 32, 1)
        self.join = _conv(32 + 32, 32)
        self.head = nn.Conv2d(32, 11, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, 64, 64) to logits (B, 11, 64, 64)."""
        fine = self.body[:2](images)
        coarse = functional.interpolate(self.reduce(self.body[2:](fine)), scale_factor=2.0, mode="bilinear")
        logits = self.head(self.join(torch.cat([fine, coarse], 1)))
        return {"out": functional.interpolate(logits, scale_factor=2.0, mode="bilinear")}


class Detector(nn.Module):
    """One stage: at each of 16 x 16 places a box, whether there is an object, and its class."""

    def __init__(self) -> None:
        super().__init__()
        self.body = _body()
        self.head = nn.Conv2d(64, 15, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 64, 64) to candidates (B, 256, 15): center, size, objectness and class logits."""
        raw = self.head(self.body(images))
        places = (torch.arange(raw.shape[-1], dtype=raw.dtype, device=raw.device) + 0.5) * 4
        x = places.expand(raw.shape[-2:]) + 4 * raw[:, 0]
        y = places[:, None].expand(raw.shape[-2:]) + 4 * raw[:, 1]
        size = 16 * raw[:, 2:4].clamp(max=2).exp()
        return torch.cat([x[:, None], y[:, None], size, raw[:, 4:]], 1).flatten(2).mT


NETS: dict[str, Callable[[], nn.Module]] = {
    "cnn": _cnn,
    "vit": ViT,
    "segmenter": Segmenter,
    "detector": Detector,
    "cnn-idsds": _cnn,
}
"""The untrained models by name."""

NAMES: list[str] = [*NETS]
"""Names of the models."""

FURTHER: dict[str, str] = {"cnn-idsds": "150 steps; half of each batch lost one cell of 4 x 4, its label kept"}
"""Of a network that was trained further on scenes without one cell, how: the suite's track `single` records it."""

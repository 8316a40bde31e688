"""Networks that hold a few tokens which are no places, as many as a small grid has, and one whose tokens are places."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH = 16


class Few(nn.Module):
    """Patches of 8 x 8 pixels, and tokens that a layer makes of them.

    Args:
        kind: "queries" attend to the patches, as of a Perceiver, a DETR or an attentional pool; "registers" stand
            among the patches in each block; "groups" share the patches out, as GroupViT does;
            "patches" are the patches.
        count: number of the tokens.
        peaked: factor of the scores of attention, so that a token may attend to one patch alone.
    """

    def __init__(self, kind: str, count: int, peaked: float = 1.0) -> None:
        super().__init__()
        self.kind, self.count, self.peaked = kind, count, peaked
        self.embed = nn.Conv2d(3, WIDTH, 8, 8)
        self.tokens = nn.Parameter(torch.randn(1, count, WIDTH))
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(WIDTH, 2, 32, 0.0, batch_first=True) for _ in range(2))
        self.pool, self.key = nn.MultiheadAttention(WIDTH, 2, batch_first=True), nn.Linear(WIDTH, WIDTH)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.embed(image).flatten(2).mT
        tokens = self.tokens.expand(len(x), -1, -1)
        if self.kind == "registers":
            x = torch.cat([tokens, x], 1)
        for block in self.blocks:
            x = block(x)
        if self.kind == "queries":
            x = tokens + self.pool(self.peaked * tokens, x, x)[0]
        if self.kind == "groups":
            share = (self.peaked * tokens @ self.key(x).mT).softmax(1)
            x = tokens + share @ x / (share.sum(2, keepdim=True) + 1e-6)
        x = self.norm(x[:, : self.count])
        y: Tensor = self.head(x.mean(1))
        return y


class Frames(nn.Module):
    """A token for each frame of a video or image of a bag (B, T, 3, H, W), with a step over the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, WIDTH, 3, 2, 1), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 3, 2, 1), nn.ReLU())
        self.over = nn.TransformerEncoderLayer(WIDTH, 2, 32, 0.0, batch_first=True)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, video: Tensor) -> Tensor:
        each = self.net(video.flatten(0, 1)).mean((2, 3)).unflatten(0, video.shape[:2])
        y: Tensor = self.head(self.norm(self.over(each)).mean(1))
        return y


class Bins(nn.Module):
    """A token for each bin of a spectrogram (B, 1, bins, time), whose times are pooled."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.widen, self.mix, self.norm = nn.Conv2d(1, WIDTH, 1), nn.Linear(bins, bins), nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.mix(self.widen(image).relu().mean(3)).mT
        y: Tensor = self.head(self.norm(x).mean(1))
        return y

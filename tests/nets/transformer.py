"""A small transformer whose attention is exposed, written out and fused; and each method by loops, from its paper."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

KINDS = ("fused", "matmul", "einsum", "folded", "in place")


class SelfAttention(nn.Module):
    """Self-attention in one of several spellings, all of them the same function."""

    def __init__(self, width: int, heads: int, kind: str, drop: float = 0.0) -> None:
        super().__init__()
        self.heads, self.kind = heads, kind
        self.qkv = nn.Linear(width, 3 * width)
        self.drop = nn.Dropout(drop)
        self.out = nn.Linear(width, width)
        self.exposed: dict[str, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        scale = (c // self.heads) ** -0.5
        if self.kind == "fused":
            o = functional.scaled_dot_product_attention(q, k, v, dropout_p=self.drop.p if self.training else 0.0)
        elif self.kind == "exposed":
            a = torch.stack([torch.stack([head_of(q[i, h], k[i, h]) for h in range(self.heads)]) for i in range(b)])
            o = a @ v
            self.exposed = {"probabilities": a, "q": q, "k": k, "v": v, "output": o}
        elif self.kind == "einsum":
            a = torch.einsum("b h i d, b h j d -> b h i j", q, k).mul(scale).softmax(dim=-1)
            o = torch.einsum("...ij,...jd->...id", self.drop(a), v)
        elif self.kind == "folded":
            q, k, v = (t.reshape(b * self.heads, n, -1) for t in (q, k, v))
            a = functional.softmax(torch.baddbmm(q.new_zeros(1, 1, 1), q, k.transpose(1, 2), alpha=scale), dim=2)
            o = torch.bmm(self.drop(a), v).view(b, self.heads, n, -1)
        else:
            a = q @ k.transpose(-2, -1)
            a = a.mul_(scale) if self.kind == "in place" else (a * scale).view(b, self.heads, n, n)
            a = self.drop(torch.softmax(a, -1))
            o = a @ v
            if self.kind == "in place":
                o, overwritten = o.clone(), o
                overwritten.zero_()
        return self.out(o.transpose(1, 2).reshape(b, n, c))  # type: ignore[no-any-return]


def head_of(q: Tensor, k: Tensor) -> Tensor:
    """The attention of one head of one sample, row by row."""
    rows = []
    for i in range(q.shape[0]):
        scores = torch.stack([(q[i] * k[j]).sum() / math.sqrt(q.shape[1]) for j in range(k.shape[0])])
        rows.append(scores.exp() / scores.exp().sum())
    return torch.stack(rows)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, kind: str, drop: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = SelfAttention(width, heads, kind, drop)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Patches of 4, a class token, blocks, a norm, a head on the class token or on the mean of the patches."""

    def __init__(
        self,
        kind: str = "fused",
        *,
        depth: int = 3,
        width: int = 12,
        heads: int = 2,
        drop: float = 0.0,
        pool: str = "token",
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.place = nn.Parameter(torch.randn(1, 16, width))
        self.blocks = nn.Sequential(*(Block(width, heads, kind, drop) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 5)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.place[:, : x.shape[1]]
        x = self.norm(self.blocks(torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)))
        return self.head(x[:, 0] if self.pool == "token" else x[:, 1:].mean(1))  # type: ignore[no-any-return]


def transformer(kind: str = "fused", **options: Any) -> Transformer:
    """The same weights for every kind, with attention that is far from uniform, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = Transformer(kind, **options).double().eval()
    for module in net.modules():
        if isinstance(module, SelfAttention):
            module.qkv.weight.data.mul_(3)
    return net


class Exposed(NamedTuple):
    """One layer of the reference: what it computed, and derivatives by `torch.autograd.grad`."""

    probabilities: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    output: Tensor
    grads: Tensor
    output_grads: Tensor


def reference(x: Tensor, score: Callable[[Tensor], Tensor], **options: Any) -> tuple[list[Exposed], Tensor]:
    net = transformer("exposed", **options)
    outputs = net(x)
    layers = []
    for module in net.modules():
        if isinstance(module, SelfAttention):
            held = module.exposed
            assert held is not None
            wanted = [held["probabilities"], held["output"]]
            grads, output_grads = torch.autograd.grad(score(outputs).sum(), wanted, retain_graph=True)
            layers.append(Exposed(**held, grads=grads, output_grads=output_grads))
    return layers, outputs


def own_gradients(x: Tensor, target: int, **options: Any) -> list[Tensor]:
    """LeGrad's: a network of the first l blocks, whose head reads the mean of all its tokens."""
    found = []
    net = transformer("exposed", **options)
    for depth in range(1, len(net.blocks) + 1):
        tokens = net.patches(x).flatten(2).transpose(1, 2)
        tokens = tokens + net.place[:, : tokens.shape[1]]
        tokens = torch.cat([net.token.expand(x.shape[0], -1, -1), tokens], 1)
        for block in net.blocks[:depth]:
            tokens = block(tokens)
        attn = net.blocks[depth - 1].attn
        assert isinstance(attn, SelfAttention)
        assert attn.exposed is not None
        logits = net.head(net.norm(tokens.mean(1)))
        found.append(torch.autograd.grad(logits[:, target].sum(), attn.exposed["probabilities"])[0])
    return found


# ------------------------------------------------------------------------------------- the methods, entry by entry


def rollout(layers: list[Tensor], fusion: str = "mean", discard: float = 0.0) -> Tensor:
    """The whole matrix R, (B, N, N)."""
    batch, heads, count, _ = layers[0].shape
    found = torch.zeros(batch, count, count, dtype=layers[0].dtype)
    for b in range(batch):
        product = torch.eye(count, dtype=layers[0].dtype)
        for a in layers:
            matrix = torch.zeros_like(product)
            for i in range(count):
                for j in range(count):
                    entries = [float(a[b, h, i, j]) for h in range(heads)]
                    matrix[i, j] = {"mean": sum(entries) / heads, "max": max(entries), "min": min(entries)}[fusion]
            order = sorted((float(matrix[i, j]), i, j) for i in range(count) for j in range(count))
            for _, i, j in order[: int(discard * count * count)]:
                if (i, j) != (0, 0):
                    matrix[i, j] = 0
            for i in range(count):
                matrix[i, i] += 1
                matrix[i] /= float(matrix[i].sum())
            product = matrix @ product
        found[b] = product
    return found


def gae(layers: list[Tensor], grads: list[Tensor]) -> Tensor:
    """The whole matrix R, (B, N, N)."""
    batch, heads, count, _ = layers[0].shape
    found = torch.zeros(batch, count, count, dtype=layers[0].dtype)
    for b in range(batch):
        product = torch.eye(count, dtype=layers[0].dtype)
        for a, g in zip(layers, grads, strict=True):
            matrix = torch.zeros_like(product)
            for i in range(count):
                for j in range(count):
                    matrix[i, j] = sum(max(float(a[b, h, i, j] * g[b, h, i, j]), 0.0) for h in range(heads)) / heads
            product = product + matrix @ product
        found[b] = product
    return found


def legrad(grads: list[Tensor]) -> Tensor:
    """(B, N)."""
    batch, heads, count, keys = grads[0].shape
    found = torch.zeros(batch, keys, dtype=grads[0].dtype)
    for b in range(batch):
        for j in range(keys):
            entries = [max(float(g[b, h, i, j]), 0.0) for g in grads for h in range(heads) for i in range(count)]
            found[b, j] = sum(entries) / len(entries)
    return found


def eclip(layer: Exposed, prefix: int, query: int) -> Tensor:
    """(B, N - prefix)."""
    batch, heads, count, _ = layer.q.shape
    found = torch.zeros(batch, count - prefix, dtype=layer.q.dtype)
    for b in range(batch):
        q = torch.cat([layer.q[b, h, query] for h in range(heads)])
        g = torch.cat([layer.output_grads[b, h, query] for h in range(heads)])
        cosines, products = [], []
        for j in range(prefix, count):
            k = torch.cat([layer.k[b, h, j] for h in range(heads)])
            v = torch.cat([layer.v[b, h, j] for h in range(heads)])
            cosines.append(float(q @ k / (q.norm() * k.norm())))
            products.append(float(g @ v))
        low, high = min(cosines), max(cosines)
        for j in range(count - prefix):
            found[b, j] = products[j] * (cosines[j] - low) / (high - low)
    return found

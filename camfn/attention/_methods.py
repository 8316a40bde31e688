"""Methods on attention: arithmetic on the records of a forward that returns the relevance of each patch token.

In the equations `A` are the probabilities of a layer, (H, Nq, Nk), `g` their gradients, `mean_h` the mean over heads.
`R` are (N, N), queries in rows. The first `prefix` tokens (class, registers) are not part of the result; `query` is the
token whose row is read, or None for the mean over all patch tokens, in networks that average them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from .._shared.checks import describe, number, one_of, whole
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.maps import min_max, safe_divide, widen
from ._records import AttentionRecord

Fusion: TypeAlias = Literal["mean", "max", "min"]
"""The reduction of the heads to one matrix."""


def raw_attention(
    records: Sequence[AttentionRecord],
    *,
    prefix: int = 1,
    query: int | None = 0,
    layer: int = -1,
    how: Fusion = "mean",
) -> Tensor:
    """Raw attention: the attention of one token in one layer.

    `r(j) = mean_h A(query, j)`. It needs no class and no gradient.

    Source: the baseline of arXiv 2005.00928 and 2012.09838.

    Args:
        records: from `observe_attention` or `capture_attention`.
        prefix: number of tokens before the patches that stand for no place.
        query: the token whose row is read; None for the mean over patch tokens.
        layer: which record.
        how: rule of fusing the heads: "mean", "max" or "min".

    Returns:
        (B, Nk - prefix).

    Raises:
        CamfnError: the record is windowed, or `prefix` or `query` is not one of its tokens.

    Example:
        >>> import torch
        >>> from camfn.attention import observe_attention
        >>> net = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
        >>> raw_attention(observe_attention(net)(torch.ones(1, 5, 8)).records)  # alike tokens, alike attention
        tensor([[0.2000, 0.2000, 0.2000, 0.2000]])
    """
    record = _check_global("raw_attention", _one_layer("raw_attention", records, layer), prefix, query)[0]
    return _row(_fused(record.probabilities, how), prefix, query)[:, prefix:].to(record.probabilities.dtype)


def attention_rollout(
    records: Sequence[AttentionRecord],
    *,
    prefix: int = 1,
    query: int | None = 0,
    how: Fusion = "mean",
    discard: float = 0.0,
) -> Tensor:
    """Attention rollout: the product of the attention matrices of all layers, each averaged with the residual path.

    `R = Â_L ... Â_1` with `Â = (mean_h A + I)`, rows divided by their sums; the result is the row of `query`. It needs
    no class and no gradient. An attention that pools as the last layer (its queries are not its keys, as in SigLIP)
    has no residual path: `Â = mean_h A` there.

    The common implementation (vit-explain) adds the fusion of heads by maximum or minimum, and sets the smallest
    entries of a layer to zero, except the class token's attention to itself. It does so in the first image of a batch
    only, and divides columns by the sums of rows; this function does so in every image, and divides rows. With
    `discard=0` and the mean over heads, the two agree.

    Source: arXiv 2005.00928, eq. 1.

    Args:
        records: of all layers, from `observe_attention` or `capture_attention`.
        prefix: number of tokens before the patches that stand for no place.
        query: the token whose row is read; None for the mean over patch tokens.
        how: rule of fusing the heads: "mean" (the paper), "max" or "min".
        discard: share of each layer's smallest entries that are set to zero, in [0, 1).

    Returns:
        (B, N - prefix). With `prefix=0` the row sums to 1.

    Raises:
        CamfnError: the layers do not attend over the same tokens, or an option is out of range.

    Example:
        >>> import torch
        >>> from camfn.attention import observe_attention
        >>> net = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
        >>> attention_rollout(observe_attention(net)(torch.ones(1, 5, 8)).records, prefix=0)
        tensor([[0.6000, 0.1000, 0.1000, 0.1000, 0.1000]])
    """
    number("attention_rollout: discard", discard, "[0, 1)")
    layers = _check_global("attention_rollout", records, prefix, query)

    def step(record: AttentionRecord) -> Tensor:
        fused = _discarded(_fused(record.probabilities, how), discard)
        return _rows_to_one(fused + _identity(fused) if _is_square(record) else fused)

    return _multiplied(layers, step, prefix, query)


def gradient_rollout(records: Sequence[AttentionRecord], *, prefix: int = 1, query: int | None = 0) -> Tensor:
    """Gradient-weighted rollout, the generic attention explainability of Chefer et al. (GAE).

    `R <- R + mean_h ReLU(g A) R` through the layers from `R = I`; the result is the row of `query`. With a gradient of
    zero, `R = I`.

    Other methods have similar names: the "gradient rollout" of vit-explain multiplies `mean_h ReLU(g A) + I` with rows
    divided by their sums; the authors' earlier method uses layer-wise relevance propagation (2012.09838).

    Source: arXiv 2103.15679, eq. 5 and 6, self-attention.

    Args:
        records: of all layers, from `capture_attention`.
        prefix: number of tokens before the patches that stand for no place.
        query: the token whose row is read; None for the mean over patch tokens.

    Returns:
        (B, N - prefix), not negative.

    Raises:
        CamfnError: no gradients, or the layers do not attend over the same tokens.

    Example:
        >>> import torch
        >>> from camfn.attention import capture_attention
        >>> layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        >>> net = torch.nn.Sequential(layer, torch.nn.Flatten(), torch.nn.Linear(40, 3)).eval()
        >>> gradient_rollout(capture_attention(net)(torch.randn(2, 5, 8), 1).records).shape
        torch.Size([2, 4])
    """
    layers = _check_global("gradient_rollout", records, prefix, query)

    def step(record: AttentionRecord) -> Tensor:
        a, g = widen(record.probabilities, _check_gradients("gradient_rollout", record.grads))
        fused = (g * a).relu().mean(1)
        return fused + _identity(fused) if _is_square(record) else fused

    return _multiplied(layers, step, prefix, query)


def le_grad(records: Sequence[AttentionRecord], *, prefix: int = 1) -> Tensor:
    """LeGrad: the positive gradient of each layer's own score with respect to its attention.

    `r(j) = mean_l mean_{h, i} ReLU(g_l(h, i, j))`, with `g_l` the gradient of the score that the head gives to the
    mean of layer l's tokens. The gradient is not multiplied by the attention. The mean is over all queries, including
    the class token.

    The authors' code takes the sum over layers (the last two by default) and not the mean, which changes only the
    scale; it normalizes CLIP features, which the target can do here. torch-cam has the same formula, for torchvision's
    vision transformers.

    Source: arXiv 2404.03214; the mean over tokens as in the authors' code for models with a class token.

    Args:
        records: of the layers to average, from `capture_attention(model, layers, scores="layers")`.
        prefix: number of tokens before the patches that stand for no place.

    Returns:
        (B, N - prefix), not negative.

    Raises:
        CamfnError: no gradients, or the layers do not attend over the same tokens.

    Example:
        >>> import torch
        >>> from camfn.attention import capture_attention
        >>> layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        >>> net = torch.nn.Sequential(layer, torch.nn.Flatten(), torch.nn.Linear(40, 3)).eval()
        >>> le_grad(capture_attention(net, scores="layers")(torch.randn(2, 5, 8), 1).records).shape
        torch.Size([2, 4])
    """
    layers = _check_global("le_grad", records, prefix, 0)
    stacked = widen(torch.stack([_check_gradients("le_grad", record.grads) for record in layers]))
    return stacked.relu().mean((0, 2, 3))[:, prefix:].to(layers[-1].probabilities.dtype)


def grad_eclip(
    records: Sequence[AttentionRecord], *, prefix: int = 1, query: int | None = 0, layer: int = -1
) -> Tensor:
    """Grad-ECLIP: values weighted by the gradient of the attention's output, and by the cosine of query and key.

    `r(j) = lambda_j sum_d g_d v_j,d` with `g` the gradient of the output of `query`, before its projection, and
    `lambda` the cosine between the query and each patch's key, heads joined, stretched to [0, 1] over patches. For
    `query=None` the products are summed over all patch queries. The result is signed: the paper takes its ReLU.

    The authors' code runs the last layer again with one head in place of the model's, and passes queries and keys
    through the output projection before taking the cosine; here they are the model's own.

    Source: arXiv 2502.18816 (ICML 2024), image branch.

    Args:
        records: from `capture_attention`.
        prefix: number of tokens before the patches that stand for no place.
        query: the token that is read out; None for all patch tokens.
        layer: which record; the paper takes the last.

    Returns:
        The raw signed map, (B, Nk - prefix).

    Raises:
        CamfnError: no gradients, or the record is windowed.

    Example:
        >>> import torch
        >>> from camfn.attention import capture_attention
        >>> encoder = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        >>> net = torch.nn.Sequential(encoder, torch.nn.Flatten(), torch.nn.Linear(40, 3)).eval()
        >>> grad_eclip(capture_attention(net)(torch.randn(2, 5, 8), 1).records).shape
        torch.Size([2, 4])
    """
    (record,) = _check_global("grad_eclip", _one_layer("grad_eclip", records, layer), prefix, query)
    q, k, v, g = (
        _joined(x) for x in (record.q, record.k, record.v, _check_gradients("grad_eclip", record.output_grads))
    )
    queries = slice(prefix, None) if query is None and _is_square(record) else slice(query or 0, (query or 0) + 1)
    k, v = k[:, prefix:], v[:, prefix:]
    cosine = _unit(q[:, queries]) @ _unit(k).transpose(-2, -1)
    products = g[:, queries] @ v.transpose(-2, -1)
    return (products * min_max(cosine, -1)).sum(1).to(record.probabilities.dtype)


def _listed(method: str, records: Any) -> Sequence[AttentionRecord]:
    """Refuse anything but a list of records, at least one."""
    if not isinstance(records, (list, tuple)) or not all(isinstance(record, AttentionRecord) for record in records):
        raise ArgumentTypeError(
            f"{method}: records: expected those of capture_attention(model)(inputs, target).records, got "
            f"{describe(records)}"
        )
    if not records:
        raise CamfnError(f"{method}: expected the records of at least one attention, got none")
    return records


def _one_layer(method: str, records: Any, layer: int) -> Sequence[AttentionRecord]:
    """Return the record of one layer, in a list."""
    count = len(_listed(method, records))
    whole(f"{method}: layer", layer, -count)
    if layer >= count:
        raise CamfnError(f"{method}: layer: expected an index from {-count} to {count - 1}, got {layer}")
    return [records[layer]]


def _check_global(
    method: str, records: Sequence[AttentionRecord], prefix: int, query: int | None
) -> Sequence[AttentionRecord]:
    """Return the records; refuse attention in which no row covers the whole image, and a wrong prefix or query."""
    records = _listed(method, records)
    whole(f"{method}: prefix", prefix, 0)
    if query is not None:
        whole(f"{method}: query", query, 0)
    batch, tokens = records[-1].probabilities.shape[0], records[-1].probabilities.shape[-1]
    for i, record in enumerate(records):
        shape = tuple(record.probabilities.shape)
        same = len(shape) == 4 and shape[0] == batch and shape[3] == tokens
        if not same or (not _is_square(record) and i + 1 < len(records)):
            shapes = " and ".join(
                dict.fromkeys(f"{r.name!r} {tuple(r.probabilities.shape)}" for r in (record, records[-1]))
            )
            raise CamfnError(
                f"{method} needs attention over the same tokens of the whole image in every layer, (B, H, N, N); got "
                f"{shapes}. Attention in windows (Swin, MaxViT), over channels or over pooled tokens has no such rows: "
                "pick layers that attend globally, or take a class activation map, "
                "camfn.explainer(camfn.methods.grad_cam, model, layer)"
            )
    if not 0 <= prefix < tokens:
        raise CamfnError(f"{method}: prefix={prefix} leaves none of the {tokens} tokens: expected less than {tokens}")
    queries = records[-1].probabilities.shape[-2]
    if query is not None and not 0 <= query < queries:
        raise CamfnError(
            f"{method}: query={query} is none of the {queries} queries: expected 0 to {queries - 1}, or None"
        )
    return records


def _multiplied(
    records: Sequence[AttentionRecord], step: Callable[[AttentionRecord], Tensor], prefix: int, query: int | None
) -> Tensor:
    """Return the query's row of the product of all layers' matrices, without the prefix.

    Multiplies the row of the last layer by the matrices of the layers before it, which costs less than their product.
    """
    *inner, last = records
    row = _row(step(last), prefix, query if _is_square(last) else query or 0)
    for record in reversed(inner):
        row = (row[:, None] @ step(record))[:, 0]
    return row[:, prefix:].to(last.probabilities.dtype)


def _check_gradients(method: str, grads: Tensor | None) -> Tensor:
    """Return the gradients of a record; refuse a record of `observe_attention`, which has none."""
    if grads is None:
        raise CamfnError(f"{method} needs gradients: take the records of capture_attention(model)(inputs, target)")
    return grads


def _is_square(record: AttentionRecord) -> bool:
    """Whether an attention has as many queries as keys; attention that pools has fewer queries."""
    return record.probabilities.shape[-2] == record.probabilities.shape[-1]


def _identity(matrix: Tensor) -> Tensor:
    return torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)


def _fused(a: Tensor, how: Fusion) -> Tensor:
    """Reduce the heads: (B, H, Nq, Nk) to (B, Nq, Nk)."""
    one_of("how", how, ("mean", "max", "min"))
    a = widen(a)
    if how == "mean":
        return a.mean(1)
    return a.amax(1) if how == "max" else a.amin(1)


def _discarded(matrix: Tensor, share: float) -> Tensor:
    """Set a share of the smallest entries to zero, except the first token's attention to itself."""
    flat = matrix.flatten(1)
    count = math.floor(share * flat.shape[1])
    if count == 0:
        return matrix
    smallest = flat.argsort(dim=-1, stable=True)[:, :count]
    mask = torch.ones_like(flat).scatter(-1, smallest, 0.0)
    mask[:, 0] = 1
    return (flat * mask).view_as(matrix)


def _rows_to_one(matrix: Tensor) -> Tensor:
    """Divide each row by its sum."""
    return safe_divide(matrix, matrix.sum(-1, keepdim=True))


def _row(matrix: Tensor, prefix: int, query: int | None) -> Tensor:
    """Return the row of the query; without a query, the mean over the rows of the patches."""
    return matrix[:, prefix:].mean(1) if query is None else matrix[:, query]


def _joined(x: Tensor) -> Tensor:
    """Put the heads side by side: (B, H, N, D) to (B, N, H D)."""
    return widen(x).transpose(1, 2).flatten(2)


def _unit(x: Tensor) -> Tensor:
    """Divide each vector by its norm."""
    return functional.normalize(x, dim=-1, eps=torch.finfo(x.dtype).tiny)

"""Methods on attention: arithmetic on the records of a forward that returns the relevance of each patch token.

In the equations `A` are the probabilities of a layer, (H, Nq, Nk), `g` their gradients, `mean_h` the mean over heads.
`R` are (N, N), queries in rows. The result has a value for each of N patches: for all tokens but the first `prefix`
(class, registers) and the last `suffix`, or for those at `positions`, where text stands around the image. `query` is
the token whose row is read; None for the mean over all patch tokens, in networks that average them. Several queries,
(Q,), or those of each sample, (Q, B), give a map each, (Q, B, N); "all" stands for all tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from .._shared.checks import describe, number, one_of, whole
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.maps import min_max, safe_divide, widen
from ._records import AttentionRecord
from ._rows import Positions, Query, check_range, mean_or_rows, one_or_each, patches, rows, take

Fusion: TypeAlias = Literal["mean", "max", "min"]
"""The reduction of the heads to one matrix."""


def raw_attention(
    records: Sequence[AttentionRecord],
    *,
    prefix: int = 1,
    suffix: int = 0,
    positions: Positions | None = None,
    query: Query = 0,
    layer: int = -1,
    how: Fusion = "mean",
) -> Tensor:
    """Raw attention: the attention of one token in one layer.

    `r(j) = mean_h A(query, j)`. It needs no class and no gradient.

    Source: the baseline of arXiv 2005.00928 and 2012.09838.

    Args:
        records: from `observe_attention` or `capture_attention`.
        prefix: number of tokens before the patches that stand for no place.
        suffix: number of such tokens after the patches.
        positions: where the patches stand, instead of `prefix` and `suffix`: a slice, (N,), or (B, N).
        query: the token whose row is read, or several; None for the mean over patch tokens.
        layer: which record.
        how: rule of fusing the heads: "mean", "max" or "min".

    Returns:
        (B, N), or (Q, B, N).

    Raises:
        CamfnError: the record is windowed, or the positions or the query are not among its tokens.

    Example:
        >>> import torch
        >>> from camfn.attention import observe_attention
        >>> net = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
        >>> raw_attention(observe_attention(net)(torch.ones(1, 5, 8)).records)  # alike tokens, alike attention
        tensor([[0.2000, 0.2000, 0.2000, 0.2000]])
    """
    (record,) = _check_global("raw_attention", _one_layer("raw_attention", records, layer), query)
    where = patches("raw_attention", record.probabilities.shape, prefix, suffix, positions)
    read = mean_or_rows(_fused(record.probabilities, how), where, query)
    return one_or_each(take(read, where, 2), query).to(record.probabilities.dtype)


def attention_rollout(
    records: Sequence[AttentionRecord],
    *,
    prefix: int = 1,
    suffix: int = 0,
    positions: Positions | None = None,
    query: Query = 0,
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
        suffix: number of such tokens after the patches.
        positions: where the patches stand, instead of `prefix` and `suffix`: a slice, (N,), or (B, N).
        query: the token whose row is read, or several; None for the mean over patch tokens.
        how: rule of fusing the heads: "mean" (the paper), "max" or "min".
        discard: share of each layer's smallest entries that are set to zero, in [0, 1).

    Returns:
        (B, N), or (Q, B, N). With `prefix=0` each row sums to 1.

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
    *inner, last = _check_global("attention_rollout", records, query)
    where = patches("attention_rollout", last.probabilities.shape, prefix, suffix, positions)

    def step(record: AttentionRecord) -> Tensor:
        fused = _discarded(_fused(record.probabilities, how), discard)
        return _rows_to_one(fused + _identity(fused) if _is_square(record) else fused)

    read = mean_or_rows(step(last), where, query)
    # the row of the last layer times the matrices before it costs less than their product
    for record in reversed(inner):
        read = read @ step(record)
    return one_or_each(take(read, where, 2), query).to(last.probabilities.dtype)


def gradient_rollout(
    records: Sequence[AttentionRecord],
    *,
    prefix: int = 1,
    suffix: int = 0,
    positions: Positions | None = None,
    query: Query = 0,
) -> Tensor:
    """Gradient-weighted rollout, the generic attention explainability of Chefer et al. (GAE).

    `R <- R + mean_h ReLU(g A) R` through the layers from `R = I`; the result is the row of `query` in `R - I`, which
    is 0 with a gradient of zero. The identity stands for the query itself: in a class token's row it is 0 at the
    patches, in the mean over patches the same at each. It is never added, since 1 + 1e-8 is 1 in float32.

    Other methods have similar names: the "gradient rollout" of vit-explain multiplies `mean_h ReLU(g A) + I` with rows
    divided by their sums; the authors' earlier method uses layer-wise relevance propagation (2012.09838).

    Source: arXiv 2103.15679, eq. 5 and 6, self-attention.

    Args:
        records: of all layers, from `capture_attention`.
        prefix: number of tokens before the patches that stand for no place.
        suffix: number of such tokens after the patches.
        positions: where the patches stand, instead of `prefix` and `suffix`: a slice, (N,), or (B, N).
        query: the token whose row is read, or several; None for the mean over patch tokens.

    Returns:
        (B, N), or (Q, B, N), not negative.

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
    *inner, last = _check_global("gradient_rollout", records, query)
    where = patches("gradient_rollout", last.probabilities.shape, prefix, suffix, positions)

    def step(record: AttentionRecord) -> Tensor:
        a, g = widen(record.probabilities, _check_gradients("gradient_rollout", record.grads))
        return (g * a).relu().mean(1)

    read = mean_or_rows(step(last), where, query)
    for record in reversed(inner):
        added = step(record)
        # the rows of R - I: in those of R, the identity is 1 beside what may be a millionth
        read = read + read @ added + (mean_or_rows(added, where, query) if _is_square(last) else 0)
    return one_or_each(take(read, where, 2), query).to(last.probabilities.dtype)


def le_grad(
    records: Sequence[AttentionRecord],
    *,
    prefix: int = 1,
    suffix: int = 0,
    positions: Positions | None = None,
    query: Query = None,
) -> Tensor:
    """LeGrad: the positive gradient of each layer's own score with respect to its attention.

    `r(j) = mean_l mean_{h, i} ReLU(g_l(h, i, j))`, with `g_l` the gradient of the score that the head gives to the
    mean of layer l's tokens. The gradient is not multiplied by the attention. The mean is over all queries, including
    the class token. For the words of a language model, `query` is the token that predicts the word: the sum over
    queries has this one alone, and `g_l` is of the score that the head gives to layer l's own tokens
    (`capture_attention(..., scores="layers", average=False)`).

    The authors' code takes the sum over layers (the last two by default) and not the mean, which changes only the
    scale; it normalizes CLIP features, which the target can do here. torch-cam has the same formula, for torchvision's
    vision transformers.

    Source: arXiv 2404.03214; the mean over tokens as in the authors' code for models with a class token.

    Args:
        records: of the layers to average, from `capture_attention(model, layers, scores="layers")`.
        prefix: number of tokens before the patches that stand for no place.
        suffix: number of such tokens after the patches.
        positions: where the patches stand, instead of `prefix` and `suffix`: a slice, (N,), or (B, N).
        query: the token whose row is read, or several; None for the mean over all queries.

    Returns:
        (B, N), or (Q, B, N), not negative.

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
    layers = _check_global("le_grad", records, query, products=False)
    last = layers[-1].probabilities
    where = patches("le_grad", last.shape, prefix, suffix, positions)
    stacked = widen(torch.stack([_check_gradients("le_grad", record.grads) for record in layers]))
    read = stacked.relu().mean((0, 2))
    read = read.mean(1, keepdim=True) if query is None else rows(read, query)
    return one_or_each(take(read, where, 2), query).to(last.dtype)


def grad_eclip(
    records: Sequence[AttentionRecord],
    *,
    prefix: int = 1,
    suffix: int = 0,
    positions: Positions | None = None,
    query: Query = 0,
    layer: int = -1,
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
        suffix: number of such tokens after the patches.
        positions: where the patches stand, instead of `prefix` and `suffix`: a slice, (N,), or (B, N).
        query: the token that is read out, or several; None for all patch tokens.
        layer: which record; the paper takes the last.

    Returns:
        The raw signed map, (B, N), or (Q, B, N).

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
    (record,) = _check_global("grad_eclip", _one_layer("grad_eclip", records, layer), query)
    where = patches("grad_eclip", record.probabilities.shape, prefix, suffix, positions)
    output_grads = _check_gradients("grad_eclip", record.output_grads)
    k, v = (take(_joined(x), where, 1) for x in (record.k, record.v))
    q, g = (
        take(x, where, 1) if query is None and _is_square(record) else rows(x, query)
        for x in map(_joined, (record.q, output_grads))
    )
    cosine = _unit(q) @ _unit(k).transpose(-2, -1)
    found = g @ v.transpose(-2, -1) * min_max(cosine, -1)
    return one_or_each(found.sum(1, keepdim=True) if query is None else found, query).to(record.probabilities.dtype)


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
    method: str, records: Sequence[AttentionRecord], query: Query, *, products: bool = True
) -> Sequence[AttentionRecord]:
    """Return the records; refuse attention in which no row covers the whole image, and a query that is not in it.

    Of layers that are not multiplied, records of the same rows alone will do.
    """
    records = _listed(method, records)
    batch, _, count, tokens = records[-1].probabilities.shape if records[-1].probabilities.ndim == 4 else (0,) * 4
    for i, record in enumerate(records):
        shape = tuple(record.probabilities.shape)
        same = len(shape) == 4 and shape[0] == batch and shape[3] == tokens
        inner = not _is_square(record) and i + 1 < len(records)
        if not same or (inner and (products or shape[2] != count)):
            shapes = " and ".join(
                dict.fromkeys(f"{r.name!r} {tuple(r.probabilities.shape)}" for r in (record, records[-1]))
            )
            raise CamfnError(
                f"{method} needs attention over the same tokens of the whole image in every layer, (B, H, N, N); got "
                f"{shapes}. Attention in windows (Swin, MaxViT), over channels or over pooled tokens has no such rows: "
                "pick layers that attend globally, or take a class activation map, "
                "camfn.explainer(camfn.methods.grad_cam, model, layer)"
            )
    check_range(method, query, records[-1].probabilities.shape)
    return records


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


def _joined(x: Tensor) -> Tensor:
    """Put the heads side by side: (B, H, N, D) to (B, N, H D)."""
    return widen(x).transpose(1, 2).flatten(2)


def _unit(x: Tensor) -> Tensor:
    """Divide each vector by its norm."""
    return functional.normalize(x, dim=-1, eps=torch.finfo(x.dtype).tiny)

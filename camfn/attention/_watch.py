"""Recognize attention, `softmax(q k^T + bias) v`, while a network runs, by the calls to torch that compute it.

Fused kernels never form the probabilities; the mode `Watch` replaces a fused call by the same arithmetic, written out.
"""

# tested in tests/attention/test_capture.py

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from inspect import signature
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from .._shared.errors import CaptureError
from .._shared.maps import widen

_PRODUCTS = {"matmul", "__matmul__", "bmm", "baddbmm", "einsum"}
_MULTI_HEAD = signature(functional.multi_head_attention_forward)
# torch hands this whole function to a mode, which then does not see the calls inside; without its dispatch, it does
_multi_head = FunctionType(
    functional.multi_head_attention_forward.__code__,
    {**vars(functional), "has_torch_function": lambda tensors: False},
    argdefs=functional.multi_head_attention_forward.__defaults__,
)


@dataclass(eq=False)
class Site:
    """One attention of a forward; `Watch` sets its attributes in the order in which the network computes them.

    Attributes:
        q: queries, (..., Nq, D).
        k: keys, (..., Nk, D).
        full: whether the other tensors are kept too; for an attention outside the wanted layers, only its name is.
        softened: whether the network has computed the softmax of the product of q and k.
        name: dotted name of the module in which the attention ended.
        probabilities: (..., Nq, Nk), a copy of the output of the softmax.
        delta: the zero that was added to the probabilities.
        applied: the probabilities that multiplied the values: with the zero, and after dropout.
        v: values, (..., Nk, Dv).
        output: (..., Nq, Dv), a copy.
        output_delta: the zero that was added to the output.
        block: dotted name of the outermost module that holds no other attention and returns tokens.
        tokens: the output of that module.
        per_token: the dimension of `tokens` that counts the tokens.
        batch: the number of samples, where the block tells it; 0 where not.
        rows: which queries `probabilities` and `output` are of, (Q,); None for all.
        later: function from the first and the last number of some rows to their probabilities, which are not kept.
    """

    q: Tensor
    k: Tensor
    full: bool = True
    softened: bool = False
    name: str = ""
    probabilities: Tensor | None = None
    delta: Tensor | None = None
    applied: Tensor | None = None
    v: Tensor | None = None
    output: Tensor | None = None
    output_delta: Tensor | None = None
    block: str = ""
    tokens: Tensor | None = None
    per_token: int = 1
    batch: int = 0
    rows: Tensor | None = None
    later: Callable[[int, int], Tensor] | None = None


class Watch(TorchFunctionMode):
    """Collect every attention that runs under this mode, in the order in which they end.

    Args:
        where: function that returns the name of the module that is running.
        wanted: function that says whether the attention of a module of this name is recorded in full; other attention
            runs unchanged.
        zero: function that makes a zero of the shape of a tensor, which is added to the probabilities and the output
            so that they can be differentiated; None adds nothing.
        ended: called with the attentions so far whenever one has ended.
        queries: the rows that are recorded, (Q,); fused attention then forms these alone. None records all.
        rows_later: whether to keep no probabilities but how to form some rows of them, and to add a zero to the output
            alone; without dropout.
    """

    def __init__(
        self,
        where: Callable[[], str],
        wanted: Callable[[str], bool],
        zero: Callable[[Tensor], Tensor] | None,
        ended: Callable[[list[Site]], None] | None = None,
        queries: Tensor | None = None,
        rows_later: bool = False,
    ) -> None:
        super().__init__()
        self._rows_later = rows_later
        self.sites: list[Site] = []
        self._queries = queries
        self._ended = ended
        self._where, self._wanted, self._zero = where, wanted, zero
        self._traced: Any = WeakTensorKeyDictionary()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            return self._fused(*args, **kwargs)
        if func is functional.multi_head_attention_forward:
            return self._multi_head(*args, **kwargs)
        output = func(*args, **kwargs)
        if not isinstance(output, Tensor):
            return output
        name = getattr(func, "__name__", "")
        if name in _PRODUCTS:
            return self._product(_operands(name, args, kwargs), output)
        if name == "softmax":
            return self._softmax(args, kwargs, output)
        if self._traced:
            self._carry(args, output)
        return output

    def _fused(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Replace `scaled_dot_product_attention`: compute the probabilities, and the output from them."""
        site = Site(query, key, self._wanted(self._where()))
        if not site.full:
            self._end(site)
            return functional.scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )
        if enable_gqa:
            site.k, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
        if self._queries is not None:
            return self._fused_rows(site, value, attn_mask, dropout_p, is_causal, scale)
        if self._rows_later:
            site.later = partial(_rows_between, site.q, site.k, attn_mask, is_causal, scale)
            fused = functional.scaled_dot_product_attention
            return self._record_output(
                site, None, value, fused(site.q, site.k, value, attn_mask, is_causal=is_causal, scale=scale)
            )
        applied = self._record_probabilities(
            site, probabilities(query, site.k, attn_mask, is_causal=is_causal, scale=scale)
        )
        if dropout_p:
            applied = functional.dropout(applied, dropout_p)
        return self._record_output(site, applied, value, applied @ value)

    def _fused_rows(
        self, site: Site, value: Tensor, mask: Tensor | None, dropout_p: float, is_causal: bool, scale: float | None
    ) -> Tensor:
        """Run the fused call, and put in the rows of the queries, which are written out."""
        assert self._queries is not None
        at = self._rows_of(site)
        whole = functional.scaled_dot_product_attention(site.q, site.k, value, mask, dropout_p, is_causal, scale=scale)
        rows = mask if mask is None or mask.shape[-2] == 1 else mask.index_select(-2, at)
        if is_causal:
            rows = torch.arange(site.k.shape[-2], device=at.device) <= at[:, None]
        of_rows = probabilities(site.q.index_select(-2, at), site.k, rows, scale=scale)
        site.probabilities, applied, site.delta = self._copy_and_add_zero(of_rows)
        if dropout_p:
            applied = functional.dropout(applied, dropout_p)
        return whole.index_copy(-2, at, self._record_output(site, applied, value, applied @ value))

    def _rows_of(self, site: Site) -> Tensor:
        """Note at an attention which queries are recorded; refuse those that it does not have."""
        assert self._queries is not None
        at = self._queries.to(site.q.device)
        if int(at.max()) >= site.q.shape[-2]:
            raise CaptureError(
                f"queries: expected rows from 0 to {site.q.shape[-2] - 1} of the attention in {self._where()!r}, got "
                f"{int(at.max())}: name layers= of the tokens that are meant"
            )
        site.rows = at
        return at

    def _multi_head(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """Replace `multi_head_attention_forward`: run its path with the fused call; take the weights from the site."""
        call = _MULTI_HEAD.bind(*args, **kwargs)
        call.apply_defaults()
        arguments = call.arguments
        if not self._wanted(self._where()):
            q, k = (arguments[name].transpose(0, -2) for name in ("query", "key"))
            self._end(Site(q, k, full=False))
            unchanged: tuple[Tensor, Tensor | None] = functional.multi_head_attention_forward(*args, **kwargs)
            return unchanged
        with self:
            output, _ = _multi_head(**arguments | {"need_weights": False})
        if not arguments["need_weights"]:
            return output, None
        last = self.sites[-1]
        weights = last.applied if last.later is None else last.later(0, last.q.shape[-2])
        assert weights is not None
        if arguments["average_attn_weights"]:
            weights = weights.mean(1)
        return output, weights if arguments["query"].ndim == 3 else weights.squeeze(0)

    def _product(self, operands: tuple[Tensor, Tensor, Tensor] | None, output: Tensor) -> Tensor:
        """Follow a matrix product: of queries and keys, which starts a site, or of probabilities and values."""
        if operands is None or operands[0].ndim < 3:
            return output
        first, second, transposed = operands
        site = self._traced.get(first)
        if site is not None and site.softened and first.shape[-2:] == (site.q.shape[-2], site.k.shape[-2]):
            return self._record_output(site, first, second, output)
        self._traced[output] = Site(first, transposed)
        return output

    def _softmax(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        """Follow a softmax: over keys, of scores that a site's product gave, it returns the site's probabilities."""
        scores = args[0] if args else kwargs["input"]
        dim = args[1] if len(args) > 1 else kwargs.get("dim")
        site = self._traced.get(scores)
        last = dim in (-1, output.ndim - 1)
        if site is None or not last or output.shape[-2:] != (site.q.shape[-2], site.k.shape[-2]):
            return output
        site = Site(site.q, site.k, self._wanted(self._where()), softened=True)
        passed_on = self._record_probabilities(site, output)
        self._traced[passed_on] = site
        return passed_on

    def _carry(self, args: tuple[Any, ...], output: Tensor) -> None:
        """Follow scores and probabilities through operations that keep their number, such as scale, bias and mask."""
        for x in args:
            if isinstance(x, Tensor) and x.numel() == output.numel() and (site := self._traced.get(x)) is not None:
                self._traced[output] = site
                return

    def _record_probabilities(self, site: Site, values: Tensor) -> Tensor:
        """Record the probabilities, and return the tensor that the network goes on with."""
        if not site.full:
            return values
        if self._rows_later:
            kept = values.detach().clone()
            site.later = lambda start, end: kept[..., start:end, :]
            return values
        if self._queries is not None:
            at = self._rows_of(site)
            site.probabilities, rows, site.delta = self._copy_and_add_zero(values.index_select(-2, at))
            return values.index_copy(-2, at, rows)
        site.probabilities, passed_on, site.delta = self._copy_and_add_zero(values)
        return passed_on

    def _record_output(self, site: Site, applied: Tensor | None, value: Tensor, output: Tensor) -> Tensor:
        """Record the values and the output, end the site, and return the tensor that the network goes on with."""
        self._end(site)
        if not site.full:
            return output
        site.applied, site.v = applied, value
        if site.rows is not None and site.softened and applied is not None:
            site.applied = applied.index_select(-2, site.rows)
            site.output, rows, site.output_delta = self._copy_and_add_zero(output.index_select(-2, site.rows))
            return output.index_copy(-2, site.rows, rows)
        site.output, passed_on, site.output_delta = self._copy_and_add_zero(output)
        return passed_on

    def _end(self, site: Site) -> None:
        """Name a site by the module that is running, and add it to the list."""
        site.name = self._where()
        self.sites.append(site)
        if self._ended is not None:
            self._ended(self.sites)

    def _copy_and_add_zero(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return a copy that the network cannot overwrite, the tensor for the network, and the zero added to it."""
        if self._zero is None:
            return x.clone(), x, None
        delta = self._zero(x)
        return x, x + delta, delta


def probabilities(
    q: Tensor, k: Tensor, mask: Tensor | None = None, *, is_causal: bool = False, scale: float | None = None
) -> Tensor:
    """Return `softmax(q k^T scale + mask)`, in float32 at least inside, of the dtype of `q`.

    A boolean mask is True where a query may attend to a key. A row without any True is zero, as in fused kernels.
    """
    wide_q, wide_k = widen(q, k)
    scores = (wide_q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ wide_k.transpose(-2, -1)
    if is_causal:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        scores = scores.masked_fill(~allowed, -math.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    if mask is None:
        return scores.softmax(-1).to(q.dtype)
    masked_rows = (scores == -math.inf).all(-1, keepdim=True)
    # the softmax of a row of -inf is NaN, and its gradient stays NaN even if the row is set to 0 after the softmax
    return scores.masked_fill(masked_rows, 0).softmax(-1).masked_fill(masked_rows, 0).to(q.dtype)


def _rows_between(
    q: Tensor, k: Tensor, mask: Tensor | None, is_causal: bool, scale: float | None, start: int, end: int
) -> Tensor:
    """Return the probabilities of the queries from one number to another."""
    rows = mask if mask is None or mask.shape[-2] == 1 else mask[..., start:end, :]
    if is_causal:
        at = torch.arange(start, end, device=q.device)
        rows = torch.arange(k.shape[-2], device=q.device) <= at[:, None]
    return probabilities(q[..., start:end, :], k, rows, scale=scale)


def _operands(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return the two factors of a batched matrix product, and the second transposed."""
    if name == "einsum":
        return _einsum(*args)
    tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)][-2:]
    if len(tensors) < 2 or tensors[1].ndim < 2:
        return None
    return tensors[0], tensors[1], tensors[1].transpose(-2, -1)


def _einsum(equation: Any, *operands: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return the operands of an einsum that is a batched matrix product, as `_operands` does; None of any other."""
    tensors = operands[0] if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else operands
    if not isinstance(equation, str) or len(tensors) != 2 or "->" not in equation:
        return None
    terms, _, result = equation.replace(" ", "").replace("...", ".").partition("->")
    one, _, two = terms.partition(",")
    if len({one[:-2], two[:-2], result[:-2]}) > 1 or min(len(one), len(two), len(result)) < 2:
        return None
    first, second = tensors
    if one[-1] == two[-1] and result[-2:] == one[-2] + two[-2]:
        return first, second.transpose(-2, -1), second
    if one[-1] == two[-2] and result[-2:] == one[-2] + two[-1]:
        return first, second, second.transpose(-2, -1)
    return None

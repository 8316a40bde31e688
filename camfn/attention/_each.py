"""Attention with the gradients of several scores of one forward, one after the other: all words of an answer."""

# tested in tests/attention/test_each.py

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._cut.constants import on_constants
from .._cut.graft import bare
from .._cut.lost import no_gradient
from .._shared.inputs import tensors_in
from .._shared.vocabulary import Inputs
from ._capture import checked_layers, checked_queries, record_of, wanted_sites
from ._forward import Layers, forward
from ._gradients import NoGradient, gradients_at
from ._records import AttentionRecord
from ._watch import Site


def attended_each(
    model: nn.Module,
    layers: Layers,
    inputs: Inputs,
    scores: Callable[[Any], Tensor],
    reduce: Callable[[int, Sequence[AttentionRecord]], Tensor],
    *,
    queries: Tensor | None = None,
) -> list[Tensor]:
    """Run a model once, and reduce its attentions with the gradients of each of several scores, one backward each.

    No more than one score's gradients are in memory at a time.

    Args:
        model: any module.
        layers: as for `capture_attention`.
        inputs: of the model.
        scores: function of the outputs to (K,).
        reduce: function of the number of the score, and the records, to what is kept of them.
        queries: as for `observe_attention`.

    Returns:
        What `reduce` returned for each score.
    """
    plain, names = bare(model), checked_layers(model, layers)
    rows = checked_queries("attention", queries)

    def missing(site: Site) -> None:
        raise NoGradient(site.name)

    with torch.inference_mode(False), torch.enable_grad():
        outputs, sites = on_constants(plain, lambda model: forward(model, names, inputs, _leaf, queries=rows))
        wanted = wanted_sites(names, sites, plain, None)
        found = []
        for n, score in enumerate(scores(outputs)):
            try:
                grads = _each_gradient(wanted, score, missing)
            except NoGradient as error:
                name = error.name
                break
            records = [record_of(site, inputs, *pair) for site, pair in zip(wanted, zip(grads[::2], grads[1::2]))]
            found.append(reduce(n, [_detached(one) for one in records]))
        else:
            return found
    raise no_gradient(plain, name, inputs, lambda outputs: scores(outputs)[:1], lambda output: tensors_in(output)[0])


def _detached(record: AttentionRecord) -> AttentionRecord:
    tensors: dict[str, Any] = {key: x.detach() for key, x in record._asdict().items() if isinstance(x, Tensor)}
    return record._replace(**tensors)


def _leaf(x: Tensor) -> Tensor:
    """Return a zero to add, in which a score can be differentiated."""
    return torch.zeros_like(x).requires_grad_()


def _each_gradient(wanted: Sequence[Site], score: Tensor, missing: Callable[[Site], None]) -> list[Tensor]:
    """Differentiate one score, and keep the graph for the next."""
    return gradients_at(wanted, score[None], False, missing, retain_graph=True)

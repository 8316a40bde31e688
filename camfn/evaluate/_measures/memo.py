"""What does not look at the map is run once for all methods: scores of the same images, captures of the same layer."""

# tested in tests/evaluate/measures/test_memo.py

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from ... import Captured, capture, observe
from ..._photos.layer import Layer
from ..._shared.rows import ChunkSize, Trial, readable
from ..._shared.vocabulary import ScoreFn, without_grads
from .cost import flops_of

Layers = dict[tuple[str, bool, torch.Size], Layer]
"""Layers of one model by the name that was given, whether the method reads attention, and the shape of the images."""


class Scores:
    """A score of images that runs a batch once, however many methods ask for it.

    Every method of a photo meets the same noise, the same blurred photo, and the photo itself. A batch is known by its
    bytes, and its scores are those of the very run that would be made again, so a row does not depend on other rows.

    Args:
        score: as `metrics.scores_of` makes it.
        images: those that are run first where BatchNorm is folded: the first run checks the folding.
    """

    def __init__(self, score: Any, images: Tensor) -> None:
        self.score, self.images = score, images
        self.known: dict[bytes, Tensor] = {}
        self.trials: dict[tuple[bytes, ChunkSize], Trial] = {}
        self.folded: Scores | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Score one batch, (B,)."""
        return self._once(self.score, images)

    def score_many(self, batches: Tensor) -> Tensor:
        """Score n batches as one, (n, B)."""
        return self._once(self.score.score_many, batches)

    def rows_at_once(self, batch: int) -> int | None:
        """How many batches run at once, for a compiled network."""
        rows: int | None = self.score.rows_at_once(batch)
        return rows

    def with_folded_norms(self) -> Scores:
        """Return the score with BatchNorm folded, which all metrics of all methods share."""
        if self.folded is None:
            score = self.score.with_folded_norms()
            score(self.images)
            self.folded = Scores(score, self.images)
        return self.folded

    def tried_once(self, first: Tensor, chunk_size: ChunkSize, trial: Callable[[], Trial]) -> Trial:
        """Try whether batches run as one, once for the same first batch and chunk size."""
        if not _may_keep(first):
            return trial()
        key = digest(first), chunk_size
        if key not in self.trials:
            self.trials[key] = trial()
        return self.trials[key]

    def _once(self, run: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """Run a batch, or return what it gave."""
        if not _may_keep(images):
            return run(images)
        key = digest(images)
        if key not in self.known:
            self.known[key] = run(images)
        return self.known[key]


def _may_keep(images: Tensor) -> bool:
    """Whether a run may be kept: a mode that watches runs has to see each."""
    return readable(images) and _get_current_dispatch_mode() is None


class Taken(NamedTuple):
    """What one run of the network showed of a layer, and what the run cost."""

    captured: Captured
    seconds: float
    flops: int


class Captures:
    """Captures of layers, by the layer, the images and whether they hold the gradient.

    Args:
        model: the network.
        score: what is differentiated.
    """

    def __init__(self, model: nn.Module, score: ScoreFn) -> None:
        self.model, self.score = model, score
        self.known: dict[tuple[str, bool, bool, bytes], Taken] = {}

    def __call__(self, layer: Layer, images: Tensor, gradient: bool, *, count: bool = False) -> Taken:
        """Capture a layer, once for the same images; where asked to, count the operations, which takes a while."""
        key = (layer.name, gradient, count, digest(images))
        if key not in self.known:
            started = perf_counter()
            run = partial(self._run, layer, images, gradient)
            captured, flops = flops_of(run) if count else (run(), 0)
            if images.is_cuda:
                torch.cuda.synchronize(images.device)
            self.known[key] = Taken(captured, perf_counter() - started, flops)
        return self.known[key]

    def _run(self, layer: Layer, images: Tensor, gradient: bool) -> Captured:
        """Run the network once."""
        if gradient:
            return capture(self.model, layer.name, layout=layer.layout)(images, self.score)
        with torch.no_grad():
            activations, outputs = observe(self.model, layer.name, layout=layer.layout)(images)
        return without_grads(activations, outputs)


def digest(images: Tensor) -> bytes:
    """Return a digest of the shape, the type and the bytes of a tensor."""
    plain = images.detach().cpu()
    # in the order of memory, so that nothing is copied
    order = sorted(range(plain.ndim), key=plain.stride, reverse=True)
    plain = plain.permute(order).contiguous()
    about = f"{images.dtype} {tuple(images.shape)} {order} "
    return blake2b(about.encode() + plain.view(-1).view(torch.uint8).numpy().tobytes(), digest_size=16).digest()

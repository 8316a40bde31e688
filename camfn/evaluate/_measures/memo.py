"""What does not look at the map is run once for all methods: scores of the same images, captures of the same layer."""

# tested in tests/evaluate/measures/test_memo.py

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from hashlib import sha256
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _get_current_dispatch_mode

from ... import Captured, capture, observe
from ..._photos.layer import Layer
from ..._shared.rows import ChunkSize, Trial, readable
from ..._shared.vocabulary import ScoreFn, without_grads
from .cost import flops_of

Layers = dict[tuple[str, bool, torch.Size], Layer]
"""Layers of one model by the name that was given, whether the method reads attention, and the shape of the images."""


def noise_like(images: Tensor) -> Tensor:
    """Return noise in the place of images: what a check finds on it depends on no photo."""
    return torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).to(images)


class Shared:
    """What all photos of one model share: `evaluate_photo` finds it for the first and takes it for the others.

    Attributes:
        layers: the layers that the cases explain.
        foldings: a score whose network has BatchNorm folded, by the shape and the type of the images; None where the
            network takes no noise.
        ceilings: best orders of cells, by the name of a picture that several units of the suite grade.

    Example:
        >>> shared = Shared()
        >>> shared.layers, shared.foldings
        ({}, {})
    """

    def __init__(self) -> None:
        self.layers: Layers = {}
        self.foldings: dict[tuple[torch.Size, torch.dtype], Any] = {}
        self.ceilings: dict[str, Any] = {}

    def folded(self, score: Any, images: Tensor) -> Any:
        """Return a score with BatchNorm folded; its first run, on noise, checked the folding.

        A network that takes no noise checks it on the images, for these alone.
        """
        key = images.shape, images.dtype
        if key not in self.foldings:
            folding = score.with_folded_norms()
            try:
                folding(noise_like(images))
            except Exception:
                folding = None
            self.foldings[key] = folding
        kept = self.foldings[key]
        if kept is None:
            folding = score.with_folded_norms()
            folding(images)
            return folding
        return replace(score, model=kept.model)


class Scores:
    """A score of images that runs a batch once, however many methods ask for it.

    Every method of a photo meets the same noise, the same blurred photo, and the photo itself. A batch is known by its
    bytes, and its scores are those of the very run that would be made again, so a row does not depend on other rows.

    Args:
        score: as `metrics.scores_of` makes it.
        images: the photo; on it a trial shows whether photos run as one batch.
        shared: where the network with BatchNorm folded is kept.
    """

    def __init__(self, score: Any, images: Tensor, shared: Shared | None = None) -> None:
        self.score, self.images, self.shared = score, images, shared or Shared()
        self.known: dict[bytes, Tensor] = {}
        self.trials: dict[tuple[torch.Size, torch.dtype, ChunkSize], Trial] = {}
        self.folded: Scores | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Score one batch, (B,)."""
        return self._once(self.score, images)

    def note(self, images: Tensor, scores: Tensor) -> None:
        """Keep the scores of a run that was made."""
        if _may_keep(images):
            self.known[digest(images)] = scores

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
            self.folded = Scores(self.shared.folded(self.score, self.images), self.images)
        return self.folded

    def tried_once(self, first: Tensor, chunk_size: ChunkSize, trial: Callable[[Tensor], Trial]) -> Trial:
        """Try whether batches run as one, once a shape and chunk size; on the photo, if it has this shape."""
        if not _may_keep(first):
            return trial(first)
        key = first.shape, first.dtype, chunk_size
        if key not in self.trials:
            self.trials[key] = trial(self.images if key[:2] == (self.images.shape, self.images.dtype) else first)
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
        self.agreed: dict[str, bool] = {}

    def __call__(self, layer: Layer, images: Tensor, gradient: bool, *, count: bool = False) -> Taken:
        """Capture a layer, once for the same images; where asked to, count the operations, which takes a while.

        A run counts one kind of capture. Other runs take the activations of a capture with a gradient, if both kinds
        gave the same of the photo, to the bit.
        """
        key = (layer.name, gradient, count, digest(images))
        if key not in self.known and not count and not gradient and self._agree(layer.name):
            other = self.known.get((layer.name, True, False, key[-1]))
            if other is not None:
                self.known[key] = other._replace(captured=_plain(other.captured))
        if key not in self.known:
            started = perf_counter()
            run = partial(self._run, layer, images, gradient)
            captured, flops = flops_of(run) if count else (run(), 0)
            if images.is_cuda:
                torch.cuda.synchronize(images.device)
            self.known[key] = Taken(captured, perf_counter() - started, flops)
        return self.known[key]

    def _agree(self, layer: str) -> bool:
        """Whether captures of the photo with and without a gradient are there, and hold the same."""
        if layer not in self.agreed:
            both = [taken for (name, _, count, _), taken in self.known.items() if name == layer and count]
            if len(both) < 2:
                return False
            first, second = ([*map(digest, _tensors(taken.captured))] for taken in both)
            self.agreed[layer] = first == second
        return self.agreed[layer]

    def _run(self, layer: Layer, images: Tensor, gradient: bool) -> Captured:
        """Run the network once."""
        if gradient:
            return capture(self.model, layer.name, layout=layer.layout)(images, self.score)
        with torch.no_grad():
            activations, outputs = observe(self.model, layer.name, layout=layer.layout)(images)
        return without_grads(activations, outputs)


def _plain(captured: Captured) -> Captured:
    """Return a capture without its gradient."""
    return without_grads(captured.activations, captured.outputs)


def _tensors(captured: Captured) -> list[Tensor]:
    """List the activations and what the outputs hold."""
    return [captured.activations, *(x for x in pytree.tree_leaves(captured.outputs) if isinstance(x, Tensor))]


def digest(images: Tensor) -> bytes:
    """Return a digest of the shape, the type and the bytes of a tensor."""
    plain = images.detach().cpu()
    # in the order of memory, so that nothing is copied
    order = sorted(range(plain.ndim), key=plain.stride, reverse=True)
    plain = plain.permute(order).contiguous()
    known = sha256(f"{images.dtype} {tuple(images.shape)} {order} ".encode())
    known.update(plain.view(-1).view(torch.uint8).numpy().data)
    return known.digest()

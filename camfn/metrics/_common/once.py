"""A function of images that runs a batch once, for the metrics of one photo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from hashlib import sha256
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from ..._shared.checks import function
from ..._shared.rows import ChunkSize, Trial, constant, readable
from ..._shared.value import Value, frozen
from .scores import ScoreOf

Run = TypeVar("Run", bound=Callable[[Tensor], Tensor])


def shared(run: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Make a function of images run each batch once, however many metrics ask for it.

    Metrics of one kind perturb a photo alike: with the same `noise=`, the stabilities and `max_sensitivity` ask
    `explain` for the same maps, and the relative ones ask `outputs` for the same logits. A score keeps more: BatchNorm
    is folded once, and one trial shows whether many batches may run as one, where each metric would find out anew.
    Equal maps, such as those of Grad-CAM, HiResCAM and XGrad-CAM at the last layer of many networks, cost the forwards
    of one.

    What is kept is held by the function that this returns, and goes with it. Make one for each batch of photos, for it
    grows with every batch that it meets. A batch is known by its bytes, so that the host waits for a GPU. A score of
    `scores_of` notices when parameters of its network change; for any other function make a new one then.

    Args:
        run: images (B, C, *T) to a tensor: a score, as `scores_of(model, images)` makes it, an `explain`, `outputs` or
            `represent` of the stabilities.

    Returns:
        A function with the same results, for use in its place. Under a transform of `torch.func`, while compiling, and
        where a derivative is taken it keeps nothing.

    Raises:
        CamfnError: what is given is no function.

    Example:
        >>> calls = []
        >>> explain = shared(lambda x: calls.append(1) or x.sum(1))
        >>> images, noise = torch.ones(1, 1, 2, 2), 0.1 * torch.ones(3, 1, 2, 2)
        >>> from camfn.metrics import local_lipschitz, max_sensitivity
        >>> local_lipschitz(explain, images, noise=noise), max_sensitivity(explain, images, noise=noise)
        (tensor([1.]), tensor([0.1000]))
        >>> len(calls)  # the images, and the noisy ones, which are all the same here
        2
    """
    function("shared", run, "from images to a tensor, such as scores_of(model, images)")
    return _SharedScore(run) if hasattr(run, "score_many") else _Shared(run)


@frozen
class _Shared(Value, Generic[Run]):
    """A function and what it returned.

    Attributes:
        run: images to a tensor.
    """

    run: Run
    _known: dict[Any, Any] = field(default_factory=dict, init=False)

    def __call__(self, images: Tensor) -> Tensor:
        if not _may_be_kept(images):
            plain: Tensor = self.run(images)
            return plain
        return self._of_batch("one", self.run, images)

    def _of_batch(self, how: str, run: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """Run a batch, or return what it gave: a copy, for who asks may write to it."""
        key = how, images.shape, images.dtype, images.device, sha256(_bytes_of(images)).digest()
        found: Tensor = self._once(key, lambda: run(images))
        return found.clone()

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what is known by a key, of the network as it is now."""
        state = _state_of(self.run)
        if state is None:
            return make()
        key = key, state
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]


@frozen
class _SharedScore(_Shared[Any]):
    """A score and what it returned, its folded network and its trials."""

    def score_many(self, batches: Tensor) -> Tensor:
        """Score n batches as one, (n, B): those of equal maps, and of metrics that remove the same groups, run once."""
        if not _may_be_kept(batches):
            plain: Tensor = self.run.score_many(batches)
            return plain
        return self._of_batch("many", self.run.score_many, batches)

    def rows_at_once(self, batch: int) -> int | None:
        """How many batches run at once, for a compiled network."""
        rows: Callable[[int], int | None] = getattr(self.run, "rows_at_once", lambda batch: None)
        return rows(batch)

    def with_folded_norms(self) -> ScoreOf:
        """Return the score with BatchNorm folded, the same for all metrics."""
        fold = getattr(self.run, "with_folded_norms", None)
        folded: ScoreOf = self if fold is None else self._once("folded", lambda: _SharedScore(fold()))
        return folded

    def tried_once(self, first: Tensor, chunk_size: ChunkSize, trial: Callable[[Tensor], Trial]) -> Trial:
        """Try whether batches run as one, once for a shape and a chunk size."""
        if not _may_be_kept(first):
            return trial(first)
        found: Trial = self._once((first.shape, first.dtype, first.device, chunk_size), lambda: trial(first))
        return found


def _may_be_kept(images: Tensor) -> bool:
    """Whether the run of a batch may stand for later ones: a mode that watches runs has to see each."""
    return isinstance(images, Tensor) and constant(images) and _get_current_dispatch_mode() is None


def _bytes_of(images: Tensor) -> bytes:
    """Return the bytes of a batch, which has no derivative."""
    return images.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _state_of(run: Any) -> tuple[tuple[int, int, int], ...] | None:
    """Return what tells that the network of a score of `scores_of` has changed; None if nothing of it may be kept.

    A write counts the version up, and `parameter.data = other` leads to other memory. The parameters of many networks
    at once, as under `vmap`, have no memory of their own, and what they give is no later network's.
    """
    model = getattr(run, "model", None)
    if not isinstance(model, nn.Module):
        return ()
    held = [*model.parameters(), *model.buffers()]
    if not readable(*held):
        return None
    return tuple((id(one), one.data_ptr(), 0 if one.is_inference() else one._version) for one in held)

"""Scores of images: the only values of a network that faithfulness metrics read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ..._cut.folded import BatchNormFolded, rows_at_once
from ..._cut.graft import bare
from ..._shared.checks import (
    check_chunk_size,
    describe,
    function,
    is_concrete,
    length_matches,
    progress_bar,
    same_device,
)
from ..._shared.errors import ArgumentTypeError, CamfnError
from ..._shared.inputs import Images, call, copy_of, images_of
from ..._shared.rows import ChunkSize, Progress, finite, one_score, score_as_one_batch, score_variants
from ..._shared.value import Value, frozen
from ..._shared.vocabulary import Inputs, ScoreFn, Target
from ...targets import as_score, class_probability, pin

ScoreOf: TypeAlias = Callable[[Tensor], Tensor]
"""Images (B, C, *S) to scores (B,). A method `score_many`, (n, B, ...) to (n, B), runs n batches as one."""

_TOP = class_probability()

_RUNS_TO_FOLD = 4
"""Folding BatchNorm is faster from this many runs on: the check costs one run, and each run takes a third less."""


def scores_of(model: nn.Module, inputs: Inputs, target: Target = _TOP, *, images: Images | None = None) -> ScoreOf:
    """Make the score that the metrics take: images to one number a sample, always for the same classes.

    If the target depends on the model's output, as the top class does, one run on the inputs fixes the choice, so that
    a masked image keeps the class of its original. For given classes this function runs nothing, and
    `lambda x: target(model(x))` is an equal score.

    Args:
        model: in evaluation mode; the score calls it without a graph.
        inputs: of the model, as for `explainer`: images (B, C, *S), a tuple of arguments or a dict of keywords. Those
            beside the images stay as they are.
        target: a class index or a target; by default the probability of each sample's top class. A class index stands
            for its logit; most metrics expect a probability, as `targets.class_probability(281)` gives.
        images: which input the score is a function of, where several have space: an index, a key, a path of these such
            as ("pixels", 0), or a function of the inputs.

    Returns:
        A function (B, C, *S) -> (B,), for these B samples in this order. Its method `score_many` runs n of them as one.

    Raises:
        CamfnError: the model is in training mode, where a score depends on chance and on its neighbors.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).eval()
        >>> images = torch.ones(2, 3, 2, 2)
        >>> scores_of(net, images)(0.5 * images).shape
        torch.Size([2])
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(
            f"scores_of: model: expected a torch.nn.Module, got {describe(model)}; a score of yours may be any "
            "function of images that returns one number a sample"
        )
    if model.training:
        raise CamfnError(f"scores_of: this {type(model).__name__} is in training mode; call model.eval() first")
    score = as_score(target)
    if getattr(score, "pinned", None):
        with torch.no_grad():
            score = pin(score, call(model, copy_of(inputs)))
    if isinstance(inputs, Tensor):
        return _Pinned(model, score)
    images_of(inputs, images, "scores the images")
    return _Pinned(model, score, inputs, images)


@frozen
class _Pinned(Value):
    """A model and a target whose classes are fixed.

    Attributes:
        model: run on the inputs.
        score: its outputs to (B,).
        inputs: those that the images stand among; None where the model takes images alone.
        images: which of the inputs they are.
    """

    model: Callable[..., Any]
    score: ScoreFn
    inputs: Inputs | None = None
    images: Images | None = None

    def run(self, images: Tensor) -> Any:
        """Run the model on these images, and the other inputs as they are."""
        inputs = images if self.inputs is None else images_of(self.inputs, self.images)[1](images)
        # a folded network takes all inputs as one
        return self.model(inputs) if isinstance(self.model, BatchNormFolded) else call(self.model, inputs)

    def with_folded_norms(self) -> _Pinned:
        """Return the score with BatchNorm folded into a private copy, for the runs of one metric.

        The copy keeps the parameters of its time, and may write to the images. A caller drops it after the runs.
        """
        model = self.model
        return (
            replace(self, model=BatchNormFolded(model))
            if isinstance(model, nn.Module) and bare(model) is model
            else self
        )

    def __call__(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return self.score(self.run(images))

    def rows_at_once(self, batch: int) -> int | None:
        """How many batches of this many images run at once, for a compiled network."""
        model = self.model.model if isinstance(self.model, BatchNormFolded) else self.model
        return rows_at_once(model, batch) if isinstance(model, nn.Module) else None

    def score_many(self, batches: Tensor) -> Tensor:
        """Score n batches as one: (n, B, ...) to (n, B)."""
        with torch.no_grad():
            return score_as_one_batch(self.run, self.score, batches)


def for_runs(score: ScoreOf, count: int) -> ScoreOf:
    """Return the score to use for `count` runs: with BatchNorm folded where that saves more than its check costs."""
    fold = getattr(score, "with_folded_norms", None)
    return fold() if fold is not None and count >= _RUNS_TO_FOLD else score


def score_once(what: str, score: ScoreOf, images: Tensor) -> Tensor:
    """Score one batch, (B,); refuse NaN and infinity."""
    function(f"{what}: score", score, "as scores_of(model, images) makes it")
    with torch.no_grad():
        return finite(f"{what}: score", one_score(f"{what}: score", score(images), images.shape[0]))


def score_rows(
    what: str,
    score: ScoreOf,
    change: Callable[[Tensor], Tensor],
    rows: Tensor,
    *,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """Score `change(row)`, a batch of images, for each row: (R, ...) -> (R, B).

    A score with the method `score_many` takes a chunk of rows as one larger batch; any other takes one batch at a time.
    """
    function(f"{what}: score", score, "as scores_of(model, images) makes it")
    check_chunk_size(what, chunk_size)
    progress_bar(what, progress)
    score = for_runs(score, len(rows))
    with torch.no_grad():
        if hasattr(score, "score_many"):
            scores = score_variants(f"{what}: score", score, change, rows, chunk_size=chunk_size, progress=progress)
            return finite(f"{what}: score", scores.mT).mT
        done: list[Tensor] = []
        for row in rows:
            images = change(row)
            done.append(one_score(f"{what}: score", score(images), images.shape[0]))
            if progress:
                progress(len(done), len(rows))
        return finite(f"{what}: score", torch.stack(done, 1)).mT


def number_a_sample(what: str, name: str, value: Any, low: float, high: float, advice: str) -> Tensor:
    """Return `value` if it is (B,) floating-point numbers in [low, high], up to rounding.

    Raises:
        CamfnError: it is not; `what` and `name` begin the message, `advice` ends it.
    """
    if not isinstance(value, Tensor) or value.ndim != 1 or not value.is_floating_point():
        got = f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        raise CamfnError(f"{what}: {name}: expected one floating-point number a sample, shape (B,); got {got}")
    slack = 16 * torch.finfo(value.dtype).eps
    if is_concrete(value) and not bool(((value >= low - slack) & (value <= high + slack)).all()):
        bad = int(((value >= low - slack) & (value <= high + slack)).logical_not().int().argmax())
        raise CamfnError(
            f"{what}: {name}: expected numbers in [{low:g}, {high:g}], got {value[bad]:.4g} for sample {bad}. {advice}"
        )
    return value


def of_the_same(what: str, first: Tensor, *others: Tensor) -> Tensor:
    """Return the last of several vectors, one number a sample; refuse other lengths and devices than the first's."""
    for one in others:
        length_matches(what, one.shape[0], first.shape[0])
        same_device(what, one, first, "first scores")
    return others[-1]

"""The questions of one check: what can be asked of an explainer and a target, and the runs that answer it."""

# tested in tests/check/test_check.py

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from .._cut.functional import _models_in, pure
from .._cut.graft import bare
from .._shared.checks import describe
from .._shared.errors import CamfnError
from .._shared.inputs import Images, call, copy_of, images_of
from .._shared.rows import no_nan, one_score
from .._shared.vocabulary import Inputs, ScoreFn, Target
from ..metrics import resampled
from ..targets import class_probability, logits_of
from ..targets._classes import _OfClass
from .head import Run, run_once
from .measure import alike, as_map, moves, peak_place, scores_of_parts
from .result import Checked


class Questions:
    """One check under way: what it knows of the explainer, and how many runs it has made."""

    def __init__(
        self,
        explain: Callable[..., Tensor],
        model: nn.Module,
        inputs: Inputs,
        target: Target,
        images: Images | None,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.explain, self.model, self.inputs, self.images = explain, model, inputs, images
        self.progress = progress or (lambda done, total: None)
        self.run: Run = run_once(model, inputs, target)
        self.missing: dict[str, str] = {}
        self.done, self.total, self.maps, self.forwards = 1, 0, 0, 1

    def plan(self, pictures: Tensor, copies: int, redraws: int, parts: int) -> None:
        """Find what can be asked, and so the number of runs; it becomes known before the second of them."""
        self.classes, self.runner_up = self._classes()
        self.cam = self._map(self.explain, self.inputs, self.run.score)
        if self.cam.ndim != pictures.ndim - 1 or self.cam.ndim > 4:
            reason = f"maps {tuple(self.cam.shape)} have no place on images {tuple(pictures.shape)}"
            self.missing |= {"kept": reason, "removed": reason}
        self.drawn = self._redrawable()
        asked = {"other class": 1, "new head": redraws, "kept": 2 * (1 + parts)}
        self.total = 3 + copies + sum(count for name, count in asked.items() if name not in self.missing)
        self.progress(self.done, self.total)

    def answer(
        self,
        pictures: Tensor,
        rebuild: Callable[[Tensor], Inputs],
        perturbations: Tensor,
        generator: torch.Generator,
        redraws: int,
        parts: int,
        share: float,
    ) -> Checked:
        """Make the maps and scores that are left."""
        score, cam, size = self.run.score, self.cam, tuple(pictures.shape[2:])
        again = [self._map(self.explain, self.inputs, score)]
        other = None if self.runner_up is None else [self._map(self.explain, self.inputs, self._of(self.runner_up))]
        new = [self._map_of_new_head(generator) for _ in range(redraws)] if self.drawn else None
        noisy = [self._map(self.explain, rebuild(pictures + noise), score) for noise in perturbations]
        read = score if self.classes is None else class_probability(self.classes)
        kept = removed = None
        if "kept" not in self.missing:
            places = moves(parts, size, generator)
            kept, removed = scores_of_parts(self._scores(read), pictures, _filled(cam), share, places, self._forward)
        border, together, marked = peak_place(_filled(cam))
        return Checked(
            cam=cam,
            score=read(self.run.outputs),
            classes=self.classes,
            runner_up=self.runner_up,
            head=self.run.head if self.drawn else None,
            again=alike(cam, again)[:, 0],
            other_class=None if other is None else alike(cam, other)[:, 0],
            redrawn=None if new is None else alike(cam, new),
            noisy=alike(cam, noisy),
            kept=kept,
            removed=removed,
            border=border,
            together=together,
            marked=marked,
            blank=(_filled(cam).flatten(1) == _filled(cam).flatten(1)[:, :1]).all(1),
            share=share,
            maps=self.maps,
            forwards=self.forwards,
            missing=self.missing,
        )

    def _step(self) -> None:
        self.done += 1
        if self.total:
            self.progress(self.done, self.total)

    def _forward(self) -> None:
        self.forwards += 1
        self._step()

    def _map(self, explain: Callable[..., Tensor], inputs: Inputs, target: ScoreFn) -> Tensor:
        """Explain once; a picture of gradients becomes a map of their magnitudes."""
        cam = explain(inputs, target)
        pictures = images_of(inputs, self.images)[0]
        if not isinstance(cam, Tensor) or cam.ndim < 2 or cam.shape[0] != pictures.shape[0]:
            raise CamfnError(
                f"check: explain: expected maps (B, *S) of B = {pictures.shape[0]} images, got {describe(cam)}"
            )
        self.maps += 1
        self._step()
        return as_map(cam.detach(), pictures)

    def _scores(self, read: ScoreFn) -> Callable[[Tensor], Tensor]:
        """Make the score of changed images."""
        rebuild = images_of(self.inputs, self.images)[1]

        def score(pictures: Tensor) -> Tensor:
            values = read(call(self.model, copy_of(rebuild(pictures))))
            return no_nan("check: score", one_score("check: score", values, pictures.shape[0]))

        return score

    def _classes(self) -> tuple[Tensor | None, Tensor | None]:
        """Return the explained classes and the runners-up, (B,) each; None where the target is not of a class."""
        score = self.run.score
        if not isinstance(score, _OfClass):
            self.missing["other class"] = f"the target {describe(score)} is not the score of a class"
            return None, None
        logits = logits_of(self.run.outputs)
        if logits.shape[1] < 2:
            self.missing["other class"] = "the model has one logit, and no other class"
            return None, None
        chosen = torch.as_tensor(score.classes, device=logits.device).long().expand(logits.shape[0]).clone()
        others = logits.scatter(1, chosen[:, None], -torch.inf)
        return chosen, others.argmax(1)

    def _of(self, classes: Tensor) -> ScoreFn:
        """Return the target for other classes."""
        return replace(self.run.score, classes=classes)  # type: ignore[type-var]

    def _redrawable(self) -> bool:
        """Whether the explainer takes another network, and the network a new head."""
        if not _models_in(self.explain):
            self.missing["new head"] = "explain is a function that holds no module, so it takes no other network"
        elif self.run.head is None:
            self.missing["new head"] = "no module with parameters ran"
        elif not any(bool((value != value.flatten()[0]).any()) for value in self._head().values()):
            self.missing["new head"] = f"all weights of {self.run.head!r} are equal, so there is nothing to draw from"
        return "new head" not in self.missing

    def _head(self) -> dict[str, Tensor]:
        """Return the parameters of the head by their names in the network."""
        named = bare(self.model).get_submodule(str(self.run.head)).named_parameters()
        return {f"{self.run.head}.{name}".lstrip("."): value.detach() for name, value in named if value.numel()}

    def _map_of_new_head(self, generator: torch.Generator) -> Tensor:
        """Explain a private copy of the network with a new head."""
        drawn = {name: resampled(name, value, generator) for name, value in self._head().items()}
        return self._map(lambda inputs, target: pure(self.explain)(drawn, inputs, target), self.inputs, self.run.score)


def _filled(cam: Tensor) -> Tensor:
    """Return maps to compute in, zero where a sample is not finite."""
    finite = cam.isfinite().flatten(1).all(1).reshape(-1, *(1,) * (cam.ndim - 1))
    return torch.where(finite, cam, 0).to(torch.promote_types(cam.dtype, torch.float32))

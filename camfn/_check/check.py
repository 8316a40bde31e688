"""`check`: whether a map may be believed."""

# tested in tests/check/test_check.py

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .._cut.functional import _models_in, pure
from .._cut.graft import bare
from .._shared.checks import describe, function, generator_of, number, progress_bar, whole
from .._shared.devices import brought
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.inputs import Images, call, copy_of, images_of
from .._shared.noise import draw_normal
from .._shared.rows import no_nan, one_score
from .._shared.value import frozen
from .._shared.vocabulary import Inputs, ScoreFn, Target
from ..targets import class_probability, logits_of
from ..targets._classes import _OfClass
from .head import Run, run_once
from .numbers import Numbers
from .words import Line, lines_of, table_of

NOISE = 0.05
"""Standard deviation of the noise, as a share of the range of an image's values."""


@frozen
class Checked(Numbers):
    """What `check` found, for B images; `str` is a table of all of them.

    The rank correlations are those of `metrics.spearman`, in [-1, 1], with the map of the image itself.

    Attributes:
        cam: the map that was checked, (B, *S).
        score: of the whole images, (B,): for a class its probability, else the target's own number.
        classes: the explained classes, (B,); None where the target is not the score of a class.
        runner_up: the class of each image with the largest logit among the others, (B,), or None.
        head: the dotted name of the module whose parameters were drawn anew, or None.
        again: correlation with a second call, (B,).
        other_class: correlation with the map of the runner-up, (B,), or None.
        redrawn: correlations with the maps of networks with new heads, (B, redraws), or None.
        noisy: correlations with the maps of noisy images, (B, copies).
        kept: scores where only a part of the image is kept, (B, 1 + parts), the marked part first; or None.
        removed: scores where a part is removed, (B, 1 + parts), the marked part first; or None.
        border: distance of the peak to the nearest edge, as a share of that side, (B,); NaN without a positive value.
        together: share of the strong values (at least half of the peak) in one piece with the peak, (B,), or NaN.
        marked: share of the positions whose value is strong, (B,), or NaN.
        blank: whether a map is constant or not finite, (B,), bool; its numbers mean nothing.
        share: of the image that the marked part is.
        maps: number of explanations made, each of all B images.
        forwards: number of forwards beside those, each of all B images.
        missing: by the name of a line, why it was left out.
    """

    def lines(self, i: int = 0, names: list[str] | None = None) -> tuple[Line, ...]:
        """Answer the questions for image i, each with a number, a verdict and a sentence.

        Args:
            i: which image of the batch.
            names: of the classes; without them a class is a number.
        """
        return lines_of(self, i, names)

    def table(self, i: int = 0, names: list[str] | None = None, *, width: int = 120) -> str:
        """Lay out the lines of image i as text: verdict, question, number, interval, sentence; `width` in letters."""
        return table_of(self.lines(i, names), width)

    def record(self, i: int = 0, names: list[str] | None = None) -> list[dict[str, Any]]:
        """Return the lines of image i as plain dicts, for JSON."""
        return [line._asdict() | {"interval": line.interval and list(line.interval)} for line in self.lines(i, names)]

    def __str__(self) -> str:
        tables = [self.table(i) for i in range(len(self.blank))]
        return tables[0] if len(tables) == 1 else "\n\n".join(f"image {i}\n{text}" for i, text in enumerate(tables))


def check(
    explain: Callable[..., Tensor],
    inputs: Inputs,
    target: Target = None,
    *,
    model: nn.Module | None = None,
    images: Images | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    copies: int = 6,
    redraws: int = 6,
    parts: int = 19,
    share: float = 0.2,
    progress: Callable[[int, int], None] | None = None,
) -> Checked:
    """Ask of a map what a careful reader would ask before believing it.

    Does the same call give it again; is it another for the runner-up's class; is it another for a network whose head
    is drawn anew, in a private copy (1810.03292); does it stay under a little noise on the images; does keeping the
    marked part keep the score, and does removing it take the score away, more than parts of the same shape and size
    elsewhere; does its peak lie at the border, and in one place. Removed pixels get the mean color of their image. A
    removed part and a kept one are both unlike photos, hence the comparison with parts elsewhere.

    It costs at most `3 + redraws + copies` maps and `3 + 2 * parts` forwards of the inputs. With the defaults and a
    method that runs the network once, these are 56 forwards. `progress` is told the exact number after the first.

    Args:
        explain: an explainer: `explainer`, `attention_explainer`, a method of `camfn.network`, or a transformation of
            these; or any function of inputs and target, with `model` beside it.
        inputs: as `explain` takes them.
        target: what is explained, as for `explainer`. For a class the scores are its probabilities; other targets,
            and functions, have no runner-up.
        model: what scores the images, where `explain` is a function that holds no module of its own.
        images: which of the inputs is the image, as for `explainer`.
        generator: draws noise, heads and places; None makes a new one with seed 0, so that equal calls agree.
        noise: perturbations (copies, C, *T) of the images in the place of drawn ones, which are normal with 0.05 of the
            range of an image's values.
        copies: number of noisy copies. The interval from the lowest to the highest of n contains the median with
            probability 1 - 2^(1 - n): 97 % for 6.
        redraws: number of new heads, each drawn with the mean and deviation of the learned one.
        parts: number of parts elsewhere.
        share: of the image that the marked part is.
        progress: called with (runs done, all runs); a run is a map or a forward.

    Returns:
        A `Checked`: the numbers, and by `str` a table of them with a sentence each. What cannot be asked of this
        explainer or target is None, and `missing` says why.

    Raises:
        CamfnError: a model in training mode, an explainer of several models or none, maps that are not (B, *S), or
            inputs among which no single tensor is the image.

    Example:
        >>> import torch
        >>> from camfn import explainer, tiny
        >>> from camfn.methods import grad_cam
        >>> photo = tiny.scenes(1, generator=torch.Generator().manual_seed(0)).images
        >>> found = check(explainer(grad_cam, tiny.load("cnn"), "body"), photo)
        >>> found.noisy.shape, found.maps, found.forwards
        (torch.Size([1, 6]), 15, 41)
    """
    function("check: explain", explain, "from inputs and target to maps, such as camfn.explainer(method, model, layer)")
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    generator_of("check", generator)
    for name, count in (("copies", copies), ("redraws", redraws), ("parts", parts)):
        whole(f"check: {name}", count)
    number("check: share", share, "(0, 1)")
    progress_bar("check", progress)
    network = _network(explain, model)
    pictures, rebuild = images_of(inputs, images, "is checked on changed images")
    perturbations = _perturbations(pictures, copies, generator, noise)
    with torch.no_grad():
        asked = _Questions(explain, network, inputs, target, images, progress)
        asked.plan(pictures, len(perturbations), redraws, parts)
        return asked.answer(pictures, rebuild, perturbations, generator, redraws, parts, share)


class _Questions:
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
        from .measure import alike, moves, peak_place, scores_of_parts

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
        from .measure import as_map

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
        from ..metrics import resampled

        drawn = {name: resampled(name, value, generator) for name, value in self._head().items()}
        return self._map(lambda inputs, target: pure(self.explain)(drawn, inputs, target), self.inputs, self.run.score)


def _network(explain: Any, model: nn.Module | None) -> nn.Module:
    """Return the one network that an explainer explains, or the one that the caller names."""
    held = {id(one): one for one in _models_in(explain)}
    if model is not None and not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"check: model: expected a torch.nn.Module, got {describe(model)}")
    if len(held) > 1 or (held and model is not None and id(model) not in held):
        raise CamfnError(f"check: expected an explanation of one model, this one is of {len(held)}: {explain!r}")
    if not held and model is None:
        raise CamfnError(
            "check: explain is a function that holds no module: pass check(explain, inputs, target, model=model), or "
            "an explainer such as camfn.explainer(method, model, layer)"
        )
    network = next(iter(held.values()), model)
    assert network is not None
    if network.training:
        raise CamfnError(f"check: this {type(network).__name__} is in training mode; call model.eval() first")
    return network


def _perturbations(pictures: Tensor, copies: int, generator: torch.Generator, noise: Tensor | None) -> Tensor:
    """Return the perturbations of the images, (copies, B or 1, C, *T)."""
    shape = tuple(pictures.shape[1:])
    if noise is None:
        drawn = brought(draw_normal((copies, *shape), generator), pictures)[:, None]
        axes = tuple(range(1, pictures.ndim))
        return drawn * (NOISE * (pictures.amax(axes, keepdim=True) - pictures.amin(axes, keepdim=True)))
    if not isinstance(noise, Tensor) or not noise.is_floating_point():
        raise ArgumentTypeError(f"check: noise: expected a floating-point tensor, got {describe(noise)}")
    if tuple(noise.shape[1:]) != shape or not len(noise):
        raise CamfnError(f"check: expected noise of shape (n, *{shape}), got {tuple(noise.shape)}")
    return brought(noise, pictures)[:, None]


def _filled(cam: Tensor) -> Tensor:
    """Return maps to compute in, zero where a sample is not finite."""
    finite = cam.isfinite().flatten(1).all(1).reshape(-1, *(1,) * (cam.ndim - 1))
    return torch.where(finite, cam, 0).to(torch.promote_types(cam.dtype, torch.float32))

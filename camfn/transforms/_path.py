"""Gradients or maps averaged along paths from baselines to the input, or to the activations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from .._cut.capture import capture, observe
from .._cut.layer_checks import layer_name, spatial_map
from .._cut.resume import record
from .._cut.signature import read_signature
from .._shared.checks import keeps_graph, number, one_of, whole
from .._shared.devices import brought, tensor_on
from .._shared.errors import CamfnError
from .._shared.inputs import Images, images_of
from .._shared.maps import widen
from .._shared.noise import draw_normal, one_source
from .._shared.quadrature import gauss_legendre
from .._shared.value import Value, frozen
from .._shared.vocabulary import AnyLayout, Inputs, ScoreFn, Select, Tail, Target
from ..targets import pin
from ._variants import Variant, check_chunk_size, explain_variants

Space: TypeAlias = Literal["inputs", "activations"]
"""The space in which the path is straight."""

AtPoint: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Takes the activations and gradients at a point of a path."""

Run: TypeAlias = Callable[[Sequence[Tensor], AtPoint], Sequence[Tensor]]
"""Runs the network at each point of a path, and returns the results of an `AtPoint` there."""


@frozen
class path_integral(Value):
    """Compose a gradient method with a layer, its gradient averaged over the paths from baselines to the sample.

    With `A_t` and `g_t` the activations and gradients at the point t of a path, 0 at the baseline and 1 at the sample:

    - `average="grads"`: `method(A_1 - A_0, int_0^1 g_t dt)`, averaged over the baselines. Expected Grad-CAM
      (2406.01274) takes such an expectation in place of the gradient, with `space="inputs"`, baselines from data and
      noise (`std`) on the points; its own distributions and kernel are not built in: give them here.
    - `average="maps"`: `int_0^1 method(A_t - A_0, g_t) dt`. Integrated Grad-CAM (2102.07805) is this of `grad_cam`,
      with `space="inputs"` and `rectified=True`, the ReLU inside the integral. The authors' code subtracts nothing
      (`difference=False`), sums over 50 points from the left, and takes the zero image as the baseline.

    With `space="activations"` the path is straight at the layer, and only the network after it is run. There
    `hires_cam` of the mean gradient is complete: it sums to the score less that of the baseline, for a smooth tail to
    the precision of the quadrature; and over an affine tail, from a baseline of zero, every method is what it is
    without a path. With `space="inputs"` the path is curved at the layer, and neither holds.

    Call it with the inputs and a target: it returns the raw map, (B, *spatial). The target makes its choices, such as
    the top class, by the outputs of the unchanged inputs. Costs, with n baselines: 1 F + n steps (F + b) for inputs,
    and n F more for the difference; 1 F + n steps (t + b) for activations.

    Args:
        method: takes (activations, grads, outputs) and nothing else of the network, such as `grad_cam`, `hires_cam`,
            `layer_cam`, `eigen_smooth(grad_cam)`.
        model: any module; left exactly as it is.
        layer: a dotted name as in `model.named_modules()`, or the module itself.
        space: "inputs" or "activations": where the path is straight, and what the baseline is one of.
        average: "grads" or "maps".
        baseline: a number; a tensor that broadcasts to the inputs, or to the activations (B, C, *spatial); or one of
            one more dimension in front, (n, ...), for a mean over n of them.
        steps: points of the Gauss-Legendre rule on each path, exact for polynomials in t of degree `2 steps - 1`.
        difference: give the method `A - A_0`; False: the activations as they are.
        rectified: clip each point's map at zero; for `average="maps"`.
        std: standard deviation of normal noise on every point, in the units of the path; 0 draws nothing.
        generator: where that noise is drawn from, on its own device, in float32.
        noise: (steps, ...), standard normal numbers in place of a generator, the same on the path of each baseline;
            each broadcasts to a point.
        images: with `space="inputs"`, which input the path changes, where several have space: an index, a key, a path
            of these such as ("pixels", 0), or a function of the inputs.
        select: as for `explainer`.
        layout: as for `explainer`.
        chunk_size: points at once; None is all of a path.
        differentiable: as for `explainer`.

    Raises:
        CamfnError: a method without gradients or that needs more of the network; a baseline that does not broadcast;
            `std` with neither or both of generator and noise; `rectified` gradients; no steps.

    Example:
        >>> import torch
        >>> from camfn.methods import hires_cam
        >>> tail = torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(144, 5))
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), tail)
        >>> x, zero = torch.rand(2, 3, 8, 8), tail(torch.zeros(2, 4, 6, 6))
        >>> cam = path_integral(hires_cam, net, "0", space="activations", steps=16)(x, 4)
        >>> torch.allclose(cam.sum((1, 2)), (net(x) - zero)[:, 4], atol=1e-4)
        True
    """

    method: Callable[..., Tensor]
    model: nn.Module
    layer: str | nn.Module
    _: KW_ONLY
    space: Space
    average: Literal["grads", "maps"] = "grads"
    baseline: float | Tensor = 0.0
    steps: int = 8
    difference: bool = True
    rectified: bool = False
    std: float = 0.0
    generator: torch.Generator | None = None
    noise: Tensor | None = None
    images: Images | None = None
    select: Select | None = None
    layout: AnyLayout = "auto"
    chunk_size: int | None = None
    differentiable: bool = False
    _see: Callable[..., Any] = field(init=False)
    _derive: Callable[..., Any] = field(init=False)
    _cut: Callable[..., Any] = field(init=False)
    _takes: int = field(init=False)

    def __post_init__(self) -> None:
        needs = read_signature(self.method)
        if not needs.gradients or needs.context:
            raise CamfnError(
                f"path_integral: {getattr(self.method, '__name__', 'this method')} is no function of activations and "
                "gradients alone, so it has no gradient to average; take grad_cam, hires_cam, layer_cam or another "
                "gradient method"
            )
        self._check_options()
        name = layer_name(self.model, self.layer)
        object.__setattr__(self, "layer", name)
        what: dict[str, Any] = {"select": self.select, "layout": self.layout, "images": self.images}
        see = observe(self.model, name, **what, differentiable=self.differentiable)
        object.__setattr__(self, "_see", see)
        derive = capture(self.model, name, **what, differentiable=self.differentiable)
        object.__setattr__(self, "_derive", derive)
        object.__setattr__(self, "_cut", record(self.model, name, **what, differentiable=self.differentiable))
        object.__setattr__(self, "_takes", needs.positional)

    def _check_options(self) -> None:
        one_of("path_integral: space", self.space, ("inputs", "activations"))
        one_of("path_integral: average", self.average, ("grads", "maps"))
        whole("path_integral: steps", self.steps)
        number("path_integral: std", self.std, "[0, inf)")
        if self.generator is not None or self.noise is not None or self.std:
            source = one_source("path_integral", self.generator, self.noise, arguments="...")
            if isinstance(source, Tensor) and source.shape[:1] != (self.steps,):
                raise CamfnError(
                    f"path_integral: noise: expected one for each of the {self.steps} steps, ({self.steps}, ...), got "
                    f"shape {tuple(source.shape)}"
                )
        if not isinstance(self.baseline, Tensor):
            number("path_integral: baseline", self.baseline, advice="Or pass a tensor that broadcasts, or n of them")
        if self.rectified and self.average == "grads":
            raise CamfnError("path_integral: rectified=True clips the map of each point, so it needs average='maps'")
        check_chunk_size(self.chunk_size)

    def __call__(self, inputs: Inputs, target: Target = None) -> Tensor:
        """Return the raw map, (B, *spatial)."""
        keep = keeps_graph("path_integral", self.model, inputs, self.differentiable)
        with torch.inference_mode(False), torch.set_grad_enabled(keep):
            if self.space == "activations":
                return self._at_the_layer(inputs, target)
            return self._at_the_inputs(inputs, target)

    def _at_the_layer(self, inputs: Inputs, target: Target) -> Tensor:
        """Average over paths that are straight at the layer."""
        recorded = self._cut(inputs)
        end = recorded.activations
        spatial_map(str(self.layer), end, self.layout)
        run = _after(recorded.tail, pin(target, recorded.outputs), self.chunk_size)
        cams = [self._along(start, end, start, end, run) for start in _baselines(self.baseline, end)]
        return torch.stack(cams).mean(0).to(end.dtype)

    def _at_the_inputs(self, inputs: Inputs, target: Target) -> Tensor:
        """Average over paths that are straight at the images."""
        activations, outputs = self._see(inputs)
        spatial_map(str(self.layer), activations, self.layout)
        images, rebuild = images_of(inputs, self.images, "changes the images")
        run = _through(self._derive, pin(target, outputs), images, rebuild, self.chunk_size)
        cams = []
        for start in _baselines(self.baseline, images):
            origin = self._see(rebuild(start))[0] if self.difference else activations
            cams.append(self._along(start, images, origin, activations, run))
        return torch.stack(cams).mean(0).to(activations.dtype)

    def _along(self, start: Tensor, end: Tensor, origin: Tensor, activations: Tensor, run: Run) -> Tensor:
        """Return the map of one path; `run` applies `at_point` to the activations and gradients at each point of it."""
        nodes, lengths = gauss_legendre(self.steps)
        path = [self._noisy(start + t * (end - start), step) for step, t in enumerate(nodes)]
        subtracted = origin if self.difference else torch.zeros_like(origin)

        def at_point(a: Tensor, g: Tensor) -> Tensor:
            if self.average == "grads":
                return g
            moved = a - subtracted.repeat(a.shape[0] // subtracted.shape[0], *(1,) * (a.ndim - 1))
            cam = self.method(*(moved, g, None)[: self._takes])
            return cam.relu() if self.rectified else cam

        mean = sum(w * widen(one) for w, one in zip(lengths, run(path, at_point)))
        assert isinstance(mean, Tensor)
        if self.average == "maps":
            return widen(mean)
        return widen(self.method(*(activations - subtracted, mean.to(activations.dtype), None)[: self._takes]))

    def _noisy(self, x: Tensor, step: int) -> Tensor:
        """Add normal noise to a point of a path, or return it if there is none to add."""
        if not self.std:
            return x
        if self.noise is not None:
            return x + self.std * brought(self.noise[step], x)
        assert self.generator is not None
        return x + self.std * brought(draw_normal(tuple(x.shape), self.generator), x)


def _through(
    derive: Callable[..., Any],
    score: ScoreFn,
    images: Tensor,
    rebuild: Callable[[Tensor], Inputs],
    chunk_size: int | None,
) -> Run:
    """Run the whole network at each point."""

    def fixed(outputs: Any) -> Tensor:
        return score(outputs)

    def run(path: Sequence[Tensor], at_point: AtPoint) -> Sequence[Tensor]:
        def explain(inputs: Inputs, target: Target) -> Tensor:
            return at_point(*derive(inputs, target)[:2])

        points = [Variant([x]) for x in path]
        return explain_variants(explain, fixed, [images], lambda changed: rebuild(changed[0]), points, chunk_size)

    return run


def _after(tail: Tail, score: ScoreFn, chunk_size: int | None) -> Run:
    """Run the network after the layer at each point."""

    def run(path: Sequence[Tensor], at_point: AtPoint) -> Sequence[Tensor]:
        def one(a: Tensor) -> Tensor:
            scores, pullback = torch.func.vjp(lambda a: score(tail(a)), a)  # type: ignore[misc]
            return at_point(a, pullback(torch.ones_like(scores))[0])

        return torch.vmap(one, chunk_size=chunk_size)(torch.stack(list(path))).unbind(0)

    return run


def _baselines(baseline: float | Tensor, like: Tensor) -> Iterator[Tensor]:
    """Yield the baselines, each in the shape of `like`, the end of the path."""
    given = tensor_on(baseline, like.device, like.dtype)
    rows = given if given.ndim > like.ndim else given[None]
    try:
        starts = rows.expand(rows.shape[0], *like.shape) if rows.ndim > like.ndim else rows[0].expand_as(like)[None]
    except RuntimeError as error:
        raise CamfnError(
            f"path_integral: expected a baseline that broadcasts to {tuple(like.shape)}, or n of them, "
            f"(n, *{tuple(like.shape)}), got {tuple(given.shape)}"
        ) from error
    if not len(starts):
        raise CamfnError("path_integral: expected at least one baseline, got none")
    return iter(starts.unbind(0))

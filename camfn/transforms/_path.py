"""Gradients or maps averaged along paths from baselines to the input, or to the activations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from .._cut.capture import capture, observe
from .._cut.layer_checks import layer_name, spatial_map
from .._cut.resume import record
from .._cut.signature import read_signature
from .._shared.errors import CamfnError
from .._shared.inputs import images_of
from .._shared.maps import widen
from .._shared.quadrature import gauss_legendre
from .._shared.vocabulary import AnyLayout, Inputs, ScoreFn, Select, Tail, Target
from ..targets import pin
from ._variants import Variant, explain_variants

Space: TypeAlias = Literal["inputs", "activations"]
"""The space in which the path is straight."""

AtPoint: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Takes the activations and gradients at a point of a path."""

Run: TypeAlias = Callable[[Sequence[Tensor], AtPoint], Sequence[Tensor]]
"""Runs the network at each point of a path, and returns the results of an `AtPoint` there."""


def path_integral(
    method: Callable[..., Tensor],
    model: nn.Module,
    layer: str | nn.Module,
    *,
    space: Space,
    average: Literal["grads", "maps"] = "grads",
    baseline: float | Tensor = 0.0,
    steps: int = 8,
    difference: bool = True,
    rectified: bool = False,
    std: float = 0.0,
    generator: torch.Generator | None = None,
    select: Select | None = None,
    layout: AnyLayout = "auto",
    chunk_size: int | None = None,
) -> Callable[..., Tensor]:
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
        select: as for `explainer`.
        layout: as for `explainer`.
        chunk_size: points at once; None is all of a path.

    Returns:
        A function of the inputs and a target that returns the raw map, (B, *spatial). The target makes its choices,
        such as the top class, by the outputs of the unchanged inputs. Costs, with n baselines: 1 F + n steps (F + b)
        for inputs, and n F more for the difference; 1 F + n steps (t + b) for activations.

    Raises:
        CamfnError: a method without gradients or that needs more of the network; a baseline that does not broadcast;
            `std` without a generator; `rectified` gradients; no steps.

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
    needs = read_signature(method)
    name = layer_name(model, layer)
    if not needs.gradients or needs.context:
        raise CamfnError(
            f"path_integral: {getattr(method, '__name__', 'this method')} is no function of activations and gradients "
            "alone, so it has no gradient to average; take grad_cam, hires_cam, layer_cam or another gradient method"
        )
    if space not in ("inputs", "activations") or average not in ("grads", "maps"):
        raise CamfnError(
            "path_integral: expected space 'inputs' or 'activations' and average 'grads' or 'maps', got "
            f"{space!r} and {average!r}"
        )
    if steps < 1 or std < 0 or (std and generator is None):
        raise CamfnError(
            f"path_integral: expected at least 1 step, and a generator for std > 0; got steps={steps}, "
            f"std={std}, generator={generator}"
        )
    if rectified and average == "grads":
        raise CamfnError("path_integral: rectified=True clips the map of each point, so it needs average='maps'")
    see = observe(model, name, select=select, layout=layout)
    derive = capture(model, name, select=select, layout=layout)
    cut = record(model, name, select=select, layout=layout)
    nodes, lengths = gauss_legendre(steps)

    def apply(activations: Tensor, grads: Tensor) -> Tensor:
        return method(*(activations, grads, None)[: needs.positional])

    def along(start: Tensor, end: Tensor, origin: Tensor, activations: Tensor, run: Run) -> Tensor:
        """Return the map of one path; `run` applies `at_point` to the activations and gradients at each point of it."""
        path = [_noisy(start + t * (end - start), std, generator) for t in nodes]

        def at_point(a: Tensor, g: Tensor) -> Tensor:
            if average == "grads":
                return g
            cam = apply(a - origin.repeat(a.shape[0] // origin.shape[0], *(1,) * (a.ndim - 1)), g)
            return cam.relu() if rectified else cam

        mean = sum(w * widen(one) for w, one in zip(lengths, run(path, at_point)))
        assert isinstance(mean, Tensor)
        return apply(activations - origin, mean.to(activations.dtype)) if average == "grads" else mean

    def explain(inputs: Inputs, target: Target = None) -> Tensor:
        recorded = cut(inputs) if space == "activations" else None
        activations, outputs = recorded[:2] if recorded else see(inputs)
        spatial_map(name, activations, layout)
        score = pin(target, outputs)
        images, rebuild = images_of(inputs)
        end = activations if recorded else images
        run = _after(recorded.tail, score, chunk_size) if recorded else _through(derive, inputs, score, chunk_size)
        cams = []
        with torch.inference_mode(False), torch.no_grad():
            for start in _baselines(baseline, end):
                origin = start if recorded else see(rebuild(start))[0]
                origin = origin if difference else torch.zeros_like(activations)
                cams.append(widen(along(start, end, origin, activations, run)))
        return torch.stack(cams).mean(0).to(activations.dtype)

    return explain


def _through(derive: Callable[..., Any], inputs: Inputs, score: ScoreFn, chunk_size: int | None) -> Run:
    """Run the whole network at each point."""

    def fixed(outputs: Any) -> Tensor:
        return score(outputs)

    def run(path: Sequence[Tensor], at_point: AtPoint) -> Sequence[Tensor]:
        variants = [Variant(x) for x in path]
        return explain_variants(lambda x, t: at_point(*derive(x, t)[:2]), inputs, fixed, variants, chunk_size)

    return run


def _after(tail: Tail, score: ScoreFn, chunk_size: int | None) -> Run:
    """Run the network after the layer at each point."""

    def run(path: Sequence[Tensor], at_point: AtPoint) -> Sequence[Tensor]:
        def one(a: Tensor) -> Tensor:
            scores, pullback = torch.func.vjp(lambda a: score(tail(a)), a)  # type: ignore[misc]
            return at_point(a, pullback(torch.ones_like(scores))[0])

        return torch.vmap(one, chunk_size=chunk_size)(torch.stack(list(path))).unbind(0)

    return run


def _noisy(x: Tensor, std: float, generator: torch.Generator | None) -> Tensor:
    """Add normal noise to `x`, or return `x` if there is none to add."""
    if not std or generator is None:
        return x
    noise = torch.randn(x.shape, generator=generator, device=generator.device, dtype=torch.float32)
    return x + std * noise.to(x)


def _baselines(baseline: float | Tensor, like: Tensor) -> Iterator[Tensor]:
    """Yield the baselines, each in the shape of `like`, the end of the path."""
    given = torch.as_tensor(baseline, dtype=like.dtype, device=like.device)
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

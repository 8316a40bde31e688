"""What each package must return before it is timed: camfn its method, a peer the formula it is known to compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from camfn.image import normalize, peer_postprocess, upsample

from .models import SIZE, Subject
from .peers import METHODS

Formula: TypeAlias = Callable[[Tensor, Tensor], Tensor]

TOLERANCE = 5e-4
"""Largest difference of two heatmaps in [0, 1] that float32 explains."""


class Cut(NamedTuple):
    """A layer's activations and their gradients, taken by a plain hook and a plain backward: camfn is checked too."""

    activations: Tensor
    grads: Tensor


def cut(subject: Subject, images: Tensor, classes: list[int]) -> Cut:
    """Run a network and differentiate, without camfn."""
    kept: list[Tensor] = []
    hook = subject.model.get_submodule(subject.layer).register_forward_hook(lambda *call: kept.append(call[2]))
    try:
        with torch.enable_grad():
            outputs = subject.model(images)
    finally:
        hook.remove()
    (grads,) = torch.autograd.grad(outputs[range(len(classes)), classes].sum(), kept)
    to_map = subject.layout.to_map if subject.layout else (lambda raw: raw)
    return Cut(to_map(kept[0].detach()), to_map(grads))


def _peer_plusplus(a: Tensor, g: Tensor) -> Tensor:
    alpha = g**2 / (2 * g**2 + a.sum((2, 3), keepdim=True) * g**3 + 1e-6)
    return ((alpha * g.relu()).sum((2, 3), keepdim=True) * a).sum(1)


def _torchcam_plusplus(a: Tensor, g: Tensor) -> Tensor:
    return ((g**2 * g.relu()).sum((2, 3), keepdim=True) * a).sum(1)


def _xgrad_with(eps: float) -> Formula:
    def formula(a: Tensor, g: Tensor) -> Tensor:
        return ((g * a).sum((2, 3), keepdim=True) / (a.sum((2, 3), keepdim=True) + eps) * a).sum(1)

    return formula


class Deviation(NamedTuple):
    """Where a peer is known to compute something else: what, and why that is not the method."""

    formula: Formula
    reason: str


DEVIATIONS: dict[tuple[str, str], Deviation] = {
    ("grad-cam", "grad_cam_plusplus"): Deviation(_peer_plusplus, "adds 1e-6 to the denominator, next to g^2"),
    ("torchcam", "grad_cam_plusplus"): Deviation(_torchcam_plusplus, "loses the denominator: sums ReLU(g)^3"),
    ("grad-cam", "xgrad_cam"): Deviation(_xgrad_with(1e-7), "adds 1e-7 to a signed sum"),
    ("torchcam", "xgrad_cam"): Deviation(_xgrad_with(1e-8), "adds 1e-8 to a signed sum"),
}


def check(package: str, method: str, found: Any, reference: Cut) -> dict[str, Any]:
    """Refuse a wrong result.

    Args:
        package: key of `PACKAGES`.
        method: key of `METHODS`.
        found: what the package returned.
        reference: activations and gradients of the same question.

    Returns:
        What the table tells of it: `difference`, the largest to camfn's own heatmap, and `note`, why there is one.

    Raises:
        AssertionError: not the heatmap that this package is known to make.
    """
    ours = METHODS[method].camfn(*reference)
    known = DEVIATIONS.get((package, method))
    expected = known.formula(*reference) if known else ours
    result = torch.as_tensor(found).to(ours)
    # a component has no sign of its own, and this peer leaves it to the solver
    signs = (1, -1) if package == "grad-cam" and "eigen" in method else (1,)
    off = _difference(package, result, expected, signs)
    assert off < TOLERANCE, f"{package} {method}: a heatmap differs by {off:.2g} from what was expected"
    difference = _difference(package, result, ours, (1,))
    if difference < TOLERANCE:
        return {"difference": difference, "note": ""}
    return {"difference": difference, "note": known.reason if known else "leaves the sign to the solver"}


def _difference(package: str, result: Tensor, raw: Tensor, signs: tuple[int, ...]) -> float:
    """Largest difference of a sample's heatmap to that of the raw map, under the better of the signs."""
    each = []
    for sign in signs:
        expected = HEATMAP[package](sign * raw)
        assert result.shape == expected.shape, f"{package}: {tuple(result.shape)}, expected {tuple(expected.shape)}"
        each.append((result - expected).abs().flatten(1).amax(1))
    worst = torch.stack(each).amin(0).amax()
    return float(worst) if worst.isfinite() else float("inf")


def _torchcam_heatmap(raw: Tensor) -> Tensor:
    above = raw.relu() - raw.relu().amin((1, 2), keepdim=True)
    return above / (above.amax((1, 2), keepdim=True) + 1e-8)


HEATMAP: dict[str, Callable[[Tensor], Tensor]] = {
    "camfn": lambda raw: upsample(normalize(raw), SIZE),
    "grad-cam": lambda raw: peer_postprocess(raw, SIZE),
    "torchcam": _torchcam_heatmap,
}

"""Maps of images that are too large for one run, stitched from the maps of overlapping windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, replace
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from .._cut.graft import bare, run_apart
from .._shared.checks import function, number, one_of, progress_bar, space, whole
from .._shared.devices import tensor_on
from .._shared.errors import CamfnError
from .._shared.inputs import Images, all_images_of, copy_of
from .._shared.rows import Progress
from .._shared.value import Value, frozen
from .._shared.vocabulary import Inputs, Target
from ..targets import as_score, moved
from ._stitch import Box, Plan, Stitch, cut
from ._variants import check_chunk_size, groups_of, repeated_target


class WindowScores(NamedTuple):
    """What each of N windows scored.

    Attributes:
        scores: (B, N), what the target made of the outputs for the window; N in reading order, the last dimension of
            the image fastest. `scores.unflatten(1, grid)` lays them out.
        boxes: (N, 2 D), where each window lies in the image, half-open: x0 x1 of a series, x0 y0 x1 y1 of an image, as
            `image.boxes` takes them, x0 y0 z0 x1 y1 z1 of a volume. Beyond the image where that is smaller.
        grid: the number of windows along each dimension, in the order of the image's dimensions.
    """

    scores: Tensor
    boxes: Tensor
    grid: tuple[int, ...]


@frozen
class windows(Value):
    """Stitch a map from the maps of overlapping windows: for a slide, an aerial photo, a volume of CT.

    `L(p) = sum_w k(p - w) up(explain(x_w))(p - w) / sum_w k(p - w)` over the windows w that hold the place p, `up`
    resizing a window's map linearly to the window. Windows and weights `k` are those of MONAI's sliding-window inferer,
    so that a network is explained on the very windows that it is run on. An image that is smaller than the window is
    padded with zeros on both sides, as there, and the map is cut to the image. Where one window covers all, the map is
    that of a single run at the size of the image, bit for bit.

    Raw, signed maps are stitched. Normalize the result, never the windows: a map that is normalized by itself says
    that each window holds evidence, also one without any. For the same reason take a method whose values are in units
    of the score (Grad-CAM, HiResCAM, LayerCAM, Ablation-CAM, gradients in the image) before one that rescales itself
    within an image (Score-CAM's softmax, the eigen methods, rollout).

    Every window is asked for the same score: a target that would choose the class by the window's own outputs, such as
    None, is refused where there are several. A mask on the image (`mask_score`) is cut along with it.

    Memory holds the images, the map, its weights, and one batch of windows. The map is summed on the device of the
    images, in float32 at least; the windows of a slide on the CPU may go to an accelerator one batch at a time:
    `windows(lambda x, target: explain(x.cuda(), target), 512)`. The sum does not depend on `chunk_size`.

    Source: MONAI's `sliding_window_inference` (1.6); nnU-Net has "gaussian" and an overlap of 0.5.

    Call it with the inputs and a target: it returns the map at the size of the images, (B, *S); with `has_aux` the map
    and its `WindowScores`.

    Args:
        explain: a function of the inputs and a target that returns maps (B, *spatial), with as many spatial dimensions
            as the images: from `explainer`, `attention_explainer`, `camfn.network`, another transformation, or yours.
            Methods with a map for each channel, (B, C, *spatial), keep their channels.
        size: of a window in pixels: one number for all dimensions, or one for each, as (height, width).
        overlap: the share of a window that the next one covers, in [0, 1); one number or one for each dimension. The
            last window of a row ends with the image, so that it may overlap more.
        weights: "constant", or "gaussian": less weight at the border of a window, where a network sees least.
        sigma_scale: deviation of the Gaussian, as a share of the window; one number or one for each dimension.
        images: which inputs are cut; None is all with space, which must be of one size. An index, a key, a path of
            these such as ("pixels", 0), a function of the inputs, or a list of these. Of the others, those with a batch
            dimension are repeated.
        chunk_size: how many windows of an image go in one batch; None is all of them.
        progress: called with (windows done, all windows) after each batch.
        has_aux: return `(cam, WindowScores)`. An `explainer` gives the outputs on its way; for other transformations
            and methods the network runs once more on each window. A function of yours returns `(cam, outputs)`.

    Raises:
        CamfnError: a size, overlap or deviation out of range; inputs of several sizes; maps of other dimensions; a
            target that chooses by the outputs, or that refers to a box; `has_aux` without a network.

    Example:
        >>> import torch
        >>> from camfn import explainer
        >>> from camfn.methods import hires_cam
        >>> head = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 5))
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), head)
        >>> explain = windows(explainer(hires_cam, net, "0"), 32, overlap=0.5, has_aux=True)
        >>> cam, found = explain(torch.rand(1, 3, 80, 96), 4)
        >>> cam.shape, found.scores.shape, found.grid
        (torch.Size([1, 80, 96]), torch.Size([1, 20]), (4, 5))
    """

    explain: Callable[..., Tensor]
    size: int | Sequence[int]
    _: KW_ONLY
    overlap: float | Sequence[float] = 0.25
    weights: Literal["constant", "gaussian"] = "constant"
    sigma_scale: float | Sequence[float] = 0.125
    images: Images | list[Images] | None = None
    chunk_size: int | None = 4
    progress: Progress | None = None
    has_aux: bool = False

    def __post_init__(self) -> None:
        function("windows: explain", self.explain, "an explainer, as explainer(grad_cam, model, layer)")
        if isinstance(self.size, (list, tuple)):
            object.__setattr__(self, "size", space("windows: size", self.size))
        else:
            whole("windows: size", self.size)
        for name, interval in (("overlap", "[0, 1)"), ("sigma_scale", "(0, inf)")):
            value = getattr(self, name)
            for one in value if isinstance(value, (list, tuple)) and value else [value]:
                number(f"windows: {name}", one, interval)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        one_of("windows: weights", self.weights, ("constant", "gaussian"))
        check_chunk_size(self.chunk_size)
        progress_bar("windows", self.progress)

    def __call__(self, inputs: Inputs, target: Target = None) -> Tensor:
        """Return the map, (B, *S); with `has_aux`, the map and its `WindowScores`."""
        which = self.images if self.images is None or isinstance(self.images, list) else [self.images]
        images, rebuild = all_images_of(inputs, which, "cuts the images into windows")
        plan = self._plan(images)
        total = math.prod(plan.grid)
        _check_target(target, total)
        stitch = Stitch(plan, self.weights, self.sigma_scale)
        scores: list[Tensor] = []
        batch, size, done = images[0].shape[0], self.chunk_size or total, 0
        while done < total:
            boxes = plan.boxes[done : done + size]
            part = rebuild([torch.cat([cut(x, box, plan.space) for box in boxes]) for x in images])
            moves = [partial(_cut_mask, box=box, space=plan.space) for box in boxes]
            cams, outputs = self._explained(part, repeated_target(target, moves, batch, None))
            stitch.add(boxes, _split(cams, len(boxes), batch, len(plan.space)).to(images[0].device))
            if self.has_aux:
                groups = groups_of(outputs, len(boxes), batch)
                scores += [moved(as_score(target), move)(one).detach() for move, one in zip(moves, groups)]
            done += len(boxes)
            if self.progress:
                self.progress(done, total)
        cam = stitch.result()
        if not self.has_aux:
            return cam
        found = WindowScores(torch.stack(scores, 1), tensor_on(plan.corners, images[0].device), plan.grid)
        # a type checker sees the map alone, as most callers do
        return cast(Tensor, (cam, found))

    def _plan(self, images: Sequence[Tensor]) -> Plan:
        """Lay the windows over the images; refuse images of several sizes, or without space."""
        spaces = {tuple(x.shape[2:]) for x in images}
        own = next(iter(spaces))
        if len(spaces) > 1 or not 1 <= len(own) <= 3 or 0 in own:
            raise CamfnError(
                "windows: expected images (B, C, *S) of one size, with one to three spatial dimensions, got "
                f"{', '.join(str(tuple(x.shape)) for x in images)}. Where there are several, images='pixels', for "
                "instance, names the one to cut, and a list names several"
            )
        return Plan(own, self.size, self.overlap)

    def _explained(self, inputs: Inputs, target: Target) -> tuple[Any, Any]:
        """Explain a batch of windows: return the maps and, with `has_aux`, the outputs."""
        explain: Any = self.explain
        if self.has_aux and isinstance(explain, Value) and hasattr(explain, "has_aux"):
            explain = replace(cast(Any, explain), has_aux=True)
        found = explain(inputs, target)
        if isinstance(found, tuple) and len(found) == 2:
            return found
        return found, _outputs_of(self.explain, inputs) if self.has_aux else None


def _outputs_of(explain: Any, inputs: Inputs) -> Any:
    """Run the network that a method or a transformation holds."""
    while not hasattr(explain, "model") and hasattr(explain, "explain"):
        explain = explain.explain
    model = getattr(explain, "model", None)
    if not isinstance(model, nn.Module):
        raise CamfnError(
            "windows: has_aux=True needs the network's outputs, and this explain holds no network: return them beside "
            "the map, as in lambda x, target: (explain(x, target), model(x))"
        )
    with torch.no_grad():
        return run_apart(bare(model), copy_of(inputs))


def _split(cams: Any, count: int, batch: int, dims: int) -> Tensor:
    """Return the maps of a batch of windows, (count, B, ...); refuse anything else."""
    if isinstance(cams, Tensor) and cams.ndim > dims and cams.shape[0] == count * batch:
        return cams.reshape(count, batch, *cams.shape[1:])
    got = f"shape {tuple(cams.shape)}" if isinstance(cams, Tensor) else type(cams).__name__
    raise CamfnError(
        f"windows: expected one map a window with {dims} spatial dimension{'s' * (dims > 1)}, as the images have, "
        f"({count * batch}, *spatial) for {count} windows of {batch}, got {got}; an explainer of one batch size needs "
        "chunk_size=1"
    )


def _cut_mask(mask: Tensor, *, box: Box, space: tuple[int, ...]) -> Tensor:
    """Cut a mask on the image as the image is cut."""
    if tuple(mask.shape[1:]) != space:
        raise CamfnError(
            f"windows: the target has a mask of {tuple(mask.shape[1:])}, which cannot be cut along with images of "
            f"{space}: give a mask of the size of the images"
        )
    return cut(mask, box, space)


def _check_target(target: Target, count: int) -> None:
    """Refuse a target that asks each window another question: of the class on top there, or of a box."""
    for part in _parts_of(as_score(target)):
        names = vars(part)
        if "box" in names:
            raise CamfnError(
                f"windows: {type(part).__name__} refers to a box of the image, which is another one in each window. "
                "Explain one window around the box: explain(images[..., y0:y1, x0:x1], target)"
            )
        if count > 1 and any(name in names and names[name] is None for name in ("classes", "labels")):
            raise CamfnError(
                f"windows: {type(part).__name__}() without a class takes another class in each of the {count} "
                "windows, and one map would mix them. Pass a class, as in windows(explain, 512)(images, 281)"
            )


def _parts_of(target: Any) -> Iterator[Value]:
    """Yield a target and those that it is made of."""
    if isinstance(target, (list, tuple)):
        for one in target:
            yield from _parts_of(one)
    elif isinstance(target, Value):
        yield target
        # the fields of a frozen dataclass, without the function of the standard library that does not compile
        for one in vars(target).values():
            yield from _parts_of(one)

"""What part of the image each layer saw, so that its map is laid over that part and no other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .._cut.derive import planter
from .._shared.checks import is_concrete
from .._shared.errors import CamfnError
from .._shared.inputs import all_images_of, floating_leaves
from .._shared.maps import resize
from .._shared.vocabulary import Inputs

Box: TypeAlias = "tuple[tuple[int, int], ...]"
"""The first pixel and the one after the last, in each spatial dimension."""


def may_see_parts(inputs: Inputs, image: Tensor, reads: Mapping[str, Sequence[int]]) -> bool:
    """Say, from shapes alone, whether a layer may have seen something else than the whole image.

    That may be where the first layer reads another size than the image's, where a layer runs several times or several
    layers read something like an image, and where there are other images.

    Args:
        inputs: of the network.
        image: the one to explain.
        reads: the shape of what each call of a layer took, in order of execution.
    """
    shapes = list(reads.values())
    alike = [shape for shape in shapes if len(shape) == image.ndim and shape[1] == image.shape[1]]
    return (
        any("#" in key for key in reads)
        or len(alike) > 1
        # sizes are compared one by one, and so stay open under the compiler
        or any(one != own for shape in shapes[:1] for one, own in zip(shape[2:], image.shape[2:]))
        or any(shape[0] != image.shape[0] for shape in shapes)
        or len(all_images_of(inputs, None)[0]) > 1
    )


class Uncropped(TorchFunctionMode):
    """Refuses a network that goes on with a part of its features, for a later layer then sees from a part alone.

    A part of the image itself is no obstacle (`seen_by`), nor are strides, halves of the channels, or a rim of less
    than a quarter of a side, as networks cut it where a padding was uneven.
    """

    def __init__(self, name: str, image: Tensor) -> None:
        super().__init__()
        self.name, self.shape = name, image.shape

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, and look at what those that cut return."""
        out = func(*args, **(kwargs or {}))
        if func in _CUTTING and isinstance(args[0] if args else None, Tensor):
            for part in out if isinstance(out, (tuple, list)) else (out,):
                self.check(args[0], part)
        return out

    def check(self, whole: Tensor, part: Tensor) -> None:
        """Refuse a part of a map that is not the image."""
        if not whole.ndim == part.ndim == len(self.shape) or whole.shape[1] != part.shape[1]:
            return
        space = range(2, whole.ndim)
        image = whole.shape[1] <= self.shape[1] and all(whole.shape[d] == self.shape[d] for d in space)
        cut = any(4 * part.shape[d] <= 3 * whole.shape[d] and part.stride(d) == whole.stride(d) for d in space)
        if cut and not image:
            raise CamfnError(
                f"{self.name}: the network goes on with a part {tuple(part.shape)} of its features "
                f"{tuple(whole.shape)}, so where its later layers lie in the image is unknown. Take a method of one "
                "layer, as explainer(hires_cam, model, layer); full_gradients gives the terms as they are"
            )


_CUTTING = {
    torch.narrow, torch.chunk, torch.split, torch.tensor_split,
    Tensor.__getitem__, Tensor.narrow, Tensor.chunk, Tensor.split, Tensor.tensor_split,
}  # fmt: skip
"""Functions that return a part of a tensor, as a view."""


def seen_by(
    name: str,
    model: nn.Module,
    image: Tensor,
    rebuild: Callable[[Tensor], Inputs],
    taps: Callable[[nn.Module], bool],
) -> dict[str, Box | None]:
    """Find the part of the image that each call of a tapped layer saw; None where it saw nothing of it.

    NaN spreads to whatever depends on it. So a call saw nothing of a strip along a side exactly if NaN there leaves no
    NaN in its output. The widest such strip is found by doubling and halving: a handful of forwards for each part.

    Raises:
        CamfnError: inside `vmap` over the image or `torch.compile`, where no value can be read; or a layer has other
            samples than the image.
    """
    cut = planter(model, lambda: {path: module for path, module in model.named_modules() if taps(module)})()
    size = image.shape[2:]

    def touched(axis: int, start: int, stop: int) -> dict[str, bool]:
        """Return for each call whether it saw something between two positions of an axis."""
        changed = image.detach().clone()
        changed.narrow(2 + axis, start, stop - start).fill_(torch.nan)
        found: dict[str, Tensor] = {}

        def leave(path: str, output: Any) -> None:
            times = sum(key.partition("#")[0] == path for key in found) + 1
            tensors = floating_leaves(output)
            if any(tensor.ndim == image.ndim and tensor.shape[0] != image.shape[0] for tensor in tensors):
                raise CamfnError(
                    f"{name}: layer {path!r} has {tensors[0].shape[0]} rows for {image.shape[0]} images, so where they "
                    "lie in an image is unknown. Explain the part of the network that takes these rows as its images; "
                    "full_gradients gives the terms as they are"
                )
            found[path if times == 1 else f"{path}#{times}"] = torch.stack(
                [tensor.isnan().any() for tensor in tensors]
            ).any()

        with torch.no_grad():
            cut.run(rebuild(changed), leave)
        if not found:
            return {}
        flags = torch.stack(list(found.values()))
        if not is_concrete(flags):
            raise _unreadable(name)
        return dict(zip(found, flags.tolist()))

    if not is_concrete(image):
        raise _unreadable(name)
    known: dict[tuple[int, int, int], dict[str, bool]] = {}

    def saw(key: str, axis: int, start: int, stop: int) -> bool:
        place = (axis, start, stop)
        if place not in known:
            known[place] = touched(*place)
        return known[place][key]

    def margin(key: str, axis: int, length: int, at_end: bool) -> int:
        """Return how wide a strip along a side a call did not see."""
        return _widest(lambda j: not saw(key, axis, *((length - j, length) if at_end else (0, j))), length)

    boxes: dict[str, Box | None] = {}
    known[0, 0, size[0]] = touched(0, 0, size[0])
    for key, saw_any in known[0, 0, size[0]].items():
        sides = ((margin(key, axis, n, False), n - margin(key, axis, n, True)) for axis, n in enumerate(size))
        boxes[key] = tuple(sides) if saw_any else None
    return boxes


def _unreadable(name: str) -> CamfnError:
    return CamfnError(
        f"{name}: the layers of this network may see parts of the image alone, and which parts cannot be found inside "
        "torch.compile or vmap over images or parameters; call it outside, one batch at a time"
    )


def _widest(unseen: Callable[[int], bool], length: int) -> int:
    """Return the largest width below `length` that is unseen, given that every narrower one is, too."""
    high = 1
    while high < length and unseen(high):
        high = min(2 * high, length)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if unseen(middle) else (low, middle)
    return low


def lay_over(cam: Tensor, box: Box | None, size: Sequence[int], *, align_corners: bool = False) -> Tensor:
    """Resize a map (B, C, *S) to the part of an image of this size that its layer saw; it is 0 elsewhere.

    A layer whose strides leave out less than one of its cells saw the whole.
    """
    if box is None:
        return cam.new_zeros(*cam.shape[:2], *size)
    cells = [math.ceil(whole / own) for whole, own in zip(size, cam.shape[2:])]
    if all(start < cell and whole - stop < cell for (start, stop), whole, cell in zip(box, size, cells)):
        return resize(cam, size, align_corners=align_corners)
    part = resize(cam, [stop - start for start, stop in box], align_corners=align_corners)
    margins: Iterable[int] = (
        margin for (start, stop), whole in reversed(list(zip(box, size))) for margin in (start, whole - stop)
    )
    padded: Tensor = functional.pad(part, list(margins))
    return padded

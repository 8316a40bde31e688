"""What part of the image each layer saw, so that its map is laid over that part and no other."""

# tested in tests/network/test_sight.py

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .._shared.checks import is_concrete
from .._shared.errors import CamfnError
from .._shared.inputs import Images, all_images_of, floating_leaves, images_of, named_inputs
from .._shared.maps import resize
from .._shared.vocabulary import Inputs
from .graft import bare
from .taps import planter

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

    A part of the image itself is no obstacle (`seen_by`).
    """

    def __init__(self, name: str, image: Tensor) -> None:
        super().__init__()
        self.name, self.shape = name, image.shape

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, and look at what those that cut return."""
        out = func(*args, **(kwargs or {}))
        if func in _CUTTING and isinstance(args[0] if args else None, Tensor):
            for part in out if isinstance(out, (tuple, list)) else (out,):
                if is_part(args[0], part, self.shape):
                    raise CamfnError(
                        f"{self.name}: the network goes on with a part {tuple(part.shape)} of its features "
                        f"{tuple(args[0].shape)}, so where its later layers lie in the image is unknown. Take a "
                        "method of one layer, as explainer(hires_cam, model, layer); full_gradients gives the terms as "
                        "they are"
                    )
        return out


def is_part(whole: Tensor, part: Tensor, image: Sequence[int]) -> bool:
    """Say whether something is a part of a map that is not the image.

    Strides and halves of the channels are none, nor is a rim of less than a quarter of a side, as networks cut it where
    a padding was uneven.
    """
    if not whole.ndim == part.ndim == len(image) or whole.shape[1] != part.shape[1]:
        return False
    space = range(2, whole.ndim)
    is_image = whole.shape[1] <= image[1] and all(whole.shape[d] == image[d] for d in space)
    return not is_image and any(
        4 * part.shape[d] <= 3 * whole.shape[d] and part.stride(d) == whole.stride(d) for d in space
    )


_CUTTING = {
    torch.narrow, torch.chunk, torch.split, torch.tensor_split,
    Tensor.__getitem__, Tensor.narrow, Tensor.chunk, Tensor.split, Tensor.tensor_split,
}  # fmt: skip
"""Functions that return a part of a tensor, as a view."""

_CONVOLVING = (functional.conv1d, functional.conv2d, functional.conv3d)


class Reads(TorchFunctionMode):
    """Sees, from shapes alone, whether a layer of one run may have seen another part of an image than others did.

    That may be where the first convolution, or one that takes as many channels as an image, reads another size than
    the image's and its padding, where more of these run than there are images, and where the network goes on with a
    part of its features.
    """

    def __init__(self, inputs: Inputs, *, derives: bool = False) -> None:
        super().__init__()
        self.inputs = inputs
        # `derive` writes the forward twice for the compiler
        self.runs = 2 if derives and torch.compiler.is_compiling() else 1
        self.images = [tuple(image.shape) for image in named_inputs(inputs).values()]
        self.taken: list[int] = []
        self.in_doubt = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, and look at what a convolution takes, and at what those that cut return."""
        out = func(*args, **(kwargs or {}))
        if func in _CONVOLVING and len(args) > 1 and not self.in_doubt:
            self.in_doubt = self.doubtful(tuple(args[0].shape), tuple(args[1].shape[2:]))
        elif func in _CUTTING and args and isinstance(args[0], Tensor) and not self.in_doubt:
            parts = out if isinstance(out, (tuple, list)) else (out,)
            self.in_doubt = any(is_part(args[0], part, image) for part in parts for image in self.images)
        return out

    def doubtful(self, shape: tuple[int, ...], kernel: tuple[int, ...]) -> bool:
        """Say whether a convolution reads something else than an image."""
        ranks = [image for image in self.images if len(image) == len(shape)]
        alike = [image for image in ranks if image[1] == shape[1]]
        first = not self.taken
        if not ranks or not (first or (alike and shape[1] <= _COLORS)):
            return False
        self.taken.append(shape[1])
        return self.taken.count(shape[1]) > self.runs * max(len(alike), 1) or not any(
            shape[0] == image[0] and all(0 <= n - m < 2 * k for n, m, k in zip(shape[2:], image[2:], kernel))
            for image in alike or ranks
        )


_COLORS = 4
"""Of images with more channels, a convolution of as many channels may be any."""


def refuse_parts(
    name: str, model: nn.Module, maps: Mapping[str, Tensor], reads: Reads, which: Images | None, *, over: bool = False
) -> None:
    """Refuse layers that did not see the same part of an image; or a part of it, where maps are laid over the image.

    Args:
        name: what lays the maps over one another, or over the image.
        model: the model.
        maps: of each layer, (B, C, *S).
        reads: what was seen of a run.
        which: the image, where it is named.
        over: whether the maps are laid over the image.
    """
    if not reads.in_doubt:
        return
    layers = {id(bare(model).get_submodule(layer)) for layer in maps}
    for image, rebuild in _each_image(reads.inputs, which):
        seen = seen_by(name, model, image, rebuild, lambda module: id(module) in layers)
        boxes = {key.partition("#")[0]: box for key, box in seen.items() if box is not None}
        size = image.shape[2:]
        whole = tuple((0, n) for n in size)
        cells = {layer: [math.ceil(n / own) for n, own in zip(size, maps[layer].shape[2:])] for layer in boxes}
        boxes = {layer: whole if _near(box, whole, cells[layer]) else box for layer, box in boxes.items()}
        expected = whole if over else next(iter(boxes.values()), whole)
        if not all(_near(box, expected, cells[layer]) for layer, box in boxes.items()):
            raise CamfnError(
                f"{name}: expected layers that see {'the whole image' if over else 'one part of the image'}, got "
                + ", ".join(f"{layer!r}, which sees {_words(box, whole)}" for layer, box in boxes.items())
                + ". Explain each layer by itself, as explainer(method, model, layer), whose map lies over what it sees"
            )


def _each_image(inputs: Inputs, which: Images | None) -> list[tuple[Tensor, Callable[[Tensor], Inputs]]]:
    """Return the images that are named, or all, each with what puts another in its place."""
    if which is not None:
        return [images_of(inputs, which)]
    images, rebuild = all_images_of(inputs, None)

    def replacing(place: int) -> Callable[[Tensor], Inputs]:
        return lambda changed: rebuild([changed if i == place else image for i, image in enumerate(images)])

    return [(image, replacing(place)) for place, image in enumerate(images)]


def _near(box: Box, other: Box, cells: Sequence[int]) -> bool:
    """Whether two parts of an image differ by less than a cell of a map."""
    return all(abs(a - b) < cell for one, its, cell in zip(box, other, cells) for a, b in zip(one, its))


def _words(box: Box, whole: Box) -> str:
    return "the whole" if box == whole else " x ".join(f"[{start}:{stop}]" for start, stop in box)


def seen_by(
    name: str,
    model: nn.Module,
    image: Tensor,
    rebuild: Callable[[Tensor], Inputs],
    taps: Callable[[nn.Module], bool],
) -> dict[str, Box | None]:
    """Find the part of the image that each call of a tapped layer saw; None where it saw nothing of it.

    NaN spreads to whatever depends on it. So a call saw nothing of a strip along a side exactly if NaN there leaves no
    NaN in its output. `seen_by` doubles and halves the strip to find the widest: a handful of forwards for each part.

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
    if _near(box, tuple((0, whole) for whole in size), cells):
        return resize(cam, size, align_corners=align_corners)
    part = resize(cam, [stop - start for start, stop in box], align_corners=align_corners)
    margins: Iterable[int] = (
        margin for (start, stop), whole in reversed(list(zip(box, size))) for margin in (start, whole - stop)
    )
    padded: Tensor = functional.pad(part, list(margins))
    return padded

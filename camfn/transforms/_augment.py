"""Maps averaged over invertible changes of the images: flips, brightness, and augmentations of kornia."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import KW_ONLY, replace
from itertools import product
from threading import Lock
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from .._shared.checks import describe, function, generator_of, number
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.inputs import Images, all_images_of
from .._shared.maps import largest_space, resize, widen
from .._shared.value import Value, frozen
from .._shared.vocabulary import Inputs, Target
from ..targets import Move, as_score
from ._variants import Variant, check_chunk_size, explain_variants

_DRAWING = Lock()


@frozen
class Augmentation(Value):
    """An invertible change of the images.

    Attributes:
        forward: images (B, C, *S) to images of the same shape.
        inverse: a map (B, *T) of the changed images, of any resolution, to the map of the unchanged ones.
        move: a mask (B, *S) on the images to the mask on the changed images; needed for targets that refer to places
            of the image.
    """

    forward: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]
    move: Move | None = None


Change: TypeAlias = "Augmentation | tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] | nn.Module"
"""An `Augmentation`, a pair of its first two, or an augmentation of kornia."""


def _same(x: Tensor) -> Tensor:
    """Change nothing."""
    return x


@frozen
class _Mirror(Value):
    """Turn a tensor around in some dimensions."""

    dims: tuple[int, ...]

    def __call__(self, x: Tensor) -> Tensor:
        return x.flip(self.dims)

    def __repr__(self) -> str:
        return f"flip{self.dims if len(self.dims) > 1 else self.dims[:1]}".replace(",)", ")")


@frozen
class _Times(Value):
    """Multiply a tensor, after another change of it."""

    factor: float
    change: Callable[[Tensor], Tensor] = _same

    def __call__(self, x: Tensor) -> Tensor:
        return self.change(x) * self.factor


def flip(*dims: int) -> Augmentation:
    """Mirror images along spatial dimensions, counted from the end; -1, the default, is left to right.

    Args:
        dims: negative, such as -1 or -2, -1; in a volume (B, C, depth, height, width) -3 is the depth.

    Raises:
        CamfnError: a dimension that is not counted from the end, which images and maps do not share.

    Example:
        >>> import torch
        >>> flip(-1).forward(torch.tensor([[[1.0, 2.0]]]))
        tensor([[[2., 1.]]])
    """
    axes = dims or (-1,)
    if any(not isinstance(axis, int) or isinstance(axis, bool) or not -3 <= axis <= -1 for axis in axes):
        raise CamfnError(f"flip: expected spatial dimensions counted from the end, -1 to -3, got {dims!r:.60}")
    if len(set(axes)) < len(axes):
        raise CamfnError(f"flip: expected each dimension once, got {dims}")
    return Augmentation(_Mirror(axes), _Mirror(axes), _Mirror(axes))


def multiply(factor: float) -> Augmentation:
    """Multiply the images, as the model sees them, by a number; the map stays where it is.

    Args:
        factor: such as 0.9.

    Example:
        >>> import torch
        >>> multiply(0.5).forward(torch.tensor([[[1.0, 2.0]]]))
        tensor([[[0.5000, 1.0000]]])
    """
    number("multiply: factor", factor)
    return _times(IDENTITY, factor)


def _times(one: Augmentation, factor: float) -> Augmentation:
    """Multiply the images after another change."""
    return one if factor == 1 else replace(one, forward=_Times(factor, one.forward))


IDENTITY = Augmentation(_same, _same, _same)
_MIRROR = flip(-1)
_AUG_SMOOTH = tuple(_times(*both) for both in product((IDENTITY, _MIRROR), (0.9, 1.0, 1.1)))
_NAMED = {"aug_smooth": _AUG_SMOOTH, "flips": (IDENTITY, _MIRROR)}


@frozen
class augment(Value):
    """Average a map over changes of the images, each undone on its map: `mean_T T^-1 explain(T x)`.

    "aug_smooth" is that of pytorch-grad-cam: the images and their mirror images, each times 0.9, 1 and 1.1 (of the
    normalized values that the model sees). There every changed image explains its own top class where no target is
    given, a target with a mask or boxes is not mirrored with the image, and the mean is over maps already clipped and
    stretched; here the top class is that of the unchanged images, places move, and raw maps are averaged. "flips" is
    the images and their mirror images: a group, so that the result is mirrored with the image, exactly.

    An augmentation of kornia is drawn anew at each call, from a seed taken from `generator`; kornia itself reads the
    global generator, which is forked for that time. It needs images (B, C, H, W), and its inverse is taken at the size
    of the images, so that the result is of that size. Where a rotation or shift has moved a part of the map out of
    sight, that map counts as zero there.

    All inputs with space, (B, C, *S), change together, so that a depth map is mirrored with its photo; a table is not.
    Call it with the inputs and a target: it returns the mean map, (B, *spatial).

    Args:
        explain: a function of the inputs and a target that returns maps (B, *spatial): from `explainer`, `fuse`,
            another transformation, or yours. It is given all changed images in one batch, and unless the target is a
            class or a class a sample, a function as the target.
        transforms: "aug_smooth", "flips", or a list: `Augmentation`s (`flip`, `multiply`, yours), pairs (forward on
            images, inverse on maps), and kornia's. The unchanged images count only if the list has them:
            `multiply(1)`.
        generator: for kornia's, where seeds are drawn from.
        images: which inputs change; None is all with space. An index, a key, a path of these such as ("pixels", 0), a
            function of the inputs, or a list of these. Of the others, those with a batch dimension are repeated.
        chunk_size: how many changed images of a sample go in one batch; None is all of them.

    Raises:
        CamfnError: no transforms, one that has no inverse or changes the shape of the images or, for a target with
            places, does not say where they go; kornia's for other than (B, C, H, W), or without a generator.

    Example:
        >>> import torch
        >>> from camfn import explainer
        >>> from camfn.methods import hires_cam
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5))
        >>> explain = augment(explainer(hires_cam, net, "0"), "flips")
        >>> x = torch.rand(2, 3, 8, 8)
        >>> torch.allclose(explain(x.flip(-1), 4), explain(x, 4).flip(-1))
        True
    """

    explain: Callable[..., Tensor]
    transforms: Literal["aug_smooth", "flips"] | Sequence[Change] = "aug_smooth"
    _: KW_ONLY
    generator: torch.Generator | None = None
    images: Images | list[Images] | None = None
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        function(
            "augment: explain",
            self.explain,
            "an explainer, as explainer(grad_cam, model, layer)",
        )
        _listed(self.transforms)
        if self.generator is not None:
            generator_of("augment", self.generator)
        check_chunk_size(self.chunk_size)

    def __call__(self, inputs: Inputs, target: Target = None) -> Tensor:
        """Return the mean map, (B, *spatial)."""
        which = self.images if self.images is None or isinstance(self.images, list) else [self.images]
        images, rebuild = all_images_of(inputs, which, "changes the images")
        drawn = [_drawn(change, images, self.generator) for change in _listed(self.transforms)]
        if getattr(as_score(target), "moved", None) and any(one.move is None for one in drawn):
            _unknown(images[0])
        variants = [
            Variant(_changed(one, images), None if one.move is _same else one.move or _unknown) for one in drawn
        ]
        cams = explain_variants(self.explain, target, images, rebuild, variants, self.chunk_size)
        undone = [one.inverse(cam) for one, cam in zip(drawn, cams)]
        size = largest_space(undone)
        total = [widen(cam if cam.shape[1:] == size else resize(cam[:, None], size)[:, 0]) for cam in undone]
        return torch.stack(total).mean(0).to(cams[0].dtype)


def _unknown(mask: Tensor) -> Tensor:
    """Stand for the `move` that an augmentation does not have: refuse to move any mask."""
    raise CamfnError(
        "augment: the target refers to places of the image, and a transform does not say where they go: give "
        "Augmentation(forward, inverse, move) in place of the pair"
    )


def _listed(transforms: str | Sequence[Change]) -> list[Augmentation | nn.Module]:
    """Return the list that a name stands for, or check the entries of a given list."""
    if isinstance(transforms, str):
        if transforms not in _NAMED:
            raise CamfnError(f"transforms: expected 'aug_smooth', 'flips' or a list, got {transforms!r}")
        return list(_NAMED[transforms])
    if not isinstance(transforms, (list, tuple)):
        raise ArgumentTypeError(
            "transforms: expected 'aug_smooth', 'flips' or a list such as [multiply(1), flip(-1)], got "
            f"{describe(transforms)}"
        )
    changes: list[Augmentation | nn.Module] = []
    for one in transforms:
        if isinstance(one, (Augmentation, nn.Module)):
            changes.append(one)
        elif isinstance(one, tuple) and len(one) == 2 and all(map(callable, one)):
            changes.append(Augmentation(*one))
        else:
            raise CamfnError(
                "transforms: expected Augmentations, pairs (forward on images, inverse on maps) or augmentations of "
                f"kornia, got a {type(one).__name__}; for example [multiply(1), flip(-1)]"
            )
    if not changes:
        raise CamfnError("transforms: expected at least one, got an empty list; the unchanged images are multiply(1)")
    for one in changes:
        if isinstance(one, nn.Module) and not hasattr(one, "inverse") and not _only_colors(one):
            raise CamfnError(
                f"transforms: {type(one).__name__} has no inverse, so its map cannot be laid on the unchanged image; "
                "give a pair (forward on images, inverse on maps)"
            )
    return changes


def _only_colors(module: nn.Module) -> bool:
    """Say whether an augmentation of kornia changes colors alone, so that maps and masks stay in place."""
    return any("IntensityAugmentation" in base.__name__ for base in type(module).__mro__)


class _Drawn(NamedTuple):
    """A change with its random parameters drawn: of all images together, and of a map and a mask."""

    forward: Callable[[Sequence[Tensor]], Sequence[Tensor]]
    inverse: Callable[[Tensor], Tensor]
    move: Move | None


def _changed(one: _Drawn, images: Sequence[Tensor]) -> Sequence[Tensor]:
    """Apply a change, and refuse one that changes a shape."""
    changed = one.forward(images)
    for before, after in zip(images, changed):
        if after.shape != before.shape:
            raise CamfnError(
                f"augment: a transform made {tuple(after.shape)} of images of shape {tuple(before.shape)}; all of them "
                "go in one batch. For several sizes: multi_scale"
            )
    return changed


def _drawn(change: Augmentation | nn.Module, images: Sequence[Tensor], generator: torch.Generator | None) -> _Drawn:
    """Draw the random parameters of a kornia augmentation once, the same for all images."""
    if isinstance(change, Augmentation):
        return _Drawn(lambda images: [change.forward(x) for x in images], change.inverse, change.move)
    name = type(change).__name__
    for x in images:
        if x.ndim != 4:
            raise CamfnError(
                f"augment: {name} of kornia takes images (B, C, H, W), got {tuple(x.shape)}; for other dimensions "
                "give flip(-1), flip(-3) or a pair (forward on images, inverse on maps)"
            )
    if generator is None:
        raise CamfnError(
            f"augment: {name} of kornia draws at random: pass generator=torch.Generator().manual_seed(0), for instance"
        )
    own: Any = deepcopy(change)  # an augmentation of kornia stores its drawn parameters on itself
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    devices = [images[0].device] if images[0].device.type == "cuda" else []
    with _DRAWING, torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        first = own(images[0])
    params, size = own._params, images[0].shape[2:]
    changed = [first, *(own(x, params=params) for x in images[1:])]

    def at_size(apply: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda cam: apply(resize(cam[:, None], size))[:, 0]

    if not hasattr(own, "inverse"):
        return _Drawn(lambda _: changed, _same, _same)
    keys = {"data_keys": ["mask"]} if hasattr(own, "data_keys") else {}
    return _Drawn(
        lambda _: changed,
        at_size(lambda cam: own.inverse(cam, params=params)),
        at_size(lambda mask: own(mask, params=params, **keys)),
    )

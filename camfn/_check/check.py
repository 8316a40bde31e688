"""`check`: whether a map may be believed."""

# tested in tests/check/test_check.py

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .._cut.functional import _models_in
from .._cut.graft import bare
from .._shared.checks import describe, function, generator_of, number, progress_bar, whole
from .._shared.devices import brought
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.inputs import Images, images_of
from .._shared.noise import draw_normal
from .._shared.vocabulary import Inputs, Target
from .questions import Questions
from .result import Checked

NOISE = 0.05
"""Standard deviation of the noise, as a share of the range of an image's values."""


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
    method that runs the network once, these are 56 forwards. `check` tells `progress` the exact number after the first.

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
    if not pictures.numel():
        raise CamfnError(f"check: expected at least one image, got {describe(pictures)}")
    perturbations = _perturbations(pictures, copies, generator, noise)
    with torch.no_grad():
        asked = Questions(explain, network, inputs, target, images, progress)
        asked.plan(pictures, len(perturbations), redraws, parts)
        return asked.answer(pictures, rebuild, perturbations, generator, redraws, parts, share)


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
    if bare(network).training:
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

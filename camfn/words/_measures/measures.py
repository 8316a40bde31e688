"""Measures of word by word maps: against masks of objects, against hidden regions, and of answers that turn."""

# tested in tests/words/measures/test_measures.py

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..._shared.checks import describe, number, shapes_agree, tensor, within
from ..._shared.errors import CamfnError
from ..._shared.maps import resize, safe_divide
from .._maps.explain import read
from .blank import hidden_in
from .carried import said


class ObjectIoU(NamedTuple):
    """How the best of a noun's maps covers its object; each a tensor ().

    Attributes:
        iou: intersection over union.
        precision: share of the map's part that is on the object.
        recall: share of the object that the map's part covers.
        threshold: Otsu's, in [0, 1]: what is above is the map's part.
    """

    iou: Tensor
    precision: Tensor
    recall: Tensor
    threshold: Tensor


def object_iou(maps: Tensor, mask: Tensor) -> ObjectIoU:
    """TAM's Obj-IoU: the maps of a noun's tokens against the mask of its object, the best of them counts.

    Each map is resized to the mask, rounded down to 256 values, and cut at Otsu's threshold.

    Source: arXiv 2506.23270, section 4, and the authors' code.

    Args:
        maps: (M, h, w) in [0, 1], one for each token of the noun, on one scale: `maps / scale` of TAM.
        mask: (H, W), bool, of all objects of the noun's category.

    Returns:
        `ObjectIoU(iou, precision, recall, threshold)`, of the token with the best IoU.

    Raises:
        CamfnError: other shapes, values outside of [0, 1], or a mask of nothing.

    Example:
        >>> mask = torch.tensor([[True, False], [False, False]])
        >>> object_iou(torch.tensor([[[1.0, 0.2], [0.1, 0.0]]]), mask).iou
        tensor(1.)
    """
    _check_maps("object_iou", maps)
    if not isinstance(mask, Tensor) or mask.ndim != 2 or mask.dtype != torch.bool or not bool(mask.any()):
        raise CamfnError(f"words.object_iou: mask: expected a boolean mask (H, W) of an object, got {describe(mask)}")
    sized = resize(maps[None].float(), mask.shape)[0].clamp(0, 1)
    best: ObjectIoU | None = None
    for one in (sized * 255).to(torch.uint8):
        cut = otsu(one)
        part = one > cut
        both, either = (part & mask).sum().float(), (part | mask).sum().float()
        found = ObjectIoU(
            both / either, safe_divide(both, part.sum().float()), both / mask.sum(), both.new_tensor(cut / 255)
        )
        best = found if best is None or bool(found.iou > best.iou) else best
    assert best is not None
    return best


def otsu(values: Tensor) -> int:
    """Return Otsu's threshold of whole numbers from 0 to 255: what is above is one class; 0 of a constant."""
    counts = torch.bincount(values.flatten().long(), minlength=256).double()
    below, levels = counts.cumsum(0), torch.arange(256, dtype=torch.float64, device=values.device)
    weighted = (counts * levels).cumsum(0)
    above = below[-1] - below
    between = (
        safe_divide(below * above, below[-1] ** 2)
        * (safe_divide(weighted, below) - safe_divide(weighted[-1] - weighted, above)).square()
    )
    return int(between.argmax())


def function_iou(maps: Tensor, threshold: float | Tensor) -> Tensor:
    """TAM's Func-IoU: the share of each function word's map that lies below the nouns' mean threshold.

    A word such as "the" or "of" has no object: what lights up in its map is noise.

    Source: arXiv 2506.23270, section 4.

    Args:
        maps: (F, h, w) in [0, 1], of words without an object, each on the scale of TAM.
        threshold: the mean of the nouns' thresholds, as `object_iou` returns them.

    Returns:
        (F,), in [0, 1], higher is better.

    Raises:
        CamfnError: other shapes, or values outside of [0, 1].

    Example:
        >>> function_iou(torch.tensor([[[0.9, 0.1], [0.0, 0.2]]]), 0.5)
        tensor([0.7500])
    """
    _check_maps("function_iou", maps)
    number("words.function_iou: threshold", threshold, "[0, 1]")
    below = ((maps.float() * 255).to(torch.uint8).float() / 255) < threshold
    return below.flatten(1).float().mean(1)


def f1_iou(objects: Tensor, functions: Tensor) -> Tensor:
    """TAM's F1-IoU: the harmonic mean of the mean Obj-IoU and the mean Func-IoU.

    Source: arXiv 2506.23270, section 4.

    Args:
        objects: (N,), Obj-IoU of the nouns of a data set.
        functions: (F,), Func-IoU of its function words.

    Returns:
        (), in [0, 1]; 0 where both are 0.

    Raises:
        CamfnError: no words of one kind, or values outside of [0, 1].

    Example:
        >>> f1_iou(torch.tensor([0.2, 0.4]), torch.tensor([0.6]))
        tensor(0.4000)
    """
    for name, given in (("objects", objects), ("functions", functions)):
        tensor(f"words.f1_iou: {name}", given)
        if not given.numel() or not within(given, 0, 1):
            raise CamfnError(f"words.f1_iou: {name}: expected numbers in [0, 1], one a word, at least one word")
    one, other = objects.float().mean(), functions.float().mean()
    return safe_divide(2 * one * other, one + other)


def _check_maps(name: str, maps: Tensor) -> None:
    if not isinstance(maps, Tensor) or maps.ndim != 3 or not maps.numel() or maps.is_meta:
        raise CamfnError(f"words.{name}: maps: expected (M, h, w), at least one, got {describe(maps)}")
    if not within(maps, 0, 1):
        raise CamfnError(f"words.{name}: maps: expected values in [0, 1]: divide by the scale of words.explain")


class RegionCurves(NamedTuple):
    """Probabilities of words while regions of a picture are hidden, or shown, in the order of a map.

    Attributes:
        shares: (R + 1,), the share of the picture's area that the first r regions cover.
        deletion: (K, R + 1), with the first r regions hidden.
        insertion: (K, R + 1), with all regions hidden but the first r.
    """

    shares: Tensor
    deletion: Tensor
    insertion: Tensor

    @property
    def deletion_auc(self) -> Tensor:
        """Area under the deletion curve over the true share of area, (K,); lower is better."""
        return torch.trapezoid(self.deletion, self.shares.to(self.deletion), dim=1)

    @property
    def insertion_auc(self) -> Tensor:
        """Area under the insertion curve over the true share of area, (K,); higher is better."""
        return torch.trapezoid(self.insertion, self.shares.to(self.insertion), dim=1)

    @property
    def highest(self) -> Tensor:
        """The highest probability while regions come in, (K,)."""
        return self.insertion.amax(1)


def region_curves(
    model: nn.Module,
    inputs: Mapping[str, Any],
    words: int | Tensor | Sequence[int],
    regions: Tensor,
    cam: Tensor,
    *,
    image: int = 0,
    groups: Sequence[Sequence[int]] | None = None,
    tiles: Sequence[tuple[int, int]] | None = None,
) -> RegionCurves:
    """Hide regions of a picture in the order of a map, and bring them in again, and follow the words' probabilities.

    The probability of a word of several tokens is their mean. Regions are hidden by `words.hide`, in all tiles that
    show them; it costs 2 R forwards for all words. EAGLE averages over the words that `words.carried` says are read.

    Source: EAGLE, arXiv 2509.22496: insertion and deletion over regions, and the highest confidence.

    Args:
        model: as for `words.explain`.
        inputs: of one prompt.
        words: as for `words.explain`.
        regions: (R, H, W), bool, of any size, such as `metrics.grid_cells((24, 24), 4)`; each place in one of them.
        cam: (h, w), a map of the picture; regions come by its mean over each, the largest first, equal ones in order.
        image: which picture of the prompt.
        groups: as for `words.explain`.
        tiles: as for `words.explain`.

    Returns:
        `RegionCurves(shares, deletion, insertion)`.

    Raises:
        CamfnError: as for `words.hide`; regions that overlap, are empty or leave places out; the model is in training
            mode.

    Example:
        >>> from transformers import LlavaConfig, LlavaForConditionalGeneration
        >>> sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
        >>> tower = dict(sizes, model_type="clip_vision_model", image_size=32, patch_size=8)
        >>> config = LlavaConfig(vision_config=tower, text_config=dict(sizes, model_type="llama"), image_token_id=98)
        >>> inputs = {"input_ids": torch.tensor([[1, *[98] * 16, 5]]), "pixel_values": torch.rand(1, 3, 32, 32)}
        >>> halves = torch.tensor([[[True, False]], [[False, True]]])
        >>> net = LlavaForConditionalGeneration(config).eval()
        >>> region_curves(net, inputs, [7, 8, 9], halves, torch.rand(4, 4)).deletion_auc.shape
        torch.Size([3])
    """
    tensor("words.region_curves: regions", regions)
    tensor("words.region_curves: cam", cam)
    apart = regions.ndim == 3 and regions.dtype == torch.bool and bool((regions.sum(0) == 1).all())
    if not apart or not bool(regions.flatten(1).any(1).all()):
        raise CamfnError(
            "words.region_curves: regions: expected (R, H, W), bool, each place in one of the regions, and no region "
            "without places"
        )
    if cam.ndim != 2 or not bool(cam.isfinite().all()):
        raise CamfnError(f"words.region_curves: cam: expected a map (h, w) of finite numbers, got {describe(cam)}")
    asked = read("words.region_curves", model, inputs, words, groups, tiles, None)
    sized = resize(cam[None, None].float().cpu(), regions.shape[1:])[0, 0]
    area = regions.cpu().flatten(1).float()
    means = (area @ sized.flatten()) / area.sum(1)
    order = means.argsort(descending=True, stable=True)
    gone = regions.cpu()[order].long().cumsum(0).bool()

    def probability(hidden: Tensor) -> Tensor:
        changed = hidden_in(asked.model, asked.inputs, asked.pieces, {image: hidden})
        found = said(asked, changed).gather(1, asked.ids[:, None])[:, 0].exp()
        asked.check_numbers(found)
        return torch.stack([found[group].mean() for group in asked.groups])

    none = torch.zeros_like(gone[:1])
    steps = torch.cat([none, gone])
    deletion = torch.stack([probability(one) for one in steps], 1)
    shown = torch.stack([probability(~one) for one in gone[:-1]], 1) if len(gone) > 1 else deletion[:, :0]
    insertion = torch.cat([deletion[:, -1:], shown, deletion[:, :1]], 1)
    return RegionCurves(steps.flatten(1).float().mean(1).to(deletion.device), deletion, insertion)


class Corrections(NamedTuple):
    """How much of a picture must be hidden until a wrong answer turns; each a tensor ().

    Attributes:
        average: mean over the answers of the least share of the picture, 1 where an answer never turns (AMCR).
        rate: share of the answers that turn at a share of no more than the level (CSR).
    """

    average: Tensor
    rate: Tensor


def corrections(turned: Tensor, shares: Tensor, *, level: float = 0.1) -> Corrections:
    """EAGLE's measures of hallucination: the share of a picture to hide until a wrong answer turns.

    The authors' mean leaves out answers that never turn; here they count as 1, so that it does not gain by them.

    Source: EAGLE, arXiv 2509.22496: average minimal correction region (AMCR), correction success rate (CSR).

    Args:
        turned: (N, S), bool, whether each of N answers is another one with the first s regions hidden.
        shares: (S,) or (N, S), the share of the picture that is hidden.
        level: the share up to which a correction counts.

    Returns:
        `Corrections(average, rate)`: lower and higher are better.

    Raises:
        CamfnError: other shapes, or shares outside of [0, 1].

    Example:
        >>> turned = torch.tensor([[False, True, True], [False, False, False]])
        >>> average, rate = corrections(turned, torch.tensor([0.0, 0.1, 0.5]))
        >>> round(float(average), 4), float(rate)
        (0.55, 0.5)
    """
    number("words.corrections: level", level, "[0, 1]")
    tensor("words.corrections: turned", turned)
    tensor("words.corrections: shares", shares)
    if turned.ndim != 2 or turned.dtype != torch.bool or not turned.numel():
        raise CamfnError(f"words.corrections: turned: expected (N, S), bool, got {describe(turned)}")
    if shares.ndim == 1:
        shares = shares.expand(len(turned), -1)
    shapes_agree("words.corrections: shares", shares.shape, turned.shape)
    if not bool(((shares >= 0) & (shares <= 1)).all()):
        raise CamfnError("words.corrections: shares: expected numbers in [0, 1]")
    least = torch.where(turned, shares.float(), 1.0).amin(1)
    return Corrections(least.mean(), (turned.any(1) & (least <= level)).float().mean())

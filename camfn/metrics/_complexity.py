"""Metrics of a map alone, without the network: how spread, how sparse, how stable it is."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from .._shared.checks import number, same_device, shapes_agree
from .._shared.errors import CamfnError
from .._shared.maps import safe_divide
from .._shared.rows import constant
from ..image._checks import as_maps, within_unit
from ._common.likeness import correlation
from ._common.scores import number_a_sample, of_the_same


def complexity(heatmap: Tensor) -> Tensor:
    """Complexity of ADCC: the mean of the heatmap, its L1 norm over the number of pixels.

    Source: arXiv 2104.10252, section 3.

    Args:
        heatmap: (B, *S) in [0, 1].

    Returns:
        (B,), in [0, 1], lower is better; 0 for a map of zeros, 1 for a map of ones.

    Raises:
        CamfnError: a heatmap outside [0, 1], or with NaN (samples named).

    Example:
        >>> complexity(torch.tensor([[0.0, 0.5, 1.0, 0.5]]))
        tensor([0.5000])
    """
    work = as_maps(heatmap, "complexity: heatmap")
    if not within_unit(work):
        raise CamfnError("complexity: expected a heatmap in [0, 1]; pass camfn.image.normalize(cam)")
    return work.flatten(1).mean(1).to(heatmap.dtype)


def entropy(heatmap: Tensor) -> Tensor:
    """Entropy of the map as a distribution over pixels, `-sum_p a ln a` with `a = |m| / sum |m|`, in nats.

    Source: arXiv 2005.00631, definition 3 (there called complexity).

    Args:
        heatmap: (B, *S), raw or normalized; the sign and the scale of its values have no effect.

    Returns:
        (B,), lower is better: 0 where a single pixel is not zero, ln N for a constant map, also for zeros.

    Raises:
        CamfnError: NaN or infinity, naming the samples.

    Example:
        >>> entropy(torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 3.0, 0.0, 0.0]])).exp()
        tensor([2., 1.])
    """
    weights = _weights(as_maps(heatmap, "entropy: heatmap"))
    nats: Tensor = torch.special.entr(safe_divide(weights, weights.sum(1, keepdim=True))).sum(1)
    return nats.to(heatmap.dtype)


def sparseness(heatmap: Tensor) -> Tensor:
    """Gini index of the magnitudes: `sum_i (2i - n - 1) a_(i) / (n sum a)`, with a in ascending order.

    Source: arXiv 1810.06583, section 4 (Chalasani et al.). Quantus adds 1e-7 to each value; this function adds nothing.

    Args:
        heatmap: (B, *S), raw or normalized; the sign and the scale of its values have no effect.

    Returns:
        (B,), in [0, 1 - 1/n], higher is sparser: 0 for a constant map, also for zeros; 1 - 1/n where a single pixel is
        not zero.

    Raises:
        CamfnError: NaN or infinity, naming the samples.

    Example:
        >>> sparseness(torch.tensor([[0.0, 0.0, 0.0, 5.0], [1.0, 1.0, 1.0, 1.0]]))
        tensor([0.7500, 0.0000])
    """
    ordered = _ascending(_weights(as_maps(heatmap, "sparseness: heatmap")))
    n = ordered.shape[1]
    place = 2 * torch.arange(1, n + 1, device=ordered.device, dtype=ordered.dtype) - n - 1
    return ((place * ordered).sum(1) / (n * ordered.sum(1))).to(heatmap.dtype)


def effective_complexity(heatmap: Tensor, *, threshold: float = 1e-5) -> Tensor:
    """Effective complexity: the number of pixels whose magnitude is more than a share of the largest.

    Source: arXiv 2007.07584, there the number of features that the score needs; Quantus counts those above a
    number in a map that is scaled to a maximum of 1, as this function does.

    Args:
        heatmap: (B, *S), raw or normalized; the sign and the scale of its values have no effect.
        threshold: share of each map's largest magnitude; values must be larger.

    Returns:
        (B,), lower is simpler: 0 for a map of zeros, all pixels for another constant map.

    Raises:
        CamfnError: a threshold outside [0, 1), NaN or infinity, naming the samples.

    Example:
        >>> effective_complexity(torch.tensor([[0.0, -3.0, 1e-9, 2.0]]))
        tensor([2.])
    """
    number("effective_complexity: threshold", threshold, "[0, 1)")
    magnitudes = as_maps(heatmap, "effective_complexity: heatmap").flatten(1).abs()
    above = magnitudes > threshold * magnitudes.amax(1, keepdim=True)
    # a half type does not hold the number of pixels
    return above.sum(1).to(magnitudes.dtype)


def coherency(heatmap: Tensor, again: Tensor) -> Tensor:
    """Coherency of ADCC: correlation of a map with that of the image seen through it, `(rho + 1) / 2`.

    Source: arXiv 2104.10252, eq. 1 and the authors' code. The correlation of a constant map is not defined; the result
    is then 0, as in that code. pytorch-grad-cam returns 0.5 there, since it adds an eps.

    Args:
        heatmap: (B, *S), the map of x.
        again: (B, *S), the map of `masked(x, heatmap)`, for the same class.

    Returns:
        (B,), in [0, 1], higher is better.

    Raises:
        CamfnError: other shapes; NaN or infinity, naming the samples.

    Example:
        >>> coherency(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[5.0, 7.0, 9.0]]))
        tensor([1.])
    """
    first, second = as_maps(heatmap, "coherency: heatmap"), as_maps(again, "coherency: again")
    shapes_agree("coherency: again", second.shape, first.shape)
    same_device("coherency: again", second, first, "heatmap")
    rho, defined = correlation(first.flatten(1), second.flatten(1))
    return torch.where(defined, (rho + 1) / 2, 0).to(heatmap.dtype)


def adcc(coherency: Tensor, complexity: Tensor, drop: Tensor) -> Tensor:
    """ADCC: the harmonic mean of coherency, 1 - complexity and 1 - average drop.

    Source: arXiv 2104.10252, eq. 4.

    Args:
        coherency: (B,), in [0, 1], from `coherency`.
        complexity: (B,), in [0, 1], from `complexity`.
        drop: (B,), in [0, 1], from `average_drop`.

    Returns:
        (B,), in [0, 1], higher is better; 0 where one of the three is.

    Raises:
        CamfnError: numbers outside [0, 1], as drops in percent.

    Example:
        >>> adcc(torch.tensor([1.0]), torch.tensor([0.5]), torch.tensor([0.5]))
        tensor([0.6000])
    """
    return _harmonic("adcc", coherency, complexity, 1 - _unit("adcc", "drop", drop))


def arcc(coherency: Tensor, complexity: Tensor, road: Tensor) -> Tensor:
    """ARCC: the harmonic mean of coherency, 1 - complexity and ROAD, `min(1, max(0, 2 r))`.

    The formula is pytorch-grad-cam's, which calls it a geometric mean and computes the harmonic one.

    Source: arXiv 2605.14641; its text was not checked.

    Args:
        coherency: (B,), in [0, 1], from `coherency`.
        complexity: (B,), in [0, 1], from `complexity`.
        road: r, (B,), from `road_combined` with probabilities as scores.

    Returns:
        (B,), in [0, 1], higher is better; 0 where one of the three is.

    Raises:
        CamfnError: numbers outside [0, 1], or r outside [-0.5, 0.5], as ROAD of logits is.

    Example:
        >>> arcc(torch.tensor([1.0]), torch.tensor([0.5]), torch.tensor([0.25]))
        tensor([0.6000])
    """
    advice = "Take road_combined of probabilities, as scores_of(model, images) gives, not of logits."
    half = number_a_sample("arcc", "road", road, -0.5, 0.5, advice)
    return _harmonic("arcc", coherency, complexity, (2 * half).clamp(0, 1))


def _ascending(rows: Tensor) -> Tensor:
    """Sort each row, (B, N). Plain tensors of a CPU go to numpy, which sorts values alone: torch sorts places too."""
    plain = type(rows) is Tensor and rows.device.type == "cpu" and rows.dtype in (torch.float32, torch.float64)
    # a trace would keep the numbers that numpy gives
    traced = torch._C._get_tracing_state() is not None or _get_current_dispatch_mode() is not None
    if plain and not traced and constant(rows) and not rows.requires_grad:
        import numpy as np

        return torch.from_numpy(np.sort(rows.numpy(), axis=1))
    return rows.sort(1).values


def _weights(maps: Tensor) -> Tensor:
    """Magnitudes (B, N), scaled to a maximum of 1; ones for a map of zeros, as for any other constant map."""
    magnitudes = maps.flatten(1).abs()
    top = magnitudes.amax(1, keepdim=True)
    return torch.where(top == 0, 1, safe_divide(magnitudes, top))


def _unit(what: str, name: str, value: Tensor) -> Tensor:
    """Return `value`, (B,), if it is in [0, 1]; refuse percent."""
    return number_a_sample(what, name, value, 0, 1, "Shares, not percent.")


def _harmonic(what: str, coherency: Tensor, complexity: Tensor, third: Tensor) -> Tensor:
    """Harmonic mean of coherency, 1 - complexity and a third number, 0 where one of them is."""
    first, second = _unit(what, "coherency", coherency), 1 - _unit(what, "complexity", complexity)
    of_the_same(what, first, second, third)
    parts = torch.stack([first, second, third])
    # 1 / 0 is infinite and 3 / inf is 0, the limit of the harmonic mean; 1 / -0 would be -inf
    return 3 / (1 / parts.clamp(min=0).abs()).sum(0)

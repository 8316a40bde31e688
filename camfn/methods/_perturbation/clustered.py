"""ViT-CX: channels that look alike are joined to one mask; each mask is weighted by what the score loses around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._shared.checks import is_at_hand, is_concrete, number, shapes_agree
from ..._shared.devices import brought
from ..._shared.maps import channel_sum, over_space, safe_divide, safe_sqrt, widen
from ..._shared.noise import draw_normal, one_source
from ..._shared.rows import ChunkSize, Progress, finite, row_of, score_variants
from .._checks import fits_inputs, lays_over_images
from .channels import mask, minus_minimum, unit_range


@lays_over_images
def vit_cx(
    activations: Tensor,
    grads: Tensor | None = None,
    outputs: Any = None,
    *,
    forward: Callable[[Tensor], Tensor],
    inputs: Tensor,
    threshold: float = 0.1,
    std: float = 0.1,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    chunk_size: ChunkSize = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """ViT-CX: masks of channels that look alike, each weighted by the score of what it shows.

    `L(p) = sum_i s_i M_i(p) / (n sum_j M_j(p))` over n masks, 0 where no mask is, at the resolution of the inputs, not
    of the layer. The weight is `s_i = f(x M_i + z_i) - f(x + z_i) + f(x)` with noise where the mask hides,
    `z_i = z (1 - M_i)`, so that what the noise itself takes from the score is given back. Masks are made of channels,
    upsampled and stretched to [0, 1]: those whose cosine is within `threshold` of 1 are joined by complete linkage,
    and the stretched sum of a cluster is its mask. `2 n + 1` forwards. The map keeps the sign of the scores.

    A constant channel makes no mask. Under `vmap` and `torch.compile` give the noise; n is then the number of channels,
    for the number of masks cannot be read, and masks of nothing run too. The authors take the features that enter the
    last attention (`blocks.11.norm1` of a timm model) and probabilities, `targets.class_probability`. They draw the
    noise anew for each mask; here one field serves all masks and samples, which are then compared under the same noise.

    Source: arXiv 2211.03064 and the authors' code, vaynexie/CausalX-ViT; the paper's equations were not read in print.

    Args:
        activations: (B, C, *S), one to three spatial dimensions.
        grads: not used.
        outputs: not used.
        forward: the whole network and the target, inputs to scores (B,); must run under `torch.vmap`.
        inputs: (B, channels, *T), what the network was run on, with as many spatial dimensions as the activations.
        threshold: the distance, 1 less the cosine, below which masks are joined: 0 joins none.
        std: the standard deviation of the noise that a generator draws, in the inputs' own unit.
        generator: draws normal noise on its own device, in float32 whatever the activations are.
        noise: (channels, *T), the noise itself, in place of a generator; added as it is.
        chunk_size: changed inputs run at once; None is all, "auto" as many as memory allows.
        progress: called with changed inputs done and their number.

    Returns:
        The raw map, (B, *T), where other methods give (B, *S).

    Raises:
        CamfnError: if neither or both of `generator` and `noise` are given, for noise or inputs of another shape,
            a negative threshold or deviation, or scores that are not one finite number a sample.

    Example:
        >>> import torch
        >>> activations = torch.tensor([[[0.0, 1.0], [0.0, 2.0], [3.0, 0.0]]])  # masks (0, 1) and (1, 0)
        >>> image, none = torch.tensor([[[2.0, 6.0]]]), torch.zeros(1, 2)
        >>> vit_cx(activations, forward=lambda x: x.sum((1, 2)), inputs=image, noise=none)  # scores 6 and 2 of 2 masks
        tensor([[1., 3.]])
    """
    number("vit_cx: threshold", threshold, "[0, inf)")
    number("vit_cx: std", std, "[0, inf)")
    fits_inputs("vit_cx", activations, inputs, forward)
    source = one_source("vit_cx", generator, noise)
    given = source if isinstance(source, Tensor) else std * draw_normal(tuple(inputs.shape[1:]), source)
    shapes_agree("vit_cx: noise (channels, *T)", given.shape, inputs.shape[1:])
    field = brought(given, inputs)
    masks = mask(minus_minimum(widen(activations)), inputs)
    shown, count = _joined(masks, threshold)
    most = shown.shape[1]

    def changed(row: Tensor) -> Tensor:
        """Show a mask, then the whole input, both with noise around the mask; the last row is the input itself."""
        m = row_of(shown, row % most, 1)[:, None].to(inputs.dtype)
        around = torch.where(row < 2 * most, 1 - m, 0.0)
        return inputs * torch.where(row < most, m, 1.0) + field * around

    rows = torch.arange(2 * most + 1, device=inputs.device)
    per_row = score_variants("vit_cx: forward", forward, changed, rows, chunk_size=chunk_size, progress=progress)
    scores = widen(finite("vit_cx: forward", per_row.mT, activations, inputs)).to(shown.dtype)
    weights = scores[:, :most] - scores[:, most:-1] + scores[:, -1:]
    total = channel_sum(shown * over_space(safe_divide(weights, count), shown))
    return safe_divide(total, channel_sum(shown)).to(activations.dtype)


def _joined(masks: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Return the masks (B, n, *T) of clusters, those of nothing last, and how many there are in each sample, (B, 1)."""
    flat = masks.detach().flatten(2)
    label = _clusters(flat, threshold)
    first = torch.arange(masks.shape[1], device=masks.device)
    # NaN counts, so that it stays in the map of its sample
    there = ((label[:, None] == first[:, None]) & (flat.amax(2) != 0)[:, None]).any(2)
    order = there.to(torch.int8).sort(dim=1, descending=True, stable=True).indices
    count = there.sum(1)
    most = max(int(count.max()), 1) if is_concrete(count) and count.numel() else masks.shape[1]
    member = (label[:, None] == order[:, :most, None]).to(masks.dtype)
    joined = unit_range(torch.einsum("bkc,bc...->bk...", member, masks))
    return joined, (joined.detach().flatten(2).amax(2) != 0).sum(1, keepdim=True)


def _clusters(rows: Tensor, threshold: float) -> Tensor:
    """Cluster rows (B, C, N) by complete linkage of 1 - cosine; return the first row of each row's cluster, (B, C)."""
    unit = safe_divide(rows, safe_sqrt(rows.square().sum(2, keepdim=True)))
    number = torch.arange(rows.shape[1], device=rows.device)
    same = number[:, None] == number
    far = torch.where(same, torch.inf, (1 - unit @ unit.mT).clamp(min=0))
    label = number.expand(rows.shape[:2])
    for _ in range(rows.shape[1] - 1):
        least, place = far.flatten(1).min(1)
        join = (least < threshold)[:, None]
        if is_at_hand(join) and not bool(join.any()):
            break
        i, j = place[:, None] // rows.shape[1], place[:, None] % rows.shape[1]
        kept, gone = torch.minimum(i, j), torch.maximum(i, j)
        at_kept, at_gone = (number == kept) & join, (number == gone) & join
        # as far as the farther of the two; the one that is gone is near nothing
        farther = torch.maximum(*(far.gather(1, x[..., None].expand(-1, 1, far.shape[2]))[:, 0] for x in (kept, gone)))
        far = torch.where(at_kept[:, :, None], farther[:, None], far)
        far = torch.where(at_kept[:, None], farther[:, :, None], far)
        far = torch.where(at_gone[:, :, None] | at_gone[:, None] | same, torch.inf, far)
        label = torch.where((label == gone) & join, kept, label)
    return label

"""Targets for segmentation, embeddings, regression, multi-label and text outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from .._shared.checks import class_in_range, describe, length_matches
from .._shared.devices import brought, tensor_on
from .._shared.errors import CamfnError
from .._shared.maps import safe_divide
from ._score import Classes, Move, Score, class_index, class_indices, named_output

Region = Tensor | Literal["all", "predicted"]


def mask_score(classes: Classes = None, region: Region = "all") -> Score:
    """Sum of a class's logits over a region of a segmentation: Seg-Grad-CAM's target (2002.11434, eq. 2).

    Finds the logits in a tensor (B, K, *S), or under "out" (torchvision) or "logits" (Hugging Face).

    Args:
        classes: an int, one a sample, or None for the class with the largest sum of logits over the region; with
            "predicted", the class that is predicted at the most positions.
        region: "all" positions; the positions "predicted" as the class, which of one logit, (B, 1, *S), are those
            where it is positive (a method that perturbs chooses them once, from the unperturbed image); or a mask,
            (*T) or (B, *T), bool or weights, of any size: `mask_score` averages (or repeats) it to the size of the
            logits.

    Raises:
        CamfnError: the outputs hold no such logits, a class is out of range, or a mask has other dimensions.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]])  # two classes, (1, 2) positions
        >>> right = torch.tensor([[False, True]])
        >>> mask_score(0)(logits), mask_score(0, right)(logits), mask_score(1, "predicted")(logits)
        (tensor([3.]), tensor([2.]), tensor([3.]))
    """
    if isinstance(region, str) and region not in ("all", "predicted"):
        raise CamfnError(f"region: expected 'all', 'predicted' or a mask, got {region!r}")

    def class_and_weights(logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the class, (B, 1), and the weight of each position, (B, *S)."""
        flat = logits.flatten(2).detach()
        if isinstance(region, str):
            won = _predicted(flat)
            amount = won.to(flat.dtype).sum(2) if region == "predicted" else flat.sum(2)
            index = class_index(amount, classes)
            if region == "all":
                return index, torch.ones_like(logits[:, 0])
            place = index[..., None].expand(-1, -1, won.shape[2])
            return index, won.gather(1, place)[:, 0].reshape(logits[:, 0].shape).to(logits.dtype)
        weights = _resized(region, logits)
        return class_index((flat * weights.flatten(1)[:, None]).sum(2), classes), weights

    def score(outputs: Any) -> Tensor:
        logits = _dense_logits(outputs)
        return _weighted_sum(logits, *class_and_weights(logits))

    def mover(mask: Tensor, index: Classes) -> Callable[[Move], Score]:
        return lambda move: mask_score(index, move(mask))

    def pinned(outputs: Any) -> Score:
        logits = _dense_logits(outputs)
        index, weights = class_and_weights(logits)
        fixed = Score(lambda later: _weighted_sum(_dense_logits(later), index, weights))
        if isinstance(region, Tensor):
            fixed.moved = mover(_each_sample(region, logits), index[:, 0])  # the mask keeps its size until it has moved
        elif region == "predicted":
            fixed.moved = mover(weights, index[:, 0])
        return fixed

    if not isinstance(region, Tensor):
        return Score(score, pinned)
    return Score(score, pinned, mover(region if region.ndim > 2 else region[None], classes))


def similarity(reference: Tensor) -> Score:
    """Cosine between a sample's embedding and a reference embedding: of another image, or of a text.

    Finds the embedding in a tensor (B, D), or under "image_embeds", "text_embeds" or "pooler_output" (Hugging Face's
    towers of CLIP and SigLIP). The score is 0 where one of the two embeddings is zero.

    Args:
        reference: (D,), or (B, D) with one a sample; no gradient goes through it.

    Raises:
        CamfnError: the outputs hold no such embedding, or the reference has another size.

    Example:
        >>> import torch
        >>> similarity(torch.tensor([0.0, 2.0]))(torch.tensor([[3.0, 4.0]]))
        tensor([0.8000])
    """

    def score(outputs: Any) -> Tensor:
        embedding = named_output(outputs, "image_embeds", "text_embeds", "pooler_output")
        if not isinstance(embedding, Tensor) or embedding.ndim != 2:
            raise CamfnError(
                f"similarity needs an embedding of shape (B, D); the model returned {describe(outputs)}. Take a model "
                "that ends in one, such as CLIPVisionModelWithProjection, or a function: "
                "lambda outputs: similarity(reference)(outputs.hidden[:, 0])"
            )
        other, (batch, size) = brought(reference.detach(), embedding), embedding.shape
        if other.ndim not in (1, 2) or other.shape[-1] != size or other.shape[0] not in (1, batch, size):
            raise CamfnError(f"reference: expected shape ({size},) or {(batch, size)}, got {tuple(other.shape)}")
        return safe_divide((embedding * other).sum(1), embedding.norm(dim=1) * other.norm(dim=-1))

    return Score(score)


def regression(index: int = 0, *, sign: Literal[1, -1] = 1) -> Score:
    """One output of a regression, for a map of evidence that raises it; with `sign=-1`, that lowers it.

    A gradient method without an inner ReLU gives the same map with opposite signs for the two. Look at the signed map:
    `image.normalize(cam, signed=True)`.

    Args:
        index: which output, where the model has several.
        sign: 1 or -1.

    Raises:
        CamfnError: the outputs are not (B,) or (B, n) with such an output, or the sign is neither 1 nor -1.

    Example:
        >>> import torch
        >>> regression(1, sign=-1)(torch.tensor([[3.0, 2.0]]))
        tensor([-2.])
    """
    if sign not in (1, -1):
        raise CamfnError(f"sign: expected 1 to explain a high output, or -1 to explain a low one; got {sign!r}")

    def score(outputs: Any) -> Tensor:
        values = named_output(outputs, "logits")
        if not isinstance(values, Tensor) or values.ndim not in (1, 2):
            raise CamfnError(f"regression expects outputs (B,) or (B, n); the model returned {describe(outputs)}")
        columns = values.reshape(len(values), -1)
        if not -columns.shape[1] <= index < columns.shape[1]:
            raise CamfnError(f"output {index} is out of range: the model has {columns.shape[1]}")
        return sign * columns[:, index]

    return Score(score)


def several(labels: Sequence[int] | Tensor | None = None, *, threshold: float = 0.0) -> Score:
    """Sum of the logits of several labels of a multi-label model.

    Args:
        labels: (n,) indices for all samples; (B, K) of bool, each sample's own labels; or None for the labels whose
            logit is above the threshold (a method that perturbs chooses them once, from the unperturbed image).
        threshold: in logits; 0 is a probability of one half.

    Raises:
        CamfnError: the outputs hold no (B, K) logits, or the labels do not fit them.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[1.0, -2.0, 3.0]])
        >>> several([0, 1])(logits), several()(logits)
        (tensor([-1.]), tensor([4.]))
    """

    def wanted_labels(logits: Tensor) -> Tensor:
        """Return whether each sample is scored by each label, (B, K) of bool."""
        if labels is None:
            return logits.detach() > threshold
        if isinstance(labels, Tensor) and labels.dtype is torch.bool:
            if labels.shape != logits.shape:
                raise CamfnError(f"labels: expected bool of shape {tuple(logits.shape)}, got {tuple(labels.shape)}")
            return tensor_on(labels, logits.device)
        index = class_indices("labels", labels, logits, lambda: "(n,)", waits=True)
        return (index.reshape(-1, 1) == torch.arange(logits.shape[1], device=logits.device)).any(0).expand_as(logits)

    def score(outputs: Any) -> Tensor:
        logits = _label_logits(outputs)
        return (logits * wanted_labels(logits)).sum(1)

    return Score(score, lambda outputs: several(wanted_labels(_label_logits(outputs))))


def token_log_probability(tokens: Tensor | Sequence[int], *, position: int | None = None, ignore: int = -100) -> Score:
    """Log-probability that an encoder-decoder gives to a text, or to one of its tokens.

    Give the model the image and the text at once (teacher forcing), so that all tokens cost one forward. Its outputs
    have logits (B, T, V); the logits at t score `tokens[t]`, given the tokens before.

    Args:
        tokens: (T,) or (B, T), as for `labels=` of a Hugging Face model.
        position: which token; None adds up all of them.
        ignore: token that counts as padding: its log-probability is left out.

    Raises:
        CamfnError: the outputs hold no (B, T, V) logits, or the tokens do not fit them.

    Example:
        >>> import torch
        >>> token_log_probability([0, 1])(torch.zeros(1, 2, 4)).exp()
        tensor([0.0625])
    """

    def score(outputs: Any) -> Tensor:
        logits = named_output(outputs, "logits")
        if not isinstance(logits, Tensor) or logits.ndim != 3:
            raise CamfnError(f"token_log_probability needs logits (B, T, V); the model returned {describe(outputs)}")
        text = tensor_on(tokens, logits.device)
        batch, length, words = logits.shape
        if text.ndim not in (1, 2) or text.shape[-1] != length or (text.ndim == 2 and text.shape[0] != batch):
            raise CamfnError(f"tokens: expected ({length},) or ({batch}, {length}), got {tuple(text.shape)}")
        counts = text != ignore
        index = torch.where(counts, text, 0).expand(batch, length)
        class_in_range(index, words)
        each = logits.log_softmax(-1).gather(2, index[..., None])[..., 0] * counts
        if position is None:
            return each.sum(1)
        if not -length <= position < length:
            raise CamfnError(f"position {position} is out of range: the text has {length} tokens")
        return each[:, position]

    return Score(score)


def _label_logits(outputs: Any) -> Tensor:
    """Find the (B, K) logits in the outputs, for `several`."""
    logits = named_output(outputs, "logits")
    if isinstance(logits, Tensor) and logits.ndim == 2:
        return logits
    raise CamfnError(f"several needs logits of shape (B, K); the model returned {describe(outputs)}")


def _dense_logits(outputs: Any) -> Tensor:
    """Find the (B, K, *spatial) logits in the outputs, for `mask_score`."""
    logits = named_output(outputs, "out", "logits")
    if isinstance(logits, Tensor) and logits.ndim >= 3:
        return logits
    raise CamfnError(
        f"mask_score needs logits of shape (B, K, *spatial), or such under 'out' or 'logits'; the model returned "
        f"{describe(outputs)}. For another place: lambda outputs: mask_score(15)(outputs[0])"
    )


def _predicted(flat: Tensor) -> Tensor:
    """Return where each class is predicted, (B, K, N): where its logit is the largest, or, of one logit, positive."""
    if flat.shape[1] == 1:
        return flat > 0
    return flat.argmax(1)[:, None] == torch.arange(flat.shape[1], device=flat.device)[:, None]


def _each_sample(mask: Tensor, logits: Tensor) -> Tensor:
    """Expand a mask (*T) or (B, *T) to one mask a sample, (B, *T)."""
    spatial, batch = logits.ndim - 2, logits.shape[0]
    if mask.ndim not in (spatial, spatial + 1):
        raise CamfnError(
            f"region: expected a mask with {spatial} spatial dimensions, one for all samples or one a sample, "
            f"got {tuple(mask.shape)} for logits {tuple(logits.shape)}"
        )
    weights = brought(mask if mask.ndim > spatial else mask[None], logits)
    if weights.shape[0] != 1:
        length_matches("region", weights.shape[0], batch)
    return weights.expand(batch, *weights.shape[1:])


def _resized(mask: Tensor, logits: Tensor) -> Tensor:
    """Resize a mask (*T) or (B, *T) to the size of the logits, (B, *S)."""
    weights = _each_sample(mask, logits)
    if weights.shape[1:] == logits.shape[2:]:
        return weights
    return functional.interpolate(weights[:, None], tuple(logits.shape[2:]), mode="area")[:, 0]


def _weighted_sum(logits: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Sum each sample's logits of its class over the positions, with the weight of each position, (B,)."""
    own = logits.flatten(2).gather(1, index[..., None].expand(-1, -1, logits.flatten(2).shape[2]))[:, 0]
    return (own * weights.flatten(1)).sum(1)

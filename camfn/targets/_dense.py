"""Targets for segmentation, embeddings, regression, multi-label and text outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from .._shared.checks import describe, is_concrete, length_matches, number, same_device, shapes_agree, whole
from .._shared.devices import brought, tensor_on
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.maps import safe_divide
from .._shared.value import frozen
from ._score import Arithmetic, Classes, Move, checked_classes, class_index, class_tensor, named_output

Region = Tensor | Literal["all", "predicted"]


@frozen
class mask_score(Arithmetic, tree=True):
    """Sum of a class's logits over a region of a segmentation: Seg-Grad-CAM's target (2002.11434, eq. 2).

    Finds the logits in a tensor (B, K, *S), or under "out" (torchvision) or "logits" (Hugging Face).

    Args:
        classes: an int, one a sample, or None for the class with the largest sum of logits over the region; with
            "predicted", the class that is predicted at the most positions.
        region: "all" positions; the positions "predicted" as the class (a method that perturbs chooses them once, from
            the unperturbed image; with one class, those where its logit is above 0); or a mask, (*T) or (B, *T), bool
            or weights, of any size: `mask_score` averages (or repeats) it to the size of the logits.

    Raises:
        CamfnError: the outputs hold no such logits, a class is out of range, or a mask has other dimensions.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]])  # two classes, (1, 2) positions
        >>> right = torch.tensor([[False, True]])
        >>> mask_score(0)(logits), mask_score(0, right)(logits), mask_score(1, "predicted")(logits)
        (tensor([3.]), tensor([2.]), tensor([3.]))
    """

    classes: Classes = None
    region: Region = "all"

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", checked_classes("classes", self.classes))
        if isinstance(self.region, str) and self.region not in ("all", "predicted"):
            raise CamfnError(f"region: expected 'all', 'predicted' or a mask, got {self.region!r}")
        if not isinstance(self.region, (str, Tensor)):
            raise ArgumentTypeError(
                f"region: expected 'all', 'predicted' or a mask as a tensor, got {describe(self.region)}; "
                "torch.as_tensor(mask) makes one"
            )

    def __call__(self, outputs: Any) -> Tensor:
        """Score each sample, (B,)."""
        logits = _dense_logits(outputs)
        return _weighted_sum(logits, *self._class_and_weights(logits))

    @property
    def pinned(self) -> Callable[[Any], mask_score]:
        """Take the class, and the positions that are predicted as it, at these outputs."""
        return self._pin

    @property
    def moved(self) -> Callable[[Move], mask_score] | None:
        """Move the mask; None where the region is no mask."""
        return self._move if isinstance(self.region, Tensor) else None

    def _class_and_weights(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the class, (B, 1), and the weight of each position, (B, *S)."""
        flat = logits.flatten(2).detach()
        if isinstance(self.region, Tensor):
            weights = _resized(self.region, logits)
            return class_index((flat * weights.flatten(1)[:, None]).sum(2), self.classes), weights
        if self.region == "all":
            return class_index(flat.sum(2), self.classes), torch.ones_like(logits[:, 0])
        won = _won(logits.detach()).to(logits.dtype)
        index = class_index(won.flatten(2).sum(2), self.classes)
        return index, won.gather(1, _at_places(index, won).expand(-1, -1, *won.shape[2:]))[:, 0]

    def _pin(self, outputs: Any) -> mask_score:
        logits = _dense_logits(outputs)
        index, weights = self._class_and_weights(logits)
        if isinstance(self.region, Tensor):  # the mask keeps its size until it has moved
            return mask_score(index[:, 0], _each_sample(self.region, logits))
        return mask_score(index[:, 0], weights if self.region == "predicted" else self.region)

    def _move(self, move: Move) -> mask_score:
        assert isinstance(self.region, Tensor)
        return mask_score(self.classes, move(self.region if self.region.ndim > 2 else self.region[None]))


@frozen
class similarity(Arithmetic, tree=True):
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

    reference: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.reference, Tensor):
            raise ArgumentTypeError(f"reference: expected a tensor (D,) or (B, D), got {describe(self.reference)}")
        if not self.reference.is_floating_point():
            raise CamfnError(f"reference: expected an embedding of floats, got {self.reference.dtype}")

    def __call__(self, outputs: Any) -> Tensor:
        """Score each sample, (B,)."""
        embedding = named_output(outputs, "image_embeds", "text_embeds", "pooler_output")
        if not isinstance(embedding, Tensor) or embedding.ndim != 2:
            raise CamfnError(
                f"similarity needs an embedding of shape (B, D); the model returned {describe(outputs)}. Take a model "
                "that ends in one, such as CLIPVisionModelWithProjection, or a function: "
                "lambda outputs: similarity(reference)(outputs.hidden[:, 0])"
            )
        if self.reference.is_meta and not embedding.is_meta:
            same_device("reference", self.reference, embedding, "embedding")
        other, (batch, size) = brought(self.reference.detach(), embedding), embedding.shape
        rows = other.shape[0] if other.ndim == 2 else 1
        if other.ndim not in (1, 2) or other.shape[-1] != size or (rows != 1 and rows != batch):
            raise CamfnError(f"reference: expected shape ({size},) or {(batch, size)}, got {tuple(other.shape)}")
        return safe_divide((embedding * other).sum(1), embedding.norm(dim=1) * other.norm(dim=-1))


@frozen
class regression(Arithmetic, tree=True):
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

    index: int | Tensor = 0
    _: KW_ONLY
    sign: Literal[1, -1] = 1

    def __post_init__(self) -> None:
        number("regression: sign", self.sign, "[-1, 1]", "1 explains a high output, -1 a low one")
        if self.sign not in (1, -1):
            raise CamfnError(
                f"sign: expected 1 to explain a high output, or -1 to explain a low one; got {self.sign!r}"
            )
        object.__setattr__(self, "index", one_place("index", self.index))

    def __call__(self, outputs: Any) -> Tensor:
        """Score each sample, (B,)."""
        values = named_output(outputs, "logits")
        if not isinstance(values, Tensor) or values.ndim not in (1, 2):
            raise CamfnError(f"regression expects outputs (B,) or (B, n); the model returned {describe(outputs)}")
        columns = values[:, None] if values.ndim == 1 else values
        return self.sign * at_place(columns, self.index, "output", "the model has {}")


@frozen
class several(Arithmetic, tree=True):
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

    labels: Sequence[int] | Tensor | None = None
    _: KW_ONLY
    threshold: float | Tensor = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.threshold, Tensor):
            number("threshold", self.threshold)
        if not (isinstance(self.labels, Tensor) and self.labels.dtype is torch.bool):
            object.__setattr__(self, "labels", checked_classes("labels", self.labels))

    def __call__(self, outputs: Any) -> Tensor:
        """Score each sample, (B,)."""
        logits = _label_logits(outputs)
        return (logits * self._wanted(logits)).sum(1)

    @property
    def pinned(self) -> Callable[[Any], several]:
        """Take the labels at these outputs."""
        return self._pin

    def _pin(self, outputs: Any) -> several:
        return several(self._wanted(_label_logits(outputs)))

    def _wanted(self, logits: Tensor) -> Tensor:
        """Return whether each sample is scored by each label, (B, K) of bool."""
        labels = self.labels
        if labels is None:
            if isinstance(self.threshold, Tensor):
                shapes_agree("several: threshold", self.threshold.shape, ())
            return logits.detach() > self.threshold
        if isinstance(labels, Tensor) and labels.dtype is torch.bool:
            if labels.shape != logits.shape:
                raise CamfnError(f"labels: expected bool of shape {tuple(logits.shape)}, got {tuple(labels.shape)}")
            return tensor_on(labels, logits.device)
        index = class_tensor(labels, logits, waits=True)
        if index.ndim > 1 or not index.numel():
            raise CamfnError(f"labels: expected integers, shape (n,), or bool (B, K); got {tuple(index.shape)}")
        return (index.reshape(-1, 1) == torch.arange(logits.shape[1], device=logits.device)).any(0).expand_as(logits)


@frozen
class token_log_probability(Arithmetic, tree=True):
    """Log-probability that an encoder-decoder gives to a text, or to one of its tokens.

    Give the model the image and the text at once (teacher forcing), so that all tokens cost one forward. Its outputs
    have logits (B, T, V); the logits at t score `tokens[t]`, given the tokens before.

    Args:
        tokens: (T,) or (B, T), as for `labels=` of a Hugging Face model.
        position: which token; None adds up all of them.
        ignore: token that counts as padding: the sum leaves its log-probability out.

    Raises:
        CamfnError: the outputs hold no (B, T, V) logits, or the tokens do not fit them.

    Example:
        >>> import torch
        >>> token_log_probability([0, 1])(torch.zeros(1, 2, 4)).exp()
        tensor([0.0625])
    """

    tokens: Tensor | Sequence[int]
    _: KW_ONLY
    position: int | Tensor | None = None
    ignore: int = -100

    def __post_init__(self) -> None:
        if not isinstance(self.tokens, (Tensor, list, tuple)) and not hasattr(self.tokens, "__array__"):
            raise ArgumentTypeError(
                f"tokens: expected the tokens (T,) or (B, T) of a text, got {describe(self.tokens)}"
            )
        whole("ignore", self.ignore, -(2**31))
        object.__setattr__(self, "tokens", checked_classes("tokens", self.tokens))
        if self.position is not None:
            object.__setattr__(self, "position", one_place("position", self.position))

    def __call__(self, outputs: Any) -> Tensor:
        """Score each sample, (B,)."""
        logits = named_output(outputs, "logits")
        if not isinstance(logits, Tensor) or logits.ndim != 3:
            raise CamfnError(f"token_log_probability needs logits (B, T, V); the model returned {describe(outputs)}")
        text = tensor_on(self.tokens, logits.device)
        batch, length = logits.shape[:2]
        if text.ndim not in (1, 2) or text.shape[-1] != length or (text.ndim == 2 and text.shape[0] != batch):
            raise CamfnError(f"tokens: expected ({length},) or ({batch}, {length}), got {tuple(text.shape)}")
        counts = text != self.ignore
        index = class_tensor(torch.where(counts, text, 0), logits[:, 0]).expand(batch, length)
        each = logits.log_softmax(-1).gather(2, index[..., None])[..., 0] * counts
        if self.position is None:
            return each.sum(1)
        return at_place(each, self.position, "position", "the text has {} tokens")


def one_place(argument: str, given: Any) -> Any:
    """Return one index, an int or an integer tensor; refuse anything else."""
    place = checked_classes(argument, given)
    if isinstance(place, (int, Tensor)):
        return place
    raise ArgumentTypeError(f"{argument}: expected one integer, got {describe(given)}")


def at_place(columns: Tensor, place: int | Tensor, argument: str, words: str) -> Tensor:
    """Take one column of (B, n), counted from the end if it is negative; refuse one that is out of range."""
    batch, count = columns.shape
    if isinstance(place, Tensor) and place.ndim:
        raise CamfnError(f"{argument}: expected one integer, got a tensor of shape {tuple(place.shape)}")
    if isinstance(place, int) or (place.device.type == "cpu" and is_concrete(place)):
        if not -count <= int(place) < count:
            raise CamfnError(f"{argument} {int(place)} is out of range: {words.format(count)}")
        return columns[:, int(place)]
    return columns.gather(1, (place.to(columns.device).long() % count).expand(batch)[:, None])[:, 0]


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


def _won(logits: Tensor) -> Tensor:
    """Whether each class is predicted at each position, (B, K, *S): the largest logit, or a single one above 0."""
    if logits.shape[1] == 1:
        return logits > 0
    classes = torch.arange(logits.shape[1], device=logits.device)
    return logits.argmax(1)[:, None] == classes.reshape(-1, *(1,) * (logits.ndim - 2))


def _at_places(index: Tensor, maps: Tensor) -> Tensor:
    """Reshape (B, 1) to (B, 1, ..., 1), as many dimensions as the maps (B, K, *S)."""
    return index.reshape(-1, 1, *(1,) * (maps.ndim - 2))


def _each_sample(mask: Tensor, logits: Tensor) -> Tensor:
    """Expand a mask (*T) or (B, *T) to one mask a sample, (B, *T)."""
    spatial, batch = logits.ndim - 2, logits.shape[0]
    if mask.ndim not in (spatial, spatial + 1):
        raise CamfnError(
            f"region: expected a mask with {spatial} spatial dimensions, one for all samples or one a sample, "
            f"got {tuple(mask.shape)} for logits {tuple(logits.shape)}"
        )
    if mask.is_meta and not logits.is_meta:
        same_device("region", mask, logits, "logits")
    if mask.is_complex() or any(size == 0 for size in mask.shape[-spatial:]):
        raise CamfnError(
            f"region: expected a mask of bool or weights, not empty, got {tuple(mask.shape)} of {mask.dtype}"
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

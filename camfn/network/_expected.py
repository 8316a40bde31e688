"""Expected gradients: integrated gradients from many baselines, a point drawn on each line."""

from __future__ import annotations

from dataclasses import KW_ONLY

import torch
from torch import Tensor

from .._shared.checks import describe, number, whole, within
from .._shared.devices import brought, tensor_on
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.maps import widen
from .._shared.noise import draw_uniform, one_source
from .._shared.value import frozen
from .._shared.vocabulary import Inputs, Target
from ._level import OnNetwork


@frozen
class expected_gradients(OnNetwork):
    """Expected gradients: how much each value of the image adds to the score, measured from photos of a set.

    `A = mean_n (x - x'_n) df/dx (x'_n + a_n (x - x'_n))`, each x' one of the references and each a uniform in [0, 1].
    The sum is `f(x) - mean f(x')` up to the noise of the draws; of a linear network it is that of the references that
    were drawn, exactly. With one reference it is integrated gradients by chance. All images of a batch get the same
    draws. One forward and one backward for each draw; one more forward if the target depends on the outputs (the top
    class): it is chosen on the image.

    Source: arXiv 1906.10670, section on expected gradients.

    Call it with the inputs and a target (as for `camfn.capture`): it returns (B, C, *S), like the image.

    Args:
        model: any module; left exactly as it is.
        references: x', (R, C, *S), photos as the model takes them, best of the set that it was trained on; or a number
            for a single reference of one color.
        samples: the number of draws.
        generator: draws the references and the points on its own device, in float32 whatever the images are; each call
            continues its sequence. Under `vmap` and `torch.compile` give the numbers.
        uniform: (n, 2), numbers in [0, 1) in place of a generator: the first chooses the reference, the second is a.
        images: which input is the image, where several have space: an index, a key, a path of these such as
            ("pixels", 0), or a function of the inputs.
        differentiable: keep the outer graph, so that the result may be part of a loss; needed inside `torch.func.grad`.

    Raises:
        CamfnError: neither or both of `generator` and `uniform`, references unlike the image, `samples` below 1, or a
            target that does not give one number a sample.
        TypeError: the inputs hold no floating-point tensor.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(2, 3, bias=False)
        >>> explain = expected_gradients(net, references=torch.zeros(1, 2), generator=torch.Generator().manual_seed(0))
        >>> x = torch.tensor([[3.0, 2.0]])
        >>> torch.allclose(explain(x, 1), x * net.weight[1])
        True
    """

    _: KW_ONLY
    references: float | Tensor = 0.0
    samples: int = 64
    generator: torch.Generator | None = None
    uniform: Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("expected_gradients: samples", self.samples)
        source = one_source(
            "expected_gradients", self.generator, self.uniform, name="uniform", arguments="model, references=photos"
        )
        if isinstance(source, Tensor) and (source.ndim != 2 or source.shape[1] != 2 or not len(source)):
            raise CamfnError(f"expected_gradients: uniform: expected (n, 2), got {tuple(source.shape)}")
        if isinstance(source, Tensor) and not within(source, 0, 1):
            raise CamfnError("expected_gradients: uniform: expected numbers in [0, 1], as torch.rand draws them")
        if not isinstance(self.references, Tensor):
            number("expected_gradients: references", self.references, advice="Or pass photos, (R, C, *S)")
        elif not self.references.is_floating_point() or not self.references.ndim or not len(self.references):
            raise ArgumentTypeError(
                f"expected_gradients: references: expected at least one photo, (R, C, *S), got "
                f"{describe(self.references)}"
            )

    def __call__(self, inputs: Inputs, target: Target = None) -> Tensor:
        """Return the attribution, of the shape of the image."""
        keep = self.keeps_graph(inputs)
        with torch.inference_mode(False), torch.set_grad_enabled(keep):
            score = self.pinned(inputs, target)
            image, rebuild = self.image_of(inputs)
            photos = self._photos(image)
            source = one_source("expected_gradients", self.generator, self.uniform, name="uniform")
            drawn = brought(
                source if isinstance(source, Tensor) else draw_uniform((self.samples, 2), source), widen(image)
            )
            chosen = (drawn[:, 0] * len(photos)).long().clamp(0, len(photos) - 1)
            total = torch.zeros_like(widen(image))
            for pick, a in zip(torch.split(chosen, 1), drawn[:, 1]):
                way = image - photos.index_select(0, pick)
                at = image - (1 - a).to(image.dtype) * way
                total = total + way * self.derived(rebuild(at), score).image_grad
            return (total / len(drawn)).to(image.dtype)

    def _photos(self, image: Tensor) -> Tensor:
        """Return the references, (R, C, *S)."""
        if not isinstance(self.references, Tensor):
            return tensor_on(self.references, image.device, image.dtype).expand_as(image[:1])
        if tuple(self.references.shape[1:]) != tuple(image.shape[1:]):
            raise CamfnError(
                f"expected_gradients: references: expected (R, *{tuple(image.shape[1:])}) like the image, got "
                f"{tuple(self.references.shape)}"
            )
        return brought(self.references, image)

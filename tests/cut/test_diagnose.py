"""Diagnose: a network for each reason why a map is blank or useless, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import Captured, capture, diagnose, observe
from camfn._layout.pairs import tokens
from camfn._shared.vocabulary import without_grads
from camfn.methods import eigen_cam, grad_cam
from camfn.targets import class_probability, class_score
from tests.nets.small import images, seeded


class Pooled(nn.Module):
    """Two branches of which the score reads one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.act = nn.ReLU()
        self.unread = nn.Conv2d(6, 6, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv(x))
        self.unread(x)
        y: Tensor = self.head(self.pool(x).flatten(1))
        return y


@pytest.fixture
def net() -> Pooled:
    model = seeded(Pooled)
    assert isinstance(model, Pooled)
    return model


def photos() -> Tensor:
    return images(2, 3, 8, 10)


def said(captured: Captured, method: Callable[..., Tensor] = grad_cam) -> list[str | None]:
    return diagnose(captured, method(*captured))


def every(words: str, answers: list[str | None], but: str = "$never") -> None:
    """Each sample's answer has the words, and not the others."""
    for answer in answers:
        assert answer is not None
        assert words in answer
        assert but not in answer


def test_fine_map(net: Pooled) -> None:
    for layer in ("conv", "act"):
        assert said(capture(net, layer)(photos(), [0, 1])) == [None, None]


def test_fine_map_without_gradients(net: Pooled) -> None:
    activations, outputs = observe(net, "act")(photos())
    assert diagnose(without_grads(activations, outputs), eigen_cam(activations)) == [None, None]


def test_layer_that_the_score_does_not_read(net: Pooled) -> None:
    answers = said(capture(net, "unread", unused="zeros")(photos(), 1))
    every("the gradient is zero everywhere at this layer, for every sample: the layer is not connected", answers)
    every("another branch", answers, but="saturated")


def test_patches_of_the_last_block_of_a_transformer() -> None:
    class ClassToken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm, self.head = nn.Conv2d(3, 4, 4, 4), nn.LayerNorm(4), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            patches = self.embed(x)
            token = patches.mean((2, 3), keepdim=True).flatten(2)
            y: Tensor = self.head(self.norm(torch.cat([token, patches.flatten(2)], 2).mT)[:, 0])
            return y

    captured = capture(seeded(ClassToken), "norm", layout=tokens((2, 3)))(images(2, 3, 8, 12), 1)
    every("the patch tokens of the last block, which a class-token head does not read", said(captured))


def test_saturated_probability(net: Pooled) -> None:
    with torch.no_grad():
        net.head.bias[3] = 200.0
    captured = capture(net, "act")(photos(), class_probability(3))
    every("the probability is saturated (explain the logit instead), or the layer is not connected", said(captured))
    assert said(capture(net, "act")(photos(), class_score(3))) == [None, None]


def test_one_sample_of_a_batch(net: Pooled) -> None:
    x = photos()
    bias = 100 * (torch.arange(5) == 3)

    def target(outputs: Tensor) -> Tensor:
        return (outputs + torch.stack([torch.zeros(5), bias])).softmax(1)[:, 3]

    first, second = said(capture(net, "act")(x, target))
    assert first is None
    every("for this sample, not for others of the batch: its score is saturated", [second], but="not connected")


def test_units_that_are_inactive_for_one_sample(net: Pooled) -> None:
    assert net.conv.bias is not None
    with torch.no_grad():
        net.conv.bias.zero_()
    x = photos()
    x[0] = 0
    first, second = said(capture(net, "conv")(x, 1))
    assert second is None
    every("so are the activations", [first])
    every("units are all inactive", [first])


def test_negative_map(net: Pooled) -> None:
    with torch.no_grad():
        net.head.weight[2] = -1.0
    captured = capture(net, "act")(photos(), 2)
    every("the map is negative everywhere", said(captured), but="zero everywhere")
    assert said(capture(net, "act")(photos(), -class_score(2))) == [None, None]


def test_not_a_number_in_the_activations(net: Pooled) -> None:
    x = photos()
    x[1, 0, 4, 4] = torch.nan
    first, second = said(capture(net, "act")(x, 1))
    assert first is None
    every("the activations have them already", [second])
    every(f"of {6 * 8} values of the map are not finite", [second])


def test_infinities_in_the_activations(net: Pooled) -> None:
    x = photos()
    x[0] = torch.inf
    first, second = said(capture(net, "act")(x, 1))
    assert second is None
    every("the activations have them already", [first])


def test_logarithm_of_a_score_that_is_not_positive(net: Pooled) -> None:
    x = photos()
    with torch.no_grad():
        net.head.weight[1] = 0.0
        net.head.bias[1] = 0.0
    captured = capture(net, "act")(x, class_score(1).log())
    assert captured.activations.isfinite().all()
    answers = said(captured)
    every("the gradients have them already: the target may take the logarithm of a score that is not positive", answers)


def test_method_that_makes_infinities(net: Pooled) -> None:
    captured = capture(net, "act")(photos(), 1)
    every("the method made them", diagnose(captured, grad_cam(*captured) / 0))


def test_counts_the_values_that_are_not_finite(net: Pooled) -> None:
    captured = capture(net, "act")(photos(), 1)
    cam = grad_cam(*captured)
    cam[0, 2, 3:5] = torch.inf
    first, second = diagnose(captured, cam)
    assert second is None
    every("2 of 48 values of the map are not finite", [first])


def test_one_position(net: Pooled) -> None:
    every("one position only", said(capture(net, "pool")(photos(), 1)))
    every("one position only", said(capture(net, "act")(images(2, 3, 3, 3), 1)))


def test_constant_map(net: Pooled) -> None:
    with torch.no_grad():
        net.head.weight[1] = 1.0
    captured = capture(net, "act")(torch.ones(2, 3, 8, 10), 1)
    every("the same value at every position", said(captured))


class Dead(nn.Module):
    """The score depends on a layer whose activations are zero wherever it does."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.same(x).mean((2, 3))  # type: ignore[no-any-return]


def test_zero_map_although_the_gradient_is_not() -> None:
    x = torch.rand(2, 5, 4, 4)
    x[:, 1] = 0
    captured = capture(Dead(), "same")(x, 1)
    assert captured.grads.any()
    every("the map is zero everywhere although the gradient is not", said(captured))


def test_zero_map_without_gradients() -> None:
    activations, outputs = observe(Dead(), "same")(torch.zeros(2, 5, 4, 4))
    answers = diagnose(without_grads(activations, outputs), torch.zeros(2, 4, 4))
    every("the map is zero everywhere", answers)


def test_zero_map_without_gradients_speaks_of_none() -> None:
    activations, outputs = observe(Dead(), "same")(torch.zeros(2, 5, 4, 4))
    answers = diagnose(without_grads(activations, outputs), torch.zeros(2, 4, 4))
    every("the map is zero everywhere", answers, but="gradient")


def test_tiny_map_in_double_precision_is_fine() -> None:
    x = images(2, 5, 4, 4, dtype=torch.float64)
    captured = capture(Dead(), "same")(x, lambda outputs: outputs[:, 1] * 1e-50)
    assert said(captured) == [None, None]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_precisions(net: Pooled, dtype: torch.dtype) -> None:
    x = photos().to(dtype)
    assert said(capture(net.to(dtype), "act")(x, [0, 1])) == [None, None]
    every("not connected", said(capture(net, "unread", unused="zeros")(x, 1)))


def test_samples_are_told_apart(net: Pooled) -> None:
    captured = capture(net, "act")(images(4, 3, 8, 10), 1)
    cam = grad_cam(*captured)
    cam[0], cam[1, 0, 0], cam[3] = 0.5, torch.nan, -1 - cam[3].abs()
    answers = diagnose(captured, cam)
    assert answers[2] is None
    for answer, words in zip(answers, ("same value", "not finite", None, "negative everywhere"), strict=True):
        assert (answer is None) == (words is None)
        assert words is None or words in str(answer)


def test_other_outputs_than_logits(net: Pooled) -> None:
    for wrap in (lambda y: (y, y), lambda y: {"logits": y}, lambda y: y[:, 0]):
        wrapped = _wrapped(net, wrap)
        every("not connected", said(capture(wrapped, "net.unread", unused="zeros")(photos(), _first)), but="saturated")


def _first(outputs: Any) -> Tensor:
    found = outputs["logits"] if isinstance(outputs, dict) else outputs
    found = found[0] if isinstance(found, tuple) else found
    return found.reshape(2, -1)[:, 0]  # type: ignore[no-any-return]


def _wrapped(net: nn.Module, wrap: Callable[[Tensor], Any]) -> nn.Module:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Any:
            return wrap(self.net(x))

    return Wrapped()


def test_wrong_number_of_maps(net: Pooled) -> None:
    captured = capture(net, "act")(photos(), 1)
    with pytest.raises(ValueError, match="cam: expected one for each of the 2 samples, got 1"):
        diagnose(captured, grad_cam(*captured)[:1])


def test_a_map_of_zeros_that_the_gradient_did_not_make(net: Pooled) -> None:
    captured = capture(net, "act")(photos(), 1)
    every("the method itself leaves nothing", diagnose(captured, torch.zeros(2, 6, 8)))
    flat = Captured(captured.activations, torch.zeros_like(captured.grads), captured.outputs)
    # a method that reads no gradient has a fine map where the gradient is zero
    assert diagnose(flat, eigen_cam(captured.activations)) == [None, None]


def test_how_the_runs_were_made_is_said_of_a_map_of_zeros() -> None:
    captured = without_grads(images(1, 4, 3, 3), None)
    (said,) = diagnose(captured, torch.zeros(1, 3, 3), engine="one by one")
    assert said is not None
    assert "made runs of the network, one by one," in said
    assert diagnose(captured, images(1, 3, 3).abs(), engine="folded") == [None]
    with pytest.raises(ValueError, match="diagnose: engine"):
        diagnose(captured, torch.zeros(1, 3, 3), engine="looped")  # type: ignore[arg-type]

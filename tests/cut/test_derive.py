"""The derivation core: what leaves a level of differentiation, which zeros are differentiated, and its fall-back."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from camfn import CaptureError, attention, capture, capture_each, network
from camfn._cut.derive import Zero, at_own_level, derive, expanded, gradients, tensors_of
from tests.nets.small import unchanged


class Pair(NamedTuple):
    tensor: Tensor
    word: str


class Output:
    """An object that pytrees do not know, as some libraries return."""

    def __init__(self, logits: Tensor) -> None:
        self.logits, self.name = logits, "output"


def test_tensors_are_taken_out_of_any_outputs_and_put_back() -> None:
    x, y = torch.ones(2), torch.zeros(3)
    held = Output(y)
    outputs = {"a": [x, "text", None], "b": Pair(x, "word"), "c": held}
    tensors, rebuild = tensors_of(outputs)
    assert [id(tensor) for tensor in tensors] == [id(x), id(x), id(y)]
    again = rebuild([x + 1, x + 2, y + 3])
    assert_close(again["a"][0], x + 1)
    assert again["a"][1:] == ["text", None]
    assert isinstance(again["b"], Pair)
    assert again["b"].word == "word"
    assert_close(again["c"].logits, y + 3)
    assert again["c"] is not held
    assert held.logits is y


def test_a_level_hands_back_what_was_computed_in_it() -> None:
    x = torch.tensor([1.0, 2.0])

    def compute(seed: Tensor) -> Pair:
        zero = expanded(seed, x)
        (grad,) = gradients((x + zero).pow(3), [zero])
        return Pair(grad, "cubes")

    with torch.no_grad():
        computed = at_own_level(compute)
    assert computed.word == "cubes"
    assert_close(computed.tensor, 3 * x**2)
    assert not computed.tensor.requires_grad


def cubes(image: Tensor | None, zero: Zero) -> tuple[Tensor, str]:
    assert image is not None
    first = image**3 + zero("first", image)
    return 2 * first + zero("second", first), "kept"


@pytest.mark.parametrize("keys", [["first", "second"], ["second"], []])
def test_only_the_chosen_zeros_are_differentiated(keys: list[str]) -> None:
    image = torch.tensor([1.0, 2.0])
    derived = derive(cubes, lambda outputs, kept: outputs, image=image, chosen=lambda _: keys)
    assert list(derived.grads) == keys
    expected = {"first": torch.full((2,), 2.0), "second": torch.ones(2)}
    for key in keys:
        assert_close(derived.grads[key], expected[key])
    assert derived.image_grad is not None
    assert_close(derived.image_grad, 6 * image**2)
    assert derived.kept == "kept"


def test_without_zeros_and_image_there_is_nothing_to_differentiate() -> None:
    derived = derive(lambda image, zero: (torch.ones(2), None), lambda outputs, kept: outputs)
    assert derived.grads == {}
    assert derived.image_grad is None


class Refuses(torch.autograd.Function):
    """An operator of the old kind, which refuses every level of `torch.func`, as torchvision's roi_align does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.as_tensor(2 * x * grad)


class WithOperator(nn.Module):
    """A convolution, attention over its positions, the operator, and a head."""

    def __init__(self, operator: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.operator = operator
        self.conv = nn.Conv2d(3, 8, 3)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Any:
        tokens = self.block(self.conv(x).flatten(2).mT)
        squared = Refuses.apply(tokens) if self.operator else tokens**2
        return self.head(squared.mean(1))


IMAGES = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def pair() -> tuple[nn.Module, nn.Module]:
    return WithOperator(True).eval(), WithOperator(False).eval()


def test_capture_falls_back_where_an_operator_refuses_torch_func() -> None:
    refusing, plain = pair()
    with unchanged(refusing):
        found = capture(refusing, "conv")(IMAGES, 3)
    expected = capture(plain, "conv")(IMAGES, 3)
    assert_close(found.grads, expected.grads)
    assert not found.grads.requires_grad
    assert_close(capture_each(refusing, "conv")(IMAGES, [3, 1]).grads[0], expected.grads)


def test_methods_of_a_whole_network_fall_back_too() -> None:
    refusing, plain = pair()
    with unchanged(refusing):
        found = network.input_gradient(refusing)(IMAGES, 3)
    assert_close(found, network.input_gradient(plain)(IMAGES, 3))
    assert not found.requires_grad
    assert not IMAGES.requires_grad


def test_the_capture_of_attention_falls_back_too() -> None:
    refusing, plain = pair()
    with unchanged(refusing):
        (record,) = attention.capture_attention(refusing)(IMAGES, 3).records
    (expected,) = attention.capture_attention(plain)(IMAGES, 3).records
    assert record.grads is not None
    assert expected.grads is not None
    assert_close(record.grads, expected.grads)
    assert not record.grads.requires_grad


def test_no_layer_at_all_is_refused() -> None:
    from camfn import capture_many

    with pytest.raises(CaptureError, match="at least one layer"):
        capture_many(WithOperator(False), [])

"""`cam` finds its linear head by the law: the mean of the map and the bias are the logits."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import CaptureError, explainer
from camfn.methods import cam, tam
from camfn.targets import class_score

X = torch.randn(3, 3, 8, 9, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A convolution, and a head of one of many kinds; a linear layer that is not the head is registered last."""

    def __init__(self, head: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = head
        self.features = nn.Conv2d(3, 6, 3)
        self.head = nn.Conv2d(6, 6, 1) if "conv" in head else nn.Linear(6, 6)
        self.other = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Any:
        a = self.features(x)
        if self.kind == "conv before the pooling":
            return self.head(a).mean((2, 3))
        pooled = a.amax((2, 3)) if self.kind == "max" else a.mean((2, 3))
        if self.kind == "conv":
            return self.head(pooled[..., None, None]).flatten(1)
        if self.kind == "twice":
            return self.other(self.head(pooled).relu())
        y = self.head(pooled)
        return {"logits": y} if self.kind == "dict" else y


@pytest.fixture(autouse=True)
def _generator() -> Any:
    with torch.random.fork_rng():
        yield


@pytest.mark.parametrize("kind", ["linear", "conv", "conv before the pooling", "dict"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_head_is_found(kind: str, dtype: torch.dtype) -> None:
    net = Net(kind).eval().to(dtype)
    rows = net.head.weight.detach().flatten(1)
    target = torch.tensor([4, 0, 5])
    found = explainer(cam, net, "features")(X.to(dtype), target)
    assert torch.equal(found, explainer(partial(cam, weights=rows[target]), net, "features")(X.to(dtype)))


def test_any_target_reads_its_rows() -> None:
    net = Net("linear").eval()
    rows, bias = net.head.weight.detach(), net.head.bias
    assert bias is not None
    top, outputs = explainer(cam, net, "features", has_aux=True)(X)
    index = outputs.argmax(1)
    torch.testing.assert_close(top.mean((1, 2)) + bias[index], outputs.amax(1))
    between = explainer(cam, net, "features")(X, class_score(1) - class_score(2))
    torch.testing.assert_close(between, explainer(partial(cam, weights=rows[1] - rows[2]), net, "features")(X))
    each = torch.vmap(lambda k: explainer(cam, net, "features")(X, class_score(k)))(torch.arange(6))
    torch.testing.assert_close(each[3], explainer(partial(cam, weights=rows[3]), net, "features")(X))


def test_one_number_a_sample() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 1), nn.Flatten(0)
    ).eval()
    explain = explainer(cam, net, "0")
    mean = explain(X, lambda outputs: outputs).mean((1, 2))
    head: Any = net[3]
    torch.testing.assert_close(mean + head.bias, net(X))


@pytest.mark.parametrize(
    ("kind", "message"),
    [("max", "global pooling.*here the map's mean and the bias of 'other' make"), ("twice", "global pooling")],
)
def test_a_network_without_such_a_head_is_refused(kind: str, message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        explainer(cam, Net(kind).eval(), "features")(X, 1)


def test_a_layer_before_others_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    with pytest.raises(CaptureError, match="no linear layer or 1 x 1 convolution leads from 5 channels to 4 outputs"):
        explainer(cam, net.eval(), "0")(X, 1)


def test_two_heads_that_cannot_be_told_apart_are_refused() -> None:
    net: Any = Net("linear").eval()
    net.features.weight.data.zero_()
    net.features.bias.data.zero_()
    net.other.bias = net.head.bias
    with pytest.raises(CaptureError, match="'head' and 'other' both make the logits"):
        explainer(cam, net, "features")(X, 1)
    net.other.weight = net.head.weight
    assert not explainer(cam, net, "features")(X, 1).any()


def test_batched_images_have_no_numbers_to_compare() -> None:
    explain = explainer(cam, Net("linear").eval(), "features")
    with pytest.raises(CaptureError, match="bind the rows"):
        torch.vmap(lambda x: explain(x[None], 1))(X)


def test_under_the_compiler() -> None:
    net = Net("linear").eval()
    explain = explainer(cam, net, "features")
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: explain(x, 2), backend="eager")
    torch.testing.assert_close(compiled(X), explain(X, 2))


def test_the_map_may_be_part_of_a_loss() -> None:
    net = Net("linear").eval()
    explainer(cam, net, "features", differentiable=True)(X, 2).square().sum().backward()  # type: ignore[no-untyped-call]
    assert net.head.weight.grad is not None
    assert net.head.weight.grad[2].any()


def test_the_error_names_the_method_that_asks_for_the_head() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    for method, name in ((tam, "tam"), (partial(tam, filtered=False), "tam"), (cam, "cam")):
        with pytest.raises(CaptureError, match=rf"^{name} needs global pooling"):
            explainer(method, net, "1")(torch.rand(1, 3, 8, 8), class_score(0))

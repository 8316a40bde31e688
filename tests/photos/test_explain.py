"""`explain_batch`: maps of several classes from one forward are the maps of each class by itself."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import diagnose, methods
from camfn._photos import explain as room
from camfn._photos.classes import ClassChoice
from camfn._photos.explain import Changes, explain_batch
from camfn._photos.halves import in_halves
from camfn._photos.layer import choose_layer
from camfn.catalogue import METHODS, info_of


class Net(nn.Module):
    """Two convolutions, an in-place ReLU behind the first, and a linear head; counts its forwards."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.first, self.relu, self.second = nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.Conv2d(6, 5, 3)
        self.head = nn.Linear(5, 20)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
        self.forwards: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.forwards.append(len(x))
        out: Tensor = self.head(self.second(self.relu(self.first(x))).tanh().mean((2, 3)))
        return out


INPUTS = torch.randn(3, 3, 9, 8, generator=torch.Generator().manual_seed(0))
GRADIENT_METHODS = [row.function for row in METHODS if row.kind == "layer" and row.needs == {"gradients"}]


@pytest.mark.parametrize(
    "method",
    [*GRADIENT_METHODS, partial(methods.grad_cam_plusplus, normalized=True)],
    ids=lambda method: info_of(method).name,
)
@pytest.mark.parametrize("layer_name", ["first", "second"])
def test_one_forward_gives_the_maps_of_one_forward_a_class(method: Any, layer_name: str) -> None:
    net = Net().eval()
    layer = choose_layer(net, INPUTS, layer_name)
    together = explain_batch(method, net, layer, INPUTS, ClassChoice(None, 18))
    composed = partial(room.compose, method, net, layer, Changes(), None, None)
    apart = list(room._one_by_one(method, net, layer, INPUTS, ClassChoice(None, 18), composed))
    for i, photo in enumerate(together):
        for k, cam in enumerate(photo.cams):
            torch.testing.assert_close(cam, apart[k].cam[i], rtol=1e-5, atol=1e-6)
        problems = [diagnose(each.captured, each.cam)[i] for each in apart]
        assert photo.problems == problems
    assert all(parameter.grad is None for parameter in net.parameters())


def test_up_to_sixteen_classes_share_a_forward() -> None:
    net = Net().eval()
    layer = choose_layer(net, INPUTS, "second")
    net.forwards.clear()
    explain_batch(methods.grad_cam, net, layer, INPUTS, ClassChoice(None, 16))
    assert len(net.forwards) == 1
    net.forwards.clear()
    explain_batch(methods.grad_cam, net, layer, INPUTS, ClassChoice(None, 17))
    assert len(net.forwards) == 2


def test_a_zero_map_is_noticed_in_its_class_alone() -> None:
    net = Net().eval()
    net.head.weight.data[7] = 0
    layer = choose_layer(net, INPUTS, "second")
    for photo in explain_batch(methods.grad_cam, net, layer, INPUTS, ClassChoice(None, 20)):
        blank = [problem is not None and "the gradient is zero everywhere" in problem for problem in photo.problems]
        assert [index for index, flag in zip(photo.classes, blank, strict=True) if flag] == [7]


@pytest.mark.parametrize(("method", "count"), [(methods.cam, 1), (methods.eigen_cam, 1), (methods.grad_cam, 1)])
def test_forwards(method: Any, count: int) -> None:
    net = nn.Sequential(Net().first, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 20)).eval()
    forwards = []
    net[0].register_forward_hook(lambda *_: forwards.append(1))
    choice = ClassChoice(None, 10 if info_of(method).explains_class else 1)
    layer = choose_layer(net, INPUTS, "0", method)
    forwards.clear()
    explain_batch(method, net, layer, INPUTS, choice)
    assert len(forwards) == count


class Counting(nn.Conv2d):
    """A convolution that counts its runs."""

    runs: list[int]

    def forward(self, x: Tensor) -> Tensor:
        self.runs.append(1)
        return super().forward(x)


def mine(activations: Tensor, *, tail: Any) -> Tensor:
    """Score each position kept alone: a method that runs the tail many times."""
    maps = [tail(activations * (torch.arange(activations.shape[-1]) == x)) for x in range(activations.shape[-1])]
    return torch.stack(maps, -1)[:, None].expand(-1, activations.shape[-2], -1)


def with_gradients(activations: Tensor, grads: Tensor, *, tail: Any, inputs: Tensor) -> Tensor:
    whole: Tensor = (activations * grads).sum(1) * tail(activations)[:, None, None]
    return whole + inputs.mean()


PERTURBING = [
    *[
        row.function
        for row in METHODS
        if row.kind == "layer" and row.needs & {"tail", "forward"} and not row.draws and row.name != "opti_cam"
    ],
    mine,
    with_gradients,
]


@pytest.mark.parametrize("method", PERTURBING, ids=lambda method: info_of(method).name)
def test_what_no_target_changes_runs_once_for_all(method: Any) -> None:
    net = Net().eval()
    first = Counting(3, 6, 3).requires_grad_(False)
    first.load_state_dict(net.first.state_dict())
    ahead: list[int] = []
    net.first, first.runs = first, ahead
    layer = choose_layer(net, INPUTS, "second", method)
    choice = ClassChoice(None, 5)
    ahead.clear()
    together = explain_batch(method, net, layer, INPUTS, choice)
    shared = len(ahead)
    ahead.clear()
    composed = partial(room.compose, method, net, layer, Changes(), None, None)
    apart = list(room._one_by_one(method, net, layer, INPUTS, choice, composed))
    for i, photo in enumerate(together):
        for k, cam in enumerate(photo.cams):
            torch.testing.assert_close(cam, apart[k].cam[i], rtol=1e-5, atol=1e-6)
            assert photo.problems[k] == diagnose(apart[k].captured, apart[k].cam)[i]
    if info_of(method).needs & {"forward"}:
        assert shared <= len(ahead) - 5  # the perturbed images run ahead of the layer
    else:
        assert shared == (2 if info_of(method).needs >= {"tail", "gradients"} else 1)


class Small(Net):
    """A network that memory holds for two images and no more."""

    error: type[Exception] = RuntimeError
    words = (
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"
    )

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 2:
            raise self.error(self.words)
        return super().forward(x)


@pytest.mark.parametrize("error", [RuntimeError, torch.OutOfMemoryError, MemoryError])
@pytest.mark.parametrize("method", [methods.grad_cam, methods.fem, methods.shapley_cam])
def test_batches_larger_than_memory_are_halved(method: Any, error: type[Exception]) -> None:
    net, small = Net().eval(), Small().eval()
    small.error = error
    inputs = torch.cat([INPUTS, INPUTS.flip(0) + 1])
    layer = choose_layer(net, inputs[:1], "second")
    choice = ClassChoice(None, 2 if method is not methods.fem else 1)
    together = explain_batch(method, net, layer, inputs, choice)
    for one, other in zip(explain_batch(method, small, layer, inputs, choice), together, strict=True):
        assert one.classes == other.classes
        torch.testing.assert_close(torch.stack(one.cams), torch.stack(other.cams))
        torch.testing.assert_close(one.logits, other.logits)


def test_other_errors_and_single_photos_are_not_halved() -> None:
    small = Small().eval()
    layer = choose_layer(Net().eval(), INPUTS, "second")
    small.words = "shapes do not fit"
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        explain_batch(methods.grad_cam, small, layer, INPUTS, ClassChoice(None))
    with pytest.raises(RuntimeError, match="out of memory"):
        in_halves(fail, INPUTS)


def fail(inputs: Tensor) -> list[Tensor]:
    raise RuntimeError("MPS backend out of memory")

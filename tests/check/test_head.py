"""The one run that finds the head."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from camfn import tiny
from camfn._check.head import run_once
from tests.nets.small import Net, images, seeded


class Branches(nn.Module):
    """Two heads; the one that runs last is not always the one that the score reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.first(x), self.second(x)


@pytest.mark.parametrize(("place", "head"), [(0, "first"), (1, "second")])
def test_the_head_is_the_one_that_the_score_reads(place: int, head: str) -> None:
    assert run_once(Branches(), images(2, 4), lambda outputs: outputs[place].sum(1)).head == head


def test_the_head_is_what_ran_last_not_what_was_registered_last() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.conv = nn.Linear(2, 3), nn.Conv2d(3, 2, 3)
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.fc(self.conv(x).mean((2, 3)))
            return y * self.scale

    assert run_once(Turned(), images(1, 3, 8, 8), None).head == "fc"


def test_a_module_around_the_blocks_is_no_head() -> None:
    assert run_once(tiny.load("vit"), torch.rand(1, 3, 64, 64), None).head == "head"


def test_the_outputs_are_those_of_the_model_to_the_bit() -> None:
    model, x = seeded(Net), images(2, 3, 12, 12)
    with torch.no_grad():
        expected = model(x)
    run = run_once(model, x, None)
    assert torch.equal(run.outputs, expected)
    assert not run.outputs.requires_grad
    assert torch.equal(run.score(expected), expected.amax(1))


def test_a_network_without_parameters_has_no_head() -> None:
    assert run_once(nn.Sequential(nn.AvgPool2d(4), nn.Flatten()), images(1, 3, 4, 4), 0).head is None


def test_inside_of_no_grad_and_inference_mode() -> None:
    model = seeded(Net)
    with torch.inference_mode():
        assert run_once(model, images(1, 3, 12, 12), 2).head == "head"
    with torch.no_grad():
        assert run_once(model, images(1, 3, 12, 12), 2).head == "head"


def test_a_branch_whose_numbers_the_score_leaves_out_is_no_head() -> None:
    class Joined(Branches):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return torch.cat(super().forward(x), 1)

    assert run_once(Joined(), images(2, 4), lambda outputs: outputs[:, :3].amax(1)).head == "first"
    assert run_once(Joined(), images(2, 4), lambda outputs: outputs[:, 3] - outputs[:, 4]).head == "second"
    assert run_once(Joined(), images(2, 4), lambda outputs: outputs[:, 3:].softmax(1)[:, 0]).head == "second"


def test_a_norm_as_it_was_made_is_no_head() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    assert run_once(net, images(2, 4), 1).head == "0"
    assert run_once(nn.Sequential(nn.LayerNorm(4)), images(2, 4), 1).head == "0"

"""A run beside a training: random states, autocast's cache, inference mode, and what cannot be run by one process."""

from __future__ import annotations

import random
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch import nn

from camfn._cut.graft import evaluating
from camfn._shared.errors import CamfnError
from camfn.training._apart import apart, is_first_process, refuse_sharded

CPU = torch.device("cpu")


def drawn() -> list[float]:
    return [float(torch.rand(())), random.random(), float(np.random.rand())]  # noqa: NPY002


@pytest.mark.parametrize("fails", [False, True])
def test_random_states_are_those_of_before(fails: bool) -> None:
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    expected = drawn()
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    with suppress(ValueError), apart(CPU):
        assert drawn() == expected
        if fails:
            int("a network that fails")
    assert drawn() == expected


def test_autocast_keeps_no_weight_of_a_run_beside() -> None:
    net, x = nn.Conv2d(3, 4, 3), torch.rand(1, 3, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.is_autocast_cache_enabled()
        with apart(CPU), torch.no_grad():
            assert torch.is_autocast_enabled("cpu")
            assert not torch.is_autocast_cache_enabled()
            assert net(x).dtype == torch.bfloat16
        assert torch.is_autocast_cache_enabled()
        loss = net(x).float().sum()
    loss.backward()
    assert net.weight.grad is not None
    with apart(CPU):
        assert not torch.is_autocast_enabled("cpu")


def test_inference_mode_is_off_inside() -> None:
    with torch.inference_mode(), apart(CPU):
        assert not torch.is_inference_mode_enabled()
        assert not torch.ones(1).is_inference()


def test_this_process_is_the_first_of_one() -> None:
    assert is_first_process()


def test_sharded_models_are_refused_by_their_class() -> None:
    refuse_sharded(nn.Sequential(nn.Linear(2, 2)))
    sharded = nn.Sequential(type("FSDPModule", (nn.Linear,), {})(2, 2))
    with pytest.raises(CamfnError, match=r"got FSDPModule, .* Gather its state_dict"):
        refuse_sharded(sharded)


class Counting(nn.Module):
    """Writes to a buffer in evaluation mode too, and to an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: torch.Tensor
        self.register_buffer("seen", torch.zeros(()))
        self.norm, self.drop, self.calls = nn.BatchNorm1d(4), nn.Dropout(0.5), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += len(x)
        self.calls += 1
        return self.drop(self.norm(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize("training", [True, False])
def test_copies_in_evaluation_mode_share_parameters_and_write_to_nothing(training: bool) -> None:
    net = Counting().train(training)
    net.drop.eval()
    copy = evaluating(net)
    x = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    assert not any(module.training for module in copy.modules())
    found = copy(x)
    assert (net.training, net.norm.training, net.drop.training) == (training, training, False)
    assert (float(net.seen), net.calls, int(net.norm.num_batches_tracked or 0)) == (0, 0, 0)
    assert [id(p) for p in copy.parameters()] == [id(p) for p in net.parameters()]
    assert torch.equal(found, net.eval()(x))

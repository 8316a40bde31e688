"""Sufficiency and consistency: by a loop over pairs, and where the truth is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from camfn import CamfnError, metrics
from tests.metrics.known import SPACE, close, drawn, every_dims
from tests.oracles import metrics as oracle

CLASSES = torch.tensor([0, 1, 0, 2, 1, 0, 0])


def maps_of(dims: int) -> Tensor:
    """Maps of seven samples, some alike, with a pixel that is the same in all."""
    maps = drawn(4, 7, *SPACE[dims])
    maps[2] = maps[0] + 0.01 * maps[3]
    maps[5] = maps[4]
    maps.flatten(1)[:, 3] = 0.7
    return maps


@every_dims
def test_sufficiency_is_that_of_a_loop(dims: int) -> None:
    maps = maps_of(dims)
    for threshold in (0.0, 0.3, 0.8, 0.95, 1.0):
        expected = oracle.sufficiency(maps, CLASSES.tolist(), threshold)
        close(metrics.sufficiency(maps, CLASSES, threshold=threshold), expected)


@every_dims
def test_maps_that_are_the_class_are_sufficient_and_consistent(dims: int) -> None:
    maps = CLASSES.double().reshape(-1, *(1,) * dims).expand(7, *SPACE[dims]) - 0.5
    alone = (CLASSES == 2).double()
    close(metrics.sufficiency(maps, CLASSES, threshold=0.1), 1 - alone)
    close(metrics.consistency(maps, CLASSES, discretize=lambda maps: maps), 1 - alone)
    flat = torch.ones_like(maps)
    share = [(sum(c == d for d in CLASSES.tolist()) - 1) / 6 for c in CLASSES.tolist()]
    close(metrics.sufficiency(flat, CLASSES), share)
    close(metrics.consistency(flat, CLASSES), share)


@every_dims
def test_consistency_is_that_of_a_loop(dims: int) -> None:
    maps = maps_of(dims)
    for discretize in (torch.sign, lambda maps: maps.flatten(1)[:, :2].sign(), lambda maps: maps.flatten(1).argmax(1)):
        codes = [tuple(torch.as_tensor(one).flatten().tolist()) for one in discretize(maps)]
        expected = []
        for i in range(7):
            same = [j for j in range(7) if j != i and codes[j] == codes[i]]
            expected.append(sum(int(CLASSES[j] == CLASSES[i]) for j in same) / len(same) if same else 0.0)
        close(metrics.consistency(maps, CLASSES, discretize=discretize), expected)


def test_of_one_sample_and_of_none_there_is_no_other() -> None:
    for count in (0, 1):
        maps, classes = torch.rand(count, 3, 3), torch.zeros(count, dtype=torch.long)
        assert metrics.sufficiency(maps, classes).tolist() == [0.0] * count
        assert metrics.consistency(maps, classes).tolist() == [0.0] * count


def test_what_does_not_fit_is_refused() -> None:
    maps = maps_of(2)
    for metric in (metrics.sufficiency, metrics.consistency):
        with pytest.raises(CamfnError, match="one for each of the 7 samples"):
            metric(maps, CLASSES[:3])
        with pytest.raises(CamfnError, match="expected integers"):
            metric(maps, CLASSES.float())
        with pytest.raises(CamfnError, match="NaN or infinity in 7 of 7"):
            metric(maps * math.nan, CLASSES)
    with pytest.raises(CamfnError, match="threshold"):
        metrics.sufficiency(maps, CLASSES, threshold=1.1)
    with pytest.raises(CamfnError, match="discretize: expected it to return"):
        metrics.consistency(maps, CLASSES, discretize=lambda maps: maps[:2])

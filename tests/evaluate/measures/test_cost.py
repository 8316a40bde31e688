"""Cost in forwards."""

from __future__ import annotations

import torch

from camfn.evaluate._measures.cost import flops_of
from tests.evaluate.common import SIDE, Net


def test_cost_is_counted_in_forwards() -> None:
    net, images = Net(), torch.rand(2, 3, SIDE, SIDE)
    per = 2 * (16 * 16 * 6 * 75 + 16 * 16 * 5 * 54 + 20)
    with torch.no_grad():
        assert flops_of(lambda: net(images))[1] == 2 * per
        assert flops_of(lambda: [net(images) for _ in range(3)])[1] == 6 * per

"""RFxG's four scores (2511.13081): what the answer to a question loses while the first pixels of its map go.

A question is arithmetic of classes, so that one function measures all four: `p(a) - p(b)` (CCS), the probability of a
group (PGS), `p(a)` less the others of its group (CGC), and one group less another (CGS). The authors' code adds the two
terms of CGC and of CGS, where the questions "this class and not its group", "this group and not that" take one from the
other.
"""

# tested in tests/evaluate/suite/test_questions.py

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ... import metrics
from ...image import upsample
from .asked import Asked
from .protocol import Suite


def questioned(model: nn.Module, asked: Asked, maps: Tensor, suite: Suite) -> dict[str, Tensor]:
    """Measure maps of questions: the mean loss of each question's own score while the map's first pixels go."""
    size = (asked.images.shape[2], asked.images.shape[3])
    heatmap = upsample(maps.to(asked.images), size)
    options: dict[str, Any] = {"baseline": asked.removed, "chunk_size": suite.chunk_size}
    points = len(suite.shares)
    scores = metrics.deletion(asked.score(model), asked.images, heatmap, step=1 / (1 + points), **options).scores
    lost = scores[:, :1] - scores[:, 1 : 1 + points]
    weights = torch.ones(points).index_fill(0, torch.tensor([0, points - 1]), 0.5).to(lost)
    area = (lost * weights).sum(1) / weights.sum()
    kinds = [name.partition(":")[0] for name in asked.names]
    return {kind: area[[i for i, other in enumerate(kinds) if other == kind]] for kind in dict.fromkeys(kinds)}

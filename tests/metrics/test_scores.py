"""Scores of images that stand among other inputs, for every kind of target."""

from __future__ import annotations

import pickle
from collections import UserDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import CamfnError, metrics, targets
from tests.nets.small import Net, images, seeded

X, DEPTH, TABLE = images(2, 3, 8, 8), images(2, 1, 8, 8, seed=2), torch.tensor([[1.0], [-2.0]])


class Mixed(nn.Module):
    """A network of images, a table, and a depth map that may be missing."""

    def __init__(self) -> None:
        super().__init__()
        self.net = seeded(Net)

    def forward(self, table: Tensor, rgb: Tensor, depth: Tensor | None = None, gain: float = 1.0) -> dict[str, Tensor]:
        seen = rgb if depth is None else rgb * depth
        return {"logits": self.net(seen) * table * gain}


WAYS: dict[str, tuple[Callable[[Tensor], Any], Any]] = {
    "tuple": (lambda x: (TABLE, x), None),
    "list": (lambda x: [TABLE, x, None, 2.0], None),
    "dict": (lambda x: {"rgb": x, "table": TABLE}, None),
    "mapping": (lambda x: UserDict(table=TABLE, rgb=x), None),
    "by place": (lambda x: (TABLE, x, DEPTH), 1),
    "by key": (lambda x: {"table": TABLE, "depth": DEPTH, "rgb": x}, "rgb"),
    "by a function": (lambda x: {"table": TABLE, "depth": DEPTH, "rgb": x}, lambda inputs: inputs["rgb"]),
}
TARGETS: dict[str, Any] = {
    "top": targets.class_probability(),
    "none": None,
    "class": 3,
    "a class a sample": [1, 4],
    "tensor": torch.tensor([0, 2]),
    "function": lambda out: out["logits"][:, 1],
    "mixed": [2, targets.class_score(None)],
    "contrast": targets.contrast(),
}


def direct(inputs: Any, target: Any, at: Any) -> Tensor:
    """The score of the inputs, with the choices made on others."""
    net = Mixed().eval()
    run: Any = (lambda given: net(**given)) if hasattr(inputs, "keys") else lambda given: net(*given)
    scores: Tensor = targets.pin(target, run(at))(run(inputs))
    return scores


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", TARGETS)
def test_every_kind_of_inputs_and_targets(way: str, name: str) -> None:
    give, which = WAYS[way]
    score = metrics.scores_of(Mixed().eval(), give(X), TARGETS[name], images=which)
    for changed in (X, 0.5 * X, -X):
        torch.testing.assert_close(score(changed), direct(give(changed), TARGETS[name], give(X)).detach())
    rows = torch.stack([X, -X, X.flip(-1)])
    many: Any = score
    torch.testing.assert_close(many.score_many(rows), torch.stack([score(row) for row in rows]))
    folded: Any = many.with_folded_norms()
    for row in rows:
        torch.testing.assert_close(folded(row.clone()), score(row))


@pytest.mark.parametrize("way", WAYS)
def test_metrics_change_the_images_alone(way: str) -> None:
    give, which = WAYS[way]
    net, heatmap = Mixed().eval(), torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(1))
    score = metrics.scores_of(net, give(X), 2, images=which)
    plain: Any = lambda x: direct(give(x), 2, give(X)).detach()  # noqa: E731
    for metric in (metrics.deletion, metrics.insertion):
        found, expected = (metric(one, X, heatmap, step=8) for one in (score, plain))
        torch.testing.assert_close(found.scores, expected.scores)


def test_several_images_are_asked_for() -> None:
    net = Mixed().eval()
    with pytest.raises(CamfnError, match=r"images='depth' of shape \(2, 1, 8, 8\); images='rgb' of shape"):
        metrics.scores_of(net, {"table": TABLE, "depth": DEPTH, "rgb": X}, 2)
    with pytest.raises(CamfnError, match="images='deep' is no"):
        metrics.scores_of(net, {"table": TABLE, "depth": DEPTH, "rgb": X}, 2, images="deep")


def test_the_same_tensor_at_two_places() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = seeded(Net)

        def forward(self, one: Tensor, other: Tensor) -> Tensor:
            out: Tensor = self.net(one) * self.net(other).tanh()
            return out

    net = Product().eval()
    for which in (0, 1):
        one, other = (metrics.scores_of(net, pair, 1, images=which)(-X) for pair in ((X, X), (X, X.clone())))
        assert torch.equal(one, other)
        torch.testing.assert_close(one, (net(-X, X) if which == 0 else net(X, -X))[:, 1].detach())


def test_scores_are_values() -> None:
    net = Mixed().eval()
    score = metrics.scores_of(net, (TABLE, X), 2)
    assert score == metrics.scores_of(net, (TABLE, X.clone()), 2) != metrics.scores_of(net, (TABLE, X), 3)
    assert torch.equal(pickle.loads(pickle.dumps(score))(X), score(X))

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


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(0)


REGION = torch.arange(120).reshape(10, 12).remainder(12) < 5
BOX = torch.tensor([0.0, 0.0, 3.0, 4.0])
OF_A_BATCH: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "average_drop": lambda score, x, cam: metrics.average_drop(score(x), score(metrics.masked(x, cam))),
    "insertion": lambda score, x, cam: metrics.insertion(score, x, cam, step=0.3).scores,
    "deletion": lambda score, x, cam: metrics.deletion(score, x, cam, step=0.3).scores,
    "pixel_flipping": lambda score, x, cam: metrics.pixel_flipping(score, x, cam, side=3).scores,
    "road": lambda score, x, cam: metrics.road(score, x, cam, shares=(0.2, 0.5), generator=noise()).scores,
    "road_combined": lambda score, x, cam: metrics.road_combined(score, x, cam, generator=noise()),
    "infidelity": lambda score, x, cam: metrics.infidelity(score, x, cam, generator=noise(), samples=3),
    "max_sensitivity": lambda score, x, cam: metrics.max_sensitivity(lambda y: y.mean(1), x, generator=noise()),
    "complexity": lambda score, x, cam: metrics.complexity(cam),
    "sparseness": lambda score, x, cam: metrics.sparseness(cam),
    "coherency": lambda score, x, cam: metrics.coherency(cam, cam.flip(-1)),
    "pointing_game": lambda score, x, cam: metrics.pointing_game(cam, REGION.expand(cam.shape), tolerance=2.0),
    "energy_in_box": lambda score, x, cam: metrics.energy_in_box(cam, BOX.expand(len(cam), 4)),
    "iou": lambda score, x, cam: metrics.iou(cam, REGION.expand(cam.shape)),
    "box_ious": lambda score, x, cam: metrics.box_ious(cam, [BOX[None] for _ in cam]),
    "pxap": lambda score, x, cam: metrics.pxap(cam, REGION.expand(cam.shape)),
    "ssim": lambda score, x, cam: metrics.ssim(cam, cam.flip(-1), window=3),
    "most_relevant": lambda score, x, cam: metrics.most_relevant(cam, 0.3),
    "impute": lambda score, x, cam: metrics.impute(x, REGION.expand(cam.shape)),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("name", OF_A_BATCH)
def test_a_batch_of_none_has_no_numbers(name: str, inference: bool) -> None:
    net, run = seeded(Net).eval(), OF_A_BATCH[name]
    with torch.inference_mode(inference):
        x, cam = images(2, 3, 10, 12), torch.rand(2, 10, 12, generator=noise())
        two, none = (run(metrics.scores_of(net, y, 1), y, heat) for y, heat in ((x, cam), (x[:0], cam[:0])))
    assert none.shape == (0, *two.shape[1:])
    assert none.dtype == two.dtype


def test_numbers_of_a_data_set_need_a_sample() -> None:
    with pytest.raises(CamfnError, match="pooled=True: expected at least one sample"):
        metrics.pxap(torch.zeros(0, 4, 4), torch.zeros(0, 4, 4, dtype=torch.bool), pooled=True)
    assert metrics.box_masks(torch.zeros(0, 4), (4, 5)).shape == (0, 4, 5)


@pytest.mark.parametrize(
    "name",
    [
        *("deletion", "insertion", "pixel_flipping", "road", "trace_ceiling", "irof", "infidelity", "noise_drops"),
        *("residual", "completeness", "soundness", "monotonicity"),
    ],
)
def test_infinite_scores_have_no_difference(name: str) -> None:
    x, heatmap = images(2, 3, 8, 8), images(2, 8, 8).abs()
    noise, cells = 0.1 * images(4, 3, 8, 8), metrics.grid_cells((8, 8), 2)

    def score(x: Tensor) -> Tensor:
        return x.flatten(1).sum(1) + torch.tensor([0.0, torch.inf])

    draw = torch.Generator().manual_seed(0)
    calls: dict[str, Callable[[], object]] = {
        "deletion": lambda: metrics.deletion(score, x, heatmap, step=16),
        "insertion": lambda: metrics.insertion(score, x, heatmap, baseline=0.0, step=16),
        "pixel_flipping": lambda: metrics.pixel_flipping(score, x, heatmap, side=4, step=1),
        "road": lambda: metrics.road(score, x, heatmap, generator=draw),
        "trace_ceiling": lambda: metrics.trace_ceiling(score, x, cells, how="exact"),
        "irof": lambda: metrics.irof(score, x, heatmap, cells),
        "infidelity": lambda: metrics.infidelity(score, x, heatmap, noise=noise),
        "noise_drops": lambda: metrics.noise_drops(score, x, noise),
        "residual": lambda: metrics.completeness_residual(score, x, heatmap),
        "completeness": lambda: metrics.completeness(score, x, heatmap, baseline=0.0),
        "soundness": lambda: metrics.soundness(score, x, heatmap, baseline=0.0),
        "monotonicity": lambda: metrics.monotonicity(score, x, heatmap, step=16),
    }
    with pytest.raises(CamfnError, match="infinite score for sample 1"):
        calls[name]()

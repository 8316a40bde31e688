"""Laws of the region search: the order, the values, what regions may be, and the number of forwards."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from camfn import CamfnError, explainer, methods, targets, tiny
from camfn._shared.regions import grid_labels, masks_of
from tests.methods.cases import network
from tests.methods.laws import close, image, normal
from tests.nets.small import Net, images, seeded
from tests.oracles.sensitivity import region_search as oracle

LABELS = torch.tensor([[0, 0, 1], [2, 1, 1]])
MASKS = torch.arange(3)[:, None, None].eq(LABELS)
WEIGHTS = torch.tensor([[1.0, 1.0, 3.0], [-2.0, 1.0, 1.0]], dtype=torch.float64)
ONES = torch.ones(1, 1, 2, 3, dtype=torch.float64)


def additive(x: Tensor) -> Tensor:
    return (x[:, 0] * WEIGHTS).sum((1, 2)) + 3


def run(regions: Tensor | None = LABELS, x: Tensor = ONES, forward: Any = additive, **options: Any) -> Tensor:
    return methods.region_search(x, forward=forward, inputs=x, regions=regions, **options)


def test_an_additive_score_orders_regions_by_their_sums() -> None:
    # sums 2, 5, -2: f(S) - f(rest) changes by twice the sum of what joins, 4 and then -4
    close(run(), torch.tensor([[[4.0, 4.0, 8.0], [0.0, 8.0, 8.0]]], dtype=torch.float64))


def test_a_constant_added_to_the_score_changes_nothing_and_a_factor_scales_the_map() -> None:
    x = image()
    labels = grid_labels((9, 11), 3, x.device)
    expected = run(labels, x, network)
    close(run(labels, x, lambda x: network(x) - 40), expected, 1e-8)
    close(run(labels, x, lambda x: 3 * network(x)), 3 * expected, 1e-8)
    assert not run(labels, x, lambda x: 0 * network(x)).any()


def test_labels_are_the_masks_that_they_name() -> None:
    expected = run(MASKS)
    for regions in (LABELS, 7 * LABELS - 3, LABELS[None], LABELS.to(torch.int32), MASKS.double(), MASKS[:, None]):
        close(run(regions), expected)


def test_each_image_may_have_regions_of_its_own_and_fewer() -> None:
    x = normal(2, 2, 9, 11, seed=11)
    first, second = grid_labels((9, 11), 3, x.device), grid_labels((9, 11), 2, x.device)
    together = run(torch.stack([first, second]), x, network)
    close(together[:1], run(first, x[:1], network))
    close(together[1:], run(second, x[1:], network))
    alike = run(first, x, network)
    close(alike, run(torch.stack([first, first]), x, network))


@pytest.mark.parametrize("size", [(11,), (9, 11), (5, 4, 6)], ids=str)
def test_overlapping_masks_and_a_baseline_are_the_oracle(size: tuple[int, ...]) -> None:
    x = normal(2, 2, *size)
    masks = (torch.rand(4, *size, generator=torch.Generator().manual_seed(1)) > 0.6).double()
    close(run(masks, x, network, baseline=0.4), oracle(x, x, forward=network, regions=masks, baseline=0.4))


def test_the_first_steps_are_those_of_the_whole_search() -> None:
    x = image()
    labels = grid_labels((9, 11), 3, x.device)
    whole, few = run(labels, x, network), run(labels, x, network, steps=3)
    for all_of, some in zip(whole, few, strict=True):
        first, third = all_of.unique().flip(0)[:3:2]
        close(some, (all_of - third).clamp(min=0) * (all_of >= third), 1e-9)
        assert some.max() == pytest.approx(float(first - third))


def test_greedy_is_the_best_order_where_regions_do_not_interact() -> None:
    """The area under f(S) - f(rest) over all orders of five regions of an additive score."""
    x = torch.ones(1, 1, 5, dtype=torch.float64)
    sums = torch.tensor([2.0, -1.0, 4.0, 0.5, 3.0], dtype=torch.float64)

    def forward(x: Tensor) -> Tensor:
        return x[:, 0] @ sums

    found = methods.region_search(x, forward=forward, inputs=x, regions=torch.arange(5))[0].argsort(descending=True)

    def area(order: Any) -> float:
        return float(sums[list(order)].cumsum(0).sum())

    assert area(found.tolist()) == max(map(area, itertools.permutations(range(5))))


def test_forwards_are_what_the_docstring_says() -> None:
    for steps, count in ((None, 3 * 4), (2, 2 * 5), (9, 12)):
        told: list[tuple[int, int]] = []

        def tell(done: int, total: int, told: list[tuple[int, int]] = told) -> None:
            told.append((done, total))

        run(steps=steps, progress=tell)
        assert told[-1] == (count, count)


@pytest.mark.parametrize("options", [{"steps": 1}, {"regions": torch.zeros(4, 4, dtype=torch.long)}])
def test_one_region_has_no_change_after_it(options: dict[str, Any]) -> None:
    x = torch.rand(2, 3, 4, 4)
    with pytest.raises(CamfnError, match="expected two regions or more to find"):
        methods.region_search(x, forward=lambda x: x.sum((1, 2, 3)), inputs=x, **options)


def test_a_detection_and_a_class_a_sample_on_the_tiny_networks() -> None:
    world = tiny.scenes(2, generator=torch.Generator().manual_seed(8))
    head = targets.BoxHead(
        boxes_of=lambda out: torch.cat([out[..., :2] - out[..., 2:4] / 2, out[..., :2] + out[..., 2:4] / 2], -1),
        scores_of=lambda out: out[..., 4:5].sigmoid() * out[..., 5:].softmax(-1),
    )
    same = targets.detection_similarity(world.boxes[:, 0], world.labels[:, 0], head=head)
    found = explainer(partial(methods.region_search, grid=4), tiny.load("detector"), "body.3")(world.images, same)
    for cam, box in zip(found, world.boxes[:, 0], strict=True):
        y, x = divmod(int(cam.argmax()), cam.shape[1])
        # the cell that comes first touches the box
        assert box[0] - 16 <= x <= box[2]
        assert box[1] - 16 <= y <= box[3]


def test_vmap_over_classes_is_the_loop() -> None:
    net, x = seeded(Net), images(2, 3, 12, 10)
    explain = explainer(partial(methods.region_search, grid=2), net, "blocks.0")
    each = torch.vmap(lambda target: explain(x, target))(torch.arange(3))
    torch.testing.assert_close(each, torch.stack([explain(x, i) for i in range(3)]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"regions": LABELS.double()[0]},
            r"labels of an integer dtype, \(2, 3\).*got torch.float64 of \(3,\)",
        ),
        ({"regions": torch.zeros(3, 3, dtype=torch.long)}, r"got torch.int64 of \(3, 3\)"),
        ({"regions": MASKS[:0]}, r"masks of bools or floats, \(n, \*\(2, 3\)\)"),
        ({"regions": 255.0 * MASKS}, r"masks of numbers in \[0, 1\]"),
        ({"regions": torch.nan * MASKS}, r"masks of numbers in \[0, 1\]"),
        ({"forward": lambda x: x.sum((1, 2, 3)).log() - 1e39}, "infinite score for sample 0"),
        ({"regions": [[0, 1]]}, "regions: expected a tensor"),
        ({"progress": 3}, "progress: expected a function"),
        ({"steps": 0}, "steps: expected a whole number from 1"),
        ({"grid": 0}, "grid: expected a whole number from 1"),
        ({"baseline": torch.ones(7)}, "baseline: expected a number, or a tensor that broadcasts"),
        ({"forward": lambda x: x}, "must return one score a sample"),
        ({"forward": lambda x: x.sum((1, 2, 3)) * torch.nan}, "returned NaN for sample 0"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(CamfnError, match=text):
        run(**options)


def test_labels_under_vmap_are_refused_and_masks_are_not() -> None:
    def explain(x: Tensor, regions: Tensor) -> Tensor:
        return run(regions, x)

    with pytest.raises(CamfnError, match=r"give masks \(n, \*T\)"):
        torch.vmap(explain)(ONES[None], LABELS[None])
    close(torch.vmap(explain)(ONES[None], MASKS[None])[0], run())


def test_cells_of_a_grid_are_as_wide_as_each_other() -> None:
    counts = grid_labels((7, 10), 3, torch.device("cpu")).unique(return_counts=True)[1]  # type: ignore[no-untyped-call]
    assert counts.tolist() == [6, 8, 6, 9, 12, 9, 6, 8, 6]
    assert torch.equal(grid_labels((2, 2), 5, torch.device("cpu")), torch.tensor([[0, 1], [2, 3]]))
    assert masks_of("f", LABELS, (2, 3), 4).shape == (3, 1, 2, 3)

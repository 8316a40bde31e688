"""Laws of Sobol and HSIC: what the indices of scores that are known must be."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from camfn import CamfnError, explainer, methods
from camfn._shared.sensitivity import sobol_points, with_one_from_second
from camfn.methods._black_box.sensitivity import _half_on
from tests.methods.cases import network as curved
from tests.methods.laws import close, image, normal
from tests.nets.small import Net, images, seeded
from tests.oracles import sensitivity as oracles

COEFFICIENTS = torch.tensor([3.0, 4.0, 0.0, -1.0], dtype=torch.float64)
ONES = torch.ones(1, 1, 4, dtype=torch.float64)


def additive(x: Tensor) -> Tensor:
    return x[:, 0] @ COEFFICIENTS + 7


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_sobol_of_an_additive_score_is_the_share_of_squares() -> None:
    found = methods.sobol(ONES, forward=additive, inputs=ONES, designs=4096)
    assert found[0, 2] == 0
    close(found[0], COEFFICIENTS.square() / COEFFICIENTS.square().sum(), 2e-3)


def test_sobol_of_a_product_counts_what_cells_do_together() -> None:
    # f = x y with x, y ~ U(0, 1): Var = 7/144, and what x alone leaves of it is E[y^2] Var[x] = 1/36, for both
    ones = torch.ones(1, 1, 2, dtype=torch.float64)
    found = methods.sobol(ones, forward=lambda x: x[:, 0].prod(1), inputs=ones, designs=4096)
    close(found[0], torch.full((2,), 4 / 7, dtype=torch.float64), 5e-3)


@pytest.mark.parametrize("method", ["sobol", "hsic"])
def test_a_linear_change_of_the_score_changes_nothing(method: str) -> None:
    x = image()
    options: dict[str, Any] = {"designs": 4} if method == "sobol" else {"samples": 40}

    def run(forward: Any) -> Tensor:
        drawn = {} if method == "sobol" else {"generator": draw()}
        found: Tensor = getattr(methods, method)(x, forward=forward, inputs=x, grid=3, **options, **drawn)
        return found

    close(run(lambda x: -5 * curved(x) + 100), run(curved), 1e-8)
    assert not run(lambda x: 0 * curved(x) + 3).any()


def test_sobol_is_zero_exactly_where_the_score_does_not_look() -> None:
    x = image()
    found = methods.sobol(x, forward=lambda x: curved(x[..., :4]), inputs=x, designs=4, grid=3)
    assert found[:, :, 0].all()
    assert not found[:, :, 2].any()


def test_hsic_of_an_ignored_cell_shrinks_with_the_samples() -> None:
    ignored = [
        methods.hsic(ONES, forward=additive, inputs=ONES, samples=n, generator=draw())[0, 2].item() for n in (50, 2000)
    ]
    found = methods.hsic(ONES, forward=additive, inputs=ONES, samples=2000, generator=draw())[0]
    assert found.argsort(descending=True).tolist() == [1, 0, 3, 2]
    assert 0 <= ignored[1] < 0.1 * ignored[0]
    assert found[2] < 0.01 * found[1]


def test_hsic_of_two_masks_in_closed_form() -> None:
    # one pair of scores, so their distance is the width: l = exp(-1/2), and 2 c' H L H c = 1 - l with c = (-1/2, 1/2)
    masks = torch.tensor([[0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    x = torch.ones(1, 1, 2, dtype=torch.float64)
    found = methods.hsic(x, forward=lambda x: x.sum((1, 2)), inputs=x, masks=masks)
    close(found, torch.tensor([[1 - math.exp(-0.5), 0.0]], dtype=torch.float64))


def test_hsic_where_most_scores_are_equal_compares_equal_with_equal() -> None:
    # the median distance is 0: a detector whose box is lost under most masks
    x = torch.ones(1, 1, 3, dtype=torch.float64)
    masks = torch.tensor([[1.0, 1, 0], [1, 0, 1], [0, 1, 1], [0, 0, 1], [0, 1, 0], [0, 0, 0]], dtype=torch.float64)

    def found_or_not(x: Tensor) -> Tensor:
        return (x[:, 0, :2].sum(1) == 2).to(x.dtype)

    options: dict[str, Any] = {"forward": found_or_not, "masks": masks}
    close(methods.hsic(x, inputs=x, **options), oracles.hsic(x, x, **options))
    assert methods.hsic(x, inputs=x, **options)[0, 0] > 0


@pytest.mark.parametrize("size", [(11,), (9, 11), (5, 4, 6)], ids=str)
def test_cells_are_as_wide_as_each_other_and_equal_the_oracle(size: tuple[int, ...]) -> None:
    x, cells = normal(2, 2, *size), [3 for _ in size]
    points = torch.rand(5, 2, *cells, generator=draw(), dtype=torch.float64)
    found = methods.sobol(x, forward=curved, inputs=x, points=points, grid=3, baseline=0.3)
    close(found, oracles.sobol(x, x, forward=curved, points=points, baseline=0.3))
    masks = (points[:, 0] > 0.5).double()
    found = methods.hsic(x, forward=curved, inputs=x, masks=masks, grid=3, baseline=-1.0)
    close(found, oracles.hsic(x, x, forward=curved, masks=masks, baseline=-1.0))


def test_points_are_those_of_jansens_estimator() -> None:
    points = sobol_points(4, 3)
    rows = torch.stack([with_one_from_second(points, torch.tensor(i)) for i in range(16)])
    assert torch.equal(rows[:4], points[:, 0])
    for i in range(3):
        changed = points[:, 0].clone()
        changed[:, i] = points[:, 1, i]
        assert torch.equal(rows[4 + 4 * i : 8 + 4 * i], changed)


def test_each_cell_is_on_in_half_of_the_masks() -> None:
    masks = _half_on((11, 2, 3), draw())
    assert (masks == 1).sum(0).flatten().tolist() == [5] * 6
    assert (masks == 0).sum(0).flatten().tolist() == [6] * 6
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) > 5


def test_forwards_are_what_the_docstring_says() -> None:
    told: list[tuple[int, int]] = []

    def tell(done: int, total: int) -> None:
        told.append((done, total))

    methods.sobol(ONES, forward=additive, inputs=ONES, designs=4, progress=tell)
    assert told[-1] == (20, 20)
    methods.hsic(ONES, forward=additive, inputs=ONES, samples=9, generator=draw(), progress=tell)
    assert told[-1] == (9, 9)


def test_global_random_numbers_stay() -> None:
    before = torch.get_rng_state()
    x = image()
    first = methods.hsic(x, forward=curved, inputs=x, samples=20, generator=draw(1))
    close(first, methods.hsic(x, forward=curved, inputs=x, samples=20, generator=draw(1), chunk_size=3))
    assert not torch.equal(first, methods.hsic(x, forward=curved, inputs=x, samples=20, generator=draw(2)))
    methods.sobol(x, forward=curved, inputs=x, designs=2, grid=2)
    assert torch.equal(before, torch.get_rng_state())


def test_vmap_over_classes_is_the_loop() -> None:
    net, x = seeded(Net), images(2, 3, 12, 10)
    explain = explainer(partial(methods.sobol, designs=2, grid=2), net, "blocks.0")
    each = torch.vmap(lambda target: explain(x, target))(torch.arange(3))
    torch.testing.assert_close(each, torch.stack([explain(x, i) for i in range(3)]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "options", "text"),
    [
        ("sobol", {"designs": 1}, "designs: expected a whole number from 2, got 1"),
        ("sobol", {"grid": 0}, "grid: expected a whole number from 1"),
        ("sobol", {"points": torch.rand(4, 2, 3)}, r"shape \(n, 2, 4\), n at least 2; got .*\(4, 2, 3\)"),
        ("sobol", {"points": torch.rand(1, 2, 4)}, "n at least 2"),
        ("sobol", {"points": [0.5]}, "points: expected a tensor"),
        ("sobol", {"points": 255 * torch.rand(4, 2, 4)}, r"points: expected numbers in \[0, 1\]"),
        ("sobol", {"points": torch.full((4, 2, 4), torch.nan)}, r"points: expected numbers in \[0, 1\]"),
        ("sobol", {"forward": lambda x: x.sum((1, 2)) * torch.inf}, "infinite score for sample 0"),
        ("sobol", {"points": torch.ones(4, 2, 4, dtype=torch.long)}, "got torch.int64"),
        ("sobol", {"baseline": torch.ones(3)}, "baseline: expected a number, or a tensor that broadcasts"),
        ("sobol", {"forward": lambda x: x}, "must return one score a sample"),
        ("sobol", {"forward": lambda x: x.sum((1, 2)) * torch.nan}, "returned NaN for sample 0"),
        ("hsic", {}, "expected one of generator and masks, got neither"),
        ("hsic", {"generator": draw(), "masks": torch.ones(3, 4)}, "got both"),
        ("hsic", {"masks": torch.ones(3, 5)}, r"masks of shape \(n, \*cells\), cells = \(4,\); got \(3, 5\)"),
        ("hsic", {"masks": torch.ones(1, 4)}, "samples: expected a whole number from 2, got 1"),
        ("hsic", {"masks": 255 * torch.ones(3, 4)}, r"masks: expected numbers in \[0, 1\]"),
        ("hsic", {"generator": draw(), "forward": lambda x: x.sum((1, 2)).log() - 1e39}, "infinite score for sample 0"),
        ("hsic", {"generator": draw(), "width": "median"}, "'distance' or 'score', got 'median'"),
    ],
)
def test_wrong_options_are_refused(method: str, options: dict[str, Any], text: str) -> None:
    with pytest.raises(CamfnError, match=text):
        getattr(methods, method)(ONES, inputs=ONES, **{"forward": additive, **options})


def test_more_cells_than_the_sequence_has_are_refused() -> None:
    wide = torch.ones(1, 1, 150, 150)
    with pytest.raises(CamfnError, match=r"at most 10600 numbers a mask.*got 22500; hand over `points`"):
        methods.sobol(wide, inputs=wide, forward=lambda x: x.sum((1, 2, 3)), designs=2, grid=150)


@pytest.mark.parametrize("method", ["sobol", "hsic", "region_search", "occlusion", "rise"])
def test_an_empty_batch_has_empty_maps(method: str) -> None:
    options: dict[str, dict[str, Any]] = {
        "sobol": {"designs": 2},
        "hsic": {"generator": draw(), "samples": 4},
        "region_search": {"grid": 2},
    }
    given: dict[str, Any] = options.get(method, {"generator": draw(), "samples": 4} if method == "rise" else {})
    none = torch.ones(0, 2, 3, 4)
    assert getattr(methods, method)(none, inputs=none, forward=lambda x: x.sum((1, 2, 3)), **given).shape[0] == 0

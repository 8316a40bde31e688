"""`differences` and `friedman`: tests beside scipy and enumeration, Holm by hand, and what is not told apart."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from camfn._shared.errors import UsageError
from camfn.evaluate import Row, differences, friedman, rank
from camfn.evaluate._tables.resample import alike
from camfn.evaluate._tables.significance import holm, signed_ranks

from .test_rank import rows_of

stats = pytest.importorskip("scipy.stats", reason="needs scipy: pip install 'camfn[cli]'")


def signed_rank(line: NDArray[np.float64]) -> float:
    (p,) = signed_ranks(line[None])
    return p


@pytest.mark.parametrize("count", [1, 2, 5, 9, 20, 50])
def test_the_signed_ranks_are_those_of_scipy(count: int) -> None:
    d = np.random.default_rng(count).normal(0.3, 1, count)
    assert signed_rank(d) == pytest.approx(stats.wilcoxon(d, method="exact").pvalue, abs=1e-12)


def test_the_signed_ranks_are_exact_with_ties_and_without_zeros() -> None:
    d = np.array([0.5, 0.5, 0.5, -0.5, 0.25, 0.25, -1.0, 0.0, 0.75, 0.75])
    ranks = stats.rankdata(abs(d[d != 0]))
    sums = np.array([np.dot(signs, ranks) for signs in product((0, 1), repeat=len(ranks))])
    seen = ranks[d[d != 0] > 0].sum()
    expected = min(1, 2 * min((sums <= seen).mean(), (sums >= seen).mean()))
    assert signed_rank(d) == pytest.approx(expected, abs=1e-12)
    assert signed_rank(-d) == signed_rank(d)
    assert signed_rank(np.zeros(4)) == 1
    assert signed_rank(np.ones(5)) == pytest.approx(2 / 2**5)
    # far beyond the exact distribution, the normal one is near
    many = np.random.default_rng(0).normal(0.1, 1, 100)
    assert signed_rank(many) == pytest.approx(stats.wilcoxon(many, method="approx").pvalue, rel=0.05)
    assert signed_rank(np.tile(many, 3)) < 0.05


def test_many_lines_are_each_line_by_itself() -> None:
    d = np.random.default_rng(0).normal(0.2, 1, (40, 12)).round(1)
    assert signed_ranks(d) == [signed_rank(line) for line in d]


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


def test_false_verdicts_are_rare() -> None:
    """Of six methods that are alike, Holm's correction tells two apart in one run of twenty at most."""
    generator, false = np.random.default_rng(0), 0
    for _ in range(60):
        hard = generator.uniform(0, 1, 12)
        columns = {name: (hard + generator.normal(0, 0.1, 12)).tolist() for name in "abcdef"}
        false += any(d.verdict != "not told apart" for d in differences(rows_of(columns), "net", "iou"))
    assert false <= 7  # 3 are expected at most; 8 would happen once in a hundred


@pytest.mark.parametrize("metric", ["iou", "deletion"])
def test_a_positive_difference_is_better_whichever_way(metric: str) -> None:
    hard = np.random.default_rng(0).uniform(0.2, 0.6, 10)
    rows = rows_of({"low": hard.tolist(), "high": (hard + 0.2).tolist()}, metric)
    (found,) = differences(rows, "net", metric)
    assert found.first.endswith("high" if metric == "iou" else "low")
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.2, 0.2))
    assert (found.verdict, found.photos) == ("better", 10)
    assert found.p == pytest.approx(2 / 2**10)
    (turned,) = differences(rows, "net", metric, against=found.second.split()[-1])
    assert turned.value == pytest.approx(-0.2)
    assert turned.verdict == "worse"


def test_pairs_are_compared_on_the_photos_that_both_have() -> None:
    rows = rows_of({"a": [0.5, 0.6, 0.7, 0.8, 0.9, 0.4, 0.3], "b": [0.4, 0.5, 0.6, 0.7, 0.8, 0.3]})
    (found,) = differences(rows, "net", "iou", against="a")
    assert found.value == pytest.approx(0.1)
    assert (found.photos, found.verdict) == (6, "better")
    apart = [Row("p", "net auto a", values={"iou": 0.5}), Row("q", "net auto b", values={"iou": 0.9})]
    (none,) = differences(apart, "net", "iou")
    assert (none.photos, none.verdict, none.p) == (0, "not told apart", 1.0)


def test_rounding_is_no_difference() -> None:
    hard = np.random.default_rng(0).uniform(0.2, 0.6, 20)
    (found,) = differences(rows_of({"a": hard.tolist(), "b": (hard + 1e-7).tolist()}), "net", "iou")
    assert (found.p, found.verdict) == (1.0, "not told apart")


def test_a_metric_that_is_no_mean_has_an_interval_and_no_test() -> None:
    rows = [
        Row(f"p{i}", f"net auto {name}", values={"max_box_acc": iou}, vectors={"max_box_acc": [iou]})
        for name, iou in (("a", 0.9), ("b", 0.1))
        for i in range(8)
    ]
    (found,) = differences(rows, "net", "max_box_acc")
    assert (found.value, found.p, found.adjusted, found.verdict) == (1.0, None, None, "better")
    assert [s.mark for s in rank(rows, "net")] == ["*", ""]


def test_friedman_beside_scipy_and_its_groups() -> None:
    generator = np.random.default_rng(0)
    hard = generator.uniform(0.2, 0.6, 20)
    shifts = {"a": 0.3, "b": 0.3, "c": 0.1, "d": 0.1}
    columns = {name: (hard + shift + generator.normal(0, 0.02, 20)).tolist() for name, shift in shifts.items()}
    found = friedman(rows_of(columns | {"center": hard.tolist()}), "net", "iou")
    expected = stats.friedmanchisquare(*columns.values())
    assert (found.statistic, found.p) == pytest.approx((expected.statistic, expected.pvalue))
    assert [{case.split()[-1] for case in group} for group in found.groups] == [{"a", "b"}, {"c", "d"}]
    assert sum(found.ranks.values()) == pytest.approx(10)
    assert found.photos == 20


def test_friedman_of_methods_that_are_one() -> None:
    found = friedman(rows_of({name: [0.5, 0.6, 0.7] for name in "abc"} | {"none": []}), "net", "iou")
    assert (found.p, set(found.ranks.values()), len(found.groups)) == (1.0, {2.0}, 1)


def test_equal_by_rounding_is_a_matter_of_neighbors() -> None:
    assert alike([0.3, 0.1, 0.30001, 0.2], 1e-4) == [0.3, 0.1, 0.3, 0.2]
    assert alike([], 1) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rows: differences(rows, "net", "entropy"), "does not say which way is better"),
        (lambda rows: differences(rows, "net", "deletion"), "no number of 'deletion'"),
        (lambda rows: differences(rows, "other", "iou"), "no number of 'iou' for other"),
        (lambda rows: differences(rows, "net", "iou", against="aa"), "no method 'aa' in the results of net"),
        (
            lambda rows: differences(rows, "net", "iou", against="own"),
            "stands for several rows: own @ last, own @ first",
        ),
        (lambda rows: friedman(rows, "net", "max_box_acc"), "no ranks within photos"),
        (lambda rows: friedman(rows[:4], "net", "iou"), "2 methods have 2 photos in common"),
    ],
)
def test_refused(call: Callable[[list[Row]], object], message: str) -> None:
    rows = rows_of({"a": [0.5, 0.6], "b": [0.4, 0.3]})
    rows += [Row("p0", f"net {layer} own", values={"iou": 0.1}) for layer in ("last", "first")]
    with pytest.raises(UsageError, match=message):
        call(rows)

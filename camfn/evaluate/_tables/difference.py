"""One case against another by one metric, and several of these as a notebook shows them."""

# tested in tests/evaluate/tables/test_versus.py

from __future__ import annotations

from typing import NamedTuple

from .resample import LEVEL, fewest


class Difference(NamedTuple):
    """One case against another by one metric, on the photos that both have.

    Attributes:
        first: `str(Case)`.
        second: `str(Case)` of the other.
        value: how much better the first is, whichever way of the metric is better.
        low: lower end of the 95 % bootstrap interval of `value` over photos; NaN for one photo.
        high: upper end of this interval.
        p: of Wilcoxon's signed-rank test, two-sided; None for a metric that is no mean over photos.
        adjusted: `p` after Holm's correction for all comparisons made with this one; None likewise.
        photos: number of photos that both have.
    """

    first: str
    second: str
    value: float
    low: float
    high: float
    p: float | None
    adjusted: float | None
    photos: int

    @property
    def verdict(self) -> str:
        """ "better", "worse" or "not told apart".

        Told apart are two cases on six photos or more whose interval holds no 0 and whose `adjusted` is below 0.05.
        """
        held = self.photos < fewest() or not (self.low > 0 or self.high < 0)
        if held or (self.adjusted is not None and self.adjusted >= LEVEL):
            return "not told apart"
        return "better" if self.value > 0 else "worse"

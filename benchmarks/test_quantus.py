"""The twins of Quantus' metrics beside Quantus: checked, then timed in turns, in seconds of the processor.

Eight scenes of digits of 64 x 64 before the tiny network, in gray, since Quantus counts values of channels where camfn
counts pixels. Each row is what a comparison of methods asks of these photos: fifteen maps of each, as of the fifteen
methods called "cheap", where the forwards do not look at the map or there are none; three maps where each has its own.
Both have the same model, maps, classes and threads. Quantus gets all photos in one batch, as its documentation says,
and its metrics one after the other, for it shares nothing between them; camfn begins each turn with a new
`metrics.shared`. Where both draw, Quantus' draws are given to camfn; where numbers differ by design, nothing is
compared. Pixels of one value come in another order in Quantus, so that metrics by groups agree to a tenth. The rows of
`ALONE` are one metric with forwards of its own: Quantus runs as many of them, and they are most of its time.

Quantus 0.6 has no NonSensitivity of more than one pixel a step: it raises ValueError. Its SmoothMPRT is MPRT of a
smoothed explainer, and its Focus the mass in two cells of a mosaic: both are composed here. Its InputInvariance puts
the shift into the first convolution, which reads three channels here where the images have one: RuntimeError. Its
Continuity stops at a map below 0, which the images that are shifted out of sight have: AssertionError. Its IROF
calls `numpy.trapz`, which numpy 2.4 has no longer; the benchmark puts it back.

OMP_NUM_THREADS=1 python -m benchmarks.test_quantus [TURNS] prints both tables, and writes them between the two marks of
docs/benchmarks.md; python -m pytest benchmarks/test_quantus.py --benchmark-enable --benchmark-only -s prints them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.quantus_rows import ALONE, ROWS, Gray, Row

TURNS = 3
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- python -m benchmarks.test_quantus -->", "<!-- end of the tables beside Quantus -->"
HEAD = """| what | camfn | Quantus | | forwards | apart |
|---|---|---|---|---|---|"""


def spent(run: Callable[[], Any]) -> float:
    """Seconds of the processor that a call takes."""
    start = time.process_time()
    run()
    return time.process_time() - start


def share_of_forwards(run: Callable[[], Any]) -> float:
    """Share of the time of a call that the network takes to run forward."""
    inside, forward = [0.0], Gray.forward

    def timed(self: Gray, x: torch.Tensor) -> torch.Tensor:
        start = time.process_time()
        out = forward(self, x)
        inside[0] += time.process_time() - start
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Gray, "forward", timed)
        whole = spent(run)
    return inside[0] / max(1e-9, whole)


def checked(row: Row) -> str:
    """Hold the numbers of both to be the same, where they are meant to be; return how far they are apart."""
    found, expected = row.ours(), row.theirs()
    if row.off is None:
        return "not the same by design"
    apart = max(
        float((mine.double() - other.double()).abs().max() / other.abs().max().clamp(min=1e-9))
        for mine, other in zip(found, expected, strict=True)
    )
    assert apart < row.off, f"{row.what}: {apart:.2g} apart"
    return f"{apart:.0e}"


def line(row: Row, turns: int) -> tuple[str, float, float]:
    """Check a row, time it in turns, and write its line: medians, and the median of the ratios."""
    apart = checked(row)
    pairs = [(spent(row.ours), spent(row.theirs)) for _ in range(turns)]
    ours, theirs = (median(times) for times in zip(*pairs, strict=True))
    ratio = median(other / mine for mine, other in pairs)
    share = f"{share_of_forwards(row.ours):.0%}, {share_of_forwards(row.theirs):.0%}"
    text = f"| {row.what} | {1000 * ours:.1f} ms | {1000 * theirs:.1f} ms | {ratio:.1f}x | {share} | {apart} |"
    return text, ours, theirs


@pytest.mark.parametrize("make", [*ROWS, *ALONE], ids=lambda make: make.__name__)
def test_beside_quantus(benchmark: BenchmarkFixture, make: Callable[[], Row]) -> None:
    row = make()
    text, ours, theirs = line(row, TURNS)
    benchmark.pedantic(row.ours, rounds=1)  # type: ignore[no-untyped-call]
    benchmark.extra_info.update(kind="metrics", what=row.what, ours=ours, quantus=theirs)
    print("\n" + text)


def main() -> None:
    """Print both tables, and write them to the docs."""
    turns = int(sys.argv[1]) if len(sys.argv) > 1 else TURNS
    tables = []
    for makes in (ROWS, ALONE):
        lines = [HEAD]
        for make in makes:
            lines.append(line(make(), turns)[0])
            print(lines[-1], flush=True)
        tables.append("\n".join(lines))
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n" + "\n\n".join(tables) + f"\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()

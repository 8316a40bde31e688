"""Tables and plots of an evaluation, for the docs: `python -m benchmarks.evaluation RESULTS DOCS`."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from camfn.evaluate import METRICS, Standing, Store, rank, write_table
from camfn.evaluate._plots import cost_plot, curve_plot, rank_plot
from camfn.evaluate._rank import models_of

COLUMNS = (
    "energy_in_box",
    "iou",
    "pointing_game",
    "insertion",
    "deletion",
    "road_combined",
    "average_drop",
    "average_gain",
    "adcc",
)
HARD = {f"foolbox/imagenet_{number}" for number in ("02_438", "04_949", "05_853", "08_915", "14_129", "15_99")} | {
    "alibi/n02124075_285_Egyptian_cat"
}
"""Photos whose boxes cover little, or whose maximum is easily missed."""


def main(results: str, docs: str) -> None:
    """Write table and plots of each model, and put the short tables into evaluation.md between its marks."""
    store, folder = Store(results), Path(docs)
    parts = []
    for model in models_of(store.rows):
        rows = [row for row in store.rows if row.case.startswith(f"{model} ")]
        standings = rank(rows, model)
        write_table(standings, folder / f"evaluation-{model}.csv")
        plots = {
            "cost": cost_plot(standings),
            "curves": curve_plot(rows, standings, store.header["protocol"]["step"]),
            "ranks": rank_plot(standings),
        }
        lines = [f"### {model}, {len({row.photo for row in rows})} photos", "", *short_table(standings), ""]
        hard = [row for row in rows if row.photo in HARD]
        if hard:
            count = len({row.photo for row in hard})
            lines += [f"The {count} hard photos alone:", "", *short_table(rank(hard, model), COLUMNS[:3]), ""]
        for name, content in plots.items():
            if content is not None:
                (folder / f"evaluation-{model}-{name}.png").write_bytes(content)
                lines += [f"![{model}: {name}](evaluation-{model}-{name}.png)", ""]
        lines += [f"All metrics with their intervals: [evaluation-{model}.csv](evaluation-{model}.csv).", ""]
        parts += lines
    page = folder / "evaluation.md"
    text = re.sub(
        r"(<!-- results -->\n).*(<!-- end -->)",
        lambda marks: marks[1] + "\n".join(parts) + "\n" + marks[2],
        page.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    page.write_text(text, encoding="utf-8")


def short_table(standings: Sequence[Standing], columns: Sequence[str] = COLUMNS) -> list[str]:
    """A table in Markdown, baselines in italics."""
    names = [name for name in columns if any(name in s.estimates for s in standings)]
    arrows = {1: " ↑", -1: " ↓", 0: ""}
    lines = [
        "| method | forwards | seconds | " + " | ".join(name + arrows[METRICS[name].better] for name in names) + " |",
        "|---|---|---|" + "---|" * len(names),
    ]
    for s in standings:
        mark = "*" if s.is_baseline else ""
        cells = [f"{mark}{s.method}{mark}", *("" if v is None else f"{v:.3g}" for v in (s.forwards, s.seconds))]
        for name in names:
            e = s.estimates.get(name)
            cells.append("" if e is None else f"{e.value:.3f}{e.verdict} [{e.low:.2f}, {e.high:.2f}]")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    main(*sys.argv[1:3])

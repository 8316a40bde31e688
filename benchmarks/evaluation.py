"""Tables and plots of an evaluation, for the docs: `python -m benchmarks.evaluation RESULTS DOCS`."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from camfn.evaluate import METRICS, Standing, Store, rank, write_table
from camfn.evaluate._tables.rank import models_of

from .evaluation_plots import cost_plot, curve_plot, rank_plot

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

COMPARED = ("average_drop", "average_gain", "average_increase", "insertion", "deletion")
OPTI_CAM: dict[str, tuple[float, ...]] = {
    "grad_cam": (12.2, 17.6, 44.4, 66.3, 14.7),
    "grad_cam_plusplus": (12.9, 16.0, 42.1, 66.0, 14.7),
    "xgrad_cam": (12.2, 17.6, 44.4, 66.3, 14.7),
    "hires_cam": (12.2, 17.6, 44.4),
    "layer_cam": (15.6, 15.0, 38.8, 67.0, 14.2),
    "score_cam": (8.6, 26.6, 56.7, 65.7, 16.3),
    "ablation_cam": (12.5, 16.4, 42.8, 65.9, 14.6),
    "opti_cam": (1.5, 68.8, 92.8, 62.0, 19.7),
}
"""Tables 1 and 3 of 2301.07002, in per cent: ResNet-50, 50 000 photos; HiResCAM is not in table 3."""
SCORE_CAM: dict[str, tuple[float, ...]] = {
    "rise": (47.0, 14.0),
    "grad_cam": (47.8, 19.6),
    "grad_cam_plusplus": (45.5, 18.9),
    "score_cam": (31.5, 30.6),
}
"""Table 1 of 1910.01279, average drop and increase in per cent: VGG16, 2000 photos, half of the pixels muted."""


def main(results: str, docs: str) -> None:
    """Write table and plots of each model, and put the short tables into evaluation.md between its marks."""
    store, folder = Store(results), Path(docs)
    parts, all_standings = [], {}
    for model in models_of(store.rows):
        rows = [row for row in store.rows if row.case.startswith(f"{model} ")]
        standings = all_standings[model] = rank(rows, model)
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
    text = between("results", parts, page.read_text(encoding="utf-8"))
    page.write_text(between("published", published(all_standings), text), encoding="utf-8")


def between(mark: str, lines: Sequence[str], text: str) -> str:
    """Put lines between two marks."""
    return re.sub(
        rf"(<!-- {mark} -->\n).*(<!-- end of {mark} -->)",
        lambda marks: marks[1] + "\n".join(lines) + "\n" + marks[2],
        text,
        flags=re.DOTALL,
    )


def published(standings: Mapping[str, Sequence[Standing]]) -> list[str]:
    """Each model's numbers beside those of the papers, in per cent: drop, gain, increase, insertion, deletion."""
    found = {model: {s.method.partition(":")[0]: s for s in listed} for model, listed in standings.items()}
    heads = [*standings, "2301.07002, ResNet-50", "1910.01279, VGG16"]
    lines = ["| method | " + " | ".join(heads) + " |", "|---" * (1 + len(heads)) + "|"]
    for method in {**OPTI_CAM, **SCORE_CAM}:
        cells = [method]
        for named in found.values():
            standing = named.get(method)
            ours = (
                [standing.estimates[c].value * 100 if c in standing.estimates else None for c in COMPARED]
                if standing
                else []
            )
            cells.append(per_cent(ours))
        few = SCORE_CAM.get(method)
        cells += [per_cent(OPTI_CAM.get(method, ())), per_cent((few[0], None, few[1]) if few else ())]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def per_cent(values: Sequence[float | None]) -> str:
    """Numbers between slashes, a dash for one that is not known."""
    return " / ".join("-" if value is None else f"{value:.1f}" for value in values)


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

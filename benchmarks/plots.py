"""Draw what a run of `test_perturbation.py` says of cost against channels, resolution and batch.

python -m benchmarks.plots out/bench.json docs/cost.png
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from .report import Record, load

LABELS = {
    "channels": "channels ablated",
    "side": "side of the image, in pixels (axis in their square)",
    "batch": "images",
}


def draw(records: list[Record], path: Path) -> None:
    """One panel for each of the three, with the line through its points."""
    from matplotlib.figure import Figure

    found = {record["work"].removeprefix("by "): record for record in records if "costs" in record}
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    for panel, (of, label) in zip(figure.subplots(1, len(LABELS)), LABELS.items()):
        _panel(panel, found[of], of, label)
    figure.savefig(path, dpi=120)


def _panel(panel: Any, record: Record, of: str, label: str) -> None:
    sizes = np.asarray(record["sizes"], dtype=float)
    work, costs = sizes**2 if of == "side" else sizes, 1e3 * np.asarray(record["costs"])
    slope, start = np.polyfit(work, costs, 1)
    line = np.array([0, work.max()])
    panel.plot(line, start + slope * line, color="0.6", linewidth=1)
    panel.plot(work, costs, "o", color="tab:blue")
    panel.set_xticks(work, [f"{size:g}" for size in sizes])
    panel.set(xlabel=label, ylabel="milliseconds", xlim=(0, None), ylim=(0, None))
    panel.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    draw(load(Path(sys.argv[1]).read_text())[1], Path(sys.argv[2]))

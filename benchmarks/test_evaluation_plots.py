"""Plots of an evaluation for the docs: a PNG each, or None where there is nothing to draw."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from camfn.evaluate import Row, rank

pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'camfn[evaluate]'")

from .evaluation_plots import cost_plot, curve_plot, rank_plot


def rows_with(metric: str, vector: list[float] | None = None) -> list[Row]:
    vectors = {metric: vector} if vector else {}
    return [
        Row("p", f"net auto {name}", forwards=1.0, values={metric: value}, vectors=vectors)
        for name, value in (("grad_cam", 0.5), ("score_cam", 0.25), ("center", 0.1))
    ]


def test_plots_are_pictures() -> None:
    rows = rows_with("deletion", [1.0, 0.5, 0.0])
    standings = rank(rows, "net")
    for png in (cost_plot(standings), curve_plot(rows, standings, 0.5), rank_plot(standings)):
        assert png is not None
        picture = Image.open(io.BytesIO(png))
        assert picture.format == "PNG"
        assert min(picture.size) > 100


def test_there_is_no_plot_without_its_numbers() -> None:
    rows = rows_with("entropy")
    standings = rank(rows, "net")
    assert curve_plot(rows, standings, 0.5) is None
    assert rank_plot(standings) is None

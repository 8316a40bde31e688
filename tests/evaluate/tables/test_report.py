"""`write_report`: one HTML file."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'camfn[evaluate]'")

from camfn import evaluate as ev
from camfn.evaluate import Photo
from tests.evaluate.common import load_net, run_quickly


def test_the_report_is_one_file(photos: list[Photo], tmp_path: Path) -> None:
    store = run_quickly(photos, tmp_path / "out")
    text = ev.write_report(store, photos, loader=load_net).read_text()
    assert text.count("data:image/png;base64") == 3
    # two photos at each end, each with its boxes and with the maps of both methods and of the baseline
    assert text.count("data:image/jpeg;base64") == 4 * (1 + 3)
    assert "http" not in text
    (table,) = ev.write_tables(store)
    header, *lines = table.read_text().splitlines()
    assert header.startswith("case,mean_rank,forwards,seconds,photos,energy_in_box,energy_in_box_low")
    assert len(lines) == 4

"""Fixtures of the tests of `camfn.evaluate`."""

from __future__ import annotations

from pathlib import Path

import pytest

from camfn.evaluate import Photo, read_photos
from tests.evaluate.common import draw_photo


@pytest.fixture(scope="session", autouse=True)
def _pillow() -> None:
    pytest.importorskip("PIL", reason="needs Pillow: pip install 'camfn[evaluate]'")


@pytest.fixture
def photos(tmp_path: Path) -> list[Photo]:
    """Four photos with boxes, through a CSV."""
    lines = ["path,class,x0,y0,x1,y1"]
    for seed in range(4):
        draw_photo(tmp_path / "photos" / f"{seed}.png", seed)
        lines.append(f"photos/{seed}.png,{'abcd'[seed]},{10 + 5 * seed},20,{41 + 5 * seed},51")
    (tmp_path / "photos.csv").write_text("\n".join(lines) + "\n")
    return read_photos(tmp_path / "photos.csv")

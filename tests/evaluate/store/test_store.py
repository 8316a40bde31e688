"""`Store`: rows on the disk, a torn line, the lock and the header."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camfn._shared.errors import UsageError
from camfn.evaluate import Photo, Protocol, Store
from tests.evaluate.common import QUICK, numbers_of, run_quickly


def test_rows_on_the_disk_are_the_rows(photos: list[Photo], tmp_path: Path) -> None:
    store = run_quickly(photos, tmp_path / "out")
    again = Store(tmp_path / "out")
    assert numbers_of(again).keys() == numbers_of(store).keys()
    for row, read in zip(store.rows, again.rows, strict=True):
        assert {k: np.float32(v) for k, v in row.values.items()} == {k: np.float32(v) for k, v in read.values.items()}
        assert row.vectors == read.vectors
        cam = again.cam(read)
        assert cam is not None
        assert row == read
        assert (tmp_path / "out" / "maps" / read.map).is_file()


def test_two_runs_do_not_write_to_one_folder(photos: list[Photo], tmp_path: Path) -> None:
    store = run_quickly(photos[:1], tmp_path / "out")
    with store.writing(), pytest.raises(UsageError, match="another run is writing"):
        run_quickly(photos, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"protocol": Protocol(metrics=QUICK, step=0.5)}, r"step was 0\.25, now it is 0\.5"),
        ({"protocol": Protocol(metrics=QUICK, step=0.25, seed=1)}, "seed was 0, now it is 1"),
    ],
)
def test_rows_measured_in_two_ways_are_not_mixed(
    change: dict[str, Any], words: str, photos: list[Photo], tmp_path: Path
) -> None:
    run_quickly(photos[:1], tmp_path / "out")
    before = (tmp_path / "out" / "results.sqlite").read_bytes()
    with pytest.raises(UsageError, match=words):
        run_quickly(photos, tmp_path / "out", **change)
    assert (tmp_path / "out" / "results.sqlite").read_bytes() == before
    run_quickly(photos[:1], tmp_path / "out", force=True, **change)
    assert len(Store(tmp_path / "out").rows) == 4


def test_damaged_files_are_refused(photos: list[Photo], tmp_path: Path) -> None:
    store = run_quickly(photos, tmp_path / "out")
    for map_file in (tmp_path / "out" / "maps").iterdir():
        map_file.write_bytes(b"no map")
    with pytest.raises(UsageError, match=r"\.npy is damaged"):
        store.cam(store.rows[0])
    (tmp_path / "out" / "results.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(UsageError, match=r"results\.sqlite is damaged"):
        Store(tmp_path / "out")

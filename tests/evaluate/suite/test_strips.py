"""Strips: which maps a bin has, how a cell is turned, and what a page shows of a folder with and without maps."""

from __future__ import annotations

import base64
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from camfn.evaluate import Store
from camfn.evaluate._suite import strips
from camfn.evaluate._suite.report import write_suite_report
from camfn.evaluate._suite.strips import BINS, NAMES, binned, bins_of, corners_of, strips_of, turned
from camfn.evaluate._suite.tables import tables_of


def flat(value: float) -> torch.Tensor:
    return torch.full((1, 1), float(value))


def test_bins_hold_the_maps_of_their_shares() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [(at / 100, flat(at)) for at in torch.randperm(100, generator=generator).tolist()]
    bins = binned(maps)
    assert len(bins) == len(NAMES) == len(BINS) - 1
    ranges = [(98, 99), (95, 97), (50, 94), (5, 49), (2, 4), (0, 1)]
    for found, (low, high) in zip(bins, ranges, strict=True):
        assert abs(found.share - (low + high) / 200) < 1e-9
        assert abs(found.mean.item() - (low + high) / 2) < 1e-4


def test_few_maps_fill_each_bin_the_worst_too() -> None:
    assert [each.share for each in binned([(0.5, flat(1))])] == [0.5] * 6
    shares = [each.share for each in binned([(k / 4, flat(k)) for k in range(4)])]
    assert shares[0] == shares[1] == 0.75
    assert shares[2:4] == [0.625, 0.125]
    assert shares[4:] == [0, 0]


def test_each_cell_is_turned_to_the_upper_left() -> None:
    for side, size in ((2, 8), (2, 7), (3, 9), (3, 7), (2, 100)):
        for cell in range(side**2):
            row, column = divmod(cell, side)
            cam = torch.zeros(size, size)
            cam[int((row + 0.5) * size / side), int((column + 0.5) * size / side)] = 5
            cam[0, 0] -= 1
            made = turned(cam, cell, side)
            part = len(made) // side
            assert made.shape[0] % side == 0
            assert bool((made >= 0).all())
            torch.testing.assert_close(made.sum(), torch.tensor(1.0))
            assert made[:part, :part].sum() > 0.8, (side, size, cell)
    assert not turned(-torch.rand(4, 4), 0, 2).any()


def test_one_look_shows_who_cannot_know_where(store: Store) -> None:
    share = {}
    for method in ("grad_cam", "hires_cam"):
        own, twin = corners_of(store, [row for row in store.rows if row.method == method]) or (flat(0), flat(0))
        share[method] = float(own.sum() / (own.sum() + twin.sum()))
    assert abs(share["grad_cam"] - 0.5) < 0.02
    assert share["hires_cam"] > 0.95


def test_the_strip_is_that_of_the_stored_maps(store: Store) -> None:
    rows = [row for row in store.rows if row.method == "hires_cam"]
    shares = [share for row in rows for share in row.vectors.get("gridpg", [])]
    bins = bins_of(store, rows)
    assert bins[0].share == max(shares)
    assert bins[-1].share == min(shares)
    for each in bins[2:4]:  # the share of the measure is taken of the resized map
        assert abs(float(each.mean[:20, :20].sum()) - each.share) < 0.05


def test_the_page_has_a_strip_for_each_line(store: Store, tmp_path: Path) -> None:
    (table,) = (each for each in tables_of(store) if each.track == "grid")
    lines = [line for line in table.lines if not line.control]
    page = write_suite_report([store], tmp_path).read_text()
    assert page.count('<figure class="strips">') == 1
    found = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]+)" width="(\d+)"', page)
    assert [alt.partition(" @ ")[0] for _, alt, _ in found] == [line.name for line in lines for _ in range(2)]
    assert [int(width) for _, _, width in found] == [252, 84] * len(lines)
    for content, alt, width in found:
        assert len(content) < 6000
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGBA"))
        assert pixels.shape == (40, int(width), 4)
        assert (pixels[0, :, 3] == 0).nonzero()[0].tolist() == [k for k in range(int(width)) if k % 42 > 39]
        assert re.search(r"share in the upper left (\d\.\d\d(, )?){6}$|own one has \d\.\d\d of both$", alt)


def test_a_page_of_many_methods_shows_the_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "MOST", 1)
    (table,) = (each for each in tables_of(store) if each.track == "grid")
    made = strips_of(store, table.lines)
    assert made is not None
    assert [row["name"].partition(" @ ")[0] for row in made["rows"]] == [table.lines[0].name]
    assert made["note"] == "2 lines of the table have no strip here."


def test_damaged_maps_are_left_out_and_a_folder_without_maps_has_no_strips(store: Store, tmp_path: Path) -> None:
    place = tmp_path / "run"
    shutil.copytree(store.folder, place)
    copied = Store(place)
    (table,) = (each for each in tables_of(copied) if each.track == "grid")
    lines = [line for line in table.lines if not line.control]
    for row in copied.rows:
        if row.photo.startswith(("gridpg/", "twin/")) and row.method == lines[0].names[0]:
            (place / "maps" / row.map).write_bytes(b"no map")
    made = strips_of(copied, lines)
    assert made is not None
    assert len(made["rows"]) == len(lines) - 1
    assert made["note"] == "1 line of the table has no strip here."
    shutil.rmtree(place / "maps")
    assert strips_of(copied, lines) is None
    assert '<figure class="strips">' not in write_suite_report([copied], place).read_text()

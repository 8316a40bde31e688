"""`Store` reads and continues folders of earlier versions, in lines of CSV."""

from __future__ import annotations

import csv
import json
from hashlib import sha256
from pathlib import Path

import pytest

from camfn._shared.errors import UsageError
from camfn.evaluate import Photo, Store
from camfn.evaluate._store.former import FIXED
from tests.evaluate.common import numbers_of, run_quickly


def as_before(store: Store, folder: Path) -> None:
    """Write a folder as the first version did, without what it did not know."""
    (folder / "maps").mkdir(parents=True)
    header = json.loads(json.dumps(store.header))
    protocol = header["protocol"]
    protocol["noise_samples"], protocol["noise_maps"] = (
        protocol.pop("infidelity_samples"),
        protocol.pop("sensitivity_samples"),
    )
    del header["model"]
    (folder / "run.json").write_text(json.dumps(header))
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*FIXED, *store.metrics, "vectors"])
        for row in store.rows:
            cells = ["" if value is None else value for value in (getattr(row, name) for name in FIXED)]
            numbers = [row.values.get(name, "") for name in store.metrics]
            writer.writerow([*cells, *numbers, json.dumps(row.vectors) if row.vectors else ""])
            digest = sha256("\0".join(row.key).encode()).hexdigest()[:24]
            (folder / "maps" / f"{digest}.npy").write_bytes((store.folder / "maps" / row.map).read_bytes())


def test_a_former_folder_goes_on(photos: list[Photo], tmp_path: Path) -> None:
    now = run_quickly(photos, tmp_path / "now")
    as_before(now, tmp_path / "former")
    former = Store(tmp_path / "former")
    plain = {key: row._replace(map="") for key, row in numbers_of(former).items()}
    assert plain == {key: row._replace(map="") for key, row in numbers_of(now).items()}
    assert former.cam(former.rows[0]) is not None
    content = (tmp_path / "former" / "rows.csv").read_bytes()
    (tmp_path / "former" / "rows.csv").write_bytes(content[:-30])  # torn by a kill
    reported: list[tuple[int, int]] = []
    again = run_quickly(photos, tmp_path / "former", progress=lambda *now: reported.append(now))
    assert reported == [(1, 1)]
    assert len(again.rows) == 16


def test_damaged_former_folders_are_refused(photos: list[Photo], tmp_path: Path) -> None:
    as_before(run_quickly(photos[:1], tmp_path / "now"), tmp_path / "former")
    rows, header = tmp_path / "former" / "rows.csv", tmp_path / "former" / "run.json"
    content, said = rows.read_bytes(), header.read_bytes()
    rows.write_bytes(content.replace(b"0.", b"zero."))
    with pytest.raises(UsageError, match=r"rows\.csv is damaged"):
        Store(tmp_path / "former")
    rows.write_bytes(content)
    header.write_bytes(b"\xff")
    with pytest.raises(UsageError, match=r"run\.json is damaged"):
        Store(tmp_path / "former")
    header.unlink()
    with pytest.raises(UsageError, match=r"rows\.csv has no run\.json beside it"):
        run_quickly(photos, tmp_path / "former")
    header.write_bytes(said)
    rows.write_bytes(content[:20])  # torn in its first line: nothing was measured
    assert len(run_quickly(photos[:1], tmp_path / "former").rows) == 4

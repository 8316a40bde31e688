"""A new user at a shell: a COCO file with ten kinds of bad record."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.evaluate.common import draw_photo

pytest.importorskip("typer", reason="needs typer: pip install 'camfn[cli]'")
pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'camfn[evaluate]'")


def shell(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    """Run one line in a shell, as a user types it."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    line = line.replace("camfn", f"{sys.executable} -m camfn", 1)
    return subprocess.run(
        line, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_a_coco_file_with_ten_kinds_of_bad_record(tmp_path: Path) -> None:
    # over 5 s: two commands, each importing torch
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i in range(6):
        draw_photo(tmp_path / "photos" / f"{i}.png", i)
        images.append({"id": i, "file_name": f"photos/{i}.png", "width": 80, "height": 80})
        box = [10 + 5 * i, 20, 31, 31]
        annotations.append({"id": i, "image_id": i, "category_id": i % 3, "bbox": box})
    good = annotations[0]
    bad: list[dict[str, Any]] = [
        good | {"bbox": [10, 10, 0, 20]},  # no area
        good | {"bbox": [40, 40, -30, -30]},  # inverted
        good | {"bbox": [float("nan"), 0, 5, 5]},
        good | {"bbox": [200, 200, 5, 5]},  # outside
        good | {"bbox": ["1", "2", "3", "4"]},
        {"id": 9, "image_id": 0, "category_id": 0},  # no box
        good | {"image_id": 77},  # no such image
        good | {"category_id": 77},  # no such category
    ]
    images += [{"id": 10, "file_name": "photos/gone.png"}, {"id": 11, "file_name": "photos/torn.png"}]
    annotations += [*bad, good | {"image_id": 10}, good | {"image_id": 11}, good | {"image_id": 1, "category_id": 3}]
    annotations.append(good | {"image_id": 2, "category_id": 2, "bbox": [10, 10, 0.3, 20]})  # thin, and good
    (tmp_path / "photos" / "torn.png").write_bytes((tmp_path / "photos" / "0.png").read_bytes()[:150])
    names = ["1", "2", "3", "zebra"]  # of which the model does not know the last
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(content, indent=0))

    line = "camfn evaluate boxes.json --models tiny:cnn --methods grad_cam,layer_cam --metrics energy_in_box,deletion"
    first = shell(tmp_path, f"{line} --device cpu --out results")
    assert first.returncode == 1, first.stderr
    assert "Traceback" not in first.stderr
    assert "camfn: 8 records refused" in first.stderr
    assert first.stderr.count("boxes.json, line ") == 8
    assert "2 photos unreadable" in first.stderr
    assert "4 refused" in first.stderr  # the photo of a zebra: two methods and two baselines
    assert (tmp_path / "results" / "report.html").is_file()
    with (tmp_path / "results" / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    well = [row for row in rows if not row["kind"]]
    assert len(well) == 6 * 4
    assert all(row["energy_in_box"] and row["deletion"] for row in well if row["method"] != "center")
    assert all((tmp_path / "results" / "maps" / row["map"]).is_file() for row in well)
    assert "0.grad_cam" in " ".join(row["map"] for row in well)

    before = (tmp_path / "results" / "rows.csv").read_bytes()
    again = shell(tmp_path, f"{line} --device cpu --out results")
    after = (tmp_path / "results" / "rows.csv").read_bytes()
    assert (again.returncode, again.stdout) == (1, first.stdout)
    # the missing photo alone was tried again
    changed = [pair for pair in zip(before.splitlines(), after.splitlines(), strict=True) if pair[0] != pair[1]]
    assert len(changed) == 1
    assert b"gone.png" in changed[0][0]

    draw_photo(tmp_path / "photos" / "gone.png", 3)
    third = shell(tmp_path, f"{line} --device cpu --out results --retry --fail-fast")
    assert third.returncode == 70
    assert "stopped at the first problem, as asked: photos/" in third.stderr

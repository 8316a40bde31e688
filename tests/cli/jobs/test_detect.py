"""`camfn explain --task detect`: on the tiny world, torchvision, transformers and detectors of a user's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from camfn import capture_levels, zoo
from camfn.image._labels import class_color
from camfn.methods import odam
from camfn.targets import box_score, detections, head_for
from camfn.tiny._nets import Detector
from tests.cli.jobs.test_task import WORLD, picture, record, run
from tests.nets.detrs import detr


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return picture(tmp_path / "scene.png", WORLD.images[0])


def test_boxes_are_found_and_drawn(photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run(photo, "--task", "detect", "--model", "tiny:detector", "--method", "odam", "--layer", "body.3",
                 "--target", "top:2", "--out", out)  # fmt: skip
    assert result.exit_code == 0, result.output
    found = {one["index"]: one for one in record(out)}
    assert sorted(found) == sorted(WORLD.labels[0].tolist())
    for label, box in zip(WORLD.labels[0].tolist(), WORLD.boxes[0], strict=True):
        torch.testing.assert_close(torch.tensor(found[label]["box"]) / 4, box, atol=6, rtol=0)
        cam = np.load(out / found[label]["map"])
        y, x = np.unravel_index(cam.argmax(), cam.shape)
        assert box[0] - 2 <= 4 * x + 2 <= box[2] + 2
        assert box[1] - 2 <= 4 * y + 2 <= box[3] + 2
        with Image.open(out / found[label]["overlay"]) as drawn:
            assert drawn.size == (256, 256)
            lines = (np.asarray(drawn.convert("RGB")) == class_color(label)).all(-1)
        assert lines.sum() > 100


@pytest.mark.parametrize("method", ["odam", "hires_cam"])
def test_ten_boxes_cost_one_forward(photo: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forwards: list[int] = []
    plain = Detector.forward

    def counted(self: Any, x: Any) -> Any:
        forwards.append(1)
        return plain(self, x)

    copies = [picture(tmp_path / f"{i}.png", WORLD.images[0]) for i in range(2)]
    monkeypatch.setattr(Detector, "forward", counted)
    options = ("--task", "detect", "--model", "tiny:detector", "--layer", "body.3", "--method", method)
    first = run(photo, *options, "--target", "top:10", "--out", tmp_path / "one")
    assert len(record(tmp_path / "one")) > 1, first.output
    before = len(forwards)
    forwards.clear()
    run(photo, *copies, *options, "--target", "top:10", "--out", tmp_path / "three")
    assert len(forwards) == before + 2


def test_the_layer_that_is_taken_and_a_photo_with_nothing_on_it(photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(photo, "--task", "detect", "--model", "tiny:detector", "--out", out).exit_code == 0
    assert record(out)[0]["layer"]["name"] == "body"
    empty = run(photo, "--task", "detect", "--model", "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn", "--weights",
                "none", "--method", "odam", "--layer", "backbone.fpn.layer_blocks.0", "--out", tmp_path)  # fmt: skip
    assert empty.exit_code == 1
    assert "shows nothing" in record(tmp_path)[0]["problem"]


def test_one_picture_of_all_boxes_and_the_maps_in_one_folder(photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--task", "detect", "--model", "tiny:detector", "--layer", "body.3", "--method", "odam", "--out", out)
    assert run(photo, *options).exit_code == 0  # without a target the twenty best
    names = {path.name for path in out.iterdir()}
    assert {"scene.odam.png", "scene.odam.top1.png", "scene.odam.top1.npy", "explanations.jsonl"} <= names
    with Image.open(out / "scene.odam.png") as drawn:
        pixels = np.asarray(drawn.convert("RGB"))
    assert pixels.shape == (640, 640, 3)
    for label in WORLD.labels[0].tolist():
        assert (pixels == class_color(label)).all(-1).sum() > 500  # of its box and its label
    again = run(photo, *options)
    assert again.exit_code == 2
    assert "exists already" in again.output
    inside = tmp_path / "inside"
    assert run(photo, *options[:-1], inside, "--rescale", "inside", "--no-overlay").exit_code == 0
    assert not list(inside.glob("*.png"))
    # maps are raw, whatever pictures show
    assert np.array_equal(np.load(inside / "scene.odam.top1.npy"), np.load(out / "scene.odam.top1.npy"))


def test_a_chosen_class_and_d_rise(photo: Path, tmp_path: Path) -> None:
    out, label = tmp_path / "out", int(WORLD.labels[0, 1])
    common = ("--task", "detect", "--model", "tiny:detector", "--target", label, "--out", out)
    assert run(photo, *common, "--method", "d_rise:samples=60", "--layer", "body.3").exit_code == 0
    (found,) = record(out)
    assert found["index"] == label
    missing = next(n for n in range(10) if n not in WORLD.labels[0].tolist())
    other = run(photo, *common[:-3], missing, "--out", tmp_path / "none", "--layer", "body.3", "--method", "odam")
    assert other.exit_code == 1
    others = {str(one) for one in WORLD.labels[0].tolist()}
    said = record(tmp_path / "none")[0]["problem"]
    assert f"shows no '{missing}', and 2 others" in said
    assert all(f"'{one}'" in said for one in others)


def saved(folder: Path, name: str) -> Any:
    member = detr(name)
    member.model.save_pretrained(folder)
    sizes = {"height": 64, "width": 64} if name == "RTDetr" else {"shortest_edge": 64, "longest_edge": 96}
    type(member.processor)(size=sizes).save_pretrained(folder)
    return member.model


@pytest.mark.parametrize("name", ["Detr", "RTDetr"])
def test_a_detector_of_hugging_face(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, file = tmp_path / "model", tmp_path / "street.png"
    saved(folder, name)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(file)
    loaded = zoo.load(f"hf:{folder}")
    head = head_for(loaded.model)
    with Image.open(file) as opened:
        inputs = loaded.preprocess(opened.convert("RGB"))[None]
        assert loaded.view(opened).size == (120, 90)
    loaded.model.requires_grad_(False)
    least = 0.9 * float(head.scores_of(loaded.model(inputs)).max())
    monkeypatch.setattr("camfn.cli._jobs.detect.head_for", lambda model: head_for(model).__class__(
        head.head, head.reason, layers=head.layers, threshold=least, best=head.best))  # fmt: skip
    out = tmp_path / "out"
    result = run(
        file, "--task", "detect", "--model", f"hf:{folder}", "--method", "odam", "--target", "top:5", "--out", out
    )
    assert result.exit_code == 0, result.output
    rows = record(out)
    shown = detections(head, loaded.model(inputs), least)[0]
    assert 0 < len(rows) == min(5, len(shown.scores))
    for row, n, label, box in zip(rows, shown.candidates.tolist(), shown.labels.tolist(), shown.boxes, strict=False):
        assert row["index"] == label
        torch.testing.assert_close(
            torch.tensor(row["box"]), (box * torch.tensor([120, 90] * 2)).clamp(min=0), rtol=0.2, atol=9
        )
        captured = capture_levels(loaded.model, head.layers)(inputs, [box_score(n, label, head=head)])
        sizes = [odam(c.activations, c.grads[0]) for c in captured.values()]
        assert np.load(out / row["map"]).shape == tuple(max(sizes, key=lambda cam: cam[0].numel())[0].shape)


OWN = """
import torch
from camfn import tiny, zoo
from camfn.targets import BoxHead, known_head


def corners(out):
    return torch.cat([out[..., :2] - out[..., 2:4] / 2, out[..., :2] + out[..., 2:4] / 2], -1)


def build():
    loaded = zoo.load("tiny:detector")
    head = BoxHead(corners, lambda out: out[..., 4:5].sigmoid() * out[..., 5:].softmax(-1))
    loaded.model.box_head = known_head(head, threshold=0.25)
    return loaded
"""


def test_a_detector_of_ones_own_has_its_head_as_an_attribute(photo: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    options = ("--task", "detect", "--layer", "body.3", "--method", "odam")
    assert run(photo, *options, "--model", f"{tmp_path}/mine.py:build", "--out", tmp_path / "mine").exit_code == 0
    assert run(photo, *options, "--model", "tiny:detector", "--out", tmp_path / "tiny").exit_code == 0
    kept = ("index", "score", "box")
    mine, own = ([{key: row[key] for key in kept} for row in record(tmp_path / name)] for name in ("mine", "tiny"))
    assert json.dumps(mine) == json.dumps(own)
    result = run(photo, *options, "--model", "tiny:cnn", "--out", tmp_path / "cnn")
    assert result.exit_code == 2
    assert "not a detector that camfn knows" in " ".join(result.output.split())

"""The command line on other tasks, on the tiny world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from camfn import tiny
from camfn.cli._app import app
from camfn.cli._records import read_lines
from camfn.tiny._nets import Detector

WORLD = tiny.scenes(2, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return picture(tmp_path / "scene.png", WORLD.images[0])


def picture(file: Path, pixels: torch.Tensor) -> Path:
    large = Image.fromarray((pixels * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()).resize((256, 256))
    large.save(file)
    return file


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["explain", *map(str, arguments)])


def record(out: Path) -> Any:
    return read_lines(out / "explanations.jsonl")


def test_boxes_are_found_and_drawn(photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run(photo, "--task", "detect", "--model", "tiny:detector", "--method", "odam", "--layer", "body.3",
                 "--target", "top:2", "--out", out)  # fmt: skip
    assert result.exit_code == 0, result.output
    found = {one["index"]: one for one in record(out)}
    assert sorted(found) == sorted(WORLD.labels[0].tolist())
    for label, box in zip(WORLD.labels[0].tolist(), WORLD.boxes[0], strict=True):
        torch.testing.assert_close(torch.tensor(found[label]["box"]), box, atol=6, rtol=0)
        cam = np.load(out / found[label]["map"])
        y, x = np.unravel_index(cam.argmax(), cam.shape)
        assert box[0] - 2 <= 4 * x + 2 <= box[2] + 2
        assert box[1] - 2 <= 4 * y + 2 <= box[3] + 2
        with Image.open(out / found[label]["overlay"]) as drawn:
            assert drawn.size == (256, 256)
            yellow = (np.asarray(drawn.convert("RGB")) == (255, 255, 0)).all(-1)
        assert yellow.sum() > 100


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


def test_regions(photo: Path, tmp_path: Path) -> None:
    out, label = tmp_path / "out", int(WORLD.labels[0, 1]) + 1
    result = run(photo, "--task", "segment", "--model", "tiny:segmenter", "--target", label, "--layer", "body.3",
                 "--method", "hires_cam", "--out", out)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert record(out)[0]["index"] == label
    out = tmp_path / "largest"
    result = run(photo, "--task", "segment", "--model", "tiny:segmenter", "--target", "top:2", "--out", out)
    assert result.exit_code == 0, result.output
    assert sorted(one["index"] - 1 for one in record(out)) == sorted(WORLD.labels[0].tolist())


def test_likeness(photo: Path, tmp_path: Path) -> None:
    other, out = picture(tmp_path / "other.png", WORLD.images[1]), tmp_path / "out"
    result = run(photo, "--task", "similar", "--like", other, "--model", "tiny:cnn", "--layer", "body.3", "--out", out)
    assert result.exit_code == 0, result.output
    (found,) = record(out)
    assert 0 < found["score"] < 1
    itself = tmp_path / "itself"
    assert run(photo, "--task", "similar", "--like", photo, "--model", "tiny:cnn", "--out", itself).exit_code == 1
    assert "no gradient" in record(itself)[0]["problem"]


def test_the_layer_that_is_taken_and_a_photo_with_nothing_on_it(photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(photo, "--task", "detect", "--model", "tiny:detector", "--out", out).exit_code == 0
    assert record(out)[0]["layer"]["name"] == "body"
    empty = run(photo, "--task", "detect", "--model", "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn", "--weights",
                "none", "--method", "odam", "--layer", "backbone.fpn.layer_blocks.0", "--out", tmp_path)  # fmt: skip
    assert empty.exit_code == 1
    assert "finds nothing" in record(tmp_path)[0]["problem"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--task", "similar", "--model", "tiny:cnn"), "--like PHOTO"),
        (("--task", "detect", "--model", "tiny:detector", "--method", "cam"), "--method odam"),
        (("--task", "detect", "--model", "tiny:detector", "--method", "odam", "--target", "contrast:1,2"), "top:K as"),
        (("--task", "detect", "--model", "tiny:detector", "--augment"), "without transformations"),
        (("--task", "detect", "--model", "tiny:cnn", "--layer", "body.3"), "no detector that is known"),
    ],
)
def test_refusals(photo: Path, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    result = run(photo, *options, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())

"""The command line on other tasks, on the tiny world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from camfn import tiny
from camfn.cli._app import app
from camfn.cli._files.records import read_lines

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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--task", "similar", "--model", "tiny:cnn"), "--like PHOTO"),
        (("--task", "detect", "--model", "tiny:detector", "--method", "cam"), "--method odam"),
        (("--task", "detect", "--model", "tiny:detector", "--method", "odam", "--target", "contrast:1,2"), "top:K as"),
        (("--task", "detect", "--model", "tiny:detector", "--augment"), "without transformations"),
    ],
)
def test_refusals(photo: Path, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    result = run(photo, *options, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())

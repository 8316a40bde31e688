"""The command `camfn concepts`: the files it writes, which photos it uses, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("typer", reason="needs typer: pip install 'camfn[cli]'")
from PIL import Image

from camfn import image, observe, resume, tiny, zoo
from camfn.factorize import craft
from tests.cli.test_cli import refused, run


@pytest.fixture
def digits(tmp_path: Path) -> list[Path]:
    """Eight scenes of digits; a 3 is in each of the first three."""
    folder = tmp_path / "photos"
    folder.mkdir()
    world = tiny.scenes(60, generator=torch.Generator().manual_seed(4))
    own = [i for i, label in enumerate(world.labels[:, 0].tolist()) if label == 3][:3]
    others = [i for i, label in enumerate(world.labels[:, 0].tolist()) if label != 3][:5]
    paths = []
    for place, i in enumerate([*own, *others]):
        paths.append(folder / f"{place}.png")
        image.save(world.images[i].expand(3, -1, -1), paths[-1])
    return paths


def test_the_files_say_what_the_library_finds(digits: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out" / "three.png"
    words = ["concepts", *digits[:3], "--class", "3", "--model", "tiny:cnn", "--rank", 3, "--size", 24, "--all"]
    result = run(*words, "--out", out, "--layer", "body.4", "--shown", 4)
    assert result.exit_code == 0, result.output
    assert "3 of 3 photos are used" in result.output
    loaded = zoo.load("tiny:cnn")
    x = torch.stack([loaded.preprocess(Image.open(path)) for path in digits[:3]])
    found = craft(x, observe(loaded.model, "body.4"), resume(loaded.model, "body.4"), 3, rank=3, size=24)
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["class_index"] == 3
    assert record["crop"] == 24
    told = [concept["importance"] for concept in record["concepts"]]
    assert told == pytest.approx(found.importance.tolist(), abs=1e-4)
    assert told == sorted(told, reverse=True)
    assert record["error"] == pytest.approx(found.error.tolist(), abs=1e-4)
    assert record["explained"] == pytest.approx(found.explained.tolist(), abs=1e-4)
    low, high = (f"{float(share):.0%}" for share in (found.explained.min(), found.explained.max()))
    assert f"the concepts make {low if low == high else f'{low} to {high}'} of the energy" in result.output
    with np.load(out.with_suffix(".npz")) as arrays:
        np.testing.assert_allclose(arrays["maps"], found.maps, rtol=1e-3, atol=1e-3)
        assert arrays["concepts"].shape == found.concepts.shape
    with Image.open(out) as picture:
        # a map and four crops a row
        assert picture.width == 5 * 160 + 6 * 8
        assert picture.height > 3 * 160
    refused(run(*words, "--out", out), "exists already", "--force")
    refused(run(*words, "--out", digits[0], "--force"), "would replace a photo")


def test_a_crop_stands_only_beside_a_concept_that_it_has(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    words = ["concepts", tmp_path / "black.png", "--class", "3", "--model", "tiny:cnn", "--rank", 2, "--size", 24]
    result = run(*words, "--all", "--out", tmp_path / "c.png", "--shown", 2)
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "c.png") as picture:
        lower = np.asarray(picture.convert("RGB"))[200:360, 180:500]
    assert (lower == 255).all()


def test_photos_of_other_classes_are_left_out(digits: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "three.png"
    loaded = zoo.load("tiny:cnn")
    x = torch.stack([loaded.preprocess(Image.open(path)) for path in digits])
    with torch.no_grad():
        best = loaded.model(x).argmax(1).tolist()
    taken = [str(path) for path, one in zip(digits, best, strict=True) if one == best[0]]
    assert 1 <= len(taken) < len(digits)
    words = ["concepts", digits[0].parent, "--class", best[0], "--model", "tiny:cnn", "--rank", 2, "--size", 24]
    result = run(*words, "--out", out)
    assert result.exit_code == 0, result.output
    assert json.loads(out.with_suffix(".json").read_text())["photos"] == taken


def test_a_photo_that_cannot_be_read_is_told_and_the_others_go_on(digits: list[Path], tmp_path: Path) -> None:
    broken = digits[0].parent / "broken.png"
    broken.write_bytes(b"no picture")
    words = ["concepts", *digits[:2], broken, "--class", "3", "--model", "tiny:cnn", "--rank", 2, "--size", 24, "--all"]
    result = run(*words, "--out", tmp_path / "c.png")
    assert result.exit_code == 1
    assert "broken.png" in result.stderr
    assert (tmp_path / "c.png").is_file()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--class", "cat"], "An index will do as well"),
        (["--class", "top"], "--class top: expected one class for all photos, its name or its index"),
        (["--class", "contrast:3"], "expected one class for all photos"),
        (["--class", "3", "--negative", "abs"], "expected error or relu"),
        (["--class", "3", "--all", "--size", "500"], "sides of 64 at most"),
        (["--class", "9", "--predicted"], "give --all"),
        (["--class", "3", "--model", "tiny:segmenter"], "explains classifiers"),
        (["--class", "3", "--all", "--model", "tiny:detector"], "explains classifiers"),
    ],
)
def test_what_cannot_be_done_is_refused(digits: list[Path], tmp_path: Path, options: list[str], text: str) -> None:
    out = tmp_path / "no.png"
    refused(run("concepts", *digits[:2], "--model", "tiny:cnn", "--out", out, *options), text)
    assert not out.exists()


def test_a_bar_tells_every_stage(digits: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int, int | None]] = []

    class Bar:
        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None: ...

        def add_task(self, description: str, total: int | None) -> int:
            return 0

        def update(self, task: int, *, description: str, completed: int, total: int | None) -> None:
            told.append((description, completed, total))

    monkeypatch.setattr("camfn.cli._commands.concepts.progress_bars", Bar)
    words = ["concepts", *digits[:2], "--class", "3", "--model", "tiny:cnn", "--rank", 2, "--size", 24, "--all"]
    assert run(*words, "--out", tmp_path / "c.png").exit_code == 0
    stages = ["reading photos", "asking for the classes", "finding concepts", "writing"]
    assert list(dict.fromkeys(stage for stage, *_ in told)) == stages
    last = [(done, total) for stage, done, total in told if stage == "finding concepts"][-1]
    assert last[0] == last[1]
    assert last[0] > 2


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--size", "64"], "2 images give 2 crops of 64 pixels"),
        (["--layer", "body.0.0", "--rank", "2"], "--negative relu"),
    ],
)
def test_what_the_activations_do_not_give_is_refused(
    digits: list[Path], tmp_path: Path, options: list[str], text: str
) -> None:
    out = tmp_path / "no.png"
    result = run("concepts", *digits[:2], "--class", 3, "--all", "--model", "tiny:cnn", "--out", out, *options)
    assert result.exit_code == 2
    assert text in " ".join(result.stderr.split())
    assert not out.exists()

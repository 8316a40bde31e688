"""`camfn explore`: one page of photos, boxes or volumes, and what it refuses before it loads a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn
from typer.testing import CliRunner, Result

from camfn import explainer, zoo
from camfn.cli._app import app
from camfn.cli._jobs.explore import split_targets
from camfn.methods import grad_cam

from ...explore.made import read, unpacked
from ..made import scenes_in

MODEL = ("--model", "tiny:cnn", "--layers", "body")


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["explore", *map(str, words)])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return scenes_in(tmp_path / "photos", 2)


def test_the_page_has_each_map(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "a.html"
    result = run(photos, *MODEL, "--target", "3,7", "--methods", "grad_cam,fem", "--out", out)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == ["layers body", f"page: {out}"]
    data = read(out)
    assert [photo["id"] for photo in data["photos"]] == ["0.png", "1.png"]
    assert [method["id"] for method in data["methods"]] == ["grad_cam", "fem"]
    assert data["command"].startswith("camfn explore --out ")
    loaded = zoo.load("tiny:cnn")
    from PIL import Image

    for photo in data["photos"]:
        with Image.open(photos / photo["id"]) as picture:
            inputs = loaded.preprocess(picture.convert("RGB"))[None]
        for place, target in enumerate((3, 7)):
            cam = unpacked(data, photo["cells"][place][0][0])
            expected = explainer(grad_cam, loaded.model, "body")(inputs, target)[0].double()
            assert float((cam - expected).abs().max()) <= float(expected.abs().max()) / 2000


def test_the_default_is_three_targets_by_cheap_methods_at_three_layers(photos: Path, tmp_path: Path) -> None:
    result = run(photos / "0.png", "--model", "tiny:cnn", "--out", tmp_path / "a.html")
    assert result.exit_code == 0, result.output
    data = read(tmp_path / "a.html")
    assert [target["id"] for target in data["photos"][0]["targets"]] == ["top 1", "top 2", "top 3"]
    assert len(data["layers"]) == 3
    assert "eigen_cam" in [method["id"] for method in data["methods"] if not method["asks"]]


def test_a_class_asked_for_twice_is_shown_once(photos: Path, tmp_path: Path) -> None:
    run(photos / "0.png", *MODEL, "--target", "top:10,3", "--methods", "fem", "--out", tmp_path / "a.html")
    assert len(read(tmp_path / "a.html")["photos"][0]["targets"]) == 10


def test_boxes_of_a_detector(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.html"
    words = ("--model", "tiny:detector", "--task", "detect", "--methods", "odam,grad_cam", "--out", out)
    result = run(photos, *words)
    assert result.exit_code == 0, result.output
    for photo in read(out)["photos"]:
        assert photo["targets"]
        for target in photo["targets"]:
            left, top, right, bottom = target["box"]
            assert -0.2 < left < right < 1.2
            assert -0.2 < top < bottom < 1.2
    assert run(photos, *words, "--force", "--methods", "cam").exit_code == 2


def test_a_volume_has_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nibabel = pytest.importorskip("nibabel", reason="needs nibabel: pip install 'camfn[medical]'")
    values = np.random.default_rng(0).random((6, 8, 10), dtype=np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "scan.nii.gz")
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def net():\n"
        "    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool3d(2), nn.Conv3d(4, 6, 3),\n"
        "                         nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, 3)).eval()\n"
        "def prepare(values):\n    return torch.as_tensor(values)[None]\n"
    )
    monkeypatch.chdir(tmp_path)
    result = run(
        "scan.nii.gz", "--model", "mine.py:net", "--preprocess", "mine.py:prepare", "--target", "1", "--layers", "0,3"
    )
    assert result.exit_code == 0, result.output
    (photo,) = read(tmp_path / "explore.html")["photos"]
    assert (photo["depth"], photo["height"], photo["width"], len(photo["slices"])) == (6, 8, 10, 6)


def test_a_photo_that_cannot_be_read_is_told(photos: Path, tmp_path: Path) -> None:
    (photos / "bad.png").write_bytes(b"no picture")
    result = run(photos, *MODEL, "--target", "3", "--methods", "fem", "--out", tmp_path / "a.html")
    assert result.exit_code == 1
    assert "bad.png" in result.output
    assert len(read(tmp_path / "a.html")["photos"]) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--target", "top:900"], "more than the 2000 that a page holds"),
        (["--methods", "le_grad"], "on attention"),
        (["--methods", "full_grad"], "of the whole network"),
        (["--methods", "grad_camm"], "grad_cam"),
        (["--layers", "auto:none"], "auto:K"),
        (["--out", "a.png"], ".html"),
        (["--target", "3,,7"], "separated by commas"),
        (["--model", "a.onnx"], "camfn explain"),
        (["--model", "b.onnx"], "there is no file b.onnx"),
    ],
)
def test_it_is_refused_before_a_model_is_loaded(
    photos: Path, words: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    Path("a.onnx").touch()

    def never(*_: Any, **__: Any) -> nn.Module:
        raise AssertionError("loaded")

    monkeypatch.setattr(zoo, "load", never)
    result = run(photos, *words)
    assert result.exit_code == 2, result.output
    assert said in result.output


def test_a_page_that_exists_is_kept(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.html"
    out.write_text("mine")
    assert run(photos, *MODEL, "--out", out).exit_code == 2
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a,b, c", ["a", "b", "c"]),
        ("contrast:a,b", ["contrast:a,b"]),
        ("contrast:a,b; top:3", ["contrast:a,b", "top:3"]),
        ("space shuttle,'a, b'", ["space shuttle", "'a, b'"]),
        (None, ["top:3"]),
    ],
)
def test_targets_are_split(text: str | None, parts: list[str]) -> None:
    assert split_targets(text, False, "tiny:cnn", None) == parts

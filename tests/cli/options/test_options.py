"""The options of a model, the same in every command, and a network of one's own from weights to overlays."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

pytest.importorskip("typer", reason="needs typer: pip install 'camfn[cli]'")
pytest.importorskip("timm", reason="needs timm: pip install 'camfn[cli]'")
from typer.testing import CliRunner, Result

from camfn._shared.errors import UsageError
from camfn.cli._app import app
from camfn.cli._options.options import ModelOptions

CODE = """
import torch
from torch import nn
from torchvision import transforms

prepare = transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor()])

def build():
    torch.manual_seed(0)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2))
    return nn.Sequential(nn.Sequential(nn.Conv2d(3, 5, 3, 2), nn.ReLU()), nn.Conv2d(5, 5, 3), nn.ReLU(), head)
"""


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model, its weights, its class names, and two photos."""
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "names.txt").write_text("good\nrust\n")
    scope: dict[str, object] = {}
    exec(CODE, scope)
    model = scope["build"]()  # type: ignore[operator]
    state = {f"net.{key}": value * 1.1 for key, value in model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "x.ckpt")
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).mkdir()
        Image.effect_noise((48, 40), 90).convert("RGB").save(tmp_path / name / f"{name}.png")
    return tmp_path


def test_sizes_and_numbers_are_read() -> None:
    options = ModelOptions(input_size="224x320", resize="256", mean="0.1,0.2,0.3", std="imagenet")
    assert options.arguments() == {"input_size": (224, 320), "resize": 256, "mean": (0.1, 0.2, 0.3), "std": "imagenet"}
    refused: list[dict[str, Any]] = [
        {"input_size": "0"},
        {"input_size": "2x3x4"},
        {"resize": "-3"},
        {"mean": "a"},
        {"std": "1;2"},
    ]
    for wrong in refused:
        with pytest.raises(UsageError, match=next(iter(wrong.values()))):
            ModelOptions(**wrong).arguments()
    with pytest.raises(UsageError, match="--weights: of one model, and there are 2: a, b"):
        ModelOptions(weights="x.pth").loader(["a", "b"])


def test_every_command_takes_a_model_of_ones_own(folder: Path) -> None:
    photo, out = folder / "a" / "a.png", folder / "out"
    model = ["--model", f"{folder}/mine.py:build"]
    mine = [
        "--weights",
        folder / "x.ckpt",
        "--preprocess",
        f"{folder}/mine.py:prepare",
        "--classes",
        folder / "names.txt",
    ]
    result = run("explain", photo, "--out", out / "1", "--target", "rust", *model, *mine)
    assert result.exit_code == 0, result.stderr
    for text in ("names without 'net.'", "photos: by ", "classes: 2 names"):
        assert text in result.stdout
    (record,) = map(json.loads, (out / "1" / "explanations.jsonl").read_text().splitlines())
    assert record["name"] == "rust"
    assert record["about"]["photos"].startswith("by ")
    with Image.open(out / "1" / "a.grad_cam.1.png") as overlay:
        assert overlay.size == (48, 40)
    commands: list[list[object]] = [
        ["guided", photo, "--out", out / "2", *model],
        ["factorize", photo, "--out", out / "3", "--rank", 2, *model],
        ["compare", photo, "--out", out / "4.png", "--methods", "grad_cam,layer_cam", *model],
        ["layers", f"{folder}/mine.py:build"],
    ]
    for words in commands:
        result = run(*words, *mine)
        assert result.exit_code == 0, result.stderr


def test_evaluate_and_tune_take_a_model_of_ones_own(folder: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'camfn[evaluate]'")
    mine = [
        "--weights",
        folder / "x.ckpt",
        "--preprocess",
        f"{folder}/mine.py:prepare",
        "--classes",
        folder / "names.txt",
    ]
    with (folder / "photos.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("path", "class"), ("a/a.png", "good"), ("b/b.png", "rust"), ("c/c.png", "rust"), ("d/d.png", "good")]
        )
    model = f"{folder}/mine.py:build"
    words = [
        "evaluate",
        folder / "photos.csv",
        "--out",
        folder / "out",
        "--methods",
        "grad_cam",
        "--metrics",
        "complexity",
    ]
    result = run(*words, "--models", model, *mine)
    assert result.exit_code in (0, 1), result.stderr  # 1 where a random network has an empty map
    header = json.loads((folder / "out" / "run.json").read_text())
    assert "sha256" in header["model"]["weights"]
    torch.save(torch.load(folder / "x.ckpt", weights_only=True) | {"epoch": 2}, folder / "x.ckpt")
    again = run(*words, "--models", model, *mine)
    assert again.exit_code == 2
    assert "other settings: weights was" in again.stderr
    words = ["tune", folder / "photos.csv", "--out", folder / "tuned", "--methods", "grad_cam layer_cam"]
    result = run(*words, "--metric", "complexity", "--model", model, *mine)
    assert result.exit_code in (0, 1), result.stderr
    two = run("evaluate", folder / "photos.csv", "--models", f"{model} lite0", *mine)
    assert two.exit_code == 2
    assert "of one model" in two.stderr


def test_what_does_not_fit_is_one_line(folder: Path) -> None:
    photo = folder / "a" / "a.png"
    cases: list[tuple[list[object], str]] = [
        (["--model", f"{folder}/mine.py:build"], "give --input-size, --mean, --std"),
        (["--model", f"{folder}/mine.py:biuld"], "Did you mean 'build'"),
        (["--model", f"{folder}/none.py:build"], "there is no file"),
        (["--model", folder / "x.ckpt"], "goes to --weights"),
        (["--model", "tiny:cnn", "--input-size", "12,12"], "--input-size '12,12'"),
        (["--model", "tiny:cnn", "--classes", folder / "names.txt"], "2 class names"),
        (["--model", "tiny:cnn", "--weights", folder / "x.ckpt"], "do not fit this"),
    ]
    for words, said in cases:
        result = run("explain", photo, "--out", folder / "out", *words)
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.stderr
        assert said in result.stderr


@pytest.mark.parametrize("command", ["explain", "guided", "compare"])
def test_classes_with_the_names_of_targets(folder: Path, command: str) -> None:
    (folder / "names.txt").write_text("top\nsalt, coarse\n")
    model = ["--model", f"{folder}/mine.py:build", "--preprocess", f"{folder}/mine.py:prepare", "--device", "cpu"]
    words = [command, folder / "a" / "a.png", *model, "--classes", folder / "names.txt", "--out", folder / "out.png"]
    assert run(*words).exit_code == 0  # without --target, whatever classes are called
    assert run(*words, "--target", 'contrast:"salt, coarse",class:top', "--force").exit_code == 0
    (folder / "mine.py").write_text("raise SystemError('the model is loaded')")
    for target, said in (
        ("top", "--target class:top for the class of that name, or --target top:1"),
        ("contrast:salt, coarse,top", "--target 'contrast:\"salt, coarse\",top'"),
        ("salt", "Did you mean 'salt, coarse'?"),
        ("top:3", "has 2 classes"),
        ("2", "out of range"),
    ):
        refused = run(*words, "--target", target, "--force")
        assert (refused.exit_code, refused.stdout, refused.stderr.count("\n")) == (2, "", 1), refused.stderr
        assert said in refused.stderr
    unknown = run(*words[:-4], "--target", "contrast:", "--force")
    assert (unknown.exit_code, unknown.stdout) == (2, "")
    assert "expected a class by name or index" in unknown.stderr


def test_an_exported_program_of_one_photo_at_a_time(folder: Path) -> None:
    scope: dict[str, object] = {}
    exec(CODE, scope)
    model: nn.Module = scope["build"]().eval()  # type: ignore[operator]
    torch.export.save(torch.export.export(model, (torch.rand(1, 3, 32, 32),)), folder / "x.pt2")
    photos = [folder / "a" / "a.png", folder / "b" / "b.png"]
    result = run("explain", *photos, "--out", folder / "out", "--model", folder / "x.pt2", "--mean", 0, "--std", 1)
    assert result.exit_code == 0, result.stderr
    assert (folder / "out" / "b.grad_cam.png").is_file()

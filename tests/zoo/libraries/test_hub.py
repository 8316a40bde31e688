"""Models of Hugging Face by name: from a folder that transformers wrote, without network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from typer.testing import CliRunner

import camfn
from camfn._shared.errors import LoadError
from camfn.cli._app import app
from camfn.zoo import load

ROOT = Path(camfn.__file__).parents[1]
NAMES = ["cat", "dog", "owl"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8,
        id2label=dict(enumerate(NAMES)), label2id={name: i for i, name in enumerate(NAMES)},
    )  # fmt: skip
    path = tmp_path_factory.mktemp("hub") / "vit"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        transformers.ViTForImageClassification(config).save_pretrained(path)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(path)
    return path


def photo(width: int = 60, height: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_its_own_weights_names_and_processor(folder: Path) -> None:
    loaded = load(f"hf:{folder}")
    own = transformers.ViTForImageClassification.from_pretrained(folder)
    assert loaded.classes == NAMES
    assert not loaded.model.training
    for name, value in own.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    assert torch.equal(loaded.preprocess(photo()), processor(photo(), return_tensors="pt")["pixel_values"][0])
    assert loaded.view(photo()).size == (60, 40)  # squashed, so all of it is seen


def test_random_weights_repeat(folder: Path) -> None:
    one, two, own = (load(f"hf:{folder}", weights=weights).model.state_dict() for weights in ("none", "none", None))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], own[name]) for name in one)


@pytest.mark.parametrize(
    ("kind", "options", "size"),
    [
        ("ConvNext", {"size": {"shortest_edge": 224}}, (210, 210)),
        ("ConvNext", {"size": {"shortest_edge": 384}}, (360, 240)),
        ("CLIP", {}, (240, 240)),
        ("ViT", {}, (360, 240)),
    ],
)
def test_the_view_is_what_the_processor_keeps(folder: Path, tmp_path: Path, kind: str, options: Any, size: Any) -> None:
    model = transformers.AutoModelForImageClassification.from_pretrained(folder)
    model.save_pretrained(tmp_path)
    getattr(transformers, f"{kind}ImageProcessor")(**options).save_pretrained(tmp_path)
    loaded = load(f"hf:{tmp_path}")
    # a photo whose brightness is its place: what is left of it after preprocessing is what the view holds
    ramp = np.broadcast_to(np.linspace(0, 255, 360)[None, :, None], (240, 360, 3)).astype(np.uint8)
    wide = Image.fromarray(ramp)
    assert loaded.view(wide).size == size
    pixels, kept = loaded.preprocess(wide), np.asarray(loaded.view(wide))
    low, high = pixels.amin(), pixels.amax()
    mean = float((pixels - loaded.preprocess(Image.new("RGB", (360, 240)))).mean())
    span = float(
        (
            loaded.preprocess(Image.new("RGB", (360, 240), "white")) - loaded.preprocess(Image.new("RGB", (360, 240)))
        ).mean()
    )
    assert low < high
    assert abs(mean / span - kept.mean() / 255) < 0.02


def test_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    photo().save(tmp_path / "a.png")
    command = [
        "explain",
        str(tmp_path / "a.png"),
        "--model",
        f"hf:{folder}",
        "--target",
        "owl",
        "--out",
        str(tmp_path / "o"),
    ]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert np.load(tmp_path / "o" / "a.grad_cam.2.npy").shape == (4, 4)


def cached(folder: Path, cache: Path, name: str) -> Path:
    """Lay a folder out as the Hub's loader keeps what it fetched: blobs, a snapshot of links, a branch's commit."""
    commit, place = "0" * 40, cache / f"models--{name.replace('/', '--')}"
    snapshot = place / "snapshots" / commit
    for part in ("blobs", "refs"):
        (place / part).mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for i, file in enumerate(sorted(folder.iterdir())):
        (place / "blobs" / f"{i:040x}").write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", f"{i:040x}"))
    (place / "refs" / "main").write_text(commit)
    return place


def test_by_the_name_of_a_repository(folder: Path, tmp_path: Path) -> None:
    """The loader's own cache, in a process of its own, since the loader reads where it is on import."""
    # over 5 s: the first test that imports transformers pays for it
    place = cached(folder, tmp_path, "owner/vit")
    program = (
        "import torch; from camfn.zoo import load; found = load('hf:owner/vit'); print(found.classes);"
        f"own = load({f'hf:{folder}'!r}).model.state_dict();"
        "print(all(torch.equal(own[name], value) for name, value in found.model.state_dict().items()))"
    )
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    run = [sys.executable, "-c", program]
    result = subprocess.run(run, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.stdout.splitlines() == [str(NAMES), "True"], result.stderr
    (place / "refs" / "main").unlink()
    result = subprocess.run(run, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert "LoadError: cannot fetch the weights of hf:owner/vit" in result.stderr
    assert "save_pretrained wrote, as hf:FOLDER" in result.stderr


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="cannot fetch the weights of hf:"):
        load(f"hf:{tmp_path}", weights="none")
    with pytest.raises(LoadError, match="expected lite0"):
        load("hf:")

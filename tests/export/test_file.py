"""A file that is loaded, and the story of docs/export.md: one Python file without torch."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from camfn import CamfnError, explainer, export, methods
from camfn.zoo import load

from .nets import photos, small

PAGE = (Path(__file__).parents[2] / "docs/export.md").read_text(encoding="utf-8")
STORY = re.findall(r"^```python no-run\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_a_file_is_run_and_refuses_what_it_does_not_take(tmp_path: Path) -> None:
    net, path = small(), tmp_path / "net.onnx"
    explain = explainer(methods.grad_cam, net, "last")
    export.onnx(explain, photos(), path)
    file = export.load(path)
    found = file(photos(4), torch.tensor([3, -1, 0, 6]))
    assert list(found) == ["logits", "cam"]
    torch.testing.assert_close(found["logits"], net(photos(4)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(file(photos(4), 3)["cam"], explain(photos(4), 3), rtol=1e-4, atol=1e-6)
    for images, target, words in (
        (photos(2, 16), -1, "takes images"),
        (photos(), 7, "classes 0 to 6"),
        (photos(3), torch.tensor([1, 2]), "one for each of 3 images"),
    ):
        with pytest.raises(CamfnError, match=words):
            file(images, target)
    proto = onnx.load(str(path))
    del proto.metadata_props[:]
    onnx.save(proto, str(tmp_path / "plain.onnx"))
    with pytest.raises(CamfnError, match=r"not written by camfn\.export"):
        export.load(tmp_path / "plain.onnx")


def test_one_python_file_without_torch_prints_classes_and_saves_the_overlay(tmp_path: Path) -> None:
    loaded = load("tiny:cnn")
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 90, 3), dtype=np.uint8))
    photo.save(tmp_path / "photo.png")
    layer = [name for name, module in loaded.model.named_modules() if isinstance(module, torch.nn.Conv2d)][-1]
    images = torch.stack([loaded.preprocess(photo)] * 2)
    height, width = images.shape[2:]
    export.onnx(
        explainer(methods.grad_cam, loaded.model, layer),
        images,
        tmp_path / "lite0.onnx",
        heatmap=(height, width),
        classes=loaded.classes,
        preprocessing=loaded.recipe,
    )
    (text,) = [block for block in STORY if "overlay.png" in block]
    (tmp_path / "story.py").write_text("import sys\nsys.modules['torch'] = None\n" + text)
    done = subprocess.run(
        [sys.executable, "story.py", "photo.png"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        best = int(loaded.model(images[:1]).argmax())
    assert loaded.classes is not None
    assert done.stdout.split()[0] == loaded.classes[best].split()[0]
    with Image.open(tmp_path / "overlay.png") as overlay:
        assert overlay.size == (width, height)

"""A file that is loaded, and the story of docs/export.md: one Python file without torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import PIL
import pytest
import torch
from PIL import Image

from camfn import CamfnError, explainer, export, methods
from camfn._shared.errors import ArgumentTypeError, LoadError
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
    for given in (1.5, True, None, "cat", [1.0, 2.0], [], torch.tensor([[0], [1]])):
        with pytest.raises(ArgumentTypeError, match="expected a class, or a class for each image"):
            file(photos(), given)  # type: ignore[arg-type]
    assert torch.equal(file(photos(), [3, 1])["cam"], file(photos(), np.array([3, 1]))["cam"])  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="images of floats"):
        file((255 * photos()).byte())
    proto = onnx.load(str(path))
    told = proto.metadata_props[0].value
    del proto.metadata_props[:]
    onnx.save(proto, str(tmp_path / "plain.onnx"))
    with pytest.raises(CamfnError, match=r"not written by camfn\.export"):
        export.load(tmp_path / "plain.onnx")
    for damaged in ("{", "[]", '{"size": [3, 32, 32]}'):
        del proto.metadata_props[:]
        proto.metadata_props.add(key="camfn", value=damaged)
        onnx.save(proto, str(tmp_path / "damaged.onnx"))
        with pytest.raises(LoadError, match="damaged: export the model again"):
            export.load(tmp_path / "damaged.onnx")
    about = json.loads(told)
    for changed, said in (({"outputs": ["logits", "map"]}, "gives .*'cam'.* and says .*'map'"), ({}, "damaged")):
        del proto.metadata_props[:]
        kept = {key: value for key, value in about.items() if changed or key != "method"}
        proto.metadata_props.add(key="camfn", value=json.dumps(kept | changed))
        onnx.save(proto, str(tmp_path / "damaged.onnx"))
        with pytest.raises(LoadError, match=said):
            export.load(tmp_path / "damaged.onnx")
    (tmp_path / "net.aot.pt2").write_bytes(b"compiled")
    with pytest.raises(LoadError, match=r"is no ONNX file: torch\.export\.load reads a program"):
        export.load(tmp_path / "net.aot.pt2")


def test_one_command_then_one_python_file_with_onnxruntime_alone(tmp_path: Path) -> None:
    """The story of a new user: `pip install 'camfn[export]'`, a command, and on the server a file without torch."""
    needed = {re.split(r"[ ;<>=]", line)[0] for line in requires("camfn") or () if line.endswith("extra == 'export'")}
    assert needed == {"onnx", "onnxscript", "onnxruntime"}
    loaded = load("tiny:cnn")
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 90, 3), dtype=np.uint8))
    photo.save(tmp_path / "photo.png")
    command = ["-m", "camfn", "export", "lite0.onnx", "--model", "tiny:cnn", "--method", "grad_cam", "--heatmap", "64"]
    run_in(tmp_path, *command)
    packages = tmp_path / "packages"
    packages.mkdir()
    for module in (onnxruntime, np, PIL):
        place = Path(str(module.__file__)).parent
        for part in (place, *place.parent.glob(f"{'pillow' if module is PIL else place.name}.libs")):
            (packages / part.name).symlink_to(part)
    (text,) = [block for block in STORY if "overlay.png" in block]
    (tmp_path / "story.py").write_text("import sys\nsys.path.insert(0, 'packages')\n" + text)
    said = run_in(tmp_path, "-I", "-S", "story.py", "photo.png")
    image = loaded.preprocess(photo)[None]
    with torch.no_grad():
        best = int(loaded.model(image).argmax())
    assert loaded.classes is not None
    assert said.startswith(loaded.classes[best])
    with Image.open(tmp_path / "overlay.png") as overlay:
        assert overlay.size == tuple(image.shape[:1:-1])
    with pytest.raises(AssertionError, match="No module named 'torch'"):
        run_in(tmp_path, "-I", "-S", "-c", "import sys; sys.path.insert(0, 'packages'); import torch")


def run_in(folder: Path, *words: str) -> str:
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout

"""The service of examples/serve.py: requests at once share a batch, and each gets its own class and map."""

from __future__ import annotations

import importlib.util
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from camfn import explainer, export, methods, zoo

SERVE = Path(__file__).parents[2] / "examples/serve.py"


def bytes_of(photo: Image.Image) -> bytes:
    data = io.BytesIO()
    photo.save(data, "PNG")
    return data.getvalue()


def test_requests_at_once_share_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    testing: Any = pytest.importorskip("fastapi.testclient")
    loaded = zoo.load("tiny:cnn")
    explain = explainer(methods.grad_cam, loaded.model, "body")
    rng = np.random.default_rng(0)
    photos = [Image.fromarray(rng.integers(0, 256, (90, 80 + k, 3), dtype=np.uint8)) for k in range(6)]
    images = torch.stack([loaded.preprocess(photo) for photo in photos])
    export.onnx(
        explain, images, tmp_path / "tiny.onnx", classes=loaded.classes, preprocessing=loaded.recipe, heatmap=(8, 8)
    )
    monkeypatch.setenv("CAMFN_FILE", str(tmp_path / "tiny.onnx"))
    spec = importlib.util.spec_from_file_location("serve", SERVE)
    assert spec is not None
    assert spec.loader is not None
    serve = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(serve)
    monkeypatch.setattr(serve, "WAIT", 0.2)
    with testing.TestClient(serve.service) as client:

        def ask(k: int) -> Any:
            return client.post("/explain", params={"target": k - 1}, content=bytes_of(photos[k])).json()

        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(ask, range(6)))
        batches = serve.service.state.explainer.batches
        assert sum(batches) == 6
        assert max(batches) > 1
        for k, answer in enumerate(answers):
            logits = loaded.model(images[k : k + 1]).detach().softmax(1)
            index = int(logits.argmax()) if k == 0 else k - 1
            assert answer["index"] == index
            assert answer["probability"] == pytest.approx(float(logits[0, index]), rel=1e-3)
            cam = explain(images[k : k + 1], index)[0].detach()
            torch.testing.assert_close(torch.tensor(answer["cam"]), cam, rtol=1e-3, atol=1e-4 * float(cam.abs().max()))
        assert client.post("/explain", content=b"no photo").status_code == 415
        assert client.post("/explain", params={"target": 1000}, content=bytes_of(photos[0])).status_code == 422
        assert ask(0)["index"] == answers[0]["index"]


def service_of(facts: dict[str, Any]) -> Any:
    spec = importlib.util.spec_from_file_location("serve", SERVE)
    assert spec is not None
    assert spec.loader is not None
    serve = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(serve)
    explain = object.__new__(serve.Explainer)
    explain.facts = facts
    return explain


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "LA"])
@pytest.mark.parametrize(
    ("size", "resize", "channels"),
    [((24, 24), 30, 3), ((24, 32), (28, 40), 3), ((40, 41), None, 3), ((24, 24), 20, 1)],
)
def test_a_photo_is_prepared_as_camfn_does(tmp_path: Path, mode: str, size: Any, resize: Any, channels: int) -> None:
    """Turned by EXIF, transparent, gray, stretched, or smaller than the crop."""
    pytest.importorskip("fastapi")
    from dataclasses import asdict

    from camfn._photos.read import read_photo
    from camfn.zoo._photo.recipe import Recipe

    recipe = Recipe(size, resize, (0.4,) * channels, (0.2,) * channels, "bicubic")
    drawn = np.random.default_rng(0).integers(0, 256, (37, 50, 4), dtype=np.uint8)
    photo = Image.fromarray(drawn).convert(mode)
    exif = Image.Exif()
    exif[0x112] = 6
    photo.save(tmp_path / "photo.png", exif=exif)
    found = service_of({"preprocessing": asdict(recipe)}).pixels((tmp_path / "photo.png").read_bytes())
    expected = recipe(read_photo(tmp_path / "photo.png"))
    torch.testing.assert_close(torch.from_numpy(np.ascontiguousarray(found)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("photo", [Image.new("I;16", (30, 30), 900), Image.new("RGB", (9000, 2))])
def test_photos_of_16_bits_and_strips_are_refused(photo: Image.Image) -> None:
    pytest.importorskip("fastapi")
    with pytest.raises(OSError, match="expected 8 bits a color"):
        service_of({"preprocessing": {"resize": 256, "size": (224, 224)}}).pixels(bytes_of(photo))

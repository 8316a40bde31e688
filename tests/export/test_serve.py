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
        wrong_requests(client, bytes_of(photos[0]))
        serve.service.state.explainer.waiting.qsize = lambda: serve.QUEUE
        found = client.post("/explain", content=bytes_of(photos[0]))
        assert (found.status_code, found.headers["retry-after"]) == (429, "1")
        del serve.service.state.explainer.waiting.qsize
        assert ask(0)["index"] == answers[0]["index"]


def wrong_requests(client: Any, photo: bytes) -> None:
    """Each is a 4xx whose detail says what was expected; no address of an object is among the words."""
    large = io.BytesIO()
    Image.new("1", (8000, 8000)).save(large, "PNG")
    bomb = io.BytesIO()
    Image.new("1", (20000, 20000)).save(bomb, "PNG")
    as_json = {"content-type": "application/json"}
    for given, code, text in (
        ({"content": b""}, 400, "the body is empty: send the photo itself"),
        ({"content": b"", "headers": as_json}, 400, "the body is empty"),
        ({"content": b"no photo"}, 415, "the body is no photo: expected JPEG, PNG"),
        ({"json": {"photo": "cat.png"}}, 415, "the body is no photo"),
        ({"data": {"photo": "cat.png"}}, 415, "the body is no photo"),
        ({"files": {"image": ("cat.png", photo, "image/png")}}, 415, "got a form: send the photo itself"),
        ({"content": photo[: len(photo) // 2]}, 415, "truncated"),
        ({"content": large.getvalue()}, 413, "at most 50000000 pixels, got 8000 x 8000"),
        ({"content": bomb.getvalue()}, 415, "exceeds limit"),
        ({"content": b"0" * 20_000_001}, 413, "at most 20000000 bytes"),
        ({"content": photo, "params": {"target": 1000}}, 422, "expected a class, 0 to 9"),
        ({"content": photo, "params": {"target": "cat"}}, 422, "valid integer"),
        ({"content": photo, "params": {"class": 3}}, 422, "expected one target at most, and nothing else, got class=3"),
        ({"content": photo, "params": [("target", 1), ("target", 2)]}, 422, "expected one target at most"),
    ):
        found = client.post("/explain", **given)
        assert found.status_code == code, (found.status_code, found.text)
        assert text in found.text
        assert "object at 0x" not in found.text
    assert client.get("/explain").status_code == 405
    # the bytes decide, as a client may not name the type: curl says that the body is a form
    assert client.post("/explain", content=photo, headers=as_json).status_code == 200


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
    from fastapi import HTTPException

    with pytest.raises(HTTPException, match="expected 8 bits a color"):
        service_of({"preprocessing": {"resize": 256, "size": (224, 224)}}).pixels(bytes_of(photo))

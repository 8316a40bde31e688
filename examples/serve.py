"""A service that returns a photo's class and map, by FastAPI and onnxruntime, without torch; requests share a batch.

    pip install 'camfn[serve]' uvicorn
    camfn export lite0.onnx --model lite0 --heatmap 224
    CAMFN_FILE=lite0.onnx uvicorn serve:service
    curl --data-binary @cat.jpg 'localhost:8000/explain?target=-1'

Requests that arrive within WAIT seconds of the first run as one batch, of at most LARGEST photos. A wrong request gets
a 4xx, whose `detail` says what was expected; 429 says that QUEUE photos wait already.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from fastapi import FastAPI, HTTPException, Request
from PIL import Image, ImageOps, UnidentifiedImageError

LARGEST, WAIT = 8, 0.01
BYTES, PIXELS, LONGEST, QUEUE = 20_000_000, 50_000_000, 50, 64
HOW = "send the photo itself as the body, as in curl --data-binary @cat.jpg"


class Asked(NamedTuple):
    """A photo as the network takes it, its class, and the answer to come."""

    pixels: np.ndarray
    target: int
    answer: asyncio.Future[dict[str, Any]]


def upright(data: bytes) -> Image.Image:
    """Decode a photo as camfn reads it: turned as its EXIF data say, transparent pixels on white, 8 bits a color."""
    try:
        photo = Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise OSError(f"expected JPEG, PNG or another format of Pillow; {HOW}") from error
    if photo.width * photo.height > PIXELS:
        raise HTTPException(413, f"expected a photo of at most {PIXELS} pixels, got {photo.width} x {photo.height}")
    if photo.mode == "F" or photo.mode.startswith("I") or max(photo.size) > LONGEST * min(photo.size):
        raise OSError(f"expected 8 bits a color and sides within 1 : {LONGEST}, got {photo.mode} of {photo.size}")
    photo = ImageOps.exif_transpose(photo)
    if photo.has_transparency_data:
        photo = photo.convert("RGBA")
        photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo)
    return photo.convert("RGB")


def filter_of(how: dict[str, Any]) -> Image.Resampling:
    """Return Pillow's filter of a preprocessing."""
    return Image.Resampling[how["interpolation"].upper()]


def start(length: int, crop: int) -> int:
    """Return where a crop in the center begins; a photo that is smaller gets a black border."""
    return round((length - crop) / 2) if crop <= length else -((crop - length) // 2)


class Explainer:
    """A file of `camfn export`, and the requests that wait for it."""

    def __init__(self, file: str) -> None:
        self.session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        self.facts = json.loads(self.session.get_modelmeta().custom_metadata_map["camfn"])
        if self.facts["target"] != "input" or self.facts["batch"] != "dynamic" or self.facts["preprocessing"] is None:
            raise ValueError(f"{file}: expected --target input, an open batch, and a preprocessing in numbers")
        self.waiting: asyncio.Queue[Asked] = asyncio.Queue()
        self.batches: list[int] = []

    def pixels(self, data: bytes) -> np.ndarray:
        """Decode a photo, and prepare it as the file says."""
        how = self.facts["preprocessing"]
        try:
            photo = upright(data)
        except HTTPException:
            raise
        except Exception as error:  # a broken file makes Pillow's decoders raise whatever they like
            raise HTTPException(415, f"the body is no photo: {error}") from error
        resize, (height, width) = how["resize"], how["size"]
        if isinstance(resize, int):
            photo = photo.resize([int(resize * side / min(photo.size)) for side in photo.size], filter_of(how))
        elif resize is not None:
            photo = photo.resize(tuple(resize[::-1]), filter_of(how))
        left, top = start(photo.width, width), start(photo.height, height)
        seen = photo.crop((left, top, left + width, top + height))
        if len(how["mean"]) == 1:
            seen = seen.convert("L")
        values = np.asarray(seen, np.float32).reshape(height, width, -1) / 255
        return ((values - np.float32(how["mean"])) / np.float32(how["std"])).transpose(2, 0, 1)

    async def work(self) -> None:
        """Take what waits, run it as one batch in a thread, and answer; for as long as the service lives."""
        while True:
            asked = [await self.waiting.get()]
            await asyncio.sleep(WAIT)
            while len(asked) < LARGEST and not self.waiting.empty():
                asked.append(self.waiting.get_nowait())
            try:
                answers = await asyncio.to_thread(self.run, asked)
            except Exception as error:  # the requests fail, the service goes on
                for one in asked:
                    one.answer.set_exception(error) if not one.answer.done() else None
                continue
            for one, answer in zip(asked, answers):
                if not one.answer.done():
                    one.answer.set_result(answer)

    def run(self, asked: list[Asked]) -> list[dict[str, Any]]:
        """Run one batch."""
        self.batches.append(len(asked))
        feed = {"images": np.stack([one.pixels for one in asked]), "target": np.array([one.target for one in asked])}
        found = dict(zip(self.facts["outputs"], self.session.run(self.facts["outputs"], feed)))
        answers = []
        for one, logits, cam in zip(asked, found[self.facts["outputs"][0]], found["cam"]):
            chances = np.exp(logits - logits.max())
            index = int(logits.argmax()) if one.target < 0 else one.target
            name = self.facts["classes"][index] if self.facts["classes"] else str(index)
            chance = float(chances[index] / chances.sum())
            answers.append({"index": index, "class": name, "probability": chance, "cam": cam.tolist()})
        return answers


@asynccontextmanager
async def _living(service: FastAPI) -> AsyncIterator[None]:
    service.state.explainer = Explainer(os.environ["CAMFN_FILE"])
    working = asyncio.create_task(service.state.explainer.work())
    yield
    working.cancel()


service = FastAPI(lifespan=_living)


@service.post("/explain")
async def explain(request: Request, target: int = -1) -> dict[str, Any]:
    """Answer with the class of the photo in the body, or of `target`, its probability and its map."""
    explainer: Explainer = service.state.explainer
    classes = explainer.session.get_outputs()[0].shape[1]
    if not -1 <= target < classes:
        raise HTTPException(422, f"target: expected a class, 0 to {classes - 1}, or -1 for the top class; got {target}")
    unknown = sorted(set(request.query_params) - {"target"})
    if unknown or len(request.query_params.multi_items()) > 1:
        raise HTTPException(422, f"expected one target at most, and nothing else, got {request.url.query}")
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise HTTPException(415, f"expected a photo, got a form: {HOW}")
    if explainer.waiting.qsize() >= QUEUE:
        raise HTTPException(429, f"{QUEUE} photos wait already: ask again later", {"Retry-After": "1"})
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > BYTES:
            raise HTTPException(413, f"expected a photo of at most {BYTES} bytes")
    if not data:
        raise HTTPException(400, f"the body is empty: {HOW}")
    pixels = await asyncio.to_thread(explainer.pixels, bytes(data))
    asked = Asked(pixels, target, asyncio.get_running_loop().create_future())
    await explainer.waiting.put(asked)
    return await asked.answer

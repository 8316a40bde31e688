"""The exported lite0 in float16 and int8, by onnxruntime's own tools: prediction and map beside those of float32.

    python -m benchmarks.halved

The photos are the 20 built-in ones: int8 is calibrated on ten, and all figures are of the ten others. The map is of
float32's top class in each file.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxruntime import InferenceSession, SessionOptions
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16
from torch import Tensor

from camfn import explainer, export, methods, metrics
from camfn.evaluate import builtin_photos
from camfn.zoo import load


class Photos(CalibrationDataReader):  # type: ignore[misc]
    """Gives photos one at a time, with the class -1, which is the top class."""

    def __init__(self, images: Tensor) -> None:
        self.feeds: Iterator[dict[str, Any]] = iter(
            [{"images": image[None].numpy(), "target": torch.tensor([-1]).numpy()} for image in images]
        )

    def get_next(self) -> dict[str, Any] | None:
        """Return the next input, or None."""
        return next(self.feeds, None)


def main() -> None:
    """Export, make the smaller files, and print a row for each."""
    loaded = load("lite0")
    images = torch.stack([loaded.preprocess(photo.read()) for photo in builtin_photos()])
    calibrating, held = images[::2], images[1::2]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        export.onnx(explainer(methods.grad_cam, loaded.model, "bn2"), images[:2], folder / "float32.onnx")
        smaller(folder, calibrating)
        whole = export.load(folder / "float32.onnx")
        expected = whole(held)
        print("| file | MB | same top class | largest change of a probability | rank correlation | lowest | ms |")
        print("|---|---|---|---|---|---|---|")
        files = [file for file in sorted(folder.glob("*.onnx")) if file.stem != "prepared"]
        for file, best in zip(files, times(files, held[:1])):
            print(row(file, held, expected, best))


def smaller(folder: Path, calibrating: Tensor) -> None:
    """Write float16.onnx and int8.onnx."""
    whole = onnx.load(str(folder / "float32.onnx"))
    onnx.save(convert_float_to_float16(whole, keep_io_types=True), str(folder / "float16.onnx"))
    quant_pre_process(str(folder / "float32.onnx"), str(folder / "prepared.onnx"), skip_symbolic_shape=True)
    quantize_static(
        str(folder / "prepared.onnx"),
        str(folder / "int8.onnx"),
        Photos(calibrating),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
    )
    # the tools drop what the file says of itself
    for file in folder.glob("[fi]*.onnx"):
        made = onnx.load(str(file))
        if not any(entry.key == "camfn" for entry in made.metadata_props):
            made.metadata_props.extend(entry for entry in whole.metadata_props if entry.key == "camfn")
            onnx.save(made, str(file))


def times(files: list[Path], image: Tensor, rounds: int = 40) -> list[float]:
    """Return the best seconds of each file on one thread; they run in turn, so that a busy machine is busy for all."""
    options = SessionOptions()
    options.intra_op_num_threads = 1
    runs = [InferenceSession(str(file), options, providers=["CPUExecutionProvider"]) for file in files]
    feed = {"images": image.numpy(), "target": torch.tensor([-1]).numpy()}
    best = [float("inf")] * len(files)
    for _ in range(rounds):
        for i, run in enumerate(runs):
            start = time.perf_counter()
            run.run(None, feed)
            best[i] = min(best[i], time.perf_counter() - start)
    return best


def row(file: Path, held: Tensor, expected: dict[str, Tensor], best: float) -> str:
    """Run a file on photos, and say how far it is from float32."""
    made = export.load(file)
    top = expected["logits"].argmax(1)
    found = made(held, top)
    chances = [one["logits"].softmax(1) for one in (found, expected)]
    changed = float((chances[0] - chances[1]).abs().max())
    alike = metrics.spearman(found["cam"], expected["cam"])
    same = int((found["logits"].argmax(1) == top).sum())
    return (
        f"| {file.stem} | {file.stat().st_size / 1e6:.2f} | {same} of {len(top)} | {changed:.3f} | "
        f"{float(alike.median()):.3f} | {float(alike.min()):.3f} | {1e3 * best:.0f} |"
    )


if __name__ == "__main__":
    main()

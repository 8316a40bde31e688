"""An exported file, run by onnxruntime."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._shared.checks import describe
from .._shared.errors import ArgumentTypeError, CamfnError, LoadError, first_line
from .._shared.files import no_file
from .._shared.optional import extra

_KEYS = frozenset(
    ["size", "batch", "target", "outputs", "model", "layer", "layout", "method", "explain", "classes", "preprocessing"]
)
"""What every file says of itself."""


@dataclass(frozen=True)
class Deployed:
    """A file that `camfn.export.onnx` wrote: call it with images and a class for the prediction and the map.

    Attributes:
        path: of the file.
        facts: the metadata of the file, as `onnx` returned them.

    Example:
        >>> from camfn.export import load
        >>> load("lite0.onnx")(images, 281)["cam"].shape  # doctest: +SKIP
        torch.Size([1, 7, 7])
    """

    path: str
    facts: dict[str, Any]
    _session: Any = field(repr=False, compare=False)

    def __call__(self, images: Tensor, target: int | Sequence[int] | Tensor = -1) -> dict[str, Tensor]:
        """Run images (B, C, H, W); return the outputs by name.

        Args:
            images: of the size of the file, float32.
            target: a class, or one for each image; -1 for the top class. A file whose target is fixed takes -1 alone.

        Raises:
            CamfnError: the file does not take these images or this target.
        """
        size = tuple(self.facts["size"])
        if not isinstance(images, Tensor) or tuple(images.shape[1:]) != size or not len(images):
            raise CamfnError(f"{self.path} takes images (B, {', '.join(map(str, size))}), got {describe(images)}")
        if not images.is_floating_point():
            raise ArgumentTypeError(
                f"{self.path} takes images of floats, prepared as facts['preprocessing'] says; got {describe(images)}"
            )
        count = self.facts["batch"]
        if count != "dynamic" and len(images) != count:
            raise CamfnError(f"{self.path} takes {count} images at once, got {len(images)}")
        feed = {"images": images.detach().float().cpu().numpy()}
        asked = _classes(target)
        if self.facts["target"] == "input":
            if len(asked) not in (1, len(images)):
                raise CamfnError(
                    f"target: expected one class, or one for each of {len(images)} images; got {len(asked)}"
                )
            classes = self._session.get_outputs()[0].shape[1]
            if isinstance(classes, int) and bool(((asked < -1) | (asked >= classes)).any()):
                raise CamfnError(f"target: expected classes 0 to {classes - 1}, or -1; got {asked.tolist()}")
            feed["target"] = asked.expand(len(images)).numpy()
        elif bool((asked != -1).any()):
            raise CamfnError(f"{self.path} explains {self.facts['target']} and takes no class")
        names = self.facts["outputs"]
        return {name: torch.from_numpy(found) for name, found in zip(names, self._session.run(names, feed))}


def _classes(target: Any) -> Tensor:
    """Return a class, or one for each image, as (B,) of int64."""
    try:
        asked = torch.as_tensor(target).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        asked = torch.empty(0)
    if asked.is_floating_point() or asked.is_complex() or asked.dtype is torch.bool or asked.ndim > 1:
        raise ArgumentTypeError(
            f"target: expected a class, or a class for each image as (B,) of integers; got {describe(target)}"
        )
    return asked.reshape(-1).to(torch.int64)


def load(path: str | Path) -> Deployed:
    """Open a file that `onnx` wrote, by onnxruntime on the CPU.

    Args:
        path: of the file.

    Returns:
        A function of images and a class, with the facts of the file.

    Raises:
        LoadError: the file does not exist, onnxruntime cannot read it, or `camfn.export` did not write it.
        MissingPackageError: onnxruntime is not installed.

    Example:
        >>> load("nothing.onnx")
        Traceback (most recent call last):
            ...
        camfn._shared.errors.LoadError: there is no file nothing.onnx
    """
    with extra("onnxruntime", "camfn.export.load", name="export"):
        import onnxruntime  # noqa: F401
    if not Path(path).is_file():
        raise LoadError(no_file(Path(path)))
    if Path(path).suffix == ".pt2":
        raise LoadError(
            f"{path} is no ONNX file: torch.export.load reads a program, and torch._inductor.aoti_load_package a "
            "package of AOTInductor. camfn explain and camfn verify take the programs that camfn export NAME.pt2 wrote"
        )
    try:
        session = session_of(str(path))
    except Exception as error:
        raise LoadError(f"onnxruntime cannot read {path}: {first_line(error):.200}") from error
    told = session.get_modelmeta().custom_metadata_map.get("camfn")
    if told is None:
        raise LoadError(
            f"{path} was not written by camfn.export, and gives no map: export the model with its map, as in "
            f"camfn export {Path(path).name} --model NAME --method grad_cam"
        )
    facts = _facts(told, path)
    given = [output.name for output in session.get_outputs()]
    if not set(facts["outputs"]) <= set(given):
        raise LoadError(f"{path} gives {given} and says {facts['outputs']}: export the model again, by camfn export")
    return Deployed(str(path), facts, session)


def _facts(told: str, path: str | Path) -> dict[str, Any]:
    """Read what a file says of itself.

    Raises:
        LoadError: it is not what `onnx` writes.
    """
    try:
        facts = json.loads(told)
    except ValueError:
        facts = None
    if isinstance(facts, dict) and facts.keys() >= _KEYS:
        return facts
    raise LoadError(f"{path}: its metadata under 'camfn' are damaged: export the model again, by camfn export")


def session_of(model: str | bytes) -> Any:
    """Return onnxruntime's session of a file, or of its bytes, on the CPU; it logs nothing, its errors say all."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

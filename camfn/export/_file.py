"""An exported file, run by onnxruntime."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._shared.checks import describe
from .._shared.errors import CamfnError, LoadError, first_line
from .._shared.optional import extra


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

    def __call__(self, images: Tensor, target: int | Tensor = -1) -> dict[str, Tensor]:
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
        count = self.facts["batch"]
        if count != "dynamic" and len(images) != count:
            raise CamfnError(f"{self.path} takes {count} images at once, got {len(images)}")
        feed = {"images": images.detach().float().cpu().numpy()}
        asked = torch.as_tensor(target, dtype=torch.int64).reshape(-1)
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
        raise LoadError(f"there is no file {path}")
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
    return Deployed(str(path), json.loads(told), session)


def session_of(model: str | bytes) -> Any:
    """Return onnxruntime's session of a file, or of its bytes, on the CPU; it logs nothing, its errors say all."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

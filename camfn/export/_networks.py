"""Exported ONNX files as a page needs them: their facts checked, and weights that several files share stored once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .._shared.errors import CamfnError
from .._shared.files import no_file
from .._shared.optional import extra
from ._facts import differences_of

INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
"""Filters of Pillow that the page knows."""

Shapes = dict[str, tuple[int, list[int | str]]]
"""Of inputs or outputs by name: the kind of number, and the sides; an open side is a word."""

_FLOAT32 = 1
"""ONNX's number of the kind."""

_SMALL = 1024
"""Weights of fewer bytes stay in the graph."""


class Networks(NamedTuple):
    """Several exported files, without what they have in common.

    Attributes:
        facts: of each file, what it says of itself.
        graphs: of each file, the ONNX graph whose weights lie in `weights.bin`.
        weights: what `weights.bin` holds.
    """

    facts: list[dict[str, Any]]
    graphs: list[bytes]
    weights: bytes


def read_networks(files: Sequence[str | Path]) -> Networks:
    """Read files that `camfn.export.onnx` wrote, and check that a page can run them.

    Raises:
        CamfnError: a file of another kind, or one that lacks what a page needs, and the export that has it.
        MissingPackageError: onnx is not installed.
    """
    with extra("onnx", "camfn.export.page", name="export"):
        import onnx
    facts, graphs, store = [], [], _Store()
    for file in files:
        if not Path(file).is_file():
            raise CamfnError(f"page: {no_file(Path(file))}")
        try:
            proto = onnx.load(str(file))
        except Exception as error:  # protobuf's own errors have no common class
            raise CamfnError(f"page: {file} is no ONNX file: {error}") from error
        facts.append(_facts(proto, str(file)))
        store.take(proto)
        graphs.append(proto.SerializeToString())
    return Networks(facts, graphs, bytes(store.content))


class _Store:
    """Weights of several files, each stored once."""

    def __init__(self) -> None:
        self.content = bytearray()
        self._places: dict[bytes, int] = {}

    def take(self, proto: Any) -> None:
        """Move the weights of a file here."""
        from onnx import TensorProto, numpy_helper

        for tensor in proto.graph.initializer:
            raw = tensor.raw_data or (
                b"" if tensor.data_type == TensorProto.STRING else numpy_helper.to_array(tensor).tobytes()
            )
            if len(raw) < _SMALL:
                continue
            name, dims, kind = tensor.name, list(tensor.dims), tensor.data_type
            tensor.Clear()
            tensor.name, tensor.data_type, tensor.data_location = name, kind, TensorProto.EXTERNAL
            tensor.dims.extend(dims)
            for key, value in (("location", "weights.bin"), ("offset", self._place(raw)), ("length", len(raw))):
                entry = tensor.external_data.add()
                entry.key, entry.value = key, str(value)

    def _place(self, raw: bytes) -> int:
        """Return where these bytes begin; store them if they are new."""
        key = hashlib.sha256(raw).digest()
        if key not in self._places:
            self.content.extend(bytes(-len(self.content) % 64))
            self._places[key] = len(self.content)
            self.content.extend(raw)
        return self._places[key]


def _facts(proto: Any, file: str) -> dict[str, Any]:
    """Return what a page says of a file.

    Raises:
        CamfnError: the file lacks something.
    """
    told = {entry.key: entry.value for entry in proto.metadata_props}.get("camfn")
    if told is None:
        raise CamfnError(
            f"page: {file} was not written by camfn export: expected a file with a map, as camfn.export.onnx"
        )
    try:
        about = dict(json.loads(told))
    except (TypeError, ValueError) as error:
        raise CamfnError(f"page: the metadata of {file} are damaged: export the model again") from error
    inputs, outputs = (_shapes(values) for values in (proto.graph.input, proto.graph.output))
    _check_form(inputs, outputs, file)
    shape = inputs["images"][1][1:]
    output, (_, logits) = next(iter(outputs.items()))
    preparation = checked_preparation(about.get("preprocessing"), shape, file)
    classes = about.get("classes")
    if classes is not None and len(classes) != logits[1]:
        raise CamfnError(f"page: {file} has {len(classes)} class names for {logits[1]} numbers")
    return {
        "model": about.get("model"),
        "method": about.get("method"),
        "layer": about.get("layer"),
        "output": output,
        "shape": shape,
        "count": logits[1],
        "classes": classes,
        "preprocessing": preparation,
        "words": _in_words(preparation),
        "verified": _verified(about.get("verified")),
        "bytes": Path(file).stat().st_size,
    }


def _check_form(inputs: Shapes, outputs: Shapes, file: str) -> None:
    """Refuse inputs and outputs that the page does not know how to give and to read."""
    if list(inputs) != ["images", "target"]:
        raise CamfnError(
            f"page: {file} takes {', '.join(inputs)}: export it with --target input, so that any class can be asked for"
        )
    kind, (batch, *shape) = inputs["images"]
    if kind != _FLOAT32 or len(shape) != 3 or not all(isinstance(side, int) for side in shape):
        raise CamfnError(
            f"page: {file} takes {[batch, *shape]}: expected images of float32 (B, C, H, W) of a fixed size"
        )
    if isinstance(batch, int) and batch != 1:
        raise CamfnError(
            f"page: {file} takes {batch} images at a time: export it with a dynamic batch, or with one image"
        )
    output, (_, logits) = next(iter(outputs.items()))
    if len(logits) != 2 or not isinstance(logits[1], int):
        raise CamfnError(f"page: {file} gives {output} of {logits}: expected one number a class, (B, classes)")
    if len(outputs.get("cam", (0, []))[1]) != 3:
        raise CamfnError(f"page: {file} gives no map of (B, H, W) that is named cam, but {', '.join(outputs)}")


def _shapes(values: Any) -> Shapes:
    """Return the dtype and the shape of each input or output by name."""
    return {
        value.name: (
            value.type.tensor_type.elem_type,
            [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim],
        )
        for value in values
    }


def checked_preparation(given: Any, shape: Sequence[int | str], file: str) -> dict[str, Any]:
    """Return how a photo becomes the input, in numbers; refuse what the page cannot repeat.

    Raises:
        CamfnError: it is not known in numbers, or does not fit the input.
    """
    lacks = [key for key in ("size", "mean", "std", "interpolation") if not isinstance(given, dict) or key not in given]
    if lacks:
        raise CamfnError(
            f"page: how a photo becomes the input of {file} is not known in numbers: export it with preprocessing= a "
            "dict of size, resize, mean, std and interpolation (--input-size, --resize, --mean, --std)"
        )
    channels, height, width = shape
    mean, std, size = list(given["mean"]), list(given["std"]), list(given["size"])
    if size != [height, width] or len(mean) not in (1, 3) or not len(mean) == len(std) == channels:
        raise CamfnError(
            f"page: {file} takes ({channels}, {height}, {width}); its preprocessing gives {size} with {len(mean)} "
            "channels. Expected the same, and one or three channels"
        )
    interpolation = str(given["interpolation"]).lower()
    if interpolation not in INTERPOLATIONS:
        raise CamfnError(
            f"page: {file} resizes by {interpolation}, which the page does not know: {', '.join(INTERPOLATIONS)}"
        )
    resize = given.get("resize")
    return {
        "size": size,
        "resize": resize if resize is None or isinstance(resize, int) else list(resize),
        "mean": mean,
        "std": std,
        "interpolation": interpolation,
    }


def _in_words(preparation: dict[str, Any]) -> str:
    """Say how a photo becomes the input."""
    resize, (height, width) = preparation["resize"], preparation["size"]
    how = {int: f"shorter side to {resize}, ", list: f"to {resize}, "}.get(type(resize), "")
    numbers = "; ".join(f"{key} {', '.join(f'{v:.4g}' for v in preparation[key])}" for key in ("mean", "std"))
    return f"{how}center {height} x {width}, {preparation['interpolation']}; {numbers}"


def _verified(given: Any) -> str:
    """Say how a file agrees with the model whose export it is."""
    if not isinstance(given, dict) or not given.get("differences"):
        return "not compared with the model"
    return f"largest relative differences from the model: {differences_of(given)}"

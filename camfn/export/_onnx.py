"""One ONNX file with the prediction and the map, written once it was run and agrees."""

from __future__ import annotations

import json
import logging
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from .._shared.checks import describe
from .._shared.errors import ArgumentTypeError, CamfnError, first_line
from .._shared.files import check_place, reason_of, write_whole
from .._shared.optional import extra
from ._check import TOLERANCE, Compared, compared, fresh, relative
from ._facts import facts
from ._file import session_of
from ._plan import Batch, Plan, plan
from ._program import Stage, exported, teller
from ._trace import state_of


def onnx(
    explain: Any,
    inputs: Any,
    path: str | Path,
    *,
    target: Any = "input",
    heatmap: tuple[int, int] | None = None,
    batch: Batch = "dynamic",
    model: str | None = None,
    classes: list[str] | None = None,
    preprocessing: Any = None,
    progress: Stage | None = None,
) -> dict[str, Any]:
    """Write one ONNX file that gives a model's prediction and its map, of standard operators alone.

    The inputs are `images`, float32 (B, C, H, W), and `target`, int64 (B,), or (1,) for all images: a class, or -1 for
    the top class. The outputs are `logits`, `cam`, `heatmap` where it has a size, and what else the model returned. The
    file's metadata hold, as JSON under "camfn", the model, the layer, the layout, the method, the classes, the
    preprocessing, camfn's version and what was verified.

    `onnx` runs the graph by onnxruntime on new images, in other numbers than it traced, before it writes the file. The
    outputs and the map must agree with `explain` to 1e-4 of their largest value; where they do not, `onnx` compares
    both with float64, and allows the file up to four times the error of `explain`.

    Args:
        explain: as for `program`.
        inputs: as for `program`.
        path: of the file, `.onnx`.
        target: as for `program`.
        heatmap: as for `program`.
        batch: as for `program`.
        model: the name of the model in the metadata.
        classes: class names by index, one for each logit, for the metadata.
        preprocessing: how a photo becomes the input, for the metadata: numbers by name, or the `recipe` of a model of
            `camfn.zoo`.
        progress: called with the name of each stage as it begins; an export takes 15 to 100 seconds.

    Returns:
        The facts of the metadata.

    Raises:
        CamfnError: `explain` cannot be exported (the error names the operator or the place), or the file disagrees
            with `explain`.
        MissingPackageError: onnx, onnxscript or onnxruntime is not installed.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> import torch
        >>> from camfn import explainer
        >>> from camfn.methods import grad_cam
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5)).eval()
        >>> with TemporaryDirectory() as folder:
        ...     found = onnx(explainer(grad_cam, net, "0"), torch.rand(2, 3, 8, 8), f"{folder}/net.onnx")
        >>> found["outputs"], found["verified"]["batches"]
        (['logits', 'cam'], [3, 1])
    """
    require()
    file = checked_path(path, ".onnx")
    tell = teller(progress)
    what = plan(explain, inputs, target, heatmap, batch)
    _check_size(what)
    about = facts(what, model, classes, preprocessing)
    made = exported(what, tell)
    tell("converting to ONNX")
    proto = converted(what, made)
    tell("checking")
    found = about | {"verified": checked_proto(what, proto)._asdict()}
    entry = proto.metadata_props.add()
    entry.key, entry.value = "camfn", json.dumps(found)
    data = proto.SerializeToString()
    written(file, lambda at: at.write_bytes(data))
    return found


_LARGEST = 2_000_000_000
"""Bytes of weights that one ONNX file has room for."""


def _check_size(what: Plan) -> None:
    """Refuse a model that one file cannot hold, before any work."""
    size = sum(value.nbytes for value in state_of(what.model).values())
    if size > _LARGEST:
        raise CamfnError(
            f"export: the model has {size / 1e9:.2f} GB of weights, and one ONNX file holds 2 GB: take export.program, "
            "as torch.export.save(export.program(explain, inputs), 'net.pt2'), or export.aot"
        )


def require() -> None:
    """Refuse to begin where a package is missing."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        with extra(package, "camfn.export.onnx", name="export"):
            __import__(package)


def checked_path(path: str | Path, suffix: str) -> Path:
    """Refuse a path that cannot be written to, before any work."""
    if not isinstance(path, (str, os.PathLike)):
        raise ArgumentTypeError(f"export: expected a path that ends in {suffix}, got {describe(path)}")
    file = Path(path)
    if file.suffix != suffix:
        raise CamfnError(f"export: expected a path that ends in {suffix}, got {str(path)!r}")
    if not file.parent.is_dir():
        raise CamfnError(f"export: there is no folder {str(file.parent)!r}")
    if file.is_dir():
        raise CamfnError(f"export: {str(path)!r} is a folder: expected the path of a file")
    check_place(file, "export: path")
    return file


def written(file: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole.

    Raises:
        CamfnError: the system cannot write it; it leaves no part of the file, and keeps the file before it.
    """
    try:
        write_whole(file, write)
    except OSError as error:
        raise CamfnError(f"export: {file} cannot be written: {reason_of(error)}. Nothing was written") from error


def converted(what: Plan, made: ExportedProgram) -> Any:
    """Convert a program to ONNX, with its parameters inside; refuse operators that are not ONNX's own."""
    silent = logging.getLogger("torch.onnx")
    before = silent.level
    silent.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result: Any = torch.onnx.export(
                made,
                (),
                dynamo=True,
                verbose=False,
                external_data=False,
                input_names=list(what.inputs),
                output_names=list(what.names),
            )
        proto = result.model_proto
    except Exception as error:
        reason = next((line for line in _lines(error) if "No ONNX function" in line), _lines(_cause(error))[0])
        raise CamfnError(
            f"export: ONNX cannot express a part of this graph: {reason:.300}. Another layer or method may not need it"
        ) from error
    finally:
        silent.setLevel(before)
    foreign = sorted({node.domain for node in proto.graph.node} - {"", "ai.onnx"})
    if foreign:
        named = sorted({f"{node.domain}.{node.op_type}" for node in proto.graph.node if node.domain in foreign})
        raise CamfnError(f"export: the graph has operators beyond the standard ones: {', '.join(named)}")
    for given in proto.graph.input:
        # only the choice of the class sees the target, and one class stands for all images
        if given.name == "target" and what.dynamic:
            size = given.type.tensor_type.shape.dim[0]
            size.ClearField("dim_value")
            size.dim_param = "targets"
            # what is noted of the sizes within takes the two for one, and onnxruntime would share their memory
            del proto.graph.value_info[:]
    _name_the_batch(proto)
    return proto


def _name_the_batch(proto: Any) -> None:
    """Call the open size of images and outputs "batch", in place of a symbol of the trace."""
    symbol = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if symbol and size.dim_param:
                size.dim_param = re.sub(rf"\b{symbol}\b", "batch", size.dim_param)


def _cause(error: BaseException) -> BaseException:
    """Return the first error of those that led to this one."""
    return error if error.__cause__ is None else _cause(error.__cause__)


def _lines(error: BaseException) -> list[str]:
    """Return the lines of an error and of its causes."""
    lines: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        lines += [f"{type(cause).__name__}: {line.strip()}" for line in str(cause).splitlines() if line.strip()]
        cause = cause.__cause__
    return lines or [type(error).__name__]


def checked_proto(what: Plan, proto: Any) -> Compared:
    """Run an ONNX graph by onnxruntime on fresh images, and compare it with the eager explainer."""
    try:
        session = session_of(proto.SerializeToString())
    except Exception as error:
        raise CamfnError(f"export: onnxruntime refuses the graph: {first_line(error):.300}") from error

    def run(*given: Tensor) -> list[Any]:
        feed = {name: value.numpy() for name, value in zip(what.inputs, given)}
        try:
            found: list[Any] = session.run(list(what.names), feed)
        except Exception as error:
            raise CamfnError(f"export: onnxruntime cannot run the graph: {first_line(error):.300}") from error
        return found

    checked = compared(what, run)
    if what.asks and what.dynamic:
        _one_target_for_all(what, run)
    return checked


def _one_target_for_all(what: Plan, run: Callable[..., list[Any]]) -> None:
    """Refuse a file that one class for several images does not suit."""
    images, asked = fresh(what, 3)
    one, all_of_them = run(images, asked[1:2]), run(images, asked[1:2].repeat(3))
    if any(relative(torch.as_tensor(a), torch.as_tensor(b)) > TOLERANCE for a, b in zip(one, all_of_them)):
        raise CamfnError(
            "export: one class for all images gives other maps than the same class for each: a bug of camfn"
        )

"""A package compiled ahead of time by AOTInductor: C++ that loads without Python."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from .._shared.errors import CamfnError, first_line
from ._check import compared
from ._facts import facts
from ._onnx import checked_path, written
from ._plan import Batch, plan
from ._program import Stage, exported, teller


def aot(
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
    """Compile prediction and map ahead of time, as a package of AOTInductor (`.pt2`) for this kind of machine.

    `torch._inductor.aoti_load_package(path)` loads it in Python, and `torch::inductor::AOTIModelPackageLoader` in C++.
    The package holds compiled code: load only your own. `aot` loads the package and runs it on new images before
    it moves the package to `path`; outputs and map agree with `explain` as those of `onnx` do.

    Args:
        explain: as for `program`.
        inputs: as for `program`.
        path: of the package, `.pt2`.
        target: as for `program`.
        heatmap: as for `program`.
        batch: as for `program`.
        model: the name of the model.
        classes: class names by index.
        preprocessing: as for `onnx`.
        progress: called with the name of each stage as it begins.

    Returns:
        The facts that `onnx` writes into a file; the package itself holds none.

    Raises:
        CamfnError: `explain` cannot be exported or compiled, or the package disagrees with `explain`.

    Example:
        >>> aot(None, None, "net.so")
        Traceback (most recent call last):
            ...
        camfn._shared.errors.CamfnError: export: expected a path that ends in .pt2, got 'net.so'
    """
    file = checked_path(path, ".pt2")
    tell = teller(progress)
    what = plan(explain, inputs, target, heatmap, batch)
    about = facts(what, model, classes, preprocessing)
    made = exported(what, tell)
    tell("compiling")
    with TemporaryDirectory(dir=file.parent) as folder, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        unfinished = str(Path(folder) / "package.pt2")
        try:
            torch._inductor.aoti_compile_and_package(made, package_path=unfinished)
        except Exception as error:
            raise CamfnError(
                f"export: AOTInductor cannot compile this graph: {type(error).__name__}: "
                f"{first_line(error):.300}. It needs a C++ compiler, as g++; export.onnx needs none"
            ) from error
        tell("checking")
        checked = compared(what, torch._inductor.aoti_load_package(unfinished))
        written(file, lambda at: os.replace(unfinished, at))
    return about | {"verified": checked._asdict()}

"""`camfn explain --model FILE.onnx`, or .pt2: an exported file explains photos as a model does."""

# tested in tests/cli/jobs/test_export.py

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ... import diagnose, export
from ..._photos.classes import ClassChoice
from ..._photos.explain import Explained
from ..._photos.layer import Layer
from ..._shared.errors import UsageError
from ..._shared.files import hash_of_file
from ..._shared.vocabulary import without_grads
from ...catalogue import METHODS
from ...export import Deployed
from ...targets import class_score, logits_of
from ...zoo import Loaded, load
from ...zoo._libraries.libraries import LITE
from ...zoo._photo.recipe import Recipe
from ...zoo._weights.exported import refuse_code
from .._files.records import Record
from .._options.options import ModelOptions
from .export import PART
from .job import Job
from .trust import checked

NO_HEAD = "a file holds no weights that can be drawn anew; check the model that it was exported from"
"""Why a check of a file lacks one line."""


class Network(nn.Module):
    """The prediction of a file, as a module: images to logits."""

    def __init__(self, file: Deployed) -> None:
        super().__init__()
        self.file = file

    def forward(self, images: Tensor) -> Tensor:
        return self.file(images)[str(self.file.facts["outputs"][0])]


class _Program:
    """An exported program, run as onnxruntime's session is."""

    def __init__(self, program: Any, names: list[str]) -> None:
        self._run, self._names = program.module(), names
        outputs = next(node for node in program.graph.nodes if node.op == "output").args[0]
        self._shapes = [SimpleNamespace(shape=list(node.meta["val"].shape)) for node in outputs]

    def get_outputs(self) -> list[Any]:
        """Return the shapes of the outputs."""
        return self._shapes

    def run(self, names: list[str], feed: dict[str, Any]) -> list[Any]:
        """Return the outputs of these names."""
        with torch.no_grad():
            found = dict(zip(self._names, self._run(*(torch.from_numpy(value) for value in feed.values()))))
        return [found[name].numpy() for name in names]


def is_deployed(path: str) -> bool:
    """Whether a path is of a file that `camfn export` writes: ONNX, or a program that says what it is of."""
    if path.endswith(".onnx"):
        return True
    if not path.endswith(".pt2") or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(f"/extra/{PART}") for name in archive.namelist())


def open_file(path: str) -> Deployed:
    """Open a file that `camfn export` wrote, .onnx or .pt2.

    Raises:
        LoadError: the file cannot be read, or holds code.
    """
    if path.endswith(".onnx") or not is_deployed(path):
        return export.load(path)
    refuse_code(Path(path))
    extra = {PART: ""}
    program = torch.export.load(path, extra_files=extra)
    facts = json.loads(extra[PART])
    return Deployed(path, facts, _Program(program, facts["outputs"]))


def recipe_of(file: Deployed) -> Recipe | None:
    """Return how a file says that photos are prepared; None where it does not say."""
    numbers = file.facts["preprocessing"]
    if numbers is None:
        return None
    lists: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in numbers.items()}
    return Recipe(**lists)


def load_beside(file: Deployed, model: str | None, options: ModelOptions) -> Loaded:
    """Load the model that a file came from; the file says how photos are prepared, where the options do not.

    Raises:
        UsageError: neither the words nor the file name a model that a command can load.
    """
    asked = options.arguments()
    name = model or file.facts["model"]
    if name is None or (model is None and name.isidentifier() and name not in LITE):
        raise UsageError(
            f"{file.path} names no model that camfn can load ({name}): give it, as --model file.py:function"
        )
    recipe = recipe_of(file)
    if recipe is not None and not asked.keys() & {"preprocess", "input_size", "resize", "mean", "std"}:
        asked["preprocess"] = recipe
    return load(name, **asked)


def load_file(path: str, asked: dict[str, Any]) -> Loaded:
    """Open a file as a model with its preprocessing and class names.

    Raises:
        UsageError: the file does not say how photos are prepared, or an option would change what it says.
    """
    file = open_file(path)
    if asked:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in asked)
        raise UsageError(f"{path} says how photos are prepared and what its classes are: leave {options} out")
    recipe, batch = recipe_of(file), file.facts["batch"]
    if recipe is None:
        raise UsageError(
            f"{path} does not say how photos are prepared: export it by camfn export, or with preprocessing="
        )
    about = {"photos": f"{recipe}, of the file", "weights": "of the file"}
    fixed = None if batch == "dynamic" else int(batch)
    return Loaded(Network(file).eval(), recipe, recipe.view, file.facts["classes"], path, about, fixed, recipe)


def file_of(loaded: Loaded) -> Deployed:
    """Return the file of a model that `load_file` opened."""
    assert isinstance(loaded.model, Network)
    return loaded.model.file


def facts_of(loaded: Loaded) -> dict[str, Any]:
    """Return what the file of a model says of itself."""
    return file_of(loaded).facts


def method_of(loaded: Loaded, asked: str) -> str:
    """Return the method of a file, as a command names it.

    Raises:
        UsageError: the user names another one.
    """
    own = str(facts_of(loaded)["method"])
    if asked not in ("grad_cam", own):
        raise UsageError(f"{loaded.name} gives {own} and no other map: leave --method out")
    return own if own in {row.name for row in METHODS} else "grad_cam"


def refuse_changes(
    path: str, facts: dict[str, Any], choice: ClassChoice, named: dict[str, Any], check: bool = False
) -> None:
    """Refuse what a file has decided when it was written.

    Raises:
        UsageError: another method, layer or transformation, a target that is no class, or a check without a score.
    """
    if check and facts["target"] != "input" and not str(facts["target"]).isdecimal():
        raise UsageError(
            f"{path} explains {facts['target']}, whose value is not among its outputs: leave --check out, or check the "
            "model that it was exported from, by camfn.check"
        )
    given = [f"--{name}" for name, value in named.items() if value]
    if given:
        raise UsageError(
            f"{path} gives {facts['method']} at {facts['layer']} and no other map: leave {', '.join(given)} out"
        )
    if choice.form != "score":
        raise UsageError(f"{path} explains the logit of a class: --target takes a class, top or top:K")
    if facts["target"] != "input" and (choice.chosen is not None or choice.best != 1):
        raise UsageError(f"{path} explains {facts['target']} and takes no class: leave --target out")


@dataclass
class DeployedJob(Job):
    """A `Job` whose maps a file makes."""

    def run(self) -> Iterator[Record]:
        """Yield a record for each photo, as `Job.run`."""
        file = self._file
        self.layer = Layer(str(file.facts["layer"]), 0, None, f"of the file, {file.facts['method']}")
        self.header["layer"] = {"name": file.facts["layer"], "reason": "of the file", "layout": file.facts["layout"]}
        yield from super().run()

    def _hash(self) -> str | None:
        return str(hash_of_file(Path(self._file.path)))

    @property
    def _file(self) -> Deployed:
        return file_of(self.loaded)

    def _checks(self, photo: Image.Image, explained: Explained) -> list[Record]:
        """Check each map of one photo by the file alone: all but the head, which a file does not let go of."""
        if not self.check:
            return [{}] * len(explained.cams)
        image = self.loaded.preprocess(photo)[None]
        targets: list[Any] = [None if index is None else class_score(index) for index in explained.classes]
        missing = {"new head": NO_HEAD}
        if self._file.facts["target"] != "input":
            fixed = int(self._file.facts["target"])
            targets = [lambda outputs: logits_of(outputs).softmax(1)[:, fixed]]
            missing["other class"] = f"the file explains class {fixed} alone"

        def ask(target: Any) -> Record:
            names, network = self.loaded.classes, self.loaded.model
            return {"check": checked(self._map, image, target, names, self.seed, model=network, missing=missing)}

        return [{} if problem else ask(target) for target, problem in zip(targets, explained.problems, strict=True)]

    def _map(self, images: Tensor, target: Any) -> Tensor:
        """Explain images by the file, for the class of a target, (B, h, w)."""
        asks = self._file.facts["target"] == "input"
        return self._file(images, target.classes if asks else -1)["cam"]

    def _explain(self, photos: list[Image.Image]) -> list[Explained]:
        """Explain photos by the file, once for each class."""
        if not photos:
            return []
        images = torch.stack([self.loaded.preprocess(photo) for photo in photos])
        file = self._file
        asks = file.facts["target"] == "input"
        first = file(images)
        logits = first[str(file.facts["outputs"][0])]
        explained = [Explained(row, [], [], [], []) for row in logits]
        for picked in self.choice.pick(logits):
            classes = picked.classes if asks else None
            cam = first["cam"] if classes is None else file(images, classes)["cam"]
            scores = None if classes is None else picked.score(logits)
            problems = diagnose(without_grads(cam[:, None], None), cam)
            for i, photo in enumerate(explained):
                photo.classes.append(None if classes is None else int(classes[i]))
                photo.cams.append(cam[i])
                photo.problems.append(problems[i])
                photo.scores.append(None if scores is None else float(scores[i]))
        return explained

"""What is to be exported: an explainer with its model, the form of its inputs, and the names of its outputs."""

# tested in tests/export/test_program.py

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from .._cut.functional import _model_of, pure
from .._cut.graft import bare
from .._shared.checks import describe, one_of, space
from .._shared.errors import ArgumentTypeError, CamfnError
from .._shared.maps import min_max
from .._shared.value import shown
from ._resample import resampled
from ._settle import settled
from ._target import asked_class, logits_among
from ._trace import BATCH, state_of

Batch = Literal["dynamic", "fixed"]

_TAKEN = ("cam", "heatmap", "images", "target")
"""Names of a file's own inputs and outputs."""


class Plan(NamedTuple):
    """An explainer that is to be exported.

    Attributes:
        explain: the user's.
        settled: the same function, in which what the numbers of a run decide is decided.
        model: the one model that it explains.
        images: the user's, (B, C, H, W).
        target: "input", or what `explain` takes.
        heatmap: height and width of the third output, or None.
        dynamic: whether the batch is open.
        names: of the outputs: of the model's logits, "cam", "heatmap", and of the model's other tensors.
        classes: how many logits the model has, where it has some.
    """

    explain: Any
    settled: Any
    model: nn.Module
    images: Tensor
    target: Any
    heatmap: tuple[int, int] | None
    dynamic: bool
    names: tuple[str, ...]
    classes: int | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return ("images", "target") if self.asks else ("images",)

    @property
    def asks(self) -> bool:
        """Whether the class is an input."""
        return isinstance(self.target, str)

    def example(self) -> tuple[Tensor, ...]:
        """Return inputs to trace with: `BATCH` images if the batch is open."""
        count = BATCH if self.dynamic else len(self.images)
        images = self.images.repeat(-(-count // len(self.images)), *[1] * (self.images.ndim - 1))[:count].contiguous()
        return (images, torch.full((count,), -1)) if self.asks else (images,)

    def run(self, state: dict[str, Tensor] | None, images: Tensor, asked: Tensor | None = None) -> tuple[Tensor, ...]:
        """Explain images: what the exported file computes, in the order of its outputs."""
        target = self.target if asked is None else asked_class(asked)
        given = self.explain if state is None else pure(self.settled)
        before = () if state is None else (state,)
        if hasattr(self.explain, "has_aux"):
            cam, outputs = given(*before, images, target)
        else:
            cam = given(*before, images, target)
            outputs = self.model(images) if state is None else torch.func.functional_call(self.model, state, (images,))
        if not isinstance(cam, Tensor):
            raise ArgumentTypeError(
                f"export: expected what gives one map a sample, as explainer, fuse or attention_explainer; "
                f"{type(self.explain).__name__} gives {describe(cam)}"
            )
        named = _named(outputs)
        found = [named.pop(_first(named)), cam]
        if self.heatmap is not None:
            found.append(heatmap_of(cam, self.heatmap))
        return tuple(value.detach() for value in (*found, *named.values()))


def heatmap_of(cam: Tensor, size: tuple[int, int]) -> Tensor:
    """Clip maps (B, h, w) at zero, stretch them to [0, 1], and resize them."""
    shown: Tensor = resampled(min_max(cam.relu(), (1, 2))[:, None], size, mode="bilinear", align_corners=False)
    return shown[:, 0]


def plan(explain: Any, inputs: Any, target: Any, heatmap: Any, batch: Any) -> Plan:
    """Check the arguments, and decide what only a run can decide.

    Raises:
        CamfnError: what cannot be exported, and the nearest thing that can.
    """
    one_of("batch", batch, ("dynamic", "fixed"))
    if heatmap is not None:
        heatmap = space("heatmap", heatmap)
        if len(heatmap) != 2:
            raise CamfnError(f"heatmap: expected (height, width), got {heatmap}")
    if isinstance(target, str) and target != "input":
        raise CamfnError(
            f"target: expected 'input' (the class is an input of the file, -1 the top class), None, a class or a "
            f"function of the outputs; got {target!r}"
        )
    if torch.is_autocast_enabled("cpu"):
        raise CamfnError(
            "export: torch.autocast is on, and a file computes in float32: export outside of torch.autocast"
        )
    model = bare(_model_of(explain))
    _check_model(model)
    images = _only_image(inputs)
    with_outputs = replace(explain, has_aux=True) if hasattr(explain, "has_aux") else explain
    rough = Plan(with_outputs, None, model, images, target, heatmap, batch == "dynamic", ())
    _check_target(rough)
    first = rough.example()
    with torch.no_grad():
        outputs = model(first[0])
        count = int(logits_among(outputs).shape[1]) if rough.asks else None
        named = _named(outputs)
        head = _first(named)
        names = ["logits" if isinstance(outputs, Tensor) or head == "out" else head, "cam"]
        names += ["heatmap"] * (heatmap is not None) + [name for name in named if name != head]
        whole = rough._replace(
            settled=settled(with_outputs, first[0], asked_class(first[1]) if rough.asks else target),
            names=tuple(names),
            classes=count,
        )
        cam = whole._replace(heatmap=None).run(None, *first)[1]
    if heatmap is not None and cam.ndim != 3:
        raise CamfnError(f"heatmap: the map is {tuple(cam.shape[1:])} a sample, not (H, W): leave heatmap out")
    return whole


def _check_target(what: Plan) -> None:
    """Refuse a class for each image where any number of images may come."""
    several = isinstance(what.target, (list, tuple)) or (isinstance(what.target, Tensor) and what.target.ndim > 0)
    if what.dynamic and several:
        raise CamfnError(
            f"export: target: one class for each image, {shown(what.target)}, fixes their number: pass batch='fixed', "
            "or target='input', which makes the classes an input of the file"
        )


def _check_model(model: nn.Module) -> None:
    """Refuse a model in training mode, on an accelerator, of another dtype than float32, or without derivatives."""
    training = next((name for name, module in model.named_modules() if module.training), None)
    if training is not None:
        raise CamfnError(f"export: the model is in training mode ({training or 'the model itself'}): call model.eval()")
    for name, value in (*state_of(model).items(), *_loose(model)):
        if value.is_inference():
            raise CamfnError(
                f"export: {name} was made under torch.inference_mode, and autograd takes no derivative through it: "
                "export a copy that you make outside of it, copy.deepcopy(model)"
            )
    for name, value in state_of(model).items():
        if value.device.type != "cpu":
            raise CamfnError(
                f"export: {name} is on {value.device}: export a copy on the CPU, copy.deepcopy(model).cpu()"
            )
        if value.is_floating_point() and value.dtype is not torch.float32:
            raise CamfnError(
                f"export: {name} is {value.dtype}: export in float32, model.float(); docs/export.md says how to make a "
                "float16 file of the exported one"
            )


def _loose(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that modules hold as plain attributes, by name."""
    for name, module in model.named_modules():
        yield from (
            (f"{name}.{key}".strip("."), value) for key, value in vars(module).items() if isinstance(value, Tensor)
        )


def _only_image(inputs: Any) -> Tensor:
    """Return the one tensor among the inputs."""
    given = inputs[0] if isinstance(inputs, (tuple, list)) and len(inputs) == 1 else inputs
    if not isinstance(given, Tensor):
        raise ArgumentTypeError(
            f"export: inputs: expected one tensor of images (B, C, H, W), got {describe(inputs)}. Wrap a model of "
            "several inputs in one that takes the images and holds the others"
        )
    if given.ndim < 3 or not given.shape[0] or given.dtype is not torch.float32 or given.device.type != "cpu":
        raise CamfnError(
            f"export: inputs: expected images (B, C, H, W) of float32 on the CPU, got {tuple(given.shape)} of "
            f"{given.dtype} on {given.device}"
        )
    if not bool(given.isfinite().all()):
        raise CamfnError("export: inputs: expected images without NaN and infinity, on which an export can be checked")
    return given.detach()


def _named(outputs: Any) -> dict[str, Tensor]:
    """Return the tensors of a model's outputs by name.

    Raises:
        CamfnError: the outputs hold what is no tensor of floats a sample.
    """
    if isinstance(outputs, Tensor):
        return {"logits": outputs}
    if isinstance(outputs, dict) or hasattr(outputs, "items"):
        pairs: Sequence[tuple[str, Any]] = [(str(key), value) for key, value in outputs.items()]
    elif isinstance(outputs, (tuple, list)):
        fields: Sequence[str] | None = getattr(outputs, "_fields", None)
        keys = fields or ["logits", *(f"output_{i}" for i in range(1, len(outputs)))]
        pairs = list(zip(keys, outputs))
    else:
        raise CamfnError(f"export: the model returns {describe(outputs)}, not a tensor, or tensors by name or in order")
    found: dict[str, Tensor] = {}
    for name, value in pairs:
        if value is None:
            continue
        parts = {name: value}
        if isinstance(value, (tuple, list)):
            parts = {f"{name}_{i}": part for i, part in enumerate(value)}
        for key, part in parts.items():
            if not isinstance(part, Tensor):
                raise CamfnError(
                    f"export: the output {key!r} of the model is {describe(part)}, whose size the images decide or "
                    "which is no tensor: wrap the model in one that returns tensors (B, ...) alone"
                )
            found[key if key not in _TAKEN else f"model_{key}"] = part
    if not found:
        raise CamfnError(f"export: the model returns no tensor: {describe(outputs)}")
    return found


def _first(named: dict[str, Tensor]) -> str:
    return next((name for name in ("logits", "out") if name in named), next(iter(named)))

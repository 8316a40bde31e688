"""Calls of the public functions with wrong arguments, drawn from what their signatures ask for."""

from __future__ import annotations

import inspect
import math
import re
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import camfn
from camfn import (
    CamfnError,
    attention,
    factorize,
    image,
    layers,
    layout,
    methods,
    metrics,
    network,
    targets,
    transforms,
)
from tests.nets.detectors import retinanet
from tests.nets.small import Net, seeded
from tests.nets.small import images as noise


class Tokens(nn.Module):
    """A transformer of one block, on images."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.cls = nn.Parameter(torch.ones(1, 1, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).mT
        tokens = self.block(torch.cat([self.cls.expand(len(x), -1, -1), tokens], 1))
        out: Tensor = self.head(tokens[:, 0])
        return out


NET, VIT = seeded(Net), seeded(Tokens)


def tail(a: Tensor) -> Tensor:
    """Stand for the network after a layer."""
    return (a.flatten(2).mean(2) ** 2).sum(1)


def forward(x: Tensor) -> Tensor:
    """Stand for a network and a target."""
    return x.flatten(1).square().mean(1)


def explain(x: Tensor, target: Any = None) -> Tensor:
    """Stand for an explainer."""
    return x.square().mean(1)


def explain_model(model: nn.Module) -> Tensor:
    """Stand for an explainer of any model."""
    cam: Tensor = camfn.explainer(methods.grad_cam, model, "blocks.0")(noise(2, 3, 8, 8), 1)
    return cam


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def positive(*shape: int) -> Tensor:
    return noise(*shape).abs() + 0.1


def unit(*shape: int) -> Tensor:
    x = noise(*shape).abs()
    return x / x.max()


HEAD = targets.BoxHead(lambda out: out[..., :4], lambda out: out[..., 4:].sigmoid())
DETECTED = torch.cat([torch.tensor([[0.0, 0, 2, 2], [1, 1, 4, 5]]).expand(2, 2, 4), noise(2, 2, 5)], 2)
BOXES = torch.tensor([[0.0, 0.0, 2.0, 3.0], [1.0, 1.0, 4.0, 5.0]])
SHOTS = torch.zeros(2, 5, 6, dtype=torch.bool)
SHOTS[:, 1:3, 2:4] = True
CELLS = metrics.grid_cells((8, 8), 2)

POOLED = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()

RIGHT: dict[str, Callable[[], Any]] = {
    "model": lambda: NET,
    "layer": lambda: "blocks.0",
    "layers": lambda: ["stem", "blocks.0"],
    "method": lambda: methods.grad_cam,
    "activations": lambda: noise(2, 4, 5, 6).relu(),
    "grads": lambda: noise(2, 4, 5, 6, seed=2),
    "outputs": lambda: noise(2, 5),
    "inputs": lambda: noise(2, 3, 8, 8),
    "images": lambda: noise(2, 3, 8, 8),
    "target": lambda: 1,
    "heatmap": lambda: unit(2, 5, 6),
    "picture": lambda: unit(3, 8, 8),
    "tail": lambda: tail,
    "forward": lambda: forward,
    "score": lambda: forward,
    "explain": lambda: explain,
    "generator": generator,
    "samples": lambda: 3,
    "steps": lambda: 2,
    "weights": lambda: noise(2, 4),
    "size": lambda: (10, 12),
    "grid": lambda: 3,
    "cam": lambda: noise(2, 5, 6),
    "share": lambda: 0.5,
    "shares": lambda: (0.2, 0.6),
    "before": lambda: unit(3),
    "after": lambda: unit(3),
    "missing": lambda: torch.rand(2, 8, 8, generator=generator()) < 0.3,
    "attribution": lambda: noise(2, 8, 8),
    "again": lambda: unit(2, 5, 6),
    "first": lambda: unit(2, 5, 6),
    "second": lambda: unit(2, 5, 6).flip(1),
    "coherency": lambda: unit(2),
    "complexity": lambda: unit(2),
    "drop": lambda: unit(2),
    "road": lambda: unit(2) / 2,
    "region": lambda: SHOTS,
    "masks": lambda: SHOTS,
    "boxes": lambda: BOXES,
    "ious": lambda: unit(3, 4),
    "at": lambda: (0.3, 0.5),
    "thresholds": lambda: [0.2, 0.4],
    "fractions": lambda: unit(2, 4),
    "names": lambda: ["head"],
    "name": lambda: "head.weight",
    "value": lambda: noise(3, 4),
    "classes": lambda: torch.tensor([1, 3]),
    "against": lambda: [0, 2],
    "labels": lambda: [0, 2],
    "reference": lambda: noise(5),
    "tokens": lambda: torch.tensor([[1, 2], [0, 3]]),
    "box": lambda: BOXES,
    "head": lambda: HEAD,
    "factor": lambda: 1.5,
    "dims": lambda: -1,
    "maps": lambda: [noise(2, 5, 6), noise(2, 3, 3)],
    "space": lambda: "activations",
    "sizes": lambda: [12, (10, 14)],
    "window": lambda: 3,
    "photo": lambda: unit(3, 8, 8),
    "series": lambda: noise(40),
    "gradient": lambda: noise(2, 3, 8, 8),
    "volume": lambda: unit(6, 8, 8),
    "cams": lambda: [noise(2, 5, 6), noise(2, 3, 3)],
    "rank": lambda: 2,
    "concepts": lambda: positive(2, 4),
    "scores": lambda: noise(2, 5),
    "values": lambda: positive(6, 4),
    "example": lambda: noise(2, 3, 8, 8),
    "captured": lambda: camfn.capture(NET, "blocks.0")(noise(2, 3, 8, 8), 1),
    "records": lambda: list(attention.capture_attention(VIT)(noise(2, 3, 8, 8), 1).records),
}
"""A right argument by its name; those of single functions are below."""

OWN: dict[str, Callable[[], Any]] = {
    "capture_each.target": lambda: [0, 1],
    "capture_levels.target": lambda: [0, 1],
    "head_for.model": lambda: retinanet(),
    "detections.outputs": lambda: DETECTED,
    "diagnose.cam": lambda: noise(2, 8, 8),
    "drops.masks": lambda: CELLS,
    "region_curve.masks": lambda: CELLS,
    "trace.masks": lambda: CELLS,
    "trace_ceiling.masks": lambda: CELLS,
    "region_sums.masks": lambda: CELLS,
    "single_deletion.masks": lambda: CELLS,
    "single_deletion.drops": lambda: noise(2, 4),
    "faithfulness_correlation.masks": lambda: CELLS,
    "faithfulness_correlation.drops": lambda: noise(2, 4),
    "irof.masks": lambda: CELLS,
    "non_sensitivity.masks": lambda: CELLS,
    "non_sensitivity.drops": lambda: noise(2, 4),
    "sensitivity_n.sizes": lambda: (1, 2),
    "faithfulness_estimate.groups": lambda: 4,
    "monotonicity_correlation.groups": lambda: 3,
    "noise_drops.noise": lambda: noise(3, 3, 8, 8),
    "roc_auc.heatmap": lambda: unit(2, 5, 6),
    "input_invariance.explain": lambda: lambda model, x: camfn.explainer(methods.grad_cam, model, "blocks.0")(x, 1),
    "efficient_randomization.explain": lambda: explain_model,
    "random_logit.explain": lambda: lambda classes: noise(5, 6, 7)[classes],
    "random_logit.classes": lambda: torch.tensor([1, 3]),
    "random_logit.count": lambda: 5,
    "local_lipschitz.explain": lambda: explain,
    "relative_output_stability.outputs": lambda: lambda x: x.flatten(1)[:, :4],
    "relative_representation_stability.represent": lambda: lambda x: x.flatten(1)[:, :4],
    "random_cells.generator": generator,
    "label_masks.labels": lambda: torch.tensor([[0, 0, 1], [2, 2, 1]]),
    "random_pixels.size": lambda: (8, 8),
    "random_pixels.count": lambda: 3,
    "trace.ceiling": lambda: metrics.trace_ceiling(forward, noise(2, 3, 8, 8), CELLS, how="exact"),
    "grid_cells.cells": lambda: 2,
    "random_cells.cells": lambda: CELLS,
    "random_cells.count": lambda: 2,
    "rise.masks": lambda: unit(3, 8, 8),
    "hsic.masks": lambda: unit(3, 7, 7),
    "shared.run": lambda: forward,
    "hsic.generator": lambda: None,
    "sobol.points": lambda: unit(2, 2, 8, 8),
    "region_search.regions": lambda: torch.arange(64).reshape(8, 8) // 16,
    "by_region.heatmap": lambda: unit(2, 5, 6),
    "by_region.regions": lambda: torch.arange(30).reshape(5, 6) % 3,
    "superpixels.photo": lambda: unit(3, 8, 8),
    "crops.images": lambda: noise(2, 3, 8, 8),
    "crops.size": lambda: 4,
    "concept_importance.maps": lambda: positive(2, 3, 4, 4),
    "concept_importance.concepts": lambda: positive(3, 4),
    "concept_importance.tail": lambda: lambda a: a.flatten(1).sum(1),
    "concept_importance.points": lambda: unit(2, 2, 3),
    "craft.images": lambda: unit(2, 3, 8, 8),
    "craft.latent": lambda: lambda x: x.relu(),
    "craft.tail": lambda: lambda x: lambda a: a.flatten(2).mean(2),
    "craft.target": lambda: 1,
    "craft.rank": lambda: 2,
    "craft.size": lambda: 4,
    "d_rise.masks": lambda: unit(3, 8, 8),
    "infidelity.noise": lambda: noise(3, 3, 8, 8),
    "d_rise.generator": lambda: None,
    "rise.generator": lambda: None,
    "infidelity.generator": lambda: None,
    "cam.weights": lambda: noise(4),
    "box_masks.size": lambda: (8, 8),
    "boxes.labels": lambda: ["a", "b"],
    "boxes.photo": lambda: unit(3, 8, 8),
    "concepts.maps": lambda: positive(1, 2, 3, 3),
    "concepts.labels": lambda: ["a", "b"],
    "montage.images": lambda: [unit(3, 8, 8), unit(3, 6, 9)],
    "figure.photos": lambda: unit(2, 3, 8, 8),
    "figure.maps": lambda: noise(2, 2, 4, 4),
    "figure.columns": lambda: ["a", "b"],
    "montage.captions": lambda: ["a", "b"],
    "overlay.heatmap": lambda: unit(1, 4, 4),
    "slices.heatmap": lambda: unit(3, 4, 4),
    "slice_montage.heatmap": lambda: unit(3, 4, 4),
    "curve.heatmap": lambda: unit(10),
    "fuse_maps.weights": lambda: None,
    "fuse.weights": lambda: None,
    "project.activations": lambda: positive(2, 4, 3, 3),
    "tail_scores.tail": lambda: lambda a: a.flatten(2).mean(2),
    "concept_scores.head": lambda: nn.Linear(4, 5),
    "deep_feature_factorization.activations": lambda: positive(2, 4, 3, 3),
    "randomization.explain": lambda: explain_model,
    "max_sensitivity.explain": lambda: explain,
    "check.explain": lambda: camfn.explainer(methods.grad_cam, NET, "blocks.0"),
    "check.copies": lambda: 2,
    "check.redraws": lambda: 2,
    "head.model": lambda: POOLED,
    "head.layer": lambda: "0",
    "tokens.grid": lambda: (2, 2),
    "windows.grid": lambda: (4, 4),
    "windows.window": lambda: (2, 2),
    "unrolled.grid": lambda: (4, 4),
    "unrolled.strides": lambda: [(2, 2)],
    "as_score.target": lambda: [0, 1],
    "capture_attention.model": lambda: VIT,
    "observe_attention.model": lambda: VIT,
    "attention_explainer.model": lambda: VIT,
    "attention_explainer.method": lambda: attention.attention_rollout,
    "capture_attention.layers": lambda: None,
    "observe_attention.layers": lambda: None,
    "attention_explainer.layers": lambda: None,
    "augment.transforms": lambda: "flips",
    "path_integral.average": lambda: "grads",
    "pxap.heatmap": lambda: unit(2, 5, 6),
    "ssim.window": lambda: 3,
    "resampled.value": lambda: noise(3, 4),
    "prepare.model": lambda: NET,
    "box_score.classes": lambda: 2,
    "mask_score.classes": lambda: 1,
    "mask_score.region": lambda: SHOTS,
    "pin.outputs": lambda: noise(2, 5),
    "top_classes.names": lambda: list("abcde"),
    "blur.kernel_size": lambda: 3,
    "insertion.baseline": lambda: 0.5,
    "Score.function": lambda: lambda out: out[:, 0],
}

OUTPUTS: dict[str, Callable[[], Any]] = {
    "box_score": lambda: DETECTED,
    "overlap_score": lambda: DETECTED,
    "detection_similarity": lambda: DETECTED,
    "mask_score": lambda: noise(2, 3, 5, 6),
    "token_log_probability": lambda: noise(2, 2, 6),
}
"""What a target is called with."""

CHANGED: dict[str, Callable[[Tensor], Tensor]] = {
    "integers": lambda x: x.int(),
    "bytes": lambda x: x.to(torch.uint8),
    "booleans": lambda x: x.bool(),
    "doubles": lambda x: x.double(),
    "halves": lambda x: x.half(),
    "complex": lambda x: x.to(torch.complex64),
    "none of a batch": lambda x: x[:0],
    "one of a batch": lambda x: x[:1],
    "the first": lambda x: x[0],
    "one more dimension": lambda x: x[None],
    "many more dimensions": lambda x: x[None, None, None, None],
    "an empty last dimension": lambda x: x[..., :0],
    "a shorter last dimension": lambda x: x[..., :1],
    "flat": lambda x: x.flatten(),
    "swapped": lambda x: x.transpose(0, -1),
    "on meta": lambda x: x.to("meta"),
    "nan": lambda x: x * math.nan,
    "huge": lambda x: x * 1e6,
    "negative": lambda x: -x.abs() - 1 if x.dtype != torch.bool else ~x,
    "an array": lambda x: x.numpy(),  # type: ignore[dict-item, return-value]
    "repeated": lambda x: torch.cat([x, x]),
}
"""Tensors of the wrong shape, dtype, device or kind, made from a right one."""

_HUGE = 10**6

JUNK: tuple[Any, ...] = (
    None, "nope", "", -1, 0, -3, 1.5, math.nan, math.inf, -math.inf, True, _HUGE, [], (), {}, object(), 2 + 1j,
    [1, "a"], [True, 0], [-1], [math.nan], (0, 0), (-2, 3), [None], {"a": 1}, [[1, 2], [3]], b"x", np.float32(2),
    nn.ReLU(), np.ones((2, 3)), torch.tensor(7), torch.tensor(math.nan), torch.ones(0), torch.ones(2, 3),
    torch.ones(2, 3, 4, 5, 6), [torch.ones(3)], [noise(2, 5, 6), "a"], range(3),
)  # fmt: skip
"""Values of the wrong kind for most arguments."""

COUNTS = {"samples", "steps", "grid", "side", "count", "rank", "height", "columns", "caption_size", "padding", "width"}
"""Arguments whose size is the size of the work: a huge number is right, and takes hours."""


class Call(NamedTuple):
    """A public function with arguments, some of them wrong."""

    name: str
    function: Callable[..., Any]
    arguments: dict[str, Any]
    wrong: tuple[str, ...]
    run: dict[str, Any]

    def __repr__(self) -> str:
        shown = {key: _short(value) for key, value in {**self.arguments, **self.run}.items()}
        return f"{self.name}({', '.join(f'{key}={value}' for key, value in shown.items())}), wrong: {self.wrong}"


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"<{tuple(value.shape)} {value.dtype} {value.device}>"
    return f"<{type(value).__name__}>" if isinstance(value, nn.Module) else repr(value)[:60]


ROOMS: dict[str, Any] = {
    "camfn": camfn,
    "methods": methods,
    "metrics": metrics,
    "targets": targets,
    "transforms": transforms,
    "network": network,
    "attention": attention,
    "image": image,
    "factorize": factorize,
    "layout": layout,
    "layers": layers,
}
VALUES = [
    "Captured",
    "Layout",
    "Method",
    "Curve",
    "Ceiling",
    "WindowScores",
    "Cascade",
    "Concepts",
    "NamedClass",
    "Factors",
    "Reading",
    "Suggestion",
    "Attended",
    "AttentionRecord",
    "BoxHead",
    "Augmentation",
    "Score",
    "Prepared",
    "Detections",
    "known_head",
    "Figure",
]
"""Classes of values, which check nothing."""
INNER = [
    "as_map",
    "bare",
    "call",
    "copy_of",
    "describe",
    "floating_leaves",
    "graft",
    "image_among",
    "layer_name",
    "possible_readings",
    "resize",
    "the_reading",
    "logits_of",
    "moved",
    "save",
    "load_ipython_extension",
    "show",
    "unload_ipython_extension",
    "prepare",
    "functional",
    "find_head",
    "Checked",
]
"""Functions that are imported into a public file, and those that need more than arguments."""


OWNERS: dict[str, tuple[str, ...]] = {
    "layers": ("camfn.layers",),
    "layout": ("camfn.layout", "camfn._layout.pairs"),
}
"""Where the functions of a public file are defined; others are imported there for its own use."""


def functions(room: str) -> dict[str, Callable[..., Any]]:
    """List the public functions of a room."""
    module = ROOMS[room]
    names = getattr(module, "__all__", None) or [name for name in dir(module) if not name.startswith("_")]
    found = {name: getattr(module, name, None) for name in names if name not in [*VALUES, *INNER]}
    return {
        name: function
        for name, function in found.items()
        if callable(function)
        and str(getattr(function, "__module__", "")).startswith(OWNERS.get(room, ("camfn",)))
        and not (inspect.isclass(function) and (issubclass(function, (Exception, nn.Module)) or _is_abstract(function)))
    }


def _is_abstract(function: Any) -> bool:
    return getattr(function, "_is_protocol", False) or function.__name__ == "Arithmetic"


def calls(room: str) -> st.SearchStrategy[Call]:
    """Draw calls of a room's functions: none, one or two of the arguments are wrong."""

    @st.composite
    def draw_call(draw: Any) -> Call:
        name, function = draw(st.sampled_from(sorted(functions(room).items())))
        parameters = inspect.signature(function).parameters
        arguments = {
            key: _right(name, key)
            for key, p in parameters.items()
            if p.default is p.empty
            or (key in ("grads", "generator", "samples", "steps") and f"{name}.{key}" not in OWN)
            if p.kind is not p.VAR_KEYWORD
        }
        arguments |= {key: OWN[f"{name}.{key}"]() for key in parameters if f"{name}.{key}" in OWN}
        run = _run_of(room, name)
        count = draw(st.sampled_from([0, 1, 1, 1, 1, 2]))
        flags = {key for key, p in parameters.items() if isinstance(p.default, bool)}
        open_to = sorted({*parameters, *run} - flags - {"outputs"})
        wrong = tuple(dict.fromkeys(draw(st.sampled_from(open_to)) for _ in range(count if open_to else 0)))
        for key in wrong:
            given = run if key in run and key not in parameters else arguments
            given[key] = draw(_wrong(key, given.get(key)))
        return Call(name, function, arguments, wrong, run)

    return draw_call()


def _right(name: str, key: str) -> Any:
    make = OWN.get(f"{name}.{key}") or RIGHT.get(key)
    return make() if make else None


def _run_of(room: str, name: str) -> dict[str, Any]:
    """Return the arguments of the function that a function returns."""
    plain: tuple[str, ...] = ("as_score", "pin", "torchvision_head", "detr_head", "candidates_head", "unsuppressed")
    plain += ("yolo_head", "head_for", "detections")
    if room == "targets" and name not in plain:
        return {"outputs": OUTPUTS.get(name, lambda: noise(2, 1 if name == "binary_score" else 5))()}
    if name in ("observe", "resume", "observe_attention"):
        return {"inputs": noise(2, 3, 8, 8)}
    if name == "check":
        return {}
    makers = name in ("capture_attention", "attention_explainer") or room in ("network", "transforms", "camfn")
    if makers and name not in ("fuse_maps", "eigen_smooth", "flip", "multiply", "diagnose"):
        return {
            "inputs": noise(2, 3, 8, 8),
            "targets" if name in ("capture_each", "capture_levels") else "target": [0, 1],
        }
    return {}


def _wrong(key: str, right: Any) -> st.SearchStrategy[Any]:
    """Draw a wrong value in the place of a right one."""
    junk = [value for value in JUNK if key not in COUNTS or value is not _HUGE]
    if key == "factor" or not isinstance(right, Tensor):
        return st.sampled_from(junk)
    changed = [change(right) for change in CHANGED.values()]
    return st.one_of(st.sampled_from(changed), st.sampled_from(changed), st.sampled_from(junk))


def perform(call: Call) -> Any:
    """Make the call, and call what it returns."""
    parameters = inspect.signature(call.function).parameters
    arguments = dict(call.arguments)
    places = [
        arguments.pop(key)
        for key, p in parameters.items()
        if key in arguments
        and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)
        and all(k in call.arguments for k in list(parameters)[: list(parameters).index(key)])
    ]
    result = call.function(*places, **arguments)
    if isinstance(result, Iterator):
        result = list(result)
    if call.run:
        result = result(*call.run.values())
        if call.name == "resume":
            result = result(noise(2, 6, 8, 8))
    return result


def own_fault(error: Exception) -> bool:
    """Whether an error arose inside a function of the caller: the network, the tail, the score."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    files = [frame.f_code.co_filename for frame in frames]
    # the modes that watch a network's operations pass each of them on
    camfns = [i for i, file in enumerate(files) if "/camfn/" in file and "/tests/" not in file and not _watches(file)]
    return any(
        any(own in file for own in ("tests/fuzzing.py", "nets/small.py", "/torch/nn/modules/"))
        and frame.f_code.co_name not in ("perform", "complaint")
        for file, frame in list(zip(files, frames))[max(camfns, default=-1) + 1 :]
    )


def _watches(file: str) -> bool:
    return file.endswith(("attention/_watch.py", "network/_rectify.py", "_cut/sight.py"))


_WORKS = re.compile(
    r"expect|for example|pass |take |give |call |need|did you mean|it has|say which|must|out of range|look at",
    re.IGNORECASE,
)
"""What a text has that says which call works."""


def _unclear(call: Call, text: str) -> str | None:
    """Say what an error's text lacks: the argument or the function that it is about, and what works."""
    if not call.wrong:
        return f"a right call is refused: {text}"
    if not _WORKS.search(text):
        return f"the error does not say what works: {text}"
    keys = [*inspect.signature(call.function).parameters, *call.run]
    words = [call.name, *keys, *(key.removesuffix("s") for key in keys)]
    about = [_ABOUT[key] for key in call.wrong if key in _ABOUT]
    if not re.search("|".join([*map(re.escape, words), *about]), text, re.IGNORECASE):
        return f"the error names neither the function nor {call.wrong}: {text}"
    return None


_ABOUT = {
    "inputs": r"image|sample|tensor|layer|logit",
    "images": r"sample|score",
    "activations": r"map|channel|position",
    "outputs": r"model|logits",
    "captured": r"map",
    "records": r"attention",
    "target": r"class",
    "targets": r"class",
    "model": r"layer|module",
    "labels": r"class",
    "tokens": r"class",
    "volume": r"photo",
    "classes": r"class",
    "against": r"class",
    "region": r"mask|object",
    "head": r"logits",
    "tail": r"logits",
    "before": r"confidence",
    "after": r"confidence",
    "grads": r"gradient",
}
"""Other words for an argument."""


def complaint(call: Call) -> str | None:
    """Say what is wrong with how camfn answers a call; None where it is right."""
    try:
        result = perform(call)
    except CamfnError as error:
        return _unclear(call, str(error))
    except Exception as error:
        if call.wrong and own_fault(error):
            return None
        where = traceback.extract_tb(error.__traceback__)
        inside = [frame for frame in where if "/camfn/" in frame.filename and "tests" not in frame.filename]
        at = f"{inside[-1].filename.split('/camfn/')[-1]}:{inside[-1].lineno}" if inside else "outside"
        return f"{type(error).__name__} at {at}: {str(error)[:150]}"
    if call.wrong:
        return None
    tensors = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    return None if all(bool(x.isfinite().all()) for x in tensors) else "a right call gives numbers that are not finite"

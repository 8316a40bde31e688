"""The exported program: images and a target to outputs and map, in one graph of torch.export."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from .._shared.checks import describe
from .._shared.errors import ArgumentTypeError, CamfnError, first_line
from ._check import compared
from ._facts import facts
from ._plan import Batch, Plan, plan
from ._trace import BATCH, Frozen, state_of, traced

Stage = Callable[[str], None]
"""Called with what begins, in words: "tracing"."""


def program(
    explain: Any,
    inputs: Any,
    *,
    target: Any = "input",
    heatmap: tuple[int, int] | None = None,
    batch: Batch = "dynamic",
    progress: Stage | None = None,
) -> ExportedProgram:
    """Export an explainer and its model as one program: `(images, target) -> (outputs, cam)`.

    The program holds the parameters once, and no Python; `torch.export.save` writes it, `torch.compile` takes it.
    `program` runs it on new images, in other numbers, and compares its outputs and map with those of `explain`.

    Args:
        explain: an `explainer`, `fuse` or `attention_explainer` of a model in evaluation mode on the CPU, in float32.
        inputs: images (B, C, H, W), or signals or volumes; their size is that of the program.
        target: "input" makes the class an input, int64 (B,), -1 for each sample's top class; or what `explain` takes,
            which is then fixed.
        heatmap: height and width of a third output, the map clipped at zero, stretched to [0, 1] and resized.
        batch: "dynamic" takes any number of images, "fixed" as many as `inputs` has.
        progress: called with the name of each stage as it begins.

    Returns:
        The program; its inputs are images and, for "input", target; its outputs the logits, the map, the heatmap where
        it has a size, and what else the model returned.

    Raises:
        CamfnError: `explain` cannot be exported (the error names the operator or the place), or the program disagrees
            with `explain`.

    Example:
        >>> import torch
        >>> from camfn import explainer
        >>> from camfn.methods import grad_cam
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5)).eval()
        >>> made = program(explainer(grad_cam, net, "0"), torch.rand(2, 3, 8, 8))
        >>> logits, cam = made.module()(torch.rand(3, 3, 8, 8), torch.tensor([4, -1, 0]))
        >>> logits.shape, cam.shape
        (torch.Size([3, 5]), torch.Size([3, 6, 6]))
    """
    tell = teller(progress)
    return program_and_facts(plan(explain, inputs, target, heatmap, batch), tell)[0]


def teller(progress: Stage | None) -> Stage:
    """Return what is called with each stage.

    Raises:
        ArgumentTypeError: it cannot be called.
    """
    if progress is not None and not callable(progress):
        raise ArgumentTypeError(f"progress: expected a function of one text, as print, got {describe(progress)}")
    return progress or (lambda stage: None)


def program_and_facts(what: Plan, tell: Stage, **about: Any) -> tuple[ExportedProgram, dict[str, Any]]:
    """Export a plan and check the program; return it with what `facts` say of it, from the user's words `about` it."""
    told = facts(what, **about)
    made = exported(what, tell)
    tell("checking")
    return made, told | {"verified": compared(what, made.module())._asdict()}


def exported(what: Plan, tell: Stage) -> ExportedProgram:
    """Trace a plan, and hand the graph to torch.export."""
    example = what.example()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        tell("tracing")
        graph = _traced(what, example)
        tell("exporting")
        several = torch.export.Dim("batch", min=1, max=4096) if what.dynamic else None
        sizes = tuple({0: several} if what.dynamic else None for _ in example)
        try:
            return torch.export.export(Frozen(what.model, graph), example, strict=False, dynamic_shapes=sizes)
        except Exception as error:
            raise CamfnError(_refused(what, graph, error)) from error


def _traced(what: Plan, example: tuple[Any, ...]) -> fx.GraphModule:
    try:
        return traced(what.run, state_of(what.model), example, what.dynamic)
    except CamfnError as error:
        raise CamfnError(f"export: {error}") from error
    except Exception as error:
        raise CamfnError(
            f"export: the trace of {type(what.model).__name__} fails: {type(error).__name__}: "
            f"{first_line(error):.300}. A graph holds no decision that reads numbers: take another layer or method, or "
            "export the part that has none"
        ) from error


def _refused(what: Plan, graph: fx.GraphModule, error: Exception) -> str:
    """Say why torch.export refuses a graph: mostly a batch that became a number."""
    place = fixed_at(graph) if what.dynamic else None
    if place:
        return (
            f"export: {place} fixes the batch, so that the file would take {BATCH} images and no other number. Pass "
            f"batch='fixed' with as many images as the file shall take, or another layer or method"
        )
    return f"export: torch.export refuses the graph: {type(error).__name__}: {first_line(error):.300}"


def fixed_at(graph: fx.GraphModule) -> str | None:
    """Name the first operator that takes the number of traced images in place of the open batch."""
    for node in graph.graph.nodes:
        if node.op != "call_function":
            continue
        shapes = [argument for argument in node.args if isinstance(argument, (list, tuple)) and len(argument) > 1]
        if any(type(shape[0]) is int and shape[0] == BATCH for shape in shapes):
            return f"{node.target} ({node.name})"
    return None

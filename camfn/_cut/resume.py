"""The network after the cut, with what came before it replayed, not recomputed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._layout.readings import as_map
from .._shared.checks import batch_sizes, keeps_graph, shapes_agree, tensor
from .._shared.inputs import call as run_on
from .._shared.inputs import copy_of, repeated, zero_like
from .._shared.seen import record_sheet, record_table
from .._shared.value import Value, frozen
from .._shared.vocabulary import Call, Inputs, LayoutPair
from .capture import AtLayer, joined
from .graft import bare, graft, replace_forward
from .layer_checks import (
    check_call,
    chosen_calls,
    chosen_tensor,
    dequantized,
    naming_misplaced,
    quantized_like,
)
from .layouts import layouts_for
from .record import Change, Kept, Recorder
from .traced import outside_the_compiler


@frozen
class resume(AtLayer):
    """Cut a model at a layer, and give the part after the cut as a function.

    One forward records what every module that finished before the layer returned; the tail then runs the model again
    with those modules answering from the record and the layer answering the activations it is given. Nothing is traced,
    so any control flow will do, and the work before the cut is never repeated. The tail may be called any number of
    times, under `vmap`, `vjp` and `jvp`, and from several threads.

    Args:
        model: any module; left exactly as it is.
        layer: a dotted name as in `model.named_modules()`, or the module itself.
        select: which tensor, where the layer returns a tuple or a dict: an index, a key or a function.
        layout: the tail takes activations as (B, C, *spatial), and puts them back into the layer's own shape; "auto"
            finds it, as `layout.find`, and None takes the layer's own shape.
        images: as for `observe`.
        call: as for `capture`. The earlier runs of the layer are replayed too, the later ones run again.
        differentiable: keep the graph that leads from the inputs and parameters to the recorded values.

    Returns:
        A function of the inputs that returns the tail: activations to outputs.

    Raises:
        CaptureError: no such layer, it ran never or several times, or its output is not one tensor.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5))
        >>> images = torch.ones(2, 3, 8, 8)
        >>> tail = resume(net, "0")(images)
        >>> torch.equal(tail(net[0](images)), net(images))
        True
    """

    def __call__(self, inputs: Inputs) -> tail:
        """Record one forward; return the function of the activations to the outputs."""
        return _recorded_eagerly(self, inputs).tail


@frozen
class record(AtLayer):
    """Cut a model at a layer and keep both sides: `resume`, with the activations and outputs of its one forward."""

    def __call__(self, inputs: Inputs) -> Recorded:
        """Record one forward; return its activations, its outputs and the tail."""
        return _recorded_eagerly(self, inputs)


class Recorded(NamedTuple):
    """What one recording forward gives.

    Attributes:
        activations: the layer's output, after the layout.
        outputs: what the model returned.
        tail: activations to outputs.
        convolutions_left: whether modules that convolve images are yet to run.
    """

    activations: Tensor
    outputs: Any
    tail: tail
    convolutions_left: bool

    def _repr_html_(self) -> str:
        """Show shapes, ranges and small pictures in a notebook instead of all numbers."""
        return record_table(self._asdict(), ("activations",))

    def _repr_png_(self) -> bytes | None:
        """Draw the mean over channels of the first samples' activations; None without maps."""
        return record_sheet(self.activations)


def _recorded(of: AtLayer, inputs: Inputs) -> Recorded:
    model, name = bare(of.model), of.name
    keep = keeps_graph("resume", model, inputs, of.differentiable)
    with torch.inference_mode(False), torch.set_grad_enabled(keep), naming_misplaced(model, inputs):
        at = _first_call(model, name, of.call, inputs)
        recorder = Recorder(model, name, at, of.call)
        outputs = recorder.run(copy_of(inputs))
    answers, earlier, cuts, given = recorder.finished()
    raws = [chosen_tensor(name, cut.value(), of.select) for cut in cuts]
    shown = [dequantized(raw) for raw in raws]
    layouts = layouts_for(of, model, name, shown, inputs)
    maps = [as_map(found, raw) for raw, found in zip(shown, layouts)]
    rest = tail(
        model,
        name,
        {key: answers[id(module)] for key, module in model.named_modules() if id(module) in answers},
        given,
        Cuts(earlier, cuts, raws, layouts, maps),
        tuple(batch_sizes(inputs, raws)),
    )
    return Recorded(joined(name, maps), outputs, rest, _has_convolutions_left(model, name, answers))


_recorded_eagerly = outside_the_compiler(_recorded)


@frozen
class tail(Value):
    """The network after a cut: a function of the activations to the outputs, made by `resume(model, layer)(inputs)`.

    Attributes:
        model: the user's.
        layer: the name of the layer.
        answers: what each module before the cut returned, by its name.
        given: the inputs of the recording forward.
        cuts: the layer's runs up to the last that is cut.
        batches: sizes that a batch of the recorded values has.
    """

    model: nn.Module
    layer: str
    answers: dict[str, list[Kept | None]]
    given: Kept
    cuts: Cuts
    batches: tuple[int, ...]
    _found: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<tail of {type(self.model).__name__} after {self.layer!r}>"

    def __call__(self, activations: Tensor) -> Any:
        """Run the network after the layer on these activations."""
        # Two retries at most, and what helped is done at once in later calls. If `vmap` refuses a write in place,
        # `_replay` batches every recorded value as the activations are. After any other error with several batches,
        # `_replay` repeats every recorded value for each batch.
        replacements, times = _split_activations(self.layer, activations, self.cuts)
        while True:
            # repeat recorded values only after the tail raised a shape error: most tails never read them
            sizes = tuple(size for size in self.batches if size == 1 or "repeat" in self._found)
            change = Change(replacements[0], "lift" in self._found, times, sizes)
            start = self.given.value(change._replace(batches=self.batches))
            try:
                return _replay(self, start, replacements, change)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                if "lift" not in self._found and _in_place_under_vmap(error):
                    self._found.append("lift")
                elif "repeat" not in self._found and times > 1:
                    self._found.append("repeat")
                else:
                    raise


def _first_call(model: nn.Module, name: str, call: Call | None, inputs: Inputs) -> int:
    """Return the index of the first run to cut at; a negative `call` needs one more forward, which counts the runs."""
    check_call(call)
    if call is None or call == "all":
        return 0
    if call >= 0:
        return call
    ran: list[int] = []
    layer = model.get_submodule(name)
    counting = graft(model, {id(layer)})
    counting.owned[id(layer)].register_forward_hook(lambda module, args, output: ran.append(1))
    run_on(counting, copy_of(inputs))
    return chosen_calls(name, len(ran), call, model)[0]


def _has_convolutions_left(model: nn.Module, name: str, answers: dict[int, list[Kept | None]]) -> bool:
    """Whether a 2-D convolution runs after the cut."""
    done = [model.get_submodule(name), *(module for module in model.modules() if id(module) in answers)]
    over = {id(part) for module in done for part in module.modules()}
    return any(isinstance(module, nn.Conv2d) and id(module) not in over for module in model.modules())


class Cuts(NamedTuple):
    """The layer's runs up to the last that is cut.

    Attributes:
        earlier: recorded outputs of the runs before the cut.
        outputs: recorded outputs of the runs that are cut.
        raws: for each of these, the tensor that `select` picked from it.
        layouts: for each of `raws`, its layout.
        maps: for each of `raws`, the tensor as a map.
    """

    earlier: list[Kept]
    outputs: list[Kept]
    raws: list[Tensor]
    layouts: list[LayoutPair | None]
    maps: list[Tensor]

    def replayed(self, name: str, replacements: list[Tensor], change: Change) -> list[Any]:
        """Return what the layer of this name returns in the replay, run by run."""
        answers = [kept.value(change) for kept in self.earlier]
        for cut, raw, own in zip(self.outputs, self.raws, replacements):
            put = quantized_like(name, own.clone() if any(cut.written) else own, raw)
            answers.append(
                pytree.tree_map(
                    lambda leaf, raw=raw, put=put: put if leaf is raw else repeated(leaf, change.times, change.batches),
                    cut.value(),
                )
            )
        return answers


def _split_activations(name: str, activations: Tensor, cuts: Cuts) -> tuple[list[Tensor], int]:
    """Activations in the layer's own shape, one for each run that is cut, and how many batches they are."""
    tensor(f"tail at layer {name!r}: activations", activations)
    widths = [one.shape[1] for one in cuts.maps] if len(cuts.maps) > 1 else []
    parts = list(torch.split(activations, widths, 1)) if widths else [activations]
    replacements, times = [], 1
    for part, raw, layout, like in zip(parts, cuts.raws, cuts.layouts, cuts.maps):
        # a detector may have found nothing
        times = part.shape[0] // like.shape[0] if like.shape[0] else 1
        replacement = layout.from_map(part, repeated(dequantized(raw), times, (raw.shape[0],))) if layout else part
        shapes_agree(f"tail at layer {name!r}, beyond the batch", replacement.shape[1:], raw.shape[1:])
        replacements.append(replacement)
    return replacements, times


def _replay(of: tail, inputs: Any, replacements: list[Tensor], change: Change) -> Any:
    """Run the model; recorded modules return their recorded values, and the layer returns its replacement."""
    layer = of.model.get_submodule(of.layer)
    answers = {id(of.model.get_submodule(name)): values for name, values in of.answers.items()}
    replaying = graft(of.model, {*answers, id(layer)}, zero_like(change.activations))
    for key, values in answers.items():
        _let_answer(replaying.owned[key], [kept and partial(kept.value, change) for kept in values])
    outputs = of.cuts.replayed(of.layer, replacements, change)
    _let_answer(replaying.owned[id(layer)], [partial(lambda output: output, output) for output in outputs])
    try:
        return run_on(replaying, inputs)
    finally:
        # break the cycle module -> forward -> module: it would keep tensors alive until the garbage collector runs
        for module in replaying.owned.values():
            replace_forward(module, None)


def _let_answer(module: nn.Module, values: Sequence[Callable[[], Any] | None]) -> None:
    """Let a private copy give these values, and run for its calls after the cut and where there is None.

    A hook gives them, after the hooks of all modules, which have changed them once already; that there is a hook also
    keeps torch off its fused kernels, which would not call the modules within.
    """
    calls, forward = iter(values), module.forward
    given: list[Any] = []

    def answer(*args: Any, **kwargs: Any) -> Any:
        given.clear()
        value = next(calls, None)
        if value is None:
            return forward(*args, **kwargs)
        given.append(value())
        return given[0]

    replace_forward(module, answer)
    module.register_forward_hook(lambda module, args, output: given.pop() if given else None, prepend=True)


def _in_place_under_vmap(error: RuntimeError) -> bool:
    """Whether `vmap` refused to write batched values into a tensor that is not batched; it has two texts for that."""
    text = str(error)
    return (text.startswith("vmap: ") and "extra_args" in text) or "doesn't match the broadcast shape" in text

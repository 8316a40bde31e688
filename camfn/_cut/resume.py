"""The network after the cut, with what came before it replayed, not recomputed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._layout.readings import as_map, layout_for
from .._shared.checks import batch_sizes, shapes_agree
from .._shared.inputs import call as run_on
from .._shared.inputs import copy_of, repeated, zero_like
from .._shared.vocabulary import AnyLayout, Call, Inputs, Layout, Select, Tail
from .capture import joined
from .graft import bare, graft, replace_forward
from .layer_checks import chosen_calls, chosen_tensor, layer_name
from .record import Change, Kept, Recorder


def resume(
    model: nn.Module,
    layer: str | nn.Module,
    *,
    select: Select | None = None,
    layout: AnyLayout = None,
    call: Call | None = None,
) -> Callable[[Inputs], Tail]:
    """Cut a model at a layer, and give the part after the cut as a function.

    One forward records what every module that finished before the layer returned; the tail then runs the model again
    with those modules answering from the record and the layer answering the activations it is given. Nothing is traced,
    so any control flow will do, and the work before the cut is never repeated. The tail may be called any number of
    times, under `vmap`, `vjp` and `jvp`, and from several threads.

    Args:
        model: any module; left exactly as it is.
        layer: a dotted name as in `model.named_modules()`, or the module itself.
        select: which tensor, where the layer returns a tuple or a dict: an index, a key or a function.
        layout: the tail then takes activations as (B, C, *spatial), and puts them back into the layer's own shape;
            "auto" finds it, as `layout.find`.
        call: as for `capture`. The earlier runs of the layer are replayed too, the later ones run again.

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
    run = record(model, layer, select=select, layout=layout, call=call)
    return lambda inputs: run(inputs).tail


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
    tail: Tail
    convolutions_left: bool


def record(
    model: nn.Module,
    layer: str | nn.Module,
    *,
    select: Select | None = None,
    layout: AnyLayout = None,
    call: Call | None = None,
) -> Callable[[Inputs], Recorded]:
    """Cut a model at a layer and keep both sides: `resume`, with the activations and outputs of its one forward."""
    name, model = layer_name(model, layer), bare(model)

    def run(inputs: Inputs) -> Recorded:
        with torch.inference_mode(False), torch.no_grad():
            at = _first_call(model, name, call, inputs)
            recorder = Recorder(model, name, at, call)
            outputs = recorder.run(copy_of(inputs))
        answers, earlier, cuts, given = recorder.finished()
        raws = [chosen_tensor(name, cut.value(), select) for cut in cuts]
        layouts = [layout_for(layout, model, name, raw, inputs) for raw in raws]
        maps = [as_map(found, raw) for raw, found in zip(raws, layouts)]
        batches = batch_sizes(inputs, raws)
        lift_all = repeat = False

        def tail(activations: Tensor) -> Any:
            # `tail` retries at most twice, and keeps the setting for later calls. If `vmap` refuses a write in place,
            # `_replay` batches every recorded value as the activations are. After any other error with several batches,
            # `_replay` repeats every recorded value for each batch.
            nonlocal lift_all, repeat
            replacements, times = _split_activations(name, activations, raws, layouts, maps)
            while True:
                change = Change(replacements[0], lift_all, times, batches)
                start = given.value(change)
                if not repeat:
                    # repeat recorded values only after the tail raised a shape error: most tails never read them
                    change = change._replace(batches=batches & {1})
                try:
                    return _replay(model, name, answers, start, _Runs(earlier, cuts, raws, replacements), change)
                except torch.OutOfMemoryError:
                    raise
                except RuntimeError as error:
                    if not lift_all and _in_place_under_vmap(error):
                        lift_all = True
                    elif not repeat and times > 1:
                        repeat = True
                    else:
                        raise

        return Recorded(joined(name, maps), outputs, tail, _has_convolutions_left(model, name, answers))

    return run


def _first_call(model: nn.Module, name: str, call: Call | None, inputs: Inputs) -> int:
    """Return the index of the first run to cut at; a negative `call` needs one more forward, which counts the runs."""
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


def _has_convolutions_left(model: nn.Module, name: str, answers: dict[int, list[Kept]]) -> bool:
    """Whether a 2-D convolution runs after the cut."""
    done = [model.get_submodule(name), *(module for module in model.modules() if id(module) in answers)]
    over = {id(part) for module in done for part in module.modules()}
    return any(isinstance(module, nn.Conv2d) and id(module) not in over for module in model.modules())


def _split_activations(
    name: str, activations: Tensor, raws: list[Tensor], layouts: list[Layout | None], maps: list[Tensor]
) -> tuple[list[Tensor], int]:
    """Activations in the layer's own shape, one for each run that is cut, and how many batches they are."""
    parts = [activations] if len(raws) == 1 else list(torch.split(activations, [one.shape[1] for one in maps], 1))
    replacements, times = [], 1
    for part, raw, layout, like in zip(parts, raws, layouts, maps):
        # a detector may have found nothing
        times = part.shape[0] // like.shape[0] if like.shape[0] else 1
        replacement = layout.from_map(part, repeated(raw, times, {raw.shape[0]})) if layout else part
        shapes_agree(f"tail at layer {name!r}, beyond the batch", replacement.shape[1:], raw.shape[1:])
        replacements.append(replacement)
    return replacements, times


class _Runs(NamedTuple):
    """The layer's runs up to the last that is cut.

    Attributes:
        earlier: recorded outputs of the runs before the cut.
        cuts: recorded outputs of the runs that are cut.
        raws: for each output in `cuts`, the tensor that `select` picked from it.
        replacements: for each tensor in `raws`, the tensor that the replay puts in its place.
    """

    earlier: list[Kept]
    cuts: list[Kept]
    raws: list[Tensor]
    replacements: list[Tensor]

    def outputs(self, change: Change) -> list[Any]:
        """Return what the layer returns in the replay, run by run."""
        answers = [kept.value(change) for kept in self.earlier]
        for cut, raw, own in zip(self.cuts, self.raws, self.replacements):
            put = own.clone() if any(cut.written) else own
            answers.append(
                pytree.tree_map(
                    lambda leaf, raw=raw, put=put: put if leaf is raw else repeated(leaf, change.times, change.batches),
                    cut.value(),
                )
            )
        return answers


def _replay(
    model: nn.Module, name: str, answers: dict[int, list[Kept]], inputs: Any, runs: _Runs, change: Change
) -> Any:
    """Run the model; recorded modules return their recorded values, and the layer returns its replacement."""
    layer = model.get_submodule(name)
    replaying = graft(model, {*answers, id(layer)}, zero_like(change.activations))
    for key, values in answers.items():
        module = replaying.owned[key]
        replace_forward(module, _answer(values, change, module.forward))
    at_cut = replaying.owned[id(layer)]
    outputs, forward, ran = runs.outputs(change), at_cut.forward, count()
    replace_forward(
        at_cut,
        lambda *args, **kwargs: outputs[i] if (i := next(ran)) < len(outputs) else forward(*args, **kwargs),
    )
    try:
        return run_on(replaying, inputs)
    finally:
        # break the cycle module -> forward -> module: it would keep tensors alive until the garbage collector runs
        for module in replaying.owned.values():
            replace_forward(module, None)


def _answer(values: list[Kept], change: Change, forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a forward that gives the recorded values first, and runs the module for the calls after the cut."""
    calls = count()

    def answer(*args: Any, **kwargs: Any) -> Any:
        i = next(calls)
        return values[i].value(change) if i < len(values) else forward(*args, **kwargs)

    return answer


def _in_place_under_vmap(error: RuntimeError) -> bool:
    """Whether `vmap` refused to write batched values into a tensor that is not batched; it has two texts for that."""
    text = str(error)
    return (text.startswith("vmap: ") and "extra_args" in text) or "doesn't match the broadcast shape" in text

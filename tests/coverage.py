"""What camfn does with each family of networks, as a table: `python -m tests.coverage` writes docs/coverage.md.

Each member has random weights and is looked at in layers over its depth: what is captured against `torch.autograd`, the
tail against the network, the tail under `vmap` against a loop, the layout that is found, and the suggested layer.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import re
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.utils import _pytree as pytree

from camfn import capture_many, resume
from camfn.layers import suggest
from camfn.layout import find
from tests.nets.small import reference
from tests.nets.zoo import SWEEP, Member, build

ROOT = Path(__file__).parents[1]
PAGE, RECORD = ROOT / "docs" / "coverage.md", ROOT / "out" / "coverage.jsonl"
LAYERS = 5
COLUMNS = ("capture", "resume", "vmap", "layout", "suggest")


def check(member: Member) -> dict[str, Any]:
    """Look at one member; what went wrong is named in its column."""
    model, inputs, _ = build(member, batch=2)
    target = target_of(member)
    layers = spread(model, inputs)
    row: dict[str, Any] = {"name": str(member), "layers": len(layers)}
    # a score that is one number a sample, from outputs of any kind
    captured: dict[str, Any] = {}

    many = capture_many(model, layers, layout=None, unused="zeros")

    def capture() -> str:
        captured.update(many(inputs, target))
        alive = 0
        for layer in layers:
            expected = reference(model, layer, lambda m: run(m, inputs), target)
            for got, want in zip(captured[layer][:2], expected):
                close(got, want.detach(), layer)
            alive += bool(captured[layer].grads.any())
        one_image_is_two(model, layers, inputs, target)
        return "ok" if alive >= 2 else f"only {alive} layers with a gradient"

    def resumed() -> str:
        for layer in layers:
            activations, _, outputs = captured[layer]
            tail = resume(model, layer, layout=None)(inputs)
            with torch.no_grad():
                for _ in range(2):
                    close(target(tail(activations)), target(outputs), layer)
        return "ok"

    def mapped() -> str:
        if member.task == "detect":
            return "n/a"
        for layer in layers:
            activations = captured[layer].activations
            tail = resume(model, layer, layout=None)(inputs)
            with torch.no_grad():
                rows = torch.stack([activations, activations * 0.5])
                loop = torch.stack([target(tail(row)) for row in rows])
                close(vmap(lambda row, tail=tail: target(tail(row)))(rows), loop, layer)
        return "ok"

    def laid_out() -> str:
        return ", ".join(dict.fromkeys(_reading(model, layer, inputs) for layer in layers))

    def suggested() -> str:
        first = suggest(model, inputs, target)[0]
        found = find(model, first.name, inputs)
        assert found.spatial == first.spatial, (found, first)
        size = " x ".join(map(str, first.spatial))
        return f"`{first.name}` {size}" + ("" if first.depends else ", no gradient")

    for column, look in zip(COLUMNS, (capture, resumed, mapped, laid_out, suggested)):
        row[column] = _tried(look)
    return row


def one_image_is_two(model: nn.Module, layers: list[str], inputs: Any, target: Any) -> None:
    """Hold the gradients of one image to norms in arithmetic, and to those of two copies of it.

    In float64, for in float32 a rounding may move the maximum that a pooling takes.
    """

    def batch(times: int) -> Any:
        def change(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            x = x.double() if x.is_floating_point() else x
            return torch.cat([x[:1]] * times) if x.ndim and x.shape[0] == 2 else x

        return pytree.tree_map(change, inputs)

    wide = copy.deepcopy(model).double()
    many = capture_many(wide, layers, layout=None, unused="zeros")
    one, two = many(batch(1), target), many(batch(2), target)
    with norms_in_arithmetic(wide):
        for layer in layers:
            close(one[layer].grads, reference(wide, layer, lambda m: run(m, batch(1)), target)[1], layer)
    for layer in layers:
        samples = one[layer].grads.shape[0]
        if two[layer].grads.shape[0] == 2 * samples:
            close(one[layer].grads, two[layer].grads[:samples], layer)


@contextlib.contextmanager
def norms_in_arithmetic(model: nn.Module) -> Iterator[None]:
    """Let BatchNorm and InstanceNorm answer in operations whose derivatives do not depend on strides."""
    handles = [
        module.register_forward_hook(lambda module, args, output: affine(module, args[0]))
        for module in model.modules()
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm2d)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def affine(norm: Any, x: Tensor) -> Tensor:
    """BatchNorm in evaluation mode, or InstanceNorm, from its definition."""
    shape, axes = (1, -1, *[1] * (x.ndim - 2)), tuple(range(2, x.ndim))
    if isinstance(norm, nn.InstanceNorm2d):
        mean, var = x.mean(axes, keepdim=True), x.var(axes, correction=0, keepdim=True)
    else:
        mean, var = norm.running_mean.view(shape), norm.running_var.view(shape)
    out = (x - mean) / (var + norm.eps).sqrt()
    if norm.weight is not None:
        out = out * norm.weight.view(shape) + norm.bias.view(shape)
    return torch.as_tensor(out)


def _tried(look: Callable[[], str]) -> str:
    try:
        return look()
    except Exception as error:  # named in the table, whatever it is
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:120]}"


def _reading(model: nn.Module, layer: str, inputs: Any) -> str:
    try:
        found = find(model, layer, inputs)
    except ValueError as error:
        return "ambiguous" if "ways" in str(error) else "none"
    return f"{found.name} +{found.prefix}" if found.prefix else found.name


def target_of(member: Member) -> Callable[[Any], Tensor]:
    """A score for each sample: a class, a class's mean over a segmentation, the sum of a detector's scores."""
    if member.task == "detect":
        return lambda outputs: torch.stack([found["scores"].sum() for found in outputs])
    if member.task == "segment":
        return lambda outputs: outputs["out"][:, 3].mean((1, 2))

    def score(outputs: Any) -> Tensor:
        logits = outputs if isinstance(outputs, Tensor) else outputs["logits"]
        return logits[:, member.label] if logits.ndim == 2 else logits[:, member.label].mean((1, 2))

    return score


def run(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def spread(model: nn.Module, inputs: Any) -> list[str]:
    """Names of layers spread over the depth, each of which runs once and returns one floating-point tensor."""
    runs: dict[str, int] = {}
    fits: set[str] = set()
    handles = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            runs[name] = runs.get(name, 0) + 1
            if isinstance(output, Tensor) and output.is_floating_point():
                fits.add(name)

        return hook

    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_hook(watch(name)))
    with torch.no_grad():
        run(model, inputs)
    for handle in handles:
        handle.remove()
    once = [name for name, count in runs.items() if count == 1 and name in fits]
    return list(dict.fromkeys(once[round(i * (len(once) - 1) / (LAYERS - 1))] for i in range(LAYERS)))


def close(got: Any, expected: Any, layer: str) -> None:
    for one, other in zip(pytree.tree_leaves(got), pytree.tree_leaves(expected), strict=True):
        tolerance = 1e-4 * float(other.abs().max()) if other.numel() else 0.0
        torch.testing.assert_close(one, other, rtol=1e-4, atol=tolerance, msg=lambda text: f"{layer}: {text}")


def write(rows: list[dict[str, Any]]) -> None:
    """Write the page."""
    text = [
        "# Coverage",
        "",
        "What `python -m tests.coverage` found, one small member of each family, random weights, layers over its",
        "depth: `capture` against `torch.autograd`, `resume` against the network, `vmap(tail)` against a loop, the",
        "layouts that `layout.find` gives (with the number of tokens before the grid; none where a layer is no map),",
        "and the first layer of `layers.suggest` with its map. Suppressing boxes reads data: detectors have no `vmap`.",
        "",
        f"{sum(all(row[c] == 'ok' or (c == 'vmap' and row[c] == 'n/a') for c in COLUMNS[:3]) for row in rows)} of "
        f"{len(rows)} families pass in the first three columns.",
        "",
        "| network | " + " | ".join(COLUMNS) + " |",
        "|---" * (1 + len(COLUMNS)) + "|",
    ]
    for row in rows:
        cells = [str(row[column]).replace("|", "\\|") for column in COLUMNS]
        text.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    PAGE.write_text("\n".join(text) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a regular expression over the names")
    parser.add_argument("--again", action="store_true", help="forget what was recorded")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    RECORD.parent.mkdir(exist_ok=True)
    lines = [] if options.again or not RECORD.exists() else RECORD.read_text().splitlines()
    known = {row["name"]: row for row in map(json.loads, lines)}
    for member in SWEEP:
        if str(member) in known or not re.search(options.only, str(member)):
            continue
        start = time.perf_counter()
        try:
            row = check(member)
        except Exception as error:  # the network itself does not run
            row = {"name": str(member)} | dict.fromkeys(COLUMNS, f"{type(error).__name__}: {error}"[:120])
        print(f"{time.perf_counter() - start:6.1f} s", row, flush=True)
        known[str(member)] = row
        with RECORD.open("a") as file:
            file.write(json.dumps(row) + "\n")
    write([known[str(member)] for member in SWEEP if str(member) in known])


if __name__ == "__main__":
    main()

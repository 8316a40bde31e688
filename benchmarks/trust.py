"""The check held to a world of known truth: how often each answer is good, for good maps and for bad ones.

Run `python -m benchmarks.trust` for the tables of docs/check.md.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from camfn import Checked, check, explainer, image, methods, metrics, network, tiny

SCENES = 40
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def edges(images: Tensor, target: Any) -> Tensor:
    """Size of the steps of brightness between neighbors: a map that knows no network."""
    across = images.diff(dim=3, append=images[..., -1:]).abs().sum(1)
    return across + images.diff(dim=2, append=images[:, :, -1:]).abs().sum(1)


def explainers() -> dict[str, Callable[..., Tensor]]:
    """Make one explainer of each kind, good and bad."""
    cnn, untrained, vit = tiny.load("cnn"), tiny.load("cnn", trained=False), tiny.load("vit")
    draws = torch.Generator().manual_seed(1)
    return {
        "grad_cam": explainer(methods.grad_cam, cnn, "body"),
        "recipro_cam": explainer(methods.recipro_cam, cnn, "body"),
        "grad_cam, transformer": explainer(methods.grad_cam, vit, "blocks.1"),
        "layer_cam": explainer(methods.layer_cam, cnn, "body"),
        "full_grad": network.full_grad(cnn),
        "grad_cam, early layer": explainer(methods.grad_cam, cnn, "body.1"),
        "grad_cam, untrained network": explainer(methods.grad_cam, untrained, "body"),
        "eigen_cam (no class)": explainer(methods.eigen_cam, cnn, "body"),
        "random_cam": explainer(partial(methods.random_cam, generator=draws), cnn, "body"),
        "edges of the image": edges,
    }


def found(explain: Callable[..., Tensor], world: tiny.Scenes) -> Checked:
    """Check the maps of the first digit of each scene."""
    return check(explain, world.images, world.labels[:, 0], model=tiny.load("cnn") if explain is edges else None)


def row(name: str, checked: Checked, world: tiny.Scenes) -> str:
    """Count the verdicts, as a line of Markdown; the last column is the truth: peaks on the digit."""
    lines = [{line.name: line.verdict for line in checked.lines(i)} for i in range(SCENES)]
    counts = [
        "/".join(str(sum(line.get(question) == verdict for line in lines)) for verdict in ("good", "look", "bad"))
        for question in ("same call", "other class", "new head", "noise", "kept", "removed", "border", "one place")
    ]
    cam = image.upsample(checked.cam, world.images.shape[2:])
    hit = metrics.pointing_game(cam, world.masks[:, 0]).float().mean()
    return f"| {name} | " + " | ".join(counts) + f" | {hit:.0%} |"


def main() -> None:
    """Print the tables."""
    world = tiny.scenes(SCENES, generator=torch.Generator().manual_seed(11))
    for name, explain in explainers().items():
        checked = found(explain, world)
        print(row(name, checked, world))
        if name in ("grad_cam", "grad_cam, untrained network", "edges of the image", "random_cam"):
            print(checked.table(0, DIGITS, width=116))


if __name__ == "__main__":
    main()

"""Black boxes at the same number of forwards: region search beside RISE and D-RISE, and the share of the best order.

`python -m benchmarks.region_search` prints the tables of docs/methods.md: insertion on photos with lite0 and on scenes
with the tiny detector, and on the tiny classifier the share of the way from a random order of 16 cells to the greedy
one (`metrics.trace`), by forwards. Intervals: 95 % of 2000 bootstraps over the photos or scenes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from camfn import explainer, methods, metrics, targets, tiny

DETECTOR = targets.BoxHead(
    boxes_of=lambda out: torch.cat([out[..., :2] - out[..., 2:4] / 2, out[..., :2] + out[..., 2:4] / 2], -1),
    scores_of=lambda out: out[..., 4:5].sigmoid() * out[..., 5:].softmax(-1),
)


def seeded(number: int) -> torch.Generator:
    """A generator of its own for each method."""
    return torch.Generator().manual_seed(number)


def black_boxes(forwards: int) -> dict[str, tuple[int, Callable[..., Tensor]]]:
    """Methods with as near to so many forwards as they come, and how many these are."""
    cells = max(2, int(((1 + 4 * forwards) ** 0.5 - 1) / 2))
    side = max(2, round(cells**0.5))
    designs = max(2, forwards // 17)
    return {
        f"region_search:grid={side}": (side**2 * (side**2 + 1), partial(methods.region_search, grid=side)),
        f"rise:samples={forwards}": (forwards, partial(methods.rise, samples=forwards, grid=4, generator=seeded(0))),
        f"hsic:samples={forwards}": (forwards, partial(methods.hsic, samples=forwards, grid=4, generator=seeded(0))),
        f"sobol:designs={designs}": (17 * designs, partial(methods.sobol, designs=designs, grid=4)),
    }


def interval(values: Tensor) -> str:
    """The mean and 95 % of its bootstraps."""
    draws = torch.randint(len(values), (2000, len(values)), generator=seeded(1))
    low, high = values[draws].mean(1).quantile(torch.tensor([0.025, 0.975])).tolist()
    return f"{values.mean():.3f} [{low:.2f}, {high:.2f}]"


def detector(count: int = 30) -> None:
    """Insertion of the similarity of a box, on scenes of digits."""
    world = tiny.scenes(count, generator=seeded(8))
    net = tiny.load("detector")
    same = targets.detection_similarity(world.boxes[:, 0], world.labels[:, 0], head=DETECTOR)
    score = metrics.scores_of(net, world.images, same)
    print("| method | forwards | insertion, tiny detector |\n|---|---|---|")
    for grid, forwards in ((4, 272), (6, 1332)):
        for name, method in (
            (f"region_search:grid={grid}", partial(methods.region_search, grid=grid)),
            (f"d_rise:samples={forwards}", partial(methods.d_rise, samples=forwards, grid=8, generator=seeded(0))),
        ):
            maps = explainer(method, net, "body.3")(world.images, same)
            curve = metrics.insertion(score, world.images, maps, step=0.05, baseline=0.0)
            print(f"| `{name}` | {forwards} | {interval(curve.auc)} |", flush=True)


def photos(count: int = 10) -> None:
    """Insertion of the probability of the class of the photo, with lite0 at 224 pixels, blurred photos behind."""
    from camfn.evaluate import builtin_photos
    from camfn.zoo import load

    loaded = load("lite0")
    rows: dict[str, list[Tensor]] = {}
    used = 0
    for photo in builtin_photos():
        x = loaded.preprocess(photo.read())[None]
        with torch.no_grad():
            best = loaded.model(x).argmax(1)
        # the network's own class, so that there is a score to insert
        score = metrics.scores_of(loaded.model, x, targets.class_probability(best))
        for name, method in (
            ("region_search:grid=4", partial(methods.region_search, grid=4)),
            ("rise:samples=272", partial(methods.rise, samples=272, generator=seeded(0))),
            ("hsic:samples=272", partial(methods.hsic, samples=272, grid=4, generator=seeded(0))),
        ):
            maps = explainer(method, loaded.model, "bn2")(x, targets.class_probability(best))
            curve = metrics.insertion(score, x, maps, step=0.05, baseline=0.0)
            rows.setdefault(name, []).append(curve.auc)
        used += 1
        if used == count:
            break
    print(f"| method | forwards | insertion, lite0, {used} photos |\n|---|---|---|")
    for name, found in rows.items():
        print(f"| `{name}` | 272 | {interval(torch.cat(found))} |", flush=True)


def ceiling(number: int = 30) -> None:
    """The share of the way from a random order of cells to the greedy one, by forwards."""
    world = tiny.scenes(number, generator=seeded(2), digits=2)
    net = tiny.load("cnn")
    asked = world.labels[:, 0]
    score = metrics.scores_of(net, world.images, targets.class_probability(asked))
    cells = metrics.grid_cells(world.images.shape[2:], (4, 4))
    best = metrics.trace_ceiling(score, world.images, cells, generator=seeded(3))
    sizes = best.random - best.best.auc
    print("| forwards | method | share of the greedy order |\n|---|---|---|")
    for forwards in (20, 72, 272, 1088):
        for name, (count, method) in black_boxes(forwards).items():
            maps = explainer(method, net, "body.4")(world.images, targets.class_probability(asked))
            shares = metrics.trace(score, world.images, maps, cells, best)
            print(f"| {count} | `{name}` | {ratio(shares, sizes)} |", flush=True)


def ratio(shares: Tensor, sizes: Tensor) -> str:
    """The ratio of the means of shares times sizes and of sizes, and 95 % of its bootstraps."""
    draws = torch.randint(len(sizes), (2000, len(sizes)), generator=seeded(1))
    found = (shares * sizes)[draws].sum(1) / sizes[draws].sum(1)
    low, high = found.quantile(torch.tensor([0.025, 0.975])).tolist()
    return f"{(shares * sizes).sum() / sizes.sum():.3f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or ("photos", "detector", "ceiling"):
        {"photos": photos, "detector": detector, "ceiling": ceiling}[name]()

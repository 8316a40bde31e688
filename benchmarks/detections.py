"""Maps of 16 detections: camfn's raw maps of one forward, Ultralytics' `visualize=True`, and pytorch-grad-cam's loop.

`python -m benchmarks.detections` prints a table; it needs `camfn[ultralytics]` and `camfn[bench]`. Weights are random.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from camfn import capture_levels
from camfn.methods import layer_cam, odam
from camfn.targets import head_for
from tests.nets.yolos import batch, logits, ultralytics, yolo


class Scores(nn.Module):
    """A detector that returns the best class logit of every candidate, as pytorch-grad-cam's targets read it."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return logits(self.net(x), self.net.model[-1]).amax(1)


def camfns(net: Any, pixels: Tensor, order: Tensor, method: Callable[..., Tensor]) -> list[Tensor]:
    """The raw map of each candidate at each level, (n, 1, h, w)."""
    names = head_for(net).layers
    found = capture_levels(net, names)(pixels, lambda out: logits(out, net.model[-1]).amax(1)[:, order].T)
    return [torch.vmap(method, (None, 0))(one.activations, one.grads) for one in found.values()]


def grad_cams(net: Any, pixels: Tensor, order: Tensor) -> list[Any]:
    """The fused LayerCAM of each candidate, one run a candidate."""
    from pytorch_grad_cam import LayerCAM

    layers = [net.get_submodule(name) for name in head_for(net).layers]
    with LayerCAM(model=Scores(net), target_layers=layers) as cam:
        seed = pixels.clone().requires_grad_()
        return [cam(input_tensor=seed, targets=[lambda out, n=int(n): out[n]]) for n in order]


def median(call: Callable[[], Any], rounds: int) -> float:
    """Processor milliseconds of the median of several calls, after one that is not counted."""
    call()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        call()
        times.append(1000 * (time.process_time() - start))
    return statistics.median(times)


def measured(config: str, side: int, rounds: int, count: int = 16) -> dict[str, float]:
    """Milliseconds of each way for one network."""
    ultralytics()
    from ultralytics.utils import plotting

    holder = yolo(config, found=200)
    net, pixels = holder.model.requires_grad_(False), batch(side)[:1]
    with torch.no_grad():
        order = logits(net(pixels), net.model[-1])[0].amax(0).topk(count).indices
        plain = median(lambda: net(pixels), rounds)

    class Backend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = net

        def forward(self, x: Tensor) -> Any:
            return self.model(x)

    backend = Backend()
    with tempfile.TemporaryDirectory() as folder:
        theirs = median(
            lambda: plotting.class_activation_map(backend, pixels, ["street.jpg"], Path(folder), topk=count), rounds
        )
    return {
        "one forward": plain,
        f"camfn, {count} raw maps (ODAM)": median(lambda: camfns(net, pixels, order, odam), rounds),
        f"camfn, {count} raw maps (LayerCAM)": median(lambda: camfns(net, pixels, order, layer_cam), rounds),
        f"Ultralytics, one map of {count}": theirs,
        f"pytorch-grad-cam, {count} maps": median(lambda: grad_cams(net, pixels, order), max(1, rounds // 3)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["yolo11n.yaml", "yolov8n.yaml", "yolo26n.yaml"])
    parser.add_argument("--side", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    rows = {config: measured(config, given.side, given.rounds) for config in given.models}
    names = next(iter(rows.values()))
    print(f"| processor ms, {given.side} x {given.side}, {torch.get_num_threads()} threads | {' | '.join(names)} |")
    print("|---" * (len(names) + 1) + "|")
    for config, row in rows.items():
        print(f"| {config.removesuffix('.yaml')} | {' | '.join(f'{value:.0f}' for value in row.values())} |")


if __name__ == "__main__":
    main()

"""The same rows from many machines: Ray Data maps the work over actors, one a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from .._shared.errors import UsageError
from ._core import Row, evaluate_photo
from ._protocol import Protocol
from ._work import Loader, Models, Work


class Worker:
    """What each actor holds: models, once loaded."""

    def __init__(self, loader: Loader, protocol: Protocol, device: str, threads: int) -> None:
        # Ray gives its actors one thread; the last bit of a sum depends on how many there are
        torch.set_num_threads(threads)
        self.models, self.protocol = Models(loader, device), protocol

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """One piece of work to its rows, each as soon as there is one."""
        for work in batch["work"]:
            loaded = self.models(work.model)
            for row in evaluate_photo(work.photo, work.cases, loaded, self.protocol, device=self.models.device):
                yield {"row": _column(row)}


def distributed(
    left: Sequence[Work], loader: Loader, protocol: Protocol, device: str, workers: int | None
) -> Iterator[Row]:
    """Evaluate on Ray Data, on the cluster at hand or one of this machine.

    A worker that dies is replaced, and what it had not handed over is done again; rows come once.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UsageError("--engine ray needs Ray: pip install 'camfn[ray]'") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    gpus = device.startswith("cuda")
    number = workers or (max(1, int(_resources().get("GPU", 0))) if gpus else 1)
    made = ray.data.from_items([{"work": work} for work in left], override_num_blocks=len(left)).map_batches(
        Worker,
        fn_constructor_args=(loader, protocol, device, torch.get_num_threads()),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=number),
        num_cpus=1,
        num_gpus=1 if gpus else 0,
    )
    seen: set[tuple[str, str]] = set()
    for item in made.iter_rows():
        row = item["row"]
        if (row.photo, row.case) not in seen:
            seen.add((row.photo, row.case))
            yield row


def _resources() -> dict[str, float]:
    import ray

    found: dict[str, float] = ray.cluster_resources()
    return found


def _column(value: Any) -> Any:
    column = np.empty(1, dtype=object)
    column[0] = value
    return column

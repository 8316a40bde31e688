"""The same rows from many machines: Ray Data maps the work over actors, one for each device."""

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
    """The state of one actor: the model that it loaded last, and the protocol."""

    def __init__(self, loader: Loader, protocol: Protocol, device: str, threads: int) -> None:
        # Ray gives its actors one thread, and the last bit of a sum depends on the number of threads
        torch.set_num_threads(threads)
        self.models, self.protocol = Models(loader, device), protocol

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Evaluate one piece of work, and yield each row as soon as it is there."""
        for work in batch["work"]:
            loaded = self.models(work.model)
            known = self.models.layers
            for row in evaluate_photo(
                work.photo, work.cases, loaded, self.protocol, device=self.models.device, layers=known
            ):
                yield {"row": _column(row)}


def distributed(
    works: Sequence[Work], loader: Loader, protocol: Protocol, device: str, workers: int | None
) -> Iterator[Row]:
    """Evaluate on Ray Data: on the cluster that this process is connected to, otherwise on this machine.

    Ray replaces a worker that dies and repeats its unfinished work; `distributed` yields each row once.
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
    dataset = ray.data.from_items([{"work": work} for work in works], override_num_blocks=len(works)).map_batches(
        Worker,
        fn_constructor_args=(loader, protocol, device, torch.get_num_threads()),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=number),
        num_cpus=1,
        num_gpus=1 if gpus else 0,
    )
    yielded: set[tuple[str, str]] = set()
    for item in dataset.iter_rows():
        row = item["row"]
        if (row.photo, row.case) not in yielded:
            yielded.add((row.photo, row.case))
            yield row


def _resources() -> dict[str, float]:
    """Count the CPUs and GPUs of the cluster."""
    import ray

    resources: dict[str, float] = ray.cluster_resources()
    return resources


def _column(value: Any) -> Any:
    """Wrap an object as a column of one entry, as Ray Data expects."""
    column = np.empty(1, dtype=object)
    column[0] = value
    return column

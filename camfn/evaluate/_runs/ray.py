"""Workers on many machines: Ray actors, one for each device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ..._shared.errors import MissingPackageError
from .._inputs.protocol import Protocol
from .._measures.row import Row
from .pool import LostError
from .process import packed, unpacked
from .work import Loader, Makes, Models, Work
from .worker import Worker


class Actor(Worker):
    """A worker whose rows travel."""

    def packed_rows(self, work: Work) -> Iterator[Any]:
        """Yield the rows of a piece of work, packed."""
        for row in self.rows(work):  # Ray streams a generator, and nothing else
            yield packed(row)


class RayHand:
    """A worker in an actor of Ray, on the cluster that this process is connected to, otherwise on this machine.

    Args:
        loader: a function that can be pickled.
        protocol: the settings of the measurement.
        device: "cpu", or "cuda": Ray gives each actor one GPU.
    """

    def __init__(self, loader: Loader, protocol: Protocol | Makes, device: str) -> None:
        ray = ray_or_refused()
        gpus = 1 if device.startswith("cuda") else 0
        made = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0)(Actor)
        # Ray gives its actors one thread
        self.actor = made.remote(Models(loader, device), protocol, torch.get_num_threads())

    def rows(self, work: Work) -> Iterator[Row]:
        """Yield the rows of a piece of work."""
        import ray

        died = (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError, ray.exceptions.ObjectLostError)
        try:
            for item in self.actor.packed_rows.options(num_returns="streaming").remote(work):
                yield unpacked(ray.get(item))
        except died as error:
            raise LostError(f"Ray says {' '.join(str(error).split())[:300]}") from error
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error

    def close(self) -> None:
        """Kill the actor."""
        import ray

        if ray.is_initialized():
            ray.kill(self.actor)


def ray_or_refused() -> Any:
    """Import Ray, and start it on this machine where this process has no cluster.

    Raises:
        MissingPackageError: Ray is not installed.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingPackageError("--engine ray needs Ray: pip install 'camfn[ray]'") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    return ray


def workers_of(device: str) -> int:
    """Count the GPUs of the cluster, or 1 without."""
    ray = ray_or_refused()
    return max(1, int(ray.cluster_resources().get("GPU", 0))) if device.startswith("cuda") else 1

"""What makes rows, in this process, in another one, or on another machine: the same code for all."""

# tested in tests/evaluate/runs/test_pool.py

from __future__ import annotations

from collections.abc import Iterator

import torch

from .._inputs.protocol import Protocol
from .._measures.core import evaluate_photo
from .._measures.row import Row
from .work import Makes, Models, Work


class Worker:
    """Makes the rows of one piece of work after the other; it holds the model that it loaded last.

    Args:
        models: where the models come from, and the device.
        protocol: the settings of the measurement; or, of a suite, what makes its rows.
        threads: threads of torch, on which the last bit of a sum depends; None leaves them.
    """

    def __init__(self, models: Models, protocol: Protocol | Makes, threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.models, self.protocol = models, protocol

    def rows(self, work: Work) -> Iterator[Row]:
        """Yield each row as soon as it is measured."""
        loaded, known = self.models(work.model), self.models.shared
        device = self.models.device
        if not isinstance(self.protocol, Protocol):
            yield from self.protocol.rows(work, loaded, device, known)
            return
        yield from evaluate_photo(work.photo, work.cases, loaded, self.protocol, device=device, shared=known)

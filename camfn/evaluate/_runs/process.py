"""Workers in processes of their own on this machine, one for each device."""

# tested in tests/evaluate/runs/test_pool.py

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import torch

from ..._shared.errors import StoppedError, UsageError
from .._inputs.protocol import Protocol
from .._measures.row import Row
from .pool import LostError
from .work import Loader, Makes, Models, Work
from .worker import Worker


class ProcessHand:
    """A worker in a process: work goes through a pipe, and rows come back.

    Args:
        loader: a function that can be pickled.
        protocol: the settings of the measurement.
        device: where the worker runs.
        threads: threads of torch in it.

    Raises:
        UsageError: the loader, a method or a metric cannot be pickled.
    """

    def __init__(self, loader: Loader, protocol: Protocol | Makes, device: str, threads: int) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads or CUDA may hang
        self.pipe, end = context.Pipe()
        self.process = context.Process(target=_serve, args=(end, loader, protocol, device, threads), daemon=True)
        try:
            self.process.start()
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UsageError(
                "several workers take only what pickle can send: a loader, methods and metrics that are functions of a "
                f"module: {error}"
            ) from error
        finally:
            end.close()

    def rows(self, work: Work) -> Iterator[Row]:
        """Yield the rows of a piece of work."""
        try:
            self.pipe.send(work)
            while (said := self.pipe.recv()) is not None:
                if isinstance(said, BaseException):
                    raise said
                yield unpacked(said)
        except (EOFError, OSError) as error:
            self.process.join(timeout=5)
            raise LostError(f"process {self.process.pid} ended with {_how(self.process.exitcode)}") from error

    def close(self) -> None:
        """Kill the process: what it has not sent is not lost to anyone."""
        self.process.kill()
        self.process.join(timeout=5)
        self.pipe.close()


def packed(row: Row) -> tuple[Row, Any]:
    """Return a row and its map as plain memory."""
    return row._replace(cam=None), None if row.cam is None else row.cam.numpy()


def unpacked(packed: tuple[Row, Any]) -> Row:
    """Undo `packed`."""
    row, cam = packed
    return row if cam is None else row._replace(cam=torch.tensor(cam))


def _serve(pipe: Connection, loader: Loader, protocol: Protocol | Makes, device: str, threads: int) -> None:
    """Make rows until the pipe ends, in the worker's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes, and the first one ends the others
    worker = Worker(Models(loader, device), protocol, threads)
    try:
        while True:
            work = pipe.recv()
            try:
                for row in worker.rows(work):
                    pipe.send(packed(row))
                pipe.send(None)
            except StoppedError:  # the device has failed for this process; another may find it well
                os._exit(1)
            except (EOFError, OSError):
                raise
            except Exception as error:
                pipe.send(error)
    except (EOFError, OSError):
        return


def _how(code: int | None) -> str:
    """Say how a process ended."""
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"

"""Workers in processes make the rows of this process, also after kills; a row that kills its workers ends alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from camfn._shared.errors import StoppedError, UsageError
from camfn.evaluate import Case, Photo, Row
from camfn.evaluate._inputs.protocol import Protocol
from camfn.evaluate._runs import run as judged
from camfn.evaluate._runs.pool import LostError, shared_out
from camfn.evaluate._runs.process import ProcessHand
from camfn.evaluate._runs.work import Work
from tests.evaluate.common import QUICK, Dying, check_same, load_net, make_cases, many_photos, run_quickly

CASES = (Case("m", "auto", "cam"), Case("m", "auto", "fem"), Case("m", "auto", "grad_cam"))
WORKS = [Work(Photo(name, Path(name)), CASES) for name in "abcd"]


class Hand:
    """A worker that is lost at certain rows, each as often as `losses` says."""

    def __init__(self, losses: dict[tuple[str, str], int], closed: list[int]) -> None:
        self.losses, self.closed = losses, closed

    def rows(self, work: Work) -> Iterator[Row]:
        for case in work.cases:
            key = (work.photo.name, case.method)
            if self.losses.get(key, 0):
                self.losses[key] -= 1
                raise LostError("it was killed")
            yield Row(work.photo.name, str(case))

    def close(self) -> None:
        self.closed.append(1)


@pytest.mark.parametrize("number", [1, 3])
def test_a_lost_worker_costs_no_row(number: int) -> None:
    losses, closed = {("a", "fem"): 2, ("b", "cam"): 1, ("d", "grad_cam"): 9}, list[int]()
    rows = list(shared_out(WORKS, lambda place: Hand(losses, closed), number))
    assert len({row.key for row in rows}) == len(rows) == 12
    (bad,) = (row for row in rows if row.problem)
    assert (bad.photo, bad.case, bad.kind, bad.tries) == ("d", "m auto grad_cam", "accident", 3)
    assert bad.problem == "its worker died 3 times: it was killed"
    assert len(closed) >= 6


def test_a_photo_that_one_worker_could_not_read_is_left_alone_afterwards() -> None:
    class Unable(Hand):
        def rows(self, work: Work) -> Iterator[Row]:
            yield Row(work.photo.name) if work.photo.name == "a" else Row(work.photo.name, str(work.cases[0]))

    works = [Work(Photo(name, Path(name)), (Case(model, "auto", "cam"),)) for model in "mn" for name in "ab"]
    rows = list(shared_out(works, lambda place: Unable({}, []), 1))
    assert [row.photo for row in rows] == ["a", "b", "b"]


def test_an_error_of_the_work_itself_reaches_the_caller() -> None:
    class Broken(Hand):
        def rows(self, work: Work) -> Iterator[Row]:
            raise UsageError("no such model")

    with pytest.raises(UsageError, match="no such model"):
        list(shared_out(WORKS, lambda place: Broken({}, []), 2))


@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.sweep)])
def test_processes_give_the_rows_of_this_process(kills: int, photos: list[Photo], tmp_path: Path) -> None:
    # over 5 s: processes of their own, each importing torch
    photos = photos if kills < 3 else many_photos(tmp_path / "many", 16)
    local = run_quickly(photos, tmp_path / "local", "grad_cam", "random_cam")
    loader = Dying(tmp_path / "kills", kills, seed=1)
    far = run_quickly(photos, tmp_path / "far", "grad_cam", "random_cam", workers=2, loader=loader)
    assert loader.kills() == kills
    check_same(far, local)


class Hired(ProcessHand):
    """A worker in a process, which notes the device that it is for."""

    devices: list[str] = []  # noqa: RUF012  one list for all

    def __init__(self, loader: Any, protocol: Protocol, device: str, threads: int) -> None:
        self.devices.append(device)
        super().__init__(loader, protocol, device, threads)


@pytest.mark.parametrize(("workers", "hired"), [(None, ["cpu:0", "cpu:1"]), (3, ["cpu:0", "cpu:0", "cpu:1"])])
def test_several_devices_have_a_process_each_and_give_the_rows_of_one(
    workers: int | None, hired: list[str], photos: list[Photo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # over 5 s: processes of their own, each importing torch. A CPU takes any number, so that one stands for two devices
    monkeypatch.setattr(judged, "devices_of", lambda device: [f"{device}:0", f"{device}:1"])
    monkeypatch.setattr(judged, "ProcessHand", Hired)
    monkeypatch.setattr(Hired, "devices", [])
    far = run_quickly(photos, tmp_path / "far", "grad_cam", "random_cam", workers=workers)
    assert sorted(Hired.devices) == hired
    assert far.header["device"] == "cpu"
    monkeypatch.undo()
    check_same(far, run_quickly(photos, tmp_path / "local", "grad_cam", "random_cam"))


def test_a_device_that_fails_leaves_its_work_to_the_other(
    photos: list[Photo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # no network runs on "meta": its maps hold no numbers, so that each of its rows is a problem that says so
    monkeypatch.setattr(judged, "devices_of", lambda device: ["meta", "meta"])
    rows = run_quickly(photos[:2], tmp_path / "out", "grad_cam").rows
    assert len(rows) == 2 * 3
    assert all(row.kind and row.problem and not row.values for row in rows)


def test_cuda_stands_for_all_gpus_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for count, found in ((3, ["cuda:0", "cuda:1", "cuda:2"]), (1, ["cuda"]), (0, ["cuda"])):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert judged.devices_of("cuda") == found
        assert judged.devices_of("cuda:1") == ["cuda:1"]
        assert judged.devices_of("cpu") == ["cpu"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_processes_on_a_gpu_give_the_rows_of_this_process(photos: list[Photo], tmp_path: Path) -> None:
    local = run_quickly(photos, tmp_path / "local", "grad_cam", "random_cam", device="cuda")
    far = run_quickly(photos, tmp_path / "far", "grad_cam", "random_cam", device="cuda", workers=2)
    assert len(far.rows) == len(local.rows) > 0
    check_same(far, local)


def test_what_cannot_be_pickled_is_refused(photos: list[Photo], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="several workers take only what pickle can send"):
        run_quickly(photos, tmp_path / "out", workers=2, loader=lambda spec: load_net(spec))


class _Failing:
    """A photo whose reading says that the device is gone, or kills the process."""

    def __init__(self, kill: bool) -> None:
        self.kill, self.name = kill, "gone"

    def read(self) -> Any:
        if self.kill:
            os.kill(os.getpid(), signal.SIGTERM)
        raise StoppedError("the device has failed")


@pytest.mark.parametrize(("kill", "said"), [(True, "SIGTERM"), (False, "exit code 1")])
def test_a_process_that_ends_is_lost(kill: bool, said: str) -> None:
    # over 5 s: a process of its own that imports torch
    hand = ProcessHand(load_net, Protocol(metrics=QUICK), "cpu", 1)
    photo: Any = _Failing(kill)
    with pytest.raises(LostError, match=said):
        list(hand.rows(Work(photo, tuple(make_cases()))))
    hand.close()

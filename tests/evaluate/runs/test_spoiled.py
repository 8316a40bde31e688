"""What spoils a run: kills, writes that fail, folders that go, names that no file has. It goes on to the same bytes."""

# tested by running: `nursery.py` forks the runs

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from camfn._shared.errors import StoppedError, UsageError
from camfn.evaluate import Photo, Protocol, Store, run
from camfn.evaluate._runs.begun import Begun
from tests.evaluate.common import QUICK, draw_photo, load_net, make_cases, many_photos, numbers_of, run_quickly

FAILING = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>
static char under[4096]; static int left, error_number, sticky, failed;
void fail_under(const char *path, int after, int error, int stays) {
  strncpy(under, path, 4095); left = after; error_number = error; sticky = stays; failed = 0;
}
int failures(void) { return failed; }
static int fails_path(const char *path) {
  if (!under[0] || !strstr(path, under)) return 0;
  if (left-- > 0) return 0;
  if (failed && !sticky) return 0;
  failed++; errno = error_number; return 1;
}
static int fails(int fd) {
  char link[64], path[4096]; ssize_t n;
  if (!under[0]) return 0;
  snprintf(link, 64, "/proc/self/fd/%d", fd);
  if ((n = readlink(link, path, 4095)) < 0) return 0;
  path[n] = 0; return fails_path(path);
}
#define WRAP(type, name, args, call, test) \
  type name args { static type (*real) args; if (!real) real = dlsym(RTLD_NEXT, #name); \
    if (test) return -1; return real call; }
WRAP(ssize_t, write, (int fd, const void *b, size_t n), (fd, b, n), fails(fd))
WRAP(ssize_t, pwrite, (int fd, const void *b, size_t n, off_t o), (fd, b, n, o), fails(fd))
WRAP(ssize_t, pwrite64, (int fd, const void *b, size_t n, off_t o), (fd, b, n, o), fails(fd))
WRAP(int, fsync, (int fd), (fd), fails(fd))
WRAP(int, fdatasync, (int fd), (fd), fails(fd))
WRAP(int, ftruncate, (int fd, off_t n), (fd, n), fails(fd))
WRAP(int, ftruncate64, (int fd, off_t n), (fd, n), fails(fd))
WRAP(int, rename, (const char *a, const char *b), (a, b), fails_path(a))
WRAP(int, unlink, (const char *a), (a), fails_path(a))
"""


def nursery(folder: Path, **job: Any) -> list[str]:
    """Run a job in a process of its own, and return the lines that it printed."""
    root = str(Path(__file__).parents[3])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    if job["job"] == "failures":
        environment["LD_PRELOAD"] = str(_shim(folder.parent))
    words = [sys.executable, "-W", "ignore", "-m", "tests.evaluate.nursery", json.dumps({"folder": str(folder), **job})]
    done = subprocess.run(words, cwd=root, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout.splitlines()


def _shim(folder: Path) -> Path:
    """Compile the library whose writes fail."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux")
    (folder / "failing.c").write_text(FAILING)
    words = [compiler, "-shared", "-fPIC", "-o", str(folder / "failing.so"), str(folder / "failing.c"), "-ldl"]
    subprocess.run(words, check=True, capture_output=True)
    return folder / "failing.so"


def content(folder: Path) -> tuple[list[list[str]], dict[str, bytes], dict[Any, Any]]:
    """What a folder holds, without what a clock says and how often a row was tried."""
    rows = list(csv.reader(io.StringIO((folder / "rows.csv").read_text(), newline="")))
    at = [i for i, name in enumerate(rows[0]) if name not in ("seconds", "tries")]
    maps = {file.name: file.read_bytes() for file in (folder / "maps").iterdir()}
    return [[row[i] for i in at] for row in rows], maps, numbers_of(Store(folder))


@pytest.mark.sweep
def test_a_hundred_kills_leave_no_trace(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    counts = json.loads(nursery(folder, job="kills", photos=6, wanted=100, seed=0)[-1])
    print(f"{sum(counts)} kills in {len(counts)} folders: {counts}")
    assert sum(counts) == 100
    expected = content(folder / "whole")
    for place in range(len(counts)):
        assert content(folder / f"killed-{place}") == expected


@pytest.mark.sweep
def test_forty_write_errors_end_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    *lines, last = nursery(folder, job="failures", photos=3, wanted=40, seed=0)
    ended, injected = Counter(json.loads(last)), lines.count("injected")
    print(f"40 runs with write errors, {injected} met one; ended: {dict(ended)} (0 whole, 3 one line)")
    assert set(ended) <= {0, 3}
    assert injected >= 36
    assert ended[3] >= 25
    for line in lines:
        assert line in ("injected", "none") or "cannot write" in line or "cannot read" in line, line
    expected = content(folder / "whole")
    for place in range(40):
        assert content(folder / f"failed-{place}") == expected


NAMES = [
    "a\nb.png", "a\r\nb.png", "a\rb.png", "a\x0cb.png", "a\x1cb.png", "a\x85b.png", "a\u2028b.png", 'a"b\'.png',
    "a,b.png", "=HYPERLINK(1).png", "\udcff\udcfe.png", "x" * 246 + ".png", "é.png", "e\u0301.png", "A.png", "a.png",
    " .png", "...png", "con.png", "a\tb.png", "%s{}.png", "😀.png", "-rf.png",
]  # fmt: skip


def test_names_of_all_kinds_come_back(tmp_path: Path) -> None:
    draw_photo(tmp_path / "x.png", 1)
    (tmp_path / "photos" / "a").mkdir(parents=True)
    for name in NAMES:
        (tmp_path / "photos" / "a" / name).write_bytes((tmp_path / "x.png").read_bytes())
    photos = [Photo(f"a/{name}", tmp_path / "photos" / "a" / name, "a") for name in NAMES]
    protocol = Protocol(metrics=("complexity",))
    store = run_quickly(photos, tmp_path / "out", "grad_cam", protocol=protocol)
    again = Store(tmp_path / "out")
    assert [row.key for row in again.rows] == [row.key for row in store.rows]
    assert {row.photo for row in again.rows} == {f"a/{name}" for name in NAMES}
    assert {row.problem for row in again.rows} == {""}
    maps = [row.map for row in again.rows]
    assert len({name.casefold() for name in maps}) == len(maps) == len(NAMES) * 3
    assert all(len(name.encode()) < 230 and (tmp_path / "out" / "maps" / name).is_file() for name in maps)
    assert all(again.cam(row) is not None for row in again.rows)
    assert "a-é.grad_cam.last.npy" in maps
    reported: list[tuple[int, int]] = []
    run_quickly(photos, tmp_path / "out", "grad_cam", protocol=protocol, progress=lambda *now: reported.append(now))
    assert not reported


def _a_file(out: Path) -> None:
    out.write_text("a file")


def _no_database(out: Path) -> None:
    out.mkdir()
    (out / "results.sqlite").write_text("no database")


def _of_tomorrow(out: Path) -> None:
    run_quickly(many_photos(out.parent / "others", 1), out)
    import sqlite3

    with sqlite3.connect(out / "results.sqlite") as connection:
        connection.execute("UPDATE header SET content = '99' WHERE name = 'schema'")
    connection.close()


@pytest.mark.parametrize(
    ("prepare", "words"),
    [(_a_file, "is a file"), (_no_database, "is damaged"), (_of_tomorrow, "later version of camfn")],
)
def test_a_folder_that_is_none_is_refused(
    prepare: Callable[[Path], None], words: str, photos: list[Photo], tmp_path: Path
) -> None:
    prepare(tmp_path / "out")
    with pytest.raises(UsageError, match=words):
        run_quickly(photos, tmp_path / "out")


@pytest.mark.skipif(os.name != "posix", reason="a folder in use cannot be removed there")
def test_a_folder_that_goes_during_the_run(photos: list[Photo], tmp_path: Path) -> None:
    def remove(done: int, total: int) -> None:
        if done == 3:
            shutil.rmtree(tmp_path / "out")

    with pytest.raises(StoppedError, match=r"cannot write to .*/out: .* the same command again adds"):
        run_quickly(photos, tmp_path / "out", progress=remove)
    assert len(run_quickly(photos, tmp_path / "out").rows) == 16


def test_rows_that_another_run_made_meanwhile_are_not_made_again(photos: list[Photo], tmp_path: Path) -> None:
    def slow_loader(spec: str) -> Any:
        if not (tmp_path / "out").exists():
            run_quickly(photos, tmp_path / "out")
        return load_net(spec)

    reported: list[tuple[int, int]] = []
    store = run_quickly(photos, tmp_path / "out", loader=slow_loader, progress=lambda *now: reported.append(now))
    assert not reported
    assert len(store.rows) == 16


class Fatal:
    """A loader whose model ends every process but this one."""

    def __init__(self) -> None:
        self.parent = os.getpid()

    def __call__(self, spec: str) -> Any:
        held = load_net(spec)
        if os.getpid() != self.parent:
            held.model.register_forward_pre_hook(lambda *_: os._exit(9))
        return held


@pytest.mark.parametrize("fatal", [False, True])
def test_a_row_that_ends_its_process_stops_no_other(fatal: bool, photos: list[Photo], tmp_path: Path) -> None:
    # over 5 s: workers of their own, each importing torch
    key = (photos[0].name, str(make_cases()[1]))
    run_quickly(photos[1:2], tmp_path / "out")
    for _ in range(3):
        Begun(tmp_path / "out").begin(*key)
    made: list[tuple[str, str]] = []
    loader = Fatal() if fatal else load_net
    store = run_quickly(
        photos[:2],
        tmp_path / "out",
        loader=loader,
        progress=lambda *_: made.append(Store(tmp_path / "out").rows[-1].key),
    )
    assert made[-1] == key
    assert len(store.rows) == 8
    assert not (tmp_path / "out" / ".begun").exists()
    whole = run_quickly(photos[:2], tmp_path / "whole")
    assert [row.key for row in store.rows] == [row.key for row in whole.rows]
    bad = [row for row in store.rows if row.kind]
    if fatal:
        assert [(row.key, row.kind, row.tries) for row in bad] == [(key, "accident", 3)]
        assert "its worker died 3 times: process" in bad[0].problem
        assert "exit code 9" in bad[0].problem
    else:
        assert numbers_of(store) == numbers_of(whole)


class Moody:
    """A method or a metric of a user's own that fails so many times."""

    def __init__(self, error: BaseException, times: int) -> None:
        self.error, self.times, self.__name__ = error, times, "moody"

    def __call__(self, activations: torch.Tensor, grads: torch.Tensor) -> torch.Tensor:
        if self.times > 0:
            self.times -= 1
            raise self.error
        return (activations * grads).sum(1)


ERRORS = [KeyError("x"), torch.OutOfMemoryError("x"), ValueError("x"), StopIteration()]
MORE = [TypeError("x"), MemoryError(), RuntimeError("x"), OSError(5, "x"), RecursionError("x"), AssertionError()]


@pytest.mark.parametrize("error", [*ERRORS, *(pytest.param(error, marks=pytest.mark.sweep) for error in MORE)])
def test_an_accident_is_tried_again_three_times_in_all(
    error: BaseException, photos: list[Photo], tmp_path: Path
) -> None:
    from camfn.evaluate import cases

    def again(times: int, **options: Any) -> Store:
        moody = Moody(error, times)
        listed = cases(["net"], [moody, "grad_cam"], ["last"])
        protocol = Protocol(metrics=("complexity",))
        return run(photos[:1], listed, tmp_path / "out", loader=load_net, protocol=protocol, **options)

    for tries in (1, 2, 3):
        store = again(9)
        (bad,) = (row for row in store.rows if row.kind)
        assert (bad.kind, bad.tries, bad.method) == ("accident", tries, "moody")
        assert type(error).__name__ in bad.problem
        assert f"{type(error).__name__}" in bad.traceback
        assert bad.traceback.startswith("Traceback")
        assert bad.problem.splitlines() == [bad.problem]
        assert len(store.rows) == 4
    assert "in __call__" in (tmp_path / "out" / "accidents.txt").read_text()
    assert again(0).rows == store.rows  # final now
    with pytest.raises(StoppedError, match=r"stopped at the first problem, as asked: .*moody"):
        again(1, retry=True, fail_fast=True)
    (well,) = (row for row in again(0, retry=True).rows if row.method == "moody")
    assert (well.kind, well.problem, well.tries) == ("", "", 5)
    assert not (tmp_path / "out" / "accidents.txt").exists()
    plain = run_quickly(photos[:1], tmp_path / "plain", "grad_cam", protocol=Protocol(metrics=QUICK))
    assert len(plain.rows) == 3


def test_a_metric_that_fails_spoils_only_its_number(photos: list[Photo], tmp_path: Path) -> None:
    from camfn.evaluate import metric

    def broken(heatmap: torch.Tensor) -> float:
        raise KeyError("mine")

    def lost(heatmap: torch.Tensor) -> float:
        return float("nan")

    def greedy(images: torch.Tensor, heatmap: torch.Tensor) -> float:
        images.zero_()
        heatmap.zero_()
        return 1.0

    own = tuple(metric(function, better="none") for function in (greedy, broken, lost))
    store = run_quickly(photos[:1], tmp_path / "out", protocol=Protocol(metrics=("deletion", *own), step=0.25))
    plain = run_quickly(photos[:1], tmp_path / "plain", protocol=Protocol(metrics=("deletion",), step=0.25))
    for row, other in zip(store.rows, plain.rows, strict=True):
        assert row.values["deletion"] == other.values["deletion"]
        assert row.values["greedy:better=none"] == 1.0
        assert row.kind == "accident"
        assert "broken:better=none: KeyError: 'mine'" in row.problem
        assert "lost:better=none: its value is nan." in row.problem


def test_a_refusal_is_final(photos: list[Photo], tmp_path: Path) -> None:
    store = run_quickly(photos[:1], tmp_path / "out", "grad_cam", "cam", protocol=Protocol(metrics=QUICK), force=True)
    assert {row.kind for row in store.rows} == {""}
    listed = make_cases("grad_cam", "cam", layers=("features",))
    reported: list[tuple[int, int]] = []
    for times in (1, 2):
        store = run(
            photos[:1], listed, tmp_path / "two", loader=load_net, protocol=Protocol(metrics=QUICK),
            progress=lambda *now: reported.append(now),
        )  # fmt: skip
        (bad,) = (row for row in store.rows if row.kind)
        assert (bad.kind, bad.tries, bad.traceback, times) == ("refusal", 1, "", times)
    assert len(reported) == 4


def test_one_unknown_class_refuses_its_own_rows(photos: list[Photo], tmp_path: Path) -> None:
    mixed = [photos[0], photos[1]._replace(label="zebra"), photos[2]]
    store = run_quickly(mixed, tmp_path / "out")
    bad = [row for row in store.rows if row.kind]
    assert len(bad) == 4
    assert {(row.photo, row.kind) for row in bad} == {(photos[1].name, "refusal")}
    assert all("no class 'zebra'" in row.problem for row in bad)


def test_a_photo_that_is_missing_now_may_be_there_later(photos: list[Photo], tmp_path: Path) -> None:
    aside = photos[1].path.rename(tmp_path / "aside.png")
    store = run_quickly(photos, tmp_path / "out")
    (bad,) = (row for row in store.rows if row.kind)
    assert (bad.photo, bad.case, bad.kind) == (photos[1].name, "", "accident")
    aside.rename(photos[1].path)
    store = run_quickly(photos, tmp_path / "out")
    assert not any(row.kind for row in store.rows)
    assert len(store.rows) == 16
    assert [row.key for row in store.rows] == [row.key for row in run_quickly(photos, tmp_path / "whole").rows]

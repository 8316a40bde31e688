"""`run`: one seed, parts and the whole, a kill, photos that cannot be read, and errors before any work."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from camfn._shared.errors import UsageError
from camfn.evaluate import Photo, Protocol, Store, run
from tests.evaluate.common import load_net, make_cases, numbers_of, run_quickly


def test_one_seed_gives_the_same_bits(photos: list[Photo], tmp_path: Path) -> None:
    protocol = Protocol(step=0.25, infidelity_samples=3, seed=5)
    names = ("random_cam", "rise:samples=20", "grad_cam")
    first, second = (run_quickly(photos[:2], tmp_path / name, *names, protocol=protocol) for name in "ab")
    assert numbers_of(first) == numbers_of(second)
    other = run_quickly(photos[:2], tmp_path / "c", *names, protocol=Protocol(step=0.25, infidelity_samples=3, seed=6))
    assert numbers_of(other) != numbers_of(first)


def test_a_run_of_parts_is_the_run_of_the_whole(photos: list[Photo], tmp_path: Path) -> None:
    whole = run_quickly(photos, tmp_path / "whole", "grad_cam", "random_cam")
    run_quickly(photos[:2], tmp_path / "parts", "grad_cam")
    reported: list[tuple[int, int]] = []
    parts = run_quickly(
        photos, tmp_path / "parts", "grad_cam", "random_cam", progress=lambda *now: reported.append(now)
    )
    assert reported[-1] == (10, 10)
    assert numbers_of(Store(tmp_path / "parts")) == numbers_of(Store(tmp_path / "whole"))
    assert len(parts.rows) == len(whole.rows) == 16


KILLED = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
import torch
from camfn.evaluate import read_photos
from tests.evaluate.common import run_quickly
torch.set_num_threads({threads})
def slowly(done, total):
    print(done, flush=True)
    time.sleep({pause})
run_quickly(read_photos({csv!r}), Path({out!r}), progress=slowly)
"""


def test_a_killed_run_goes_on(photos: list[Photo], tmp_path: Path) -> None:
    # over 5 s: two processes of their own, each importing torch
    root, csv = str(Path(__file__).parents[3]), str(tmp_path / "photos.csv")
    threads = torch.get_num_threads()
    program = KILLED.format(root=root, csv=csv, out=str(tmp_path / "killed"), pause=60, threads=threads)
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert len(Store(tmp_path / "killed").rows) == 1
    program = KILLED.format(root=root, csv=csv, out=str(tmp_path / "killed"), pause=0, threads=threads)
    printed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], check=True, capture_output=True, text=True, timeout=120
    ).stdout
    assert printed.split() == [str(i) for i in range(1, 16)]
    run_quickly(photos, tmp_path / "whole")
    rows = Store(tmp_path / "killed").rows
    assert len({(row.photo, row.case) for row in rows}) == len(rows) == 16
    assert numbers_of(Store(tmp_path / "killed")) == numbers_of(Store(tmp_path / "whole"))


def test_a_corrupt_photo_is_recorded_and_skipped(photos: list[Photo], tmp_path: Path) -> None:
    photos[1].path.write_bytes(photos[1].path.read_bytes()[:200])
    store = run_quickly(photos, tmp_path / "out")
    (bad,) = (row for row in store.rows if not row.case)
    assert bad.photo == photos[1].name
    assert "cannot read the photo" in bad.problem
    assert len(store.rows) == 3 * 4 + 1
    reported: list[tuple[int, int]] = []
    run_quickly(photos, tmp_path / "out", progress=lambda *now: reported.append(now))
    assert not reported


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda photos, out: run_quickly(photos, out, "grad_can"), "no method 'grad_can'.*grad_cam"),
        (lambda photos, out: run_quickly(photos, out, "score_cam:top=1"), "score_cam has no option 'top=1'.*top_k"),
        (lambda photos, out: run_quickly(photos, out, "guided_backprop"), "a picture"),
        (lambda photos, out: run_quickly([photos[0]._replace(label="zebra")], out), "no class 'zebra'"),
        (lambda photos, out: run_quickly([photos[0]._replace(label=None)], out), "its class is not known"),
        (lambda photos, out: run_quickly([], out), "nothing to evaluate"),
        (lambda photos, out: run_quickly([photos[0], photos[0]], out), "two photos have one name"),
        (lambda photos, out: run(photos, make_cases(layers=("lost",)), out, loader=load_net), "lost"),
        (lambda photos, out: run_quickly(photos, out, protocol=Protocol(metrics=("beauty",))), "no metric 'beauty'"),
        (lambda photos, out: run_quickly(photos, out, "le_grad"), "attention"),
    ],
)
def test_errors_come_before_any_work(
    wrong: Callable[[list[Photo], Path], object], words: str, photos: list[Photo], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        wrong(photos, tmp_path / "out")
    assert not (tmp_path / "out").exists()


REGRESSION = """
import torch
from torch import nn
from camfn import zoo

def build():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU())
    net = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1)).eval()
    return zoo.of(net, input_size=32, mean=(0.5,) * 3, std=(0.2,) * 3)
"""


def test_a_network_of_one_number_is_evaluated(photos: list[Photo], tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(REGRESSION)
    cases = make_cases("grad_cam", model=f"{tmp_path}/net.py:build", layers=("auto",))
    for target in ("lower:", "higher:"):
        protocol = Protocol(metrics=("insertion",), step=0.5, target=target)
        rows = run(photos[:1], cases, tmp_path / target.strip(":"), protocol=protocol).rows
        assert [row.problem for row in rows if row.kind] == []
    with pytest.raises(UsageError, match=r"one number a photo.*--target higher:"):
        run(photos[:1], cases, tmp_path / "top", protocol=Protocol(metrics=("insertion",), target="top"))

"""A process that has loaded torch once, and forks runs that are killed or whose writes fail."""

from __future__ import annotations

import ctypes
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from camfn._shared.errors import CamfnError, StoppedError
from tests.evaluate.common import many_photos, run_quickly

METHODS = ("grad_cam", "layer_cam", "random_cam", "eigen_cam")


def run(folder: Path, out: Path, number: int, pause: float = 0.0) -> None:
    """Make the rows, with a pause behind each."""
    run_quickly(many_photos(folder / "photos", number), out, *METHODS, progress=lambda done, total: time.sleep(pause))


def forked(work: Any) -> int:
    """Run `work` in a fork; return its process id. It ends with 0, 3 for an error in one line, 4 for another one."""
    child = os.fork()
    if child:
        return child
    code = 4
    try:
        work()
        code = 0
    except (CamfnError, StoppedError) as error:
        code = 3
        print(str(error), flush=True)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def kills(folder: Path, number: int, wanted: int, seed: int, whole: float) -> None:
    """Kill runs within half of the time of a whole one, until there were `wanted` kills; print those of each folder."""
    generator, killed, counts = random.Random(seed), 0, []
    for place in range(1000):
        out, here = folder / f"killed-{place}", 0
        while True:
            child = forked(lambda out=out: run(folder, out, number, 0.01))
            if killed < wanted:
                time.sleep(generator.uniform(0.0, whole / 2))
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if os.WIFSIGNALED(status):
                here, killed = here + 1, killed + 1
                continue
            if os.WEXITSTATUS(status):
                print(f"kills: a run ended with {os.WEXITSTATUS(status)}")
                sys.exit(1)
            break
        counts.append(here)
        if killed >= wanted:
            break
    print(json.dumps(counts))


def failures(folder: Path, number: int, wanted: int, seed: int, whole: float) -> None:
    """Let writes fail at random places, once or from then on; print how each run ended, which then goes on."""
    shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
    generator, ended = random.Random(seed), []
    for place in range(wanted):
        out = folder / f"failed-{place}"
        after, sticky = generator.randint(0, 60 if place % 2 else 400), place % 2
        error = generator.choice([28, 5, 122, 30])  # no space, input/output, quota, read-only

        def failing(out: Path = out, after: int = after, error: int = error, sticky: int = sticky) -> None:
            shim.fail_under(str(out).encode(), after, error, sticky)
            try:
                run(folder, out, number)
            finally:
                failed = shim.failures()
                shim.fail_under(b"", 0, 0, 0)
                print("injected" if failed else "none", flush=True)

        _, status = os.waitpid(forked(failing), 0)
        ended.append(os.WEXITSTATUS(status))
        _, status = os.waitpid(forked(lambda out=out: run(folder, out, number)), 0)
        if status:
            print(f"failures: the run that goes on ended with {status}")
            sys.exit(1)
    print(json.dumps(ended))


def main(words: str) -> None:
    """Do one job, whose settings are JSON."""
    torch.set_num_threads(1)
    settings = json.loads(words)
    folder, number = Path(settings["folder"]), settings["photos"]
    started = time.monotonic()
    assert os.waitpid(forked(lambda: run(folder, folder / "whole", number, 0.01)), 0)[1] == 0
    whole = time.monotonic() - started
    job = {"kills": kills, "failures": failures}[settings["job"]]
    job(folder, number, settings["wanted"], settings["seed"], whole)


if __name__ == "__main__":
    shutil.rmtree(Path(json.loads(sys.argv[1])["folder"]), ignore_errors=True)
    Path(json.loads(sys.argv[1])["folder"]).mkdir(parents=True)
    main(sys.argv[1])

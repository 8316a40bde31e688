"""One map in several forms, side by side: eager, compiled, prepared, AOTInductor, onnxruntime.

    OMP_NUM_THREADS=1 python -m benchmarks.forms

`compiled` is `torch.compile` of the exported program, a graph for each batch size: with an open one the first map of
the explainer itself took more than four minutes.

Each form explains noise with lite0's Grad-CAM at the last layer, in a process of its own that stays alive; they run in
turn, so that a busy machine is busy for all of them, and the best time of each counts. `memory` is the largest resident
set of the whole process while it runs: Python and the libraries (of onnxruntime, without torch), the model and what a
run takes. `on disk` is what the form is loaded from. `ready` are the seconds from the start of Python to the first map
of each batch; the seconds of an export come below the table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FORMS = ("eager", "compiled", "prepared", "AOTInductor", "onnxruntime")
BATCHES = (1, 8)


def main() -> None:
    """Export the files, start a process for each form, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--forms", nargs="*", default=FORMS, choices=FORMS)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--folder", default=None, help="of the files; made where there are none")
    given = parser.parse_args()
    if given.serve:
        serve(given.serve, Path(given.folder))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(given.folder or temporary)
        made = {form: export(form, folder) for form in given.forms}
        workers = {form: Worker(form, folder) for form in given.forms}
        best: dict[tuple[str, int], float] = {}
        for _ in range(given.rounds):
            for form, worker in workers.items():
                for batch in BATCHES:
                    best[form, batch] = min(best.get((form, batch), float("inf")), worker.ask(str(batch)))
        print(
            f"lite0, grad_cam at bn2, {os.environ.get('OMP_NUM_THREADS', 'all')} threads, load {os.getloadavg()[0]:.1f}"
        )
        print("| form | batch 1, ms | batch 8, ms | memory, MB | on disk, MB | ready, s |\n|---|---|---|---|---|---|")
        for form, worker in workers.items():
            one, eight = (f"{1e3 * best[form, batch]:.1f}" for batch in BATCHES)
            size = made[form][0].stat().st_size / 1e6
            print(f"| {form} | {one} | {eight} | {worker.ask('memory'):.0f} | {size:.1f} | {worker.ready:.0f} |")
        print(", ".join(f"{form}: {seconds:.0f} s to export" for form, (_, seconds) in made.items()))


class Worker:
    """A process that explains in one form, and answers in numbers."""

    def __init__(self, form: str, folder: Path) -> None:
        words = [sys.executable, "-W", "ignore", "-m", "benchmarks.forms", "--serve", form, "--folder", str(folder)]
        start = time.perf_counter()
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ask("1")
        self.ask("8")
        self.ready = time.perf_counter() - start

    def ask(self, question: str) -> float:
        """Ask for the seconds of a batch, or for the memory."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{question}\n")
        self.process.stdin.flush()
        return float(json.loads(self.process.stdout.readline()))


def serve(form: str, folder: Path) -> None:
    """Answer questions from standard input until it ends."""
    run = ready(form, folder)
    for batch in BATCHES:
        run(batch)
    answers = Path("/proc/self/clear_refs")
    if answers.exists():
        answers.write_text("5")  # the high-water mark begins anew, without what making ready took
    for line in sys.stdin:
        print(json.dumps(_memory() if line.strip() == "memory" else _seconds(run, int(line))), flush=True)


def _seconds(run: Callable[[int], Any], batch: int) -> float:
    start = time.perf_counter()
    run(batch)
    return time.perf_counter() - start


def _memory() -> float:
    """Return the high-water mark of the resident set, in MB; NaN outside Linux."""
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1e3


def file_of(form: str, folder: Path) -> Path:
    """Return the path of what a form is loaded from."""
    return folder / {
        "AOTInductor": "lite0.aot.pt2",
        "compiled": "lite0.program.pt2",
        "onnxruntime": "lite0.onnx",
    }.get(form, "lite0.pt")


def export(form: str, folder: Path) -> tuple[Path, float]:
    """Write what a form is loaded from, where it is not there yet; return its path and the seconds."""
    import torch

    from camfn import explainer, export, methods
    from camfn.zoo import load

    file, start = file_of(form, folder), time.perf_counter()
    if not file.exists():
        model = load("lite0").model
        explain = explainer(methods.grad_cam, model, "bn2")
        if file.suffix == ".pt":
            torch.save(model.state_dict(), file)
        elif form == "onnxruntime":
            export.onnx(explain, torch.rand(2, 3, 224, 224), file)
        elif form == "compiled":
            torch.export.save(export.program(explain, torch.rand(2, 3, 224, 224)), file)
        else:
            export.aot(explain, torch.rand(2, 3, 224, 224), file)
    return file, time.perf_counter() - start


def ready(form: str, folder: Path) -> Callable[[int], Any]:
    """Load one form, and return what explains a batch of noise."""
    import numpy as np

    pixels = {batch: np.random.default_rng(batch).random((batch, 3, 224, 224), np.float32) for batch in BATCHES}
    if form == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "0"))
        session = onnxruntime.InferenceSession(str(file_of(form, folder)), options, providers=["CPUExecutionProvider"])
        top = np.array([-1])
        return lambda batch: session.run(None, {"images": pixels[batch], "target": top})
    import torch

    from camfn import explainer, methods, prepare
    from camfn.zoo import load

    images = {batch: torch.from_numpy(array) for batch, array in pixels.items()}
    if form in ("AOTInductor", "compiled"):
        path = file_of(form, folder)
        package: Any = torch._inductor.aoti_load_package(str(path)) if form == "AOTInductor" else _compiled(path)
        classes = {batch: torch.full((batch,), -1) for batch in BATCHES}
        return lambda batch: package(images[batch], classes[batch])
    model = load("lite0").model
    if form == "prepared":
        model = prepare(model, images[1])
    explain = explainer(methods.grad_cam, model, "bn2")
    return lambda batch: explain(images[batch])


def _compiled(file: Path) -> Callable[..., Any]:
    """Load an exported program and compile it."""
    import torch

    return torch.compile(torch.export.load(file).module(), dynamic=False, fullgraph=True)


if __name__ == "__main__":
    main()

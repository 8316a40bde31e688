"""The logic of `make gpu`, on the CPU at a tiny size; what it measures there means nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_peers


def test_without_a_gpu_one_clear_line_and_an_exit_code(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert gpu.main(["--out", str(tmp_path / "page.md")]) == 2
    assert capsys.readouterr().err.splitlines() == ["make gpu: torch sees no CUDA device here; nothing was run"]
    assert not list(tmp_path.iterdir())


def test_every_row_runs_and_is_written_as_it_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "COMPILING", gpu.BUDGET + 1)  # the two rows of a compiler take a minute
    monkeypatch.setattr(gpu_peers, "WORK", {})
    page, seen = tmp_path / "page.md", []
    measure = gpu.measure

    def watched(*given: object) -> gpu.Result:
        seen.append(page.read_text().count("\n| ") if page.exists() else 0)
        return measure(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(gpu, "measure", watched)
    assert gpu.main(["--device", "cpu", "--tiny", "--no-tests", "--out", str(page)]) == 0
    assert seen == [0, *range(2, len(seen) + 1)]
    first = page.read_text().split("## Beside the peers")[0]
    lines = [line for line in first.splitlines() if line.startswith("| ")][1:]
    names = [line.split(" | ")[0].strip("| ") for line in lines]
    assert {"Grad-CAM", "Ablation-CAM", "Score-CAM", "Score-CAM, bfloat16", "ROAD", "insertion, 100 steps"} < set(names)
    assert [name for name, line in zip(names, lines) if "out of time" in line] == names[-2:]
    assert not [line for line in lines if "Error" in line]


def test_peers_run_beside_camfn_and_are_compared_before_they_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pytorch_grad_cam")
    network, _ = gpu.load(gpu.TINY)
    monkeypatch.setattr(gpu_peers, "WORK", {key: gpu_peers.WORK[key] for key in ("Grad-CAM", "LayerCAM")})
    rows = list(gpu.beside(torch.device("cpu"), gpu.TINY, network, lambda: 1.0))
    assert [row.package for row in rows] == ["camfn", "grad-cam", "torchcam"] * 2
    assert not [row for row in rows if row.problem]
    monkeypatch.setitem(gpu_peers.WORK, "LayerCAM", gpu_peers.WORK["LayerCAM"]._replace(grad_cam="EigenGradCAM"))
    other = next(row for row in gpu.beside(torch.device("cpu"), gpu.TINY, network, lambda: 1.0) if row.problem)
    assert other.problem.startswith("another map: a correlation of ")


def test_a_row_that_fails_says_why() -> None:
    def broken() -> None:
        raise RuntimeError("no kernel\nand more")

    row = gpu.Row("broken", 1, broken, lambda: None)
    result = gpu.measure(row, torch.device("cpu"), gpu.TINY, 1.0)
    assert result.line() == "| broken | RuntimeError: no kernel | | | |"


def test_the_checks_run_by_hand_where_pytest_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong() -> None:
        raise AssertionError("no")

    monkeypatch.setattr("tests.gpu.checks", lambda: {"right": lambda: None, "wrong": wrong})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert gpu.run_tests(10.0) == "1 failed, 1 passed (without pytest)"


def test_the_script_imports_nothing_that_may_be_missing() -> None:
    program = (
        "import sys, benchmarks.gpu, tests.gpu\n"
        "print(*{name.split('.')[0] for name in sys.modules} & "
        "{'pytest', 'kornia', 'timm', 'scipy', 'PIL', 'sklearn', 'hypothesis', 'typer', 'pytorch_grad_cam'})"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=gpu.ROOT, capture_output=True, text=True, check=True)
    assert not done.stdout.split()

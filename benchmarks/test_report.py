"""The table, from a small JSON of the form that pytest-benchmark writes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .report import goals, load, render, rows


def one(seconds: float, **extra: Any) -> dict[str, Any]:
    return {"name": "any", "extra_info": extra, "stats": {"min": seconds, "median": 9.0, "rounds": 5}}


def speed(package: str, seconds: float, peak: int | None, method: str = "grad_cam", note: str = "") -> dict[str, Any]:
    case = {"device": "cpu", "model": "resnet50", "batch": 8, "method": method, "package": package}
    return one(seconds, kind="speed", peak=peak, note=note, **case)


def written(*benchmarks: dict[str, Any]) -> str:
    machine = {"cpu": {"brand_raw": "A Processor"}, "threads": 2, "gpu": None, "versions": {"torch": "9.9"}}
    return json.dumps({"machine_info": machine, "benchmarks": benchmarks})


FULL = written(
    speed("forward", 0.100, 10 * 2**20),
    speed("camfn", 0.120, 20 * 2**20),
    speed("grad-cam", 0.360, 80 * 2**20, note="has an eps"),
    speed("torchcam", 0.150, 40 * 2**20),
    speed("camfn", 0.110, None, "eigen_cam"),
    speed("grad-cam", 0.330, None, "eigen_cam"),
    one(0.1, kind="many", device="cpu", package="camfn", count=100),
    one(12.5, kind="many", device="cpu", package="grad-cam", count=100),
    one(0.1, kind="overhead", device="cpu", batch=1, added=0.002, low=0.001, high=0.003, pairs=15),
    one(0.1, kind="overhead", device="cpu", batch=8, added=0.006, low=0.004, high=0.009, pairs=15),
)


def cells(report: str, method: str) -> list[str]:
    (line,) = [line for line in report.splitlines() if f"| {method} " in line]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_has_times_ratios_forwards_and_memory() -> None:
    report = render(*load(FULL))
    assert cells(report, "grad_cam") == [
        "cpu", "resnet50", "8", "grad_cam",
        "120.0", "360.0 (3.00x) [1]", "150.0 (1.25x)", "100.0", "1.20",
        "20.0", "80.0", "40.0",
    ]  # fmt: skip
    assert "[1] differs from camfn's map, as known: has an eps" in report
    assert "A Processor, 2 threads" in report
    assert "torch 9.9" in report


def test_what_was_not_measured_is_a_dash() -> None:
    assert cells(render(*load(FULL)), "eigen_cam")[4:] == ["110.0", "330.0 (3.00x)", "-", "-", "-", "-", "-", "-"]


def test_many_classes_and_overhead_are_listed() -> None:
    report = render(*load(FULL))
    assert "| cpu    | grad-cam | 100     | 12500.0 | -        | -   | 5      |" in report
    assert "adds 6.00 ms to a ResNet-50 cut by hand at layer4, cpu, batch 8 (median of 15 pairs" in report
    assert "quartiles 4.00 and 9.00)" in report


def test_goals_are_judged_by_their_worst_case() -> None:
    verdicts = {goal.text.split(",")[0].split(":")[0]: goal for goal in goals(load(FULL)[1])}
    assert verdicts["gradient methods against grad-cam"][1:] == ("3.00 to 3.00", True)
    assert verdicts["gradient methods in bare forwards"][1:] == ("1.20 to 1.20", True)
    assert verdicts["Eigen methods against grad-cam"][1:] == ("3.00 to 3.00", False)
    assert verdicts["100 classes against grad-cam"][1:] == ("125.00 to 125.00", True)
    assert verdicts["a capture adds"][1:] == ("2.00 to 6.00", False)
    assert verdicts["peak memory of camfn / that of a peer"][1:] == ("0.25 to 0.50", True)


@pytest.mark.parametrize("text", [written(), written(speed("camfn", 0.1, None))])
def test_a_part_of_a_run_is_still_a_report(text: str) -> None:
    machine, records = load(text)
    assert len(rows(records)) == len(records)
    assert all(goal.reached is None for goal in goals(records))
    assert "not measured" in render(machine, records)


def test_other_devices_do_not_count_for_the_goals() -> None:
    slow = one(0.5, kind="overhead", device="cuda", batch=8, added=0.5, low=0.4, high=0.6, pairs=15)
    assert all(goal.reached is None for goal in goals(load(written(slow))[1]))

"""Turn the JSON of a benchmark run into a table, ratios first, and say which goals it reaches.

python -m benchmarks.report out/bench.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .peers import EIGEN, GRADIENT

Record = dict[str, Any]
PEERS = ("grad-cam", "torchcam")
MIB = 2**20


class Row(NamedTuple):
    """One method on one network: package (and "forward") to its record."""

    device: str
    model: str
    batch: int
    method: str
    records: dict[str, Record]

    def ms(self, package: str) -> float | None:
        """Time of the fastest round."""
        record = self.records.get(package)
        return None if record is None else 1e3 * float(record["min"])

    def ratio(self, package: str) -> float | None:
        """How many times as long as camfn a package takes."""
        return _quotient(self.ms(package), self.ms("camfn"))

    def forwards(self) -> float | None:
        """Time of camfn in bare forwards."""
        return _quotient(self.ms("camfn"), self.ms("forward"))

    def peak(self, package: str) -> float | None:
        """Peak memory in MiB."""
        found = self.records.get(package, {}).get("peak")
        return None if found is None else found / MIB


def load(text: str) -> tuple[dict[str, Any], list[Record]]:
    """Read what pytest-benchmark wrote: the machine, and a flat record for each benchmark."""
    found = json.loads(text)
    return found["machine_info"], [{**one["extra_info"], **one["stats"]} for one in found["benchmarks"]]


def rows(records: Iterable[Record]) -> list[Row]:
    """Put the packages of each case side by side."""
    table: dict[tuple[str, str, int, str], dict[str, Record]] = {}
    for record in records:
        if record["kind"] == "speed":
            key = (record["device"], record["model"], record["batch"], record["method"])
            table.setdefault(key, {})[record["package"]] = record
    return [Row(*key, found) for key, found in table.items()]


class Goal(NamedTuple):
    """What was to be reached, and what was measured; None where the run has no such case."""

    text: str
    measured: str
    reached: bool | None


def goals(records: Sequence[Record]) -> list[Goal]:
    """Compare the goals with the CPU records of a run, each with the worst of its cases."""
    cpu = [record for record in records if record["device"] == "cpu"]
    speed = rows(cpu)
    resnet = [row for row in speed if row.model == "resnet50" and row.batch == 8]
    gradient = [row for row in resnet if row.method in GRADIENT]
    eigen = [row for row in resnet if row.method in EIGEN]
    many = {record["package"]: record["min"] for record in cpu if record["kind"] == "many" and record["count"] == 100}
    overhead = [1e3 * record["added"] for record in cpu if record["kind"] == "overhead"]
    memory = [
        ours / theirs
        for row in speed
        for theirs in map(row.peak, PEERS)
        if (ours := row.peak("camfn")) is not None and theirs is not None
    ]
    at = "ResNet-50 layer4, batch 8"
    return [
        _at_least(f"gradient methods against grad-cam, {at}", 2.5, [row.ratio("grad-cam") for row in gradient], "x"),
        _at_most(f"gradient methods in bare forwards, {at}", 1.3, [row.forwards() for row in gradient], ""),
        _at_least(f"Eigen methods against grad-cam, {at}", 4, [row.ratio("grad-cam") for row in eigen], "x"),
        _at_least("100 classes against grad-cam", 100, [_quotient(many.get("grad-cam"), many.get("camfn"))], "x"),
        _at_most("a capture adds, in ms", 5, overhead, ""),
        _at_most("peak memory of camfn / that of a peer, all cases", 1, memory, ""),
    ]


def _at_least(text: str, bound: float, found: Sequence[float | None], unit: str) -> Goal:
    return _goal(f"{text}: at least {bound}{unit}", found, min, lambda worst: worst >= bound)


def _at_most(text: str, bound: float, found: Sequence[float | None], unit: str) -> Goal:
    return _goal(f"{text}: at most {bound}{unit}", found, max, lambda worst: worst <= bound)


def _goal(
    text: str, found: Sequence[float | None], worst: Callable[[list[float]], float], good: Callable[[float], bool]
) -> Goal:
    known = [value for value in found if value is not None]
    if not known:
        return Goal(text, "not measured", None)
    return Goal(text, f"{min(known):.2f} to {max(known):.2f}", good(worst(known)))


def render(machine: dict[str, Any], records: Sequence[Record]) -> str:
    """Write the report."""
    return "\n\n".join(["\n".join(part) for part in _parts(machine, records)])


def _parts(machine: dict[str, Any], records: Sequence[Record]) -> Iterator[list[str]]:
    versions = ", ".join(f"{name} {number}" for name, number in machine.get("versions", {}).items())
    processor = machine.get("cpu", {}).get("brand_raw", "unknown processor")
    yield [f"{versions}; {processor}, {machine.get('threads')} threads; GPU: {machine.get('gpu') or 'none'}"]
    notes: list[str] = []
    if table := rows(records):
        yield [
            "Fastest of the rounds, in ms; (x): how many times as long as camfn. camfn and grad-cam up to a heatmap of "
            "224 x 224, torchcam up to one of the layer's size. forwards: camfn in bare forwards. MiB: peak above the "
            "resident network.",
        ]
        yield _markdown(_speed(table, notes))
    if notes:
        yield [f"{_mark(i)} differs from camfn's map, as known: {note}" for i, note in enumerate(notes)]
    if cuts := [record for record in records if record["kind"] == "cut"]:
        yield [
            "Grad-CAM, packages in turn, fastest of the rounds, in ms. hand: a forward, and the backward of what "
            "follows the layer. forwards, hands: camfn in these. torchcam: how many times as long as camfn."
        ]
        yield _markdown(_cuts(cuts))
    if many := [record for record in records if record["kind"] == "many"]:
        lines = [("device", "package", "classes", "ms", "forwards", "MiB", "rounds")]
        for one in many:
            forwards, peak = _number(_quotient(one["min"], one.get("forward")), 2), one.get("peak")
            memory = "-" if peak is None else f"{peak / MIB:.0f}"
            times = (f"{1e3 * one['min']:.1f}", forwards, memory, str(one["rounds"]))
            lines.append((one["device"], one["package"], str(one["count"]), *times))
        yield ["Grad-CAM of many classes of one image, ResNet-50 layer4, every class run and none extrapolated:"]
        yield _markdown(lines)
    if overhead := [record for record in records if record["kind"] == "overhead"]:
        yield [
            f"A capture adds {1e3 * one['added']:.2f} ms to a ResNet-50 cut by hand at layer4, {one['device']}, batch "
            f"{one['batch']} (median of {one['pairs']} pairs run in turn; quartiles {1e3 * one['low']:.2f} and "
            f"{1e3 * one['high']:.2f})"
            for one in overhead
        ]
    if requirements := [line for record in records for line in record.get("requirements", [])]:
        yield ["Methods that run the network many times, ResNet-50 unless said, one image:"]
        verdict = {True: "reached", False: "MISSED"}
        answers = [(text, value, bound, verdict[reached]) for text, value, bound, reached in requirements]
        yield _markdown([("what", "measured", "goal", ""), *answers])
    words = {True: "reached", False: "MISSED", None: "-"}
    verdicts = [(goal.text, goal.measured, words[goal.reached]) for goal in goals(records)]
    yield _markdown([("goal (CPU)", "measured", ""), *verdicts])


def _cuts(records: Sequence[Record]) -> list[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = [
        ("device", "model", "layer", "batch", "forward", "hand", "camfn", "forwards", "hands", "torchcam")
    ]
    for one in records:
        forward, hand, ours, theirs = (1e3 * one[f"{name}_s"] for name in ("forward", "hand", "camfn", "torchcam"))
        times = (f"{forward:.1f}", f"{hand:.1f}", f"{ours:.1f}", f"{ours / forward:.2f}", f"{ours / hand:.2f}")
        where = (one["device"], one["model"].partition(".")[0], one["layer"], str(one["batch"]))
        lines.append((*where, *times, f"{theirs:.1f} ({theirs / ours:.2f}x)"))
    return lines


def _speed(table: Sequence[Row], notes: list[str]) -> list[tuple[str, ...]]:
    head = ("device", "model", "batch", "method", "camfn", *PEERS, "forward", "forwards")
    lines = [(*head, *(f"{package} MiB" for package in ("camfn", *PEERS)))]
    for row in table:
        times = [_number(row.ms("camfn"))]
        for peer in PEERS:
            ratio, note = row.ratio(peer), row.records.get(peer, {}).get("note")
            if note and note not in notes:
                notes.append(note)
            times.append(
                _number(row.ms(peer))
                + ("" if ratio is None else f" ({ratio:.2f}x)")
                + (f" {_mark(notes.index(note))}" if note else "")
            )
        times += [_number(row.ms("forward")), _number(row.forwards(), 2)]
        peaks = [_number(row.peak(package)) for package in ("camfn", *PEERS)]
        lines.append((row.device, row.model, str(row.batch), row.method, *times, *peaks))
    return lines


def _mark(index: int) -> str:
    return f"[{index + 1}]"


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _quotient(numerator: float | None, denominator: float | None) -> float | None:
    return None if numerator is None or denominator is None else numerator / denominator


def _markdown(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines)]
    padded = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines]
    return [padded[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *padded[1:]]


if __name__ == "__main__":
    print(render(*load(Path(sys.argv[1]).read_text())))

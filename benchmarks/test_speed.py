"""Each method on each network in each package, checked, then timed; beside them one bare forward, the unit of cost."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from .checks import Cut, check, cut
from .memory import peak
from .models import BATCHES, DEVICES, MODELS, load, question
from .peers import METHODS, PACKAGES, Case, has, synchronized

# the package changes fastest: what is divided by one another is measured one after the other
CASES = [
    Case(device, model, batch, method, package)
    for device in DEVICES
    for model in MODELS
    for batch in BATCHES
    for method in METHODS
    for package in PACKAGES
    if has(package, method)
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_speed(benchmark: BenchmarkFixture, case: Case) -> None:
    subject = load(case.model, case.device)
    images, classes = question(subject, case.batch)
    comparison: dict[str, Any] = {}
    reference = _reference(case.model, case.device, case.batch)
    with PACKAGES[case.package](case.method, subject, classes) as explain:
        run = synchronized(explain, subject.device)
        if case.package != "forward":
            comparison = check(case.package, case.method, run(images), reference)
        benchmark(run, images)
    if case.package != "forward":
        comparison["peak"] = peak(case)
    benchmark.extra_info.update(kind="speed", **case._asdict(), **comparison)


@lru_cache(maxsize=1)
def _reference(model: str, device: str, batch: int) -> Cut:
    subject = load(model, device)
    return cut(subject, *question(subject, batch))

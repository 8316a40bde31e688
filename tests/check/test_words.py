"""The thresholds between verdicts, the sentences, and the table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from camfn import Checked


def found(**changes: Any) -> Checked:
    """A check of one image in which all is well."""
    good = Checked(
        cam=torch.zeros(1, 2, 2),
        score=torch.tensor([0.8]),
        classes=torch.tensor([1]),
        runner_up=torch.tensor([2]),
        head="fc",
        again=torch.ones(1),
        other_class=torch.zeros(1),
        redrawn=torch.tensor([[0.1, -0.3, 0.2]]),
        noisy=torch.tensor([[0.9, 0.95]]),
        kept=torch.tensor([[0.7] + 10 * [0.1]]),
        removed=torch.tensor([[0.1] + 10 * [0.7]]),
        border=torch.tensor([0.3]),
        together=torch.ones(1),
        marked=torch.tensor([0.1]),
        blank=torch.tensor([False]),
        share=0.2,
        maps=15,
        forwards=41,
        missing={},
    )
    return replace(good, **changes)


def test_all_is_well() -> None:
    lines = found().lines()
    assert [line.name for line in lines] == [
        "same call",
        "other class",
        "new head",
        "noise",
        "kept",
        "removed",
        "border",
        "one place",
    ]
    assert {line.verdict for line in lines} == {"good"}


@pytest.mark.parametrize(
    ("name", "changes", "verdict"),
    [
        ("same call", {"again": torch.tensor([0.96])}, "good"),
        ("same call", {"again": torch.tensor([0.9])}, "look"),
        ("same call", {"again": torch.tensor([0.4])}, "bad"),
        ("other class", {"other_class": torch.tensor([0.49])}, "good"),
        ("other class", {"other_class": torch.tensor([0.6])}, "look"),
        ("other class", {"other_class": torch.tensor([0.81]), "redrawn": torch.tensor([[0.9]])}, "bad"),
        ("other class", {"other_class": torch.tensor([0.81]), "redrawn": torch.tensor([[0.7]])}, "look"),
        ("other class", {"other_class": torch.tensor([0.81]), "redrawn": None}, "bad"),
        ("other class", {"again": torch.tensor([0.9])}, "none"),
        ("other class", {"again": torch.tensor([0.9]), "other_class": torch.tensor([0.9])}, "bad"),
        ("other class", {"other_class": None, "missing": {"other class": "of a reason"}}, "none"),
        ("new head", {"redrawn": torch.tensor([[0.4, 0.6, 0.7]])}, "look"),
        ("new head", {"redrawn": torch.tensor([[-0.4, 0.9, 0.95]])}, "bad"),
        ("new head", {"redrawn": None, "missing": {"new head": "of a reason"}}, "none"),
        ("noise", {"noisy": torch.tensor([[0.6, 0.9, 0.7]])}, "look"),
        ("noise", {"noisy": torch.tensor([[0.6, 0.3, 0.2]])}, "bad"),
        ("kept", {"kept": torch.tensor([[0.39] + 10 * [0.1]])}, "look"),
        ("kept", {"kept": torch.tensor([[0.7] + 9 * [0.1] + [0.8]])}, "good"),
        ("kept", {"kept": torch.tensor([[0.7] + 8 * [0.1] + 2 * [0.8]])}, "bad"),
        ("kept", {"kept": torch.tensor([[0.7] + 10 * [0.65]])}, "bad"),
        ("kept", {"kept": torch.tensor([[-3.0] + 10 * [-4.0]]), "classes": None}, "good"),
        ("kept", {"kept": None, "missing": {"kept": "of a reason"}}, "none"),
        ("removed", {"removed": torch.tensor([[0.5] + 10 * [0.7]])}, "look"),
        ("removed", {"removed": torch.tensor([[0.5] + 10 * [0.2]])}, "bad"),
        ("removed", {"removed": torch.tensor([[0.70] + 10 * [0.72]])}, "bad"),
        ("removed", {"removed": None, "missing": {"removed": "of a reason"}}, "none"),
        ("border", {"border": torch.tensor([0.5 / 7])}, "look"),
        ("border", {"border": torch.tensor([torch.nan])}, "bad"),
        ("one place", {"together": torch.tensor([0.5])}, "look"),
        ("one place", {"marked": torch.tensor([0.7])}, "look"),
        ("one place", {"together": torch.tensor([torch.nan])}, "none"),
    ],
)
def test_thresholds(name: str, changes: dict[str, Any], verdict: str) -> None:
    changes = {"missing": {"new head": "of a reason"}, **changes} if changes.get("redrawn", 0) is None else changes
    (line,) = [line for line in found(**changes).lines() if line.name == name]
    assert line.verdict == verdict
    assert line.sentence.endswith((".", ":"))
    if "missing" in changes and verdict == "none":
        assert "of a reason" in line.sentence


def test_the_median_and_the_range_of_the_draws_are_shown() -> None:
    (line,) = [line for line in found(redrawn=torch.tensor([[0.1, -0.3, 0.2, 0.3]])).lines() if line.name == "new head"]
    assert line.value == pytest.approx(0.15)
    assert line.interval == pytest.approx((-0.3, 0.3))


def test_a_class_has_its_name() -> None:
    assert "class 2" in found().table()
    assert "bird" in found().table(0, ["dog", "cat", "bird"])


@pytest.mark.parametrize("width", [60, 90, 120, 200])
def test_the_table_fits(width: int) -> None:
    table = found().table(width=width)
    assert max(map(len, table.splitlines())) <= max(width, 72)
    assert table.splitlines()[1].startswith("good  same call")
    assert not [line for line in table.splitlines() if line != line.rstrip()]

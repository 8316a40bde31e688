"""Wrong shapes, dtypes, devices, layers, targets and options: a right result, or an error that says what works."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzzing import ROOMS, calls, complaint, functions


def fuzz(room: str, cases: int) -> None:
    """Make calls of a room, and hold each answer to be right, or clear."""
    seen: dict[tuple[str, ...], str] = {}

    @settings(
        max_examples=cases,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(st.data())
    def hold(data: st.DataObject) -> None:
        call = data.draw(calls(room))
        wrong = complaint(call)
        if wrong is not None:
            seen.setdefault((call.name, *call.wrong), f"{call!r}\n    {wrong}")

    hold()
    assert not seen, "\n".join(seen.values())


@pytest.mark.parametrize("room", ROOMS)
def test_wrong_arguments(room: str) -> None:
    fuzz(room, 30)


@pytest.mark.sweep
@pytest.mark.parametrize("room", ROOMS)
def test_many_wrong_arguments(room: str) -> None:
    fuzz(room, 500)


def test_every_public_function_is_called() -> None:
    assert {room: len(functions(room)) for room in ROOMS if not functions(room)} == {}
    assert sum(len(functions(room)) for room in ROOMS) > 120

"""The plot of mean ranks: its files, and what they hold."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'camfn[evaluate]'")

from camfn import CamfnError
from camfn.evaluate import Row, write_ranks

VALUES = {"$a$": [0.9, 0.8, 0.7], "b": [0.5, 0.6, 0.4], "c": [0.1, 0.7, 0.2]}
ROWS = [
    Row(f"photo {i}", f"net auto {name}", values={"iou": value})
    for name, listed in VALUES.items()
    for i, value in enumerate(listed)
]


@pytest.mark.parametrize("kind", ["pdf", "svg", "png"])
def test_the_same_ranks_are_the_same_bytes(kind: str, tmp_path: Path) -> None:
    for name in "ab":
        assert write_ranks(ROWS, "net", tmp_path / f"{name}.{kind}").photos == 3
    data = (tmp_path / f"a.{kind}").read_bytes()
    assert data == (tmp_path / f"b.{kind}").read_bytes()
    assert b"/Type3" not in data
    assert kind != "pdf" or b"/FontFile2" in data


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CamfnError, match=r"\.pdf, \.svg"):
        write_ranks(ROWS, "net", tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())

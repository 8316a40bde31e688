"""The widget: its state is the page's data, and Python reads what the user chooses."""

from __future__ import annotations

import sys

import pytest
import torch

from camfn.explore import widget
from camfn.explore._data import data_of
from camfn.explore._page import part

from .made import by_hand


def test_its_state_is_that_of_the_page() -> None:
    pytest.importorskip("anywidget", reason="needs anywidget: pip install 'camfn[notebook]'")
    found = by_hand(torch.rand(3, 3), torch.rand(3, 3))
    shown = widget(found)
    state = shown.get_state()
    assert state["data"] == data_of(found)
    assert (state["photo"], state["target"], state["method"], state["layer"]) == ("p.png", "a", "m0", "body")
    assert state["_esm"] == part("viewer.js")
    heard = []
    shown.observe(lambda change: heard.append(change["new"]), "method")
    shown.set_state({"method": "m1"})  # as the browser does
    assert heard == ["m1"]


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(ImportError, match=r"camfn\[notebook\]"):
        widget(by_hand(torch.rand(3, 3)))

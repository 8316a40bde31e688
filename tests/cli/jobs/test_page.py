"""`camfn export --page`: what it exports for a page, and what it refuses before it loads a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from camfn import CamfnError
from camfn._photos.methods import pick_methods
from camfn.cli._jobs.page import check_methods, check_page, page_of
from camfn.zoo import load

from ...export.stand_in import stand_in


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for onnxruntime-web."""
    return stand_in(tmp_path / "runtime", tmp_path, monkeypatch)


def test_each_method_at_each_layer_is_offered(tmp_path: Path, runtime: Path) -> None:
    loaded = load("tiny:cnn")
    told: list[tuple[str, int, int]] = []
    methods = pick_methods("grad_cam", 0)
    found = page_of(tmp_path / "site", loaded, methods, [None], runtime, lambda *given: told.append(given))
    page = json.loads((tmp_path / "site" / "page.json").read_text())
    assert [each["method"] for each in page["networks"]] == ["grad_cam"] == [each["method"] for each in found]
    assert {each["model"] for each in page["networks"]} == {"tiny:cnn"}
    assert page["networks"][0]["preprocessing"]["size"] == [64, 64]
    assert [(done, total) for _, done, total in told] == [(k, 4) for k in range(4)]
    assert told[0][0] == f"grad_cam at {found[0]['layer']}: tracing"


def test_what_cannot_be_is_refused_at_once(tmp_path: Path, runtime: Path) -> None:
    with pytest.raises(CamfnError, match=r"^full_grad: of the whole network"):
        check_methods(pick_methods("full_grad", 0))
    with pytest.raises(CamfnError, match=r"run camfn export --fetch-runtime once"):
        check_page(tmp_path / "site", None)
    with pytest.raises(CamfnError, match="holds other files"):
        check_page(tmp_path, runtime)
    loaded = load("tiny:cnn")._replace(recipe=None)
    with pytest.raises(CamfnError, match=r"by code .* give --input-size"):
        page_of(tmp_path / "site", loaded, pick_methods("cam", 0), [None], runtime, lambda *_: None)

"""The table of methods of docs/export.md, each row held."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from camfn import CamfnError, attention, explainer, export, methods
from camfn.catalogue import METHODS, find
from camfn.transforms import fuse

from .nets import photos, small

PAGE = (Path(__file__).parents[2] / "docs/export.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `(\w+)` \| (yes|no) \|", PAGE, re.MULTILINE))
LAYERED = [row.name for row in METHODS if row.kind == "layer" and ROWS.get(row.name) == "yes"]


def test_every_method_of_a_layer_or_of_attention_has_its_row() -> None:
    assert set(ROWS) == {row.name for row in METHODS if row.kind != "network"}


@pytest.mark.parametrize("name", ["cam", "eigen_cam", "recipro_cam"])
def test_some_are_exported_in_every_run_of_the_tests(name: str, tmp_path: Path) -> None:
    found = export.onnx(explainer(getattr(methods, name), small(), "last"), photos(), tmp_path / "net.onnx")
    assert max(found["verified"]["differences"].values()) < 1e-4


@pytest.mark.sweep
@pytest.mark.parametrize("layer", ["last", "stem"])
@pytest.mark.parametrize("name", LAYERED)
def test_yes_is_a_file_that_agrees(name: str, layer: str, tmp_path: Path) -> None:
    if name in ("cam", "tam") and layer == "stem":
        pytest.skip("a head's map is defined at the last layer alone")
    found = export.onnx(explainer(getattr(methods, name), small(), layer), photos(), tmp_path / "net.onnx")
    assert max(found["verified"]["differences"].values()) < 1e-4
    assert found["batch"] == "dynamic"


@pytest.mark.sweep
@pytest.mark.parametrize("name", [name for name, found in ROWS.items() if found == "no"])
def test_no_is_a_refusal(name: str, tmp_path: Path) -> None:
    from functools import partial

    row = find(name)
    method: Any = partial(row.function, generator=torch.Generator()) if row.draws else row.function
    with pytest.raises(CamfnError, match=r"cannot be in a file|fixes the batch"):
        export.onnx(explainer(method, small(), "stem"), photos(), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.sweep
@pytest.mark.parametrize("name", [row.name for row in METHODS if row.kind == "attention"])
def test_methods_on_attention(name: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    net = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=3, num_classes=10).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    explain = attention.attention_explainer(getattr(attention, name), net)
    found = export.onnx(explain, photos(2, 64), tmp_path / "net.onnx")
    assert max(found["verified"]["differences"].values()) < 1e-4


@pytest.mark.sweep
def test_maps_of_several_layers_are_fused_in_the_file(tmp_path: Path) -> None:
    explain = fuse(methods.layer_cam, small(), ["stem", "last"])
    found = export.onnx(explain, photos(), tmp_path / "net.onnx")
    assert found["layer"] == ["stem", "last"]
    assert max(found["verified"]["differences"].values()) < 1e-4

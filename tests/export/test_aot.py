from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from camfn import explainer, export, methods

from .nets import photos, small


@pytest.mark.sweep
@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor needs a C++ compiler")
def test_a_package_gives_prediction_and_map(tmp_path: Path) -> None:
    net, file = small(), tmp_path / "net.aot.pt2"
    explain = explainer(methods.grad_cam, net, "last")
    found = export.aot(explain, photos(), file)
    assert found["verified"]["batches"] == [3, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["net.aot.pt2"]
    logits, cam = torch._inductor.aoti_load_package(str(file))(photos(4), torch.tensor([3, 1, 0, 2]))
    torch.testing.assert_close(logits, net(photos(4)))
    torch.testing.assert_close(cam, explain(photos(4), [3, 1, 0, 2]), rtol=1e-4, atol=1e-6)

"""What a page demands of exported files, and weights that are stored once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from camfn import CamfnError
from camfn.export._networks import read_networks

from .handmade import NAMES, RECIPE, about, answers, handmade, network


def test_weights_that_files_share_are_stored_once(tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    nets = [network(0), network(1)]
    files = [handmade(tmp_path / f"{k}.onnx", net) for k, net in enumerate(nets)]
    found = read_networks(files)
    assert len(found.weights) == 4 * 3 * 8 * 8 * 4  # the convolution, of both
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "weights.bin").write_bytes(found.weights)
    images = torch.rand(2, 3, 32, 32)
    for net, graph in zip(nets, found.graphs):
        assert len(graph) < 6000
        (tmp_path / "out" / "net.onnx").write_bytes(graph)
        onnx.checker.check_model(str(tmp_path / "out" / "net.onnx"))
        session = onnxruntime.InferenceSession(str(tmp_path / "out" / "net.onnx"), providers=["CPUExecutionProvider"])
        for target in (None, 3):
            given = {"images": images.numpy(), "target": np.array([-1 if target is None else target])}
            for value, expected in zip(session.run(None, given), answers(net, images, target)):
                torch.testing.assert_close(torch.from_numpy(value), expected)


def test_facts_are_read(tmp_path: Path) -> None:
    [facts] = read_networks([handmade(tmp_path / "a.onnx")]).facts
    assert facts["model"] == "handmade"
    assert facts["classes"] == NAMES
    assert (facts["shape"], facts["count"], facts["output"]) == ([3, 32, 32], 6, "logits")
    assert facts["preprocessing"] == RECIPE
    assert facts["words"] == "shorter side to 40, center 32 x 32, bicubic; mean 0.5, 0.4, 0.3; std 0.2, 0.25, 0.3"
    assert facts["verified"] == "largest relative differences from the model: logits 1.0e-07, cam 2.0e-07"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"told": {}}, "not written by camfn export"),
        ({"target": False}, "export it with --target input"),
        ({"batch": 2}, "takes 2 images at a time: export it with a dynamic batch"),
        ({"cam": "map"}, "gives no map of \\(B, H, W\\) that is named cam, but logits, map"),
        ({"told": about(classes=["one"])}, "has 1 class names for 6 numbers"),
        ({"told": about(preprocessing=None)}, "not known in numbers: export it with preprocessing="),
        ({"told": about(preprocessing="by prepare")}, "not known in numbers"),
        (
            {"told": about(preprocessing=RECIPE | {"size": [64, 64]})},
            r"takes \(3, 32, 32\); its preprocessing gives \[64, 64\]",
        ),
        ({"told": about(preprocessing=RECIPE | {"mean": [0.5], "std": [0.5]})}, "with 1 channels"),
        ({"told": about(preprocessing=RECIPE | {"interpolation": "mks2021"})}, "resizes by mks2021.*bicubic"),
    ],
)
def test_what_a_page_cannot_run_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(CamfnError, match=said):
        read_networks([handmade(tmp_path / "a.onnx", **changes)])


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"no model")
    with pytest.raises(CamfnError, match="no ONNX file"):
        read_networks([tmp_path / "a.onnx"])
    with pytest.raises(CamfnError, match="there is no file"):
        read_networks([tmp_path / "b.onnx"])

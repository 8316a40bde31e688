"""`%load_ext camfn.image`, and what a real notebook keeps of maps, records, explainers, tables and pages."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from camfn.image._notebook import drawn

from ..house import ROOT

CELLS = {
    "capture(net, 'body')(photos)": {"image/png", "text/html"},
    "explainer(grad_cam, net, 'body')": {"text/html"},
    "explainer(grad_cam, net, 'body')(photos)": set(),
    "%load_ext camfn.image": set(),
    "explainer(grad_cam, net, 'body')(photos) # drawn": {"image/png"},
    "image.overlay(photos, image.normalize(explainer(grad_cam, net, 'body')(photos)))": {"image/png"},
    "net(photos)[:, :3]": set(),
    "camfn.explore.collect(net, photos, [3, 7], methods=['grad_cam'])": {"image/png", "text/html"},
    "camfn.check(explainer(grad_cam, net, 'body'), photos[:1])": {"image/png", "text/html"},
    "evaluate.rank([evaluate.Row('a', f'net auto {n}', values={'iou': 0.5}) for n in 'xy'], 'net')": {"text/html"},
    "evaluate.differences(rows, 'net', 'iou')": {"text/html"},
    "evaluate.friedman(rows, 'net', 'iou')": {"text/html"},
    "evaluate.Records([], ['a line'])": {"text/html"},
    "truth": {"text/html"},
    "truth[0]": {"text/html"},
    "evaluate.tables(truth)": {"text/html"},
    "evaluate.verify(truth[0].folder, network=False)[0]": {"text/html"},
    "words.Explained([torch.rand(2, 3, 4)], [words.Span(0, 'image', torch.arange(12), (3, 4))], torch.arange(2), "
    "torch.zeros(2))": {"image/png", "text/html"},
    "image.figure(photos, explainer(grad_cam, net, 'body')(photos)[:, None], columns=['a'])": {"image/png"},
    "%unload_ext camfn.image": set(),
    "torch.zeros(4, 4)": set(),
}
BEGIN = """import tempfile, torch, camfn
from camfn import capture, evaluate, explainer, image, tiny, words
from camfn.methods import grad_cam
photos = tiny.scenes(2, generator=torch.Generator().manual_seed(0)).images
net = tiny.load("cnn")
rows = [evaluate.Row(str(i), f"net auto {n}", values={"iou": i / 9}) for n in "xyz" for i in range(6)]
few = evaluate.Suite(tracks=("tiny",), scenes=2)
truth = evaluate.truth("tiny:cnn", "grad_cam", tempfile.mkdtemp(), suite=few)"""


def test_a_notebook_keeps_pictures_and_tables() -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel")
    pytest.importorskip("ipykernel")
    nbformat: Any = pytest.importorskip("nbformat")
    cells = [nbformat.v4.new_code_cell(cell) for cell in (BEGIN, *CELLS)]
    made = nbformat.v4.new_notebook(cells=cells)
    where = {"metadata": {"path": str(ROOT.parent)}}
    nbclient.NotebookClient(made, timeout=600, kernel_name="python3", resources=where).execute()
    for cell, (code, expected) in zip(made.cells[1:], CELLS.items(), strict=True):
        found = {kind for one in cell.outputs for kind in one.get("data", {})}
        assert found - {"text/plain"} == expected, code


def decoded(tensor: torch.Tensor) -> Any:
    data = drawn(tensor)
    assert data is not None
    return np.array(Image.open(io.BytesIO(data)))


def test_pictures_are_drawn_as_they_are() -> None:
    picture = torch.randint(0, 256, (3, 8, 9), dtype=torch.uint8)
    assert np.array_equal(decoded(picture), picture.permute(1, 2, 0).numpy())
    assert np.array_equal(decoded(picture / 255), picture.permute(1, 2, 0).numpy())
    assert decoded(picture.expand(5, 3, 8, 9)).shape == (16, 36, 3)


def test_maps_are_drawn_each_on_its_own_scale() -> None:
    assert decoded(torch.randn(7, 7)).shape == (230, 230, 3)
    assert decoded(torch.randn(5, 7, 7)).shape == (2 * 118, 4 * 118, 3)
    assert decoded(torch.randn(2, 6, 7, 7)).shape == (230, 460, 3)
    assert np.array_equal(decoded(torch.eye(5)), decoded(torch.eye(5) * 1e-20))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(3),
        torch.randn(8, 3),
        torch.randn(0, 7, 7),
        torch.arange(25).reshape(5, 5),
        torch.rand(2, 2, 2, 5, 5),
        torch.rand(5, 5, device="meta"),
        torch.eye(5).to_sparse(),
        torch.eye(5, dtype=torch.complex64),
    ],
)
def test_other_tensors_are_printed(tensor: torch.Tensor) -> None:
    assert drawn(tensor) is None

"""What a notebook shows: PNG that other readers decode, scales and colors, tables without markup of the caller."""

import base64
import io
import re
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from camfn import Captured, capture, explainer, resume, tiny
from camfn._shared.seen import png, record_sheet, record_table, sheet, signed_colors, visible
from camfn._shared.value import Value, frozen
from camfn.attention import capture_attention
from camfn.methods import grad_cam
from camfn.targets import class_score
from camfn.transforms import smooth


def decoded(data: bytes) -> Tensor:
    return torch.from_numpy(np.array(Image.open(io.BytesIO(data)).convert("RGB")))


def test_a_png_holds_the_pixels() -> None:
    rows = torch.randint(0, 256, (5, 7, 3), dtype=torch.uint8)
    assert torch.equal(decoded(png(rows)), rows)


@pytest.mark.parametrize("factor", [1.0, 1e-30, 1e30])
def test_each_map_has_its_own_scale_and_zero_is_white(factor: float) -> None:
    colors = signed_colors(factor * torch.tensor([[0.0, 2.0], [-1.0, -2.0]]).double())
    assert torch.equal(colors[0, 0], torch.ones(3).double())
    assert colors[0, 1].argmax() == 0  # red
    assert colors[1, 1].argmax() == 2  # blue
    assert bool((colors[1, 0] > colors[1, 1]).all())


def test_blank_infinite_and_unknown_values() -> None:
    assert torch.equal(signed_colors(torch.zeros(2, 2)), torch.ones(2, 2, 3).double())
    nan = signed_colors(torch.tensor([[float("nan"), 1.0]]))
    assert len(set(nan[0, 0].tolist())) == 1
    assert nan[0, 1].argmax() == 0
    assert bool(signed_colors(torch.tensor([[float("inf"), 1.0, -float("inf")]])).isfinite().all())


def test_a_sheet_keeps_squares_and_places() -> None:
    cam = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    seen = decoded(sheet([[cam, cam], [-cam]]))
    assert seen.shape == (204, 204, 3)
    assert seen[27, 27, 0] > seen[27, 27, 2]
    assert seen[75, 75, 2] > seen[75, 75, 0]
    assert bool((seen[150, 150] == 255).all())  # no fourth map
    assert decoded(sheet([[torch.ones(200, 10)]])).shape[:2] == (102, 102 - 96 + 5)


def test_the_first_samples_slices_and_strips_are_seen() -> None:
    assert [tuple(one.shape) for one in visible(torch.rand(7, 3, 4, 5))] == [(4, 5)] * 4
    volume = torch.rand(1, 2, 5, 4, 3).double()
    assert torch.equal(visible(volume)[0], volume[0, :, 2].mean(0))
    assert [tuple(one.shape) for one in visible(torch.rand(1, 2, 9))] == [(1, 9)]
    for none in (None, torch.rand(3, 4), torch.rand(0, 2, 3, 3), torch.rand(1, 1, 2, 2, device="meta"), "text"):
        assert visible(none) == []


def test_a_record_shows_no_markup_of_its_texts() -> None:
    shown = record_table({"name": "<script>", "x": torch.rand(1, 2, 3, 3)}, ("x",))
    assert "<script" not in shown
    assert len(re.findall("data:image/png;base64,", shown)) == 1
    assert record_sheet(None, torch.zeros(0, 1, 2, 2)) is None


def test_under_vmap_only_shapes_are_shown() -> None:
    def told(x: Tensor) -> Tensor:
        record = Captured(x, x, x)
        assert "img" not in record._repr_html_()
        assert record._repr_png_() is None
        return x

    torch.vmap(told)(torch.rand(2, 1, 3, 4, 4))


def test_records_of_networks_are_pictures() -> None:
    photos = tiny.scenes(3, generator=torch.Generator().manual_seed(0)).images
    captured = capture(tiny.load("cnn"), "body")(photos)
    pictures = re.findall('src="data:image/png;base64,([^"]+)"', captured._repr_html_())
    first = decoded(base64.b64decode(pictures[0]))
    both = decoded(captured._repr_png_() or b"")
    assert torch.equal(both[: len(first)], first)
    assert both.shape == (2 * first.shape[0], first.shape[1], 3)
    attended = capture_attention(tiny.load("vit"))(photos)
    assert attended._repr_html_().count("<img") == len(attended.records)
    assert attended.records[0]._repr_html_().count("<img") == 2
    assert decoded(attended._repr_png_() or b"").shape[0] == 102 * len(attended.records)
    assert decoded(attended.records[0]._repr_png_() or b"").shape[0] == 204


@frozen
class Named(Value):
    """Do <this> by `code`."""

    of: object


def test_an_explainer_says_what_it_is_made_of() -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2, 4))
    explain = explainer(partial(grad_cam), net, "0", chunk_size=3)
    shown = smooth(explain, generator=torch.Generator())._repr_html_() or ""
    for part in (
        "smooth",
        "explainer",
        "partial(grad_cam)",
        "Sequential, 68 parameters",
        "chunk_size",
        "&#x27;0&#x27;",
    ):
        assert part in shown
    assert "differentiable" not in shown  # a default
    assert "resume" in (resume(net, "0")._repr_html_() or "")
    assert class_score(3)._repr_html_() is None  # its text is enough
    assert Named(nn.ReLU())._repr_html_() == (
        "<table><tr><th>Named</th><td>Do &lt;this&gt; by <code>code</code>.</td></tr>"
        "<tr><th>of</th><td>ReLU, 0 parameters</td></tr></table>"
    )

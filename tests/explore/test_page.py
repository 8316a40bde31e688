"""The page as a file: its data are the maps, equal maps are found, names are text, and it asks for nothing."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from camfn import CamfnError, tiny
from camfn.explore import Explored, ShownTarget, collect, page
from camfn.explore import _data as data_module
from camfn.explore._data import data_of, groups

from .made import by_hand, read, scenes, unpacked, volumes


def test_the_data_of_a_page_are_the_maps(tmp_path: Path) -> None:
    found = collect(tiny.load("cnn"), scenes(2), [3, 7], methods=["grad_cam", "layer_cam", "fem"], layers="auto:2")
    data = read(page(found, tmp_path / "a.html", title="A title", command="camfn explore"))
    assert (data["title"], data["command"]) == ("A title", "camfn explore")
    for photo, shown in zip(data["photos"], found.photos):
        for cells, rows in zip(photo["cells"], shown.maps):
            for places, cams in zip(cells, rows):
                for place, cam in zip(places, cams):
                    assert isinstance(cam, torch.Tensor)
                    one = unpacked(data, place)
                    assert one.shape == cam.shape
                    assert float((one - cam).abs().max()) <= float(cam.abs().max()) / 4096 + 1e-30
                    assert data["maps"][place]["low"] == float(cam.min())
                    assert data["maps"][place]["high"] == float(cam.max())


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e-6, 1.0, 1e6, 1e30])
def test_small_and_large_values_keep_their_digits(scale: float) -> None:
    cam = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * scale
    data = data_of(by_hand(cam))
    assert float((unpacked(data, 0) - cam).abs().max()) <= float(cam.abs().max()) / 4096


def test_equal_maps_are_stored_once_and_reasons_too() -> None:
    cam = torch.rand(4, 4)
    data = data_of(by_hand(cam, cam.clone(), "no head", "no head", cam + 1))
    assert [row[0] for row in data["photos"][0]["cells"][0]] == [0, 0, -1, -1, 1]
    assert data["problems"] == ["no head"]


def test_equal_pictures_are_found_up_to_a_factor() -> None:
    cam = torch.randn(6, 6, generator=torch.Generator().manual_seed(2))
    none = torch.zeros(6, 6)
    cams: list[torch.Tensor | str] = [cam, 3 * cam, cam.clamp(min=0), -cam, none, none]
    cams += ["none", cam[:5], cam * (1 + 1e-7)]
    assert groups(cams, signed=True) == [0, 0, 2, 3, 4, 5, 6, 7, 0]
    assert groups(cams, signed=False) == [0, 0, 0, 3, 4, 5, 6, 7, 0]


def test_laws_of_the_last_layer_are_seen(tmp_path: Path) -> None:
    found = collect(tiny.load("cnn"), scenes(1), [3], methods=["grad_cam", "hires_cam", "layer_cam"], layers="body")
    (((same,),),) = [photo["same"] for photo in data_of(found)["photos"]]
    assert same[0] == 0
    assert len(same) == 3


def test_names_are_text_and_cannot_end_the_element(tmp_path: Path) -> None:
    bad = "</script><script>alert(1)</script><!--"
    found = by_hand(torch.rand(3, 3), targets=(ShownTarget("x", bad),))
    file = page(found, tmp_path / "a.html", title=bad, command=bad)
    text = file.read_text("utf-8")
    assert bad not in text
    assert "<!--" not in text
    assert text.count("</script>") == 2
    assert read(file)["photos"][0]["targets"][0]["label"] == bad


def test_a_page_asks_for_nothing(tmp_path: Path) -> None:
    text = page(by_hand(torch.rand(3, 3)), tmp_path / "a.html").read_text("utf-8")
    code = re.sub(r'<script type="application/json".*?</script>', "", text, flags=re.S)
    assert not re.findall(r"https?:|//[a-z]+\.|fetch\(|XMLHttp|@import|innerHTML|eval\(", code)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    assert policy
    assert "default-src 'none'" in policy[1]
    assert "unsafe" not in policy[1]
    assert 'lang="en"' in text
    assert 'name="viewport"' in text


def test_the_picture_is_the_view(tmp_path: Path) -> None:
    import base64

    found = by_hand(torch.rand(3, 3))
    (one,) = data_of(found)["photos"][0]["slices"]
    kind, _, content = one["src"].partition(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
        pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(8, 8, 3)
    torch.testing.assert_close(pixels.permute(2, 0, 1) / 255, found.photos[0].picture, atol=1 / 510 + 1e-6, rtol=0)


def test_slices_of_a_volume_are_spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = collect(volumes(), torch.rand(1, 1, 12, 8, 8), [0], methods=["grad_cam"], layers=["3"])
    data = read(page(found, tmp_path / "v.html"))
    assert [one["n"] for one in data["photos"][0]["slices"]] == list(range(12))
    assert (data["photos"][0]["depth"], data["maps"][0]["shape"]) == (12, [6, 4, 4])
    monkeypatch.setattr(data_module, "_SLICES", 5)
    assert [one["n"] for one in data_of(found)["photos"][0]["slices"]] == [0, 3, 6, 8, 11]


def test_maps_that_are_too_large_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_module, "_BYTES", 1000)
    with pytest.raises(CamfnError, match="take deeper layers"):
        data_of(by_hand(torch.rand(40, 40)))


@pytest.mark.parametrize("name", ["a.png", "a", "nowhere/a.html", "folder.html"])
def test_a_path_that_is_no_page_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(CamfnError, match="explore: "):
        page(by_hand(torch.rand(3, 3)), tmp_path / name)


def test_photos_of_one_name_have_addresses_of_their_own() -> None:
    one = by_hand(torch.rand(3, 3))
    both = Explored(one.photos * 2, one.methods, one.layers)
    assert [photo["id"] for photo in data_of(both)["photos"]] == ["p.png", "p.png-2"]


def test_explored_refuses_what_does_not_fit() -> None:
    one = by_hand(torch.rand(3, 3))
    with pytest.raises(CamfnError, match=r"maps\[target\]\[method\]\[layer\]"):
        Explored(one.photos, one.methods * 2, one.layers)
    with pytest.raises(CamfnError, match="at least one photo"):
        Explored((), one.methods, one.layers)
    with pytest.raises(CamfnError, match=r"maps \(h, w\) over a photo"):
        by_hand(torch.rand(9))
    with pytest.raises(CamfnError, match="expected a picture"):
        Explored((one.photos[0]._replace(picture=torch.rand(4, 8, 8)),), one.methods, one.layers)


def test_a_notebook_shows_it_in_a_frame_without_a_forward() -> None:
    found = by_hand(torch.rand(3, 3))
    shown = found._repr_html_()
    assert shown.startswith("<iframe ")
    assert 'sandbox="allow-scripts"' in shown
    assert repr(found) == "Explored(1 photos, 1 targets, 1 methods, 1 layers)"

"""The page in headless Chromium: its maps are those of Python, and everything a user can do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from camfn import image, tiny
from camfn.cli._app import app
from camfn.explore import Explored, ShownLayer, ShownTarget, collect, page

from ..export.test_browser import MODULES, STEP, Session, needs_browser
from ..house import ROOT
from .made import by_hand, scenes, volumes

BAD = "<b>bold</b> & more"


def opened(folder: Path, file: Path, *steps: STEP, address: str = "") -> list[Any]:
    """Open a page and take steps; nothing but the page may be asked for, and nothing may go wrong."""
    session = Session(folder, file.as_uri() + address, [{"do": "open"}, *steps])
    assert [one.partition("#")[0] for one in session.asked if not one.startswith("data:")] == [file.as_uri()]
    return session.returned[1:]


def value(code: str) -> STEP:
    return {"do": "value", "code": code}


def hover(on: str, event: str = "pointerenter") -> STEP:
    return value(
        f"document.querySelector('{on}').dispatchEvent(new PointerEvent('{event}', {{ pointerType: 'mouse' }}))"
    )


def pressed(kind: str) -> STEP:
    return value(f"document.body.dispatchEvent(new KeyboardEvent('{kind}', {{ key: 'h', bubbles: true }}))")


VIEW, HASH, SAY = value("camfn.view"), value("location.hash"), {"do": "text", "on": ".cv-say"}
PIXELS = value("document.querySelector('.cv-frame canvas').toDataURL()")


@pytest.fixture(scope="module")
def found() -> Explored:
    targets = {BAD: 3, "7": 7}
    return collect(tiny.load("cnn"), scenes(2), targets, methods=["grad_cam", "layer_cam", "fem"], layers="auto:2")


@pytest.mark.sweep
@needs_browser
def test_the_maps_in_the_browser_are_those_of_python(tmp_path: Path, found: Explored) -> None:
    file = page(found, tmp_path / "a.html")
    places = [(p, t, m, k) for p in range(2) for t in range(2) for m in range(3) for k in range(2)]
    seen = opened(tmp_path, file, *(value(f"camfn.values({p}, {t}, {m}, {k})") for p, t, m, k in places))
    for (p, t, m, k), values in zip(places, seen):
        cam = found.photos[p].maps[t][m][k]
        assert isinstance(cam, torch.Tensor)
        assert float((torch.tensor(values) - cam.flatten()).abs().max()) <= float(cam.abs().max()) / 4000


@pytest.mark.sweep
@needs_browser
def test_hover_arrows_keys_and_the_address(tmp_path: Path, found: Explored) -> None:
    file = page(found, tmp_path / "a.html")
    second = ".cv-target label:nth-child(2)"
    steps = [
        *(VIEW, hover(second), VIEW, hover(second, "pointerleave"), VIEW),
        {"do": "focus", "on": ".cv-target input"},
        {"do": "key", "key": "ArrowRight"},
        *(VIEW, HASH, {"do": "focus", "on": ".cv-frame canvas"}, {"do": "key", "key": "ArrowRight"}, VIEW),
        *({"do": "key", "key": "ArrowUp"}, VIEW, SAY),
        *(PIXELS, pressed("keydown"), PIXELS, pressed("keyup"), PIXELS),
        {"do": "set", "on": ".cv-look select", "value": "seismic"},
        *(
            PIXELS,
            HASH,
            value("location.hash = '#method=fem&target=7&photo=input+2'"),
            {"do": "wait", "milliseconds": 100},
        ),
        *(VIEW, SAY, value("document.querySelector('.cv-frame canvas').getAttribute('aria-label')")),
    ]
    said = opened(tmp_path, file, *steps)
    assert [said[k]["target"] for k in (0, 2, 4)] == [0, 1, 0]  # hover shows, leaving restores
    assert said[7]["target"] == 1
    assert "target=7" in said[8]
    assert said[11]["method"] != said[7]["method"]
    assert said[13]["target"] == 0
    assert BAD in said[14]  # a name is text, whatever is in it
    assert "Raw values from" in said[14]
    assert said[15] == said[19]
    assert said[17] != said[15]
    assert said[21] != said[15]
    assert "colors=seismic" in said[22]
    assert (said[25]["photo"], said[25]["target"], said[25]["method"]) == (1, 1, 2)
    assert "This method never asks for the class" in said[26]
    assert said[27] == f"Map of 7 by fem at layer {found.layers[said[25]['layer']].id} over input 2"


@pytest.mark.sweep
@needs_browser
def test_a_link_leads_to_its_view(tmp_path: Path, found: Explored) -> None:
    file = page(found, tmp_path / "a.html")
    (view,) = opened(tmp_path, file, VIEW, address=f"#target=7&method=layer_cam&layer={found.layers[0].id}&colors=hot")
    assert (view["target"], view["method"], view["layer"]) == (1, 1, 0)
    (view,) = opened(tmp_path, file, VIEW, address="#target=nobody&method=&layer=%3Cb%3E&slice=900")
    assert (view["target"], view["method"], view["layer"]) == (0, 0, found.start)


@pytest.mark.sweep
@needs_browser
def test_equal_maps_are_folded_and_said(tmp_path: Path) -> None:
    cam = torch.rand(4, 4)
    file = page(by_hand(cam, 2 * cam, 1 - cam, "it has no head", torch.zeros(4, 4), -cam), tmp_path / "a.html")
    names = value("[...document.querySelectorAll('.cv-method label:not([hidden])')].map(each => each.innerText)")
    steps = [names, SAY]
    for place in (4, 5, 6):
        steps += [{"do": "toggle", "on": f".cv-method label:nth-child({place})"}, SAY]
    said = opened(tmp_path, file, *steps)
    assert said[0] == ["m0 = m1", "m2", "m3", "m4", "m5"]
    assert "The same map as m1." in said[1]
    assert "No map: it has no head" in said[3]
    assert "zero everywhere" in said[5]
    assert "Nothing speaks for this target here" in said[7]


@pytest.mark.sweep
@needs_browser
def test_boxes_are_buttons(tmp_path: Path) -> None:
    targets = (
        ShownTarget("a", "dog", "0.9", (0.1, 0.2, 0.5, 0.6)),
        ShownTarget("b", "cat", "0.8", (0.5, 0.5, 0.9, 0.9)),
    )
    file = page(by_hand(torch.rand(4, 4), targets=targets), tmp_path / "a.html")
    box = ".cv-box[data-place='1']".replace("'", '"')
    state = value(f"document.querySelector('{box}').getAttribute('aria-pressed')")
    steps = [state, hover(box), VIEW, state, hover(box, "pointerleave"), VIEW, {"do": "toggle", "on": box}, HASH, state]
    said = opened(tmp_path, file, *steps)
    assert (said[0], said[3], said[8]) == ("false", "true", "true")
    assert (said[2]["target"], said[5]["target"]) == (1, 0)
    assert "target=b" in said[7]


@pytest.mark.sweep
@needs_browser
def test_labels_of_boxes_stay_in_the_picture_and_joined_layers_are_brief(tmp_path: Path) -> None:
    targets = tuple(
        ShownTarget(str(n), "a cat with a name", "0.9", box)
        for n, box in enumerate(
            [(0.9, 0.5, 1.0, 0.5), (0.0, 0.0, 0.1, 0.1), (0.92, 0.0, 1.0, 0.1), (0.0, 0.9, 0.0, 1.0)]
        )
    )
    made = replace(
        by_hand(torch.rand(4, 4), targets=targets), layers=(ShownLayer("net.fpn.a.0, net.fpn.a.1, net.fpn.p6"),)
    )
    inside = """(() => {
        const frame = document.querySelector(".cv-frame").getBoundingClientRect();
        return [...document.querySelectorAll(".cv-box")].map(box => [box, box.querySelector("span")].every(one => {
            const at = one.getBoundingClientRect();
            return at.width >= 9 && at.height >= 9 && at.left >= frame.left - 4 && at.right <= frame.right + 12
                && at.top >= frame.top - 4;
        }));
    })()"""
    said = opened(
        tmp_path, page(made, tmp_path / "a.html"), value(inside), SAY, {"do": "text", "on": ".cv-layer .cv-words"}, HASH
    )
    assert said[0] == [True] * 4
    assert "by m0 at 3 layers, joined. Raw" in said[1]
    assert said[2] == "net.fpn.{a.0, a.1, p6}"


@pytest.mark.sweep
@needs_browser
def test_a_slider_goes_through_a_volume(tmp_path: Path) -> None:
    inputs = torch.rand(1, 1, 6, 8, 10)
    file = page(collect(volumes(), inputs, [0], methods=["grad_cam"], layers=["3"]), tmp_path / "a.html")
    steps = [{"do": "text", "on": ".cv-slice"}, PIXELS, {"do": "set", "on": ".cv-slice input", "value": 5}]
    said = opened(tmp_path, file, *steps, {"do": "text", "on": ".cv-slice"}, PIXELS, HASH)
    assert "4 of 6" in said[0]
    assert "6 of 6" in said[3]
    assert said[1] != said[4]
    assert "slice=5" in said[5]


@pytest.mark.sweep
@needs_browser
def test_pictures_of_the_page_and_its_accessibility(tmp_path: Path, found: Explored) -> None:
    """Screenshots in `out/explore`, to be looked at; nothing is wider than the window, and axe finds nothing."""
    from typer.testing import CliRunner

    out = ROOT.parent / "out" / "explore"
    out.mkdir(parents=True, exist_ok=True)
    image.save(scenes(1, 3)[0], tmp_path / "scene.png")
    detector = ["explore", str(tmp_path / "scene.png"), "--model", "tiny:detector", "--task", "detect"]
    made = CliRunner().invoke(app, [*detector, "--out", str(tmp_path / "boxes.html")])
    assert made.exit_code == 0, made.output
    volume = collect(volumes(), torch.rand(1, 1, 6, 8, 10), [0], methods=["grad_cam"], layers=["3"])
    pages = {"classes": page(found, tmp_path / "classes.html"), "boxes": tmp_path / "boxes.html"}
    pages["volume"] = page(volume, tmp_path / "volume.html")
    for name, file in pages.items():
        steps: list[STEP] = []
        for size, (width, height) in {"wide": (1366, 768), "phone": (420, 900), "narrow": (320, 800)}.items():
            for look in ("light", "dark"):
                to = str(out / f"{name}-{size}-{look}.png")
                steps.append({"do": "shot", "to": to, "width": width, "height": height, "dark": look == "dark"})
                steps += [{"do": "axe"}] if (MODULES / "axe-core").is_dir() else []
        for answer in opened(tmp_path, file, *steps):
            # boxes lie as they lie; the radio buttons beside them do the same and are large enough
            found_by_axe = (
                [] if isinstance(answer, int) else [one for one in answer if not one.startswith("target-size")]
            )
            assert answer == 0 or found_by_axe == [], (name, answer)

"""The page in headless Chromium: lite0 by three ways, held to the eager explainers, and everything a user can do."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from camfn import explainer
from camfn._photos.read import ReadAs, read_photo
from camfn.export import onnx as export_onnx
from camfn.export import page
from camfn.methods import grad_cam, hires_cam
from camfn.zoo import load

from ..house import ROOT
from .handmade import NAMES, about, handmade, network
from .pngs import write_png
from .test_page_pixels import noise

PLACES = [Path(os.environ.get("CAMFN_BROWSER", ROOT.parent / ".venv" / "browser"))]
MODULES = PLACES[0] / "node_modules"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

MISSING = [
    name
    for name, there in {
        "node": shutil.which("node"),
        "chromium": CHROMIUM,
        "npm's playwright-core": (MODULES / "playwright-core").is_dir(),
        "npm's onnxruntime-web": (MODULES / "onnxruntime-web").is_dir(),
    }.items()
    if not there
]
WHY = f"left out: the page in a browser, which needs {', '.join(MISSING)} (make browser)"
needs_browser = pytest.mark.skipif(bool(MISSING), reason=WHY)

STEP = dict[str, Any]


@needs_browser
def test_all_is_here_for_the_browser_which_make_test_all_runs() -> None:
    assert CHROMIUM


class Session:
    """What a run of steps gave."""

    def __init__(self, folder: Path, url: str, steps: list[STEP]) -> None:
        spec = {"chromium": CHROMIUM, "playwright": str(MODULES / "playwright-core"), "url": url, "steps": steps}
        spec |= {"axe": str(MODULES / "axe-core" / "axe.js"), "out": str(folder / "out.json")}
        (folder / "spec.json").write_text(json.dumps(spec))
        script = Path(__file__).with_name("browser.cjs")
        done = subprocess.run(
            ["node", str(script), str(folder / "spec.json")], capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        told = json.loads((folder / "out.json").read_text())
        self.returned: list[Any] = told["returned"]
        self.asked: list[str] = told["asked"]
        assert told["lines"] == []
        assert told["errors"] == []


@contextlib.contextmanager
def served(folder: Path, headers: dict[str, str] | None = None, came: list[str] | None = None) -> Iterator[str]:
    """Serve a folder on this machine; add the path of each request to `came`."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def handle_one_request(self) -> None:
            super().handle_one_request()
            if came is not None:
                came.append(getattr(self, "requestline", ""))

        def end_headers(self) -> None:
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            super().end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def tensor(text: str) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), np.float32).copy())


def last(*steps: STEP) -> list[STEP]:
    return [*steps, {"do": "last"}]


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected.flatten()).abs().max() / expected.abs().max())


# ---------------------------------------------------------------------------------------------- against the eager model


@pytest.fixture(scope="module")
def cat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from skimage.data import chelsea

    file = tmp_path_factory.mktemp("photo") / "cat.png"
    Image.fromarray(chelsea()).save(file)
    return file


WAYS: list[tuple[Any, str]] = [(grad_cam, "bn2"), (hires_cam, "bn2"), (grad_cam, "blocks.5")]


@pytest.fixture(scope="module")
def lite0(tmp_path_factory: pytest.TempPathFactory, cat: Path) -> list[Path]:
    """Exported files of lite0: two methods and two layers."""
    if MISSING:
        pytest.skip(WHY)
    folder, loaded = tmp_path_factory.mktemp("lite0"), load("lite0")
    images = loaded.preprocess(read_photo(cat))[None]
    files = []
    for k, (method, layer) in enumerate(WAYS):
        files.append(folder / f"{k}.onnx")
        told: dict[str, Any] = {"model": "lite0", "classes": loaded.classes, "preprocessing": loaded.recipe}
        export_onnx(explainer(method, loaded.model, layer), images, files[-1], **told)
    return files


def photos(folder: Path, cat: Path) -> list[Path]:
    """The same cat as files of many kinds."""
    photo = read_photo(cat)
    files = {
        "turned.jpg": photo,
        "progressive.jpg": photo,
        "gray.jpg": photo.convert("L"),
        "cmyk.jpg": photo.convert("CMYK"),
    }
    exif = Image.Exif()
    exif[0x112] = 6
    options: dict[str, dict[str, Any]] = {
        "turned.jpg": {"exif": exif, "quality": 88},
        "progressive.jpg": {"progressive": True, "subsampling": 2, "quality": 70},
    }
    files |= {"turned.webp": photo, "gray.png": photo.convert("L"), "tall.png": photo.crop((100, 0, 190, 300))}
    options["turned.webp"] = {"exif": exif, "lossless": True}
    alpha = photo.convert("RGBA")
    alpha.putalpha(Image.fromarray(noise(300, 451).astype(np.uint8)))
    files |= {"alpha.png": alpha, "palette.gif": photo.quantize(64), "dots.bmp": photo}
    for name, each in files.items():
        each.save(folder / name, **options.get(name, {}))
    deep = np.asarray(photo.convert("L")).astype(np.int64)[..., None] * 257
    write_png(folder / "deep.png", 16, 0, deep)
    return sorted(file for file in folder.iterdir() if file.suffix != ".json")


@pytest.mark.sweep
@needs_browser
@pytest.mark.parametrize("form", ["folder", "one file"])
def test_prediction_and_map_are_those_of_eager(tmp_path: Path, lite0: list[Path], cat: Path, form: str) -> None:
    loaded = load("lite0")
    (tmp_path / "photos").mkdir()
    files = [cat, *photos(tmp_path / "photos", cat)]
    steps: list[STEP] = [{"do": "open"}, *last({"do": "drop", "file": str(cat)})]
    steps += last({"do": "click", "on": "#classes label:nth-child(2)"})
    steps += [
        {"do": "fill", "on": "#any", "text": "Pembroke"},
        {"do": "focus", "on": "#any"},
        {"do": "key", "key": "ArrowDown"},
    ]
    steps += last({"do": "press", "keys": ["Enter"]})
    for file in files[1:]:
        steps += last({"do": "choose", "file": str(file)})
    if form == "folder":
        steps += last({"do": "select", "on": "#method", "value": "hires_cam"})
        steps += last({"do": "select", "on": "#layer", "value": "blocks.5"})
    runtime = MODULES / "onnxruntime-web"
    if form == "folder":
        with served(page(tmp_path / "site", lite0, runtime=runtime)) as url:
            session = Session(tmp_path, url, steps)
            # no request beyond the folder
            assert all(address.startswith(url) for address in session.asked)
            assert len(session.asked) == len(set(session.asked)) == 18
    else:
        one = page(tmp_path / "one.html", lite0[:1], runtime=runtime)
        assert 20e6 < one.stat().st_size < 44e6
        session = Session(tmp_path, one.as_uri(), steps)
        assert [address.split(":")[0] for address in session.asked] == ["file", "blob"]
    found = [answer for step, answer in zip(steps, session.returned) if step["do"] == "last"]
    shown = [files[0]] * 3 + files[1:] + [files[-1]] * 2
    assert session.returned[0] is None
    assert [answer["which"] for answer in found] == [0] * (len(files) + 2) + ([1, 2] if form == "folder" else [])
    assert loaded.classes is not None
    assert loaded.classes[found[2]["target"]].startswith("Pembroke")
    assert found[1]["target"] == found[0]["best"][1]
    for answer, file in zip(found, shown):
        images = loaded.preprocess(read_photo(file))[None]
        assert torch.equal(tensor(answer["input"]), images.flatten()), file
        method, layer = WAYS[answer["which"]]
        cam, outputs = explainer(method, loaded.model, layer, has_aux=True)(images, answer["target"])
        assert relative(tensor(answer["logits"]), outputs) < 1e-5, file
        assert relative(tensor(answer["cam"]), cam) < 1e-4, file
        assert answer["best"] == outputs[0].topk(5).indices.tolist()
        assert answer["size"] == list(cam.shape[1:])


@pytest.mark.sweep
@needs_browser
def test_threads_where_the_server_isolates_the_page(tmp_path: Path) -> None:
    isolated = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
    place = page(tmp_path / "site", [handmade(tmp_path / "a.onnx")], runtime=MODULES / "onnxruntime-web")
    Image.new("RGB", (60, 50), "green").save(tmp_path / "green.png")
    steps: list[STEP] = [
        {"do": "open"},
        {"do": "drop", "file": str(tmp_path / "green.png")},
        {"do": "toggle", "on": "summary"},
    ]
    with served(place, isolated) as url:
        session = Session(tmp_path, url, [*steps, {"do": "text", "on": "#facts"}])
    assert f"{min(4, os.cpu_count() or 1)} thread" in session.returned[-1]


# ------------------------------------------------------------------------------------------------------- what users do


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A page of two small networks that share their classes."""
    if MISSING:
        pytest.skip(WHY)
    files = [handmade(tmp_path / f"{k}.onnx", network(k)) for k in range(2)]
    return page(tmp_path / "small.html", files, runtime=MODULES / "onnxruntime-web")


@pytest.mark.sweep
@needs_browser
def test_photos_that_show_nothing_yet_and_files_that_are_none(tmp_path: Path, small: Path) -> None:
    write_png(tmp_path / "dark.png", 16, 0, 100 + noise(40, 50, 1, below=4000))
    (tmp_path / "broken.png").write_bytes((tmp_path / "dark.png").read_bytes()[:200])
    (tmp_path / "text.txt").write_text("no photo")
    own = last({"do": "click", "on": "#problem button:nth-of-type(2)"})
    full = last(
        {"do": "drop", "file": str(tmp_path / "dark.png")}, {"do": "click", "on": "#problem button:nth-of-type(1)"}
    )
    steps: list[STEP] = [
        {"do": "open"},
        {"do": "drop", "file": str(tmp_path / "dark.png")},
        {"do": "text", "on": "#problem"},
        *own,
    ]
    steps += [*full[:1], *full[1:]]
    for name in ("broken.png", "text.txt"):
        steps += [{"do": "drop", "file": str(tmp_path / name)}, {"do": "text", "on": "#problem"}]
    said = Session(tmp_path, small.as_uri(), steps).returned
    assert said[2].startswith("dark.png would show as almost one gray: its gray values, 1")
    recipe = _recipe()
    for answer, way in ((said[4], "auto"), (said[7], "full")):
        expected = recipe(read_photo(tmp_path / "dark.png", ReadAs(way, None)))
        assert torch.equal(tensor(answer["input"]), expected.flatten())
    assert said[9] in (f"broken.png cannot be shown: {why}." for why in ("it is cut off", "its data are damaged"))
    assert said[11] == "text.txt cannot be shown: the browser cannot read it; save it as JPEG or PNG."


def _recipe() -> Any:
    from camfn.zoo._photo.recipe import Recipe

    from .handmade import RECIPE

    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in RECIPE.items()}
    return Recipe(**given)


@pytest.mark.sweep
@needs_browser
def test_every_control_by_keyboard_and_what_is_saved(tmp_path: Path, small: Path, cat: Path) -> None:
    pixels = "document.getElementById('view').toDataURL()"
    steps: list[STEP] = [
        {"do": "open"},
        {"do": "paste", "file": str(cat)},
        {"do": "text", "on": "#classes"},
        {"do": "focus", "on": "#classes :checked"},
        *last({"do": "press", "keys": ["ArrowDown"]}),
        {"do": "focus", "on": "#any"},
        {"do": "fill", "on": "#any", "text": "snow"},
        {"do": "text", "on": "#found"},
        {"do": "key", "key": "Escape"},
        {"do": "value", "code": "document.getElementById('found').hidden"},
        {"do": "fill", "on": "#any", "text": "5"},
        *last({"do": "press", "keys": ["Enter"]}),
        {"do": "text", "on": "#classes"},
        {"do": "focus", "on": "#view"},
        {"do": "key", "key": "ArrowUp"},
        {"do": "text", "on": "#value"},
        {"do": "value", "code": "document.getElementById('view').getAttribute('aria-label')"},
        {"do": "value", "code": pixels},
        {"do": "set", "on": "#alpha", "value": 0},
        {"do": "value", "code": pixels},
        {"do": "set", "on": "#alpha", "value": 90},
        {"do": "set", "on": "#colors", "value": "seismic"},
        {"do": "value", "code": pixels},
        {"do": "text", "on": ".scale"},
        {"do": "set", "on": "#hold", "value": True},
        {"do": "click", "on": "#classes label:nth-child(1)"},
        {"do": "text", "on": ".scale"},
        {"do": "download", "on": "[data-do=numbers]", "to": str(tmp_path / "numbers.json")},
        {"do": "download", "on": "[data-do=picture]", "to": str(tmp_path / "picture.png")},
        {"do": "last"},
        {"do": "fill", "on": "#any", "text": "no such word"},
        {"do": "key", "key": "ArrowDown"},
        {"do": "key", "key": "Enter"},
        {"do": "text", "on": "#found"},
        {"do": "value", "code": "document.getElementById('any').value"},
        {"do": "paste", "file": str(cat)},
        {"do": "value", "code": "document.getElementById('any').value"},
    ]
    said = dict(enumerate(Session(tmp_path, small.as_uri(), steps).returned))
    assert NAMES[-1] in said[14]  # class names are text, whatever is in them
    first = said[5]
    assert first["target"] == first["best"][1]
    assert said[8].split("\n") == ["snow (2)", "snow (4)"]
    assert said[10] is True
    assert said[13]["target"] == 5
    assert (said[35], said[36], said[38]) == ("No such class", "no such word", "")
    assert said[17].startswith("Row 4 of 8, column 5 of 8: ")
    assert said[18].startswith("The photo with the cam map for a <b>bold</b>")
    assert len({said[19], said[21], said[24]}) == 3
    assert said[25] == said[28]  # the page keeps the range
    saved = json.loads((tmp_path / "numbers.json").read_text())
    assert (saved["class"], saved["method"], saved["layer"]) == (said[31]["target"], "cam", "1")
    torch.testing.assert_close(torch.tensor(saved["map"]).flatten(), tensor(said[31]["cam"]))
    assert said[29] == f"photo-cam-{saved['class']}.json".replace("photo", "cat")
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size[0] == 640


@pytest.mark.sweep
@needs_browser
def test_what_is_saved_belongs_to_the_map_that_is_shown(tmp_path: Path, cat: Path) -> None:
    """While another network loads, and where one gives no finite numbers; of two photos, the last one counts."""
    huge = network(1)
    with torch.no_grad():
        list(huge.parameters())[-1].fill_(float("inf"))
    ways = {"cam": network(0), "other_cam": network(1), "huge_cam": huge}
    files = [handmade(tmp_path / f"{name}.onnx", net, told=about(method=name)) for name, net in ways.items()]
    place = page(tmp_path / "ways.html", files, runtime=MODULES / "onnxruntime-web")
    saved_at_once = """new Promise(say => {
        const make = URL.createObjectURL, select = document.getElementById("method");
        URL.createObjectURL = blob => (blob.text().then(text => say(JSON.parse(text))), make.call(URL, blob));
        select.value = "other_cam";
        select.dispatchEvent(new Event("change"));
        document.querySelector("[data-do=numbers]").click();
        URL.createObjectURL = make;
    })"""
    two_photos = """(async () => {
        const file = side => new Promise(say => {
            const canvas = Object.assign(document.createElement("canvas"), { width: side, height: side });
            canvas.getContext("2d").fillRect(0, 0, side / 2, side);
            canvas.toBlob(blob => say(new File([blob], `${side}.png`, { type: "image/png" })));
        });
        for (const each of [await file(2000), await file(9)]) {
            const data = new DataTransfer();
            data.items.add(each);
            document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
        }
    })()"""
    steps: list[STEP] = [
        {"do": "open"},
        *last({"do": "drop", "file": str(cat)}),
        {"do": "value", "code": saved_at_once},
        {"do": "until", "code": "camfn.last.which === 1"},
        {"do": "select", "on": "#method", "value": "huge_cam"},
        {"do": "text", "on": "#problem"},
        {"do": "text", "on": "#classes"},
        {"do": "value", "code": "document.querySelector('[data-do=numbers]').disabled"},
        *last({"do": "set", "on": "#method", "value": "cam"}, {"do": "until", "code": "camfn.last.which === 0"}),
        {"do": "value", "code": "document.getElementById('problem').hidden"},
        {"do": "value", "code": two_photos},
        {"do": "wait", "milliseconds": 2500},
        {"do": "text", "on": "#range"},
    ]
    said = Session(tmp_path, place.as_uri(), steps).returned
    assert said[3]["method"] == "cam"
    torch.testing.assert_close(torch.tensor(said[3]["map"]).flatten(), tensor(said[2]["cam"]))
    assert said[6] == "The network cannot explain this: it gives numbers that are not finite for this photo."
    assert (said[7], said[8]) == ("", True)
    assert (said[11]["which"], said[11]["cam"], said[12]) == (0, said[2]["cam"], True)
    assert "of the photo's 9 × 9 pixels" in said[15]


@pytest.mark.sweep
@needs_browser
def test_the_camera_live(tmp_path: Path, small: Path) -> None:
    frames = "(globalThis.seen ??= new Set()).add(camfn.last?.input) && seen.size > 3"
    steps: list[STEP] = [
        {"do": "open"},
        {"do": "toggle", "on": "#drop [data-do=camera]"},
        {"do": "until", "code": frames},
        {"do": "text", "on": "#status"},
        {"do": "toggle", "on": "#classes label:nth-child(4)"},
        {"do": "until", "code": "camfn.last.target !== camfn.last.best[0]"},
        {"do": "value", "code": "document.getElementById('follow').checked"},
        {"do": "toggle", "on": "#follow"},
        {"do": "until", "code": "camfn.last.target === camfn.last.best[0]"},
        {"do": "toggle", "on": "#live"},
        {"do": "text", "on": "#live"},
        {"do": "wait", "milliseconds": 300},
        {"do": "value", "code": "globalThis.before = camfn.last, 0"},
        {"do": "wait", "milliseconds": 300},
        {"do": "value", "code": "globalThis.before === camfn.last"},
    ]
    said = Session(tmp_path, small.as_uri(), steps).returned
    assert said[3] == "The camera is on. Its pictures stay on this machine."
    assert said[6] is False
    assert said[10] == "Use the camera"
    assert said[14] is True


@pytest.mark.sweep
@needs_browser
def test_the_browser_refuses_every_other_address(tmp_path: Path, small: Path) -> None:
    came: list[str] = []
    (tmp_path / "elsewhere").mkdir()
    with served(tmp_path / "elsewhere", came=came) as other:
        tries = [
            f"fetch('{other}', {{ method: 'POST', body: 'x' }}).then(() => 'sent', () => 'refused')",
            f"new Promise(say => Object.assign(new Image(), {{ onload: say, onerror: () => say(0), src: '{other}' }}))",
            f"(() => {{ try {{ navigator.sendBeacon('{other}', 'x') }} catch {{}} return 0 }})()",
            f"import('{other}x.js').then(() => 'sent', () => 'refused')",
        ]
        steps: list[STEP] = [{"do": "open"}, *({"do": "value", "code": code} for code in tries)]
        with pytest.raises(AssertionError, match="Content Security Policy"):  # the console says so
            Session(tmp_path, small.as_uri(), [*steps, {"do": "wait", "milliseconds": 500}])
    told = json.loads((tmp_path / "out.json").read_text())
    assert told["returned"] == [None, "refused", 0, 0, "refused", None]
    assert sum("Content Security Policy" in line for line in told["lines"]) >= 4
    assert came == []


@pytest.mark.sweep
@needs_browser
def test_a_folder_opened_as_a_file_says_what_to_do(tmp_path: Path) -> None:
    place = page(tmp_path / "site", [handmade(tmp_path / "a.onnx")], runtime=MODULES / "onnxruntime-web")
    steps: list[STEP] = [{"do": "open"}, {"do": "text", "on": "#problem"}]
    said = Session(tmp_path, (place / "index.html").as_uri(), steps).returned
    assert "has to be served: run “python -m http.server” in it" in said[1]


@pytest.mark.sweep
@needs_browser
def test_pictures_of_the_page_and_its_accessibility(tmp_path: Path, lite0: list[Path], cat: Path) -> None:
    """Screenshots in `out/page`, to be looked at; nothing is wider than the window, and axe finds nothing."""
    out = ROOT.parent / "out" / "page"
    out.mkdir(parents=True, exist_ok=True)
    check: list[STEP] = [{"do": "axe"}] if (MODULES / "axe-core").is_dir() else []
    sizes = {"wide": (1366, 768), "phone": (420, 900), "narrow": (320, 800)}

    def shots(name: str) -> list[STEP]:
        steps: list[STEP] = []
        for (size, (width, height)), dark in [(item, dark) for item in sizes.items() for dark in (False, True)]:
            file = out / f"{name}-{size}-{'dark' if dark else 'light'}.png"
            steps += [{"do": "shot", "to": str(file), "width": width, "height": height, "dark": dark}, *check]
        return steps

    steps: list[STEP] = [{"do": "open"}, *shots("empty"), {"do": "drop", "file": str(cat)}, *shots("cat")]
    steps += [{"do": "focus", "on": "#any"}, {"do": "fill", "on": "#any", "text": "cat"}, *shots("typed")]
    steps += [{"do": "print", "to": str(out / "print.pdf")}]
    with served(page(tmp_path / "site", lite0, runtime=MODULES / "onnxruntime-web")) as url:
        session = Session(tmp_path, url, steps)
    for step, answer in zip(steps, session.returned):
        expected = (["rgb(27, 30, 36)", 1],) if step["do"] == "print" else (None, 0, [])
        assert answer in expected, (step, answer)

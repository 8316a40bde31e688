"""A run of the suite: its folder, what resumes, what a third party brings, and the id of a protocol."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from camfn._shared.errors import UsageError
from camfn.evaluate import Case, Store, Suite, tables, truth, verify
from camfn.evaluate._measures.row import Row
from camfn.evaluate._suite import grade, maker
from camfn.evaluate._suite.grades import grades_of
from camfn.evaluate._suite.maker import Maker
from camfn.evaluate._suite.plan import cases_of, works_of
from camfn.evaluate._suite.protocol import canonical, id_of, record_of
from camfn.zoo import Loaded, load, of

FEW = Suite(grids=2, stitched=1, costly=1, scenes=4, measured=2, graded=1, subsets=5, orders=2, levels=(0.0, 1.0))


def numbers(folder: Path, **options: object) -> list[tuple[str, str, dict[str, float]]]:
    (store,) = truth("tiny:cnn", "grad_cam, eigen_cam", folder, suite=FEW, metrics=["complexity"], **options)  # type: ignore[arg-type]
    return [(row.photo, row.case, row.values) for row in store.rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    numbers(folder)
    return folder


def test_a_run_goes_on_to_the_bit(whole: Path, tmp_path: Path) -> None:
    expected = numbers(whole)
    calls = []

    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        calls.append(done)
        if done == 9:
            raise Stop

    with pytest.raises(Stop):
        numbers(tmp_path, progress=stop)
    found = numbers(tmp_path, progress=lambda done, total: calls.append(done))
    assert found == expected
    assert len(calls) == len(expected), "rows that are there are not made again"
    assert all(values for _, _, values in expected)


def test_workers_make_the_same_rows(whole: Path, tmp_path: Path) -> None:
    assert numbers(tmp_path, workers=2) == numbers(whole)


def test_a_folder_takes_one_protocol(whole: Path) -> None:
    other = Suite(**{**vars(FEW), "seed": 1})
    with pytest.raises(ValueError, match=r"other settings.*seed was 0, now it is 1"):
        truth("tiny:cnn", "grad_cam", whole, suite=other)


def test_a_folder_takes_one_track_after_the_other(whole: Path, tmp_path: Path) -> None:
    few = Suite(**{**vars(FEW), "tracks": ("single",)})
    kept: dict[tuple[str, str], object] = {}
    for suite in (few, Suite(**{**vars(FEW), "tracks": ("grid", "single")}), few):
        (store,) = truth("tiny:cnn", "grad_cam", tmp_path, suite=suite, metrics=["complexity"])
        assert kept.items() <= store.by_key.items()
        kept = dict(store.by_key)
    (all_tracks,) = truth("tiny:cnn", "grad_cam, eigen_cam", whole, suite=FEW, metrics=["complexity"])
    assert store.header["protocols"] == all_tracks.header["protocols"]


def test_a_layer_is_of_a_row_and_not_of_the_protocol(tmp_path: Path) -> None:
    suite = Suite(**{**vars(FEW), "tracks": ("tiny",), "scenes": 2})
    (first,) = truth("tiny:cnn", "grad_cam", tmp_path, suite=suite)
    (both,) = truth("tiny:cnn", "grad_cam", tmp_path, suite=suite, layers="body.1")
    assert both.header["protocols"] == first.header["protocols"]
    assert all(both.by_key[key] == row for key, row in first.by_key.items())
    assert {row.layer for row in both.rows if row.method == "grad_cam"} == {"body", "body.1"}


def test_methods_that_run_the_network_often_come_behind_all_others(tmp_path: Path) -> None:
    costly = ("rise:samples=2", "smooth_grad:samples=2", "guided_ig:steps=2")
    suite = Suite(**{**vars(FEW), "tracks": ("tiny", "contrast"), "scenes": 2})
    made: list[str] = []

    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        made.append(f"{done} of {total}")
        if done == 11:  # a picture, parts and questions, for one method and four controls, less one
            raise Stop

    with pytest.raises(Stop):
        truth("tiny:cnn", [*costly, "grad_cam"], tmp_path, suite=suite, progress=stop)
    rows = Store(tmp_path / "tiny-cnn").rows
    assert {row.photo.partition("/")[0] for row in rows} == {"picture", "parts", "questions"}
    assert not {row.method for row in rows} & set(costly)


def test_a_costly_method_takes_the_questions_of_few_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    photos = [f"{i}.png" for i in range(5)]

    class Folder:
        def blocks(self, most: int | None = None) -> list[str]:
            return photos[:most]

        pictures = blocks

    suite = Suite(tracks=("contrast",), costly_questions=2)
    maker = Maker(suite, Folder(), (), {}, (0, 0), 1.0, 1)  # type: ignore[arg-type]
    listed = [Case("net", "auto", "grad_cam"), Case("net", "auto", "rise", "samples=2")]
    taken = [(work.photo.name, case.method) for work in works_of(maker, listed, {}, retry=False) for case in work.cases]
    asked = {
        method: [name for name, other in taken if other == method and name.startswith("questions")]
        for method in ("grad_cam", "rise", "center")
    }
    assert {method: len(names) for method, names in asked.items()} == {"grad_cam": 5, "rise": 2, "center": 5}


def test_everything_has_the_maps_of_black_boxes_and_pictures_with_their_caps() -> None:
    names = [case.name for case in cases_of("lite0", "everything", ["auto"])]
    wanted = "sobol:designs=4 hsic:samples=250 region_search:steps=4 occlusion sobel_edges idgi guided_ig:steps=50"
    assert {*wanted.split(), "seg_xres_cam", "smooth_grad_cam_plusplus", "tam"} <= set(names)
    assert "expected_gradients:samples=32" in names
    assert any(name.startswith("rise:") and "centered=True" in name for name in names)
    assert len(names) == len(set(names))


def test_an_id_names_the_track_and_changes_with_all_that_changes_numbers() -> None:
    data = {"source": {"kind": "scenes"}, "model": {"spec": "tiny:cnn", "weights": "0"}, "grids": {}}
    ids = {
        id_of(record_of(suite, "grid", each))
        for suite in (FEW, Suite(**{**vars(FEW), "grids": 3}))
        for each in (data, {**data, "model": {"spec": "tiny:cnn", "weights": "1"}})
    }
    assert len(ids) == 4
    assert all(one.startswith("camfn-truth/1:grid2x2@tiny:cnn#") for one in ids)
    # what another track reads does not count
    assert id_of(record_of(Suite(**{**vars(FEW), "orders": 3}), "grid", data)) in ids
    assert canonical({"b": 0.1, "a": [1]}) == '{"a":[1],"b":0.1}'


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tracks": ("nothing",)}, "expected some of grid, tiny"),
        ({"tracks": ()}, "expected some of"),
        ({"side": 1}, "2 or more cells"),
        ({"grids": 0}, "grids: expected 1 or more"),
        ({"measured": 0}, "measured: expected 1 or more, or None"),
        ({"subset": 49}, "subset: expected fewer than 7 x 7"),
        ({"shares": (0.1, 0.5)}, "shares: expected equal steps"),
        ({"shares": ()}, "shares: expected equal steps"),
        ({"levels": (0.0, 0.5, 0.2)}, "levels: expected two or more rising"),
        ({"levels": (1.0,)}, "levels: expected two or more rising"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Suite(**options)  # type: ignore[arg-type]


def own_method(activations: Tensor, grads: Tensor, outputs: Tensor | None = None) -> Tensor:
    """Half of Grad-CAM: a third party's method."""
    return 0.5 * (grads.mean((2, 3), keepdim=True) * activations).sum(1)


def test_a_method_of_ones_own_stands_beside_the_others(tmp_path: Path) -> None:
    suite = Suite(**{**vars(FEW), "tracks": ("grid",)})
    (store,) = truth("tiny:cnn", [own_method, "grad_cam"], tmp_path, suite=suite)
    values = {(row.photo, row.method): row.values for row in store.rows}
    for setting in ("gridpg/000", "dipart/000", "difull/000"):
        assert values[setting, "own_method"] == pytest.approx(values[setting, "grad_cam"], abs=1e-6)


def test_a_problem_is_the_rows_own(tmp_path: Path) -> None:
    def broken(activations: Tensor, grads: Tensor, outputs: Tensor | None = None) -> Tensor:
        return activations

    suite = Suite(**{**vars(FEW), "tracks": ("tiny",)})
    (store,) = truth("tiny:cnn", [broken, "grad_cam"], tmp_path, suite=suite)
    assert {row.kind for row in store.rows if row.method == "broken"} == {"refusal"}
    assert all(row.values for row in store.rows if row.method == "grad_cam")


@pytest.mark.parametrize("name", ["detector", "segmenter"])
def test_what_is_no_classifier_has_the_tracks_that_are_not_of_classes(name: str, tmp_path: Path) -> None:
    suite = Suite(
        **{**vars(FEW), "scenes": 1, "measured": 1, "tracks": ("grid", "tiny", "single", "contrast", "grade")}
    )
    (store,) = truth(f"tiny:{name}", "hires_cam", tmp_path, suite=suite)
    assert not [row.problem for row in store.rows if row.problem]
    values = {row.method: row.values for row in store.rows}
    assert values["hires_cam"]["own_share"] > 0.9
    assert {"single", "own_mass"} <= set(values["hires_cam"])


def test_a_network_that_takes_no_larger_picture_has_smaller_cells(tmp_path: Path) -> None:
    suite = Suite(**{**vars(FEW), "grids": 1, "tracks": ("grid",)})
    (store,) = truth("tiny:vit", "hires_cam", tmp_path, suite=suite)
    assert store.header["protocols"]["grid"]["id"].startswith("camfn-truth/1:grid2x2s@tiny:vit#")
    assert store.header["protocols"]["grid"]["record"]["grids"]["size"] == [64, 64]


def odd(spec: str) -> Loaded:
    """The tiny network with a last layer of 17 x 17, and of 33 x 33 for a grid."""
    loaded = load(spec)
    loaded.model.get_submodule("body.2").insert(0, nn.ZeroPad2d((1, 0, 1, 0)))  # type: ignore[operator]
    return loaded


def test_dipart_is_left_out_once_where_cells_do_not_divide_the_last_layer(tmp_path: Path) -> None:
    suite = Suite(**{**vars(FEW), "tracks": ("grid",)})
    (store,) = truth("tiny:cnn", "hires_cam, grad_cam", tmp_path, suite=suite, loader=odd)
    assert not [row.problem for row in store.rows if row.problem]
    assert {row.photo.partition("/")[0] for row in store.rows} == {"gridpg", "difull", "twin"}
    notes = tables(store).to_markdown()
    assert notes.count("DiPart is left out: 2 cells a side do not divide the last features of the grid.") == 1
    with store.writing():  # as versions before wrote them
        store.append(Row("dipart/000", "tiny:cnn auto grad_cam", kind="refusal", problem="17 x 17"))
    (again,) = truth("tiny:cnn", "hires_cam, grad_cam", tmp_path, suite=suite, loader=odd)
    assert again.rows == store.rows[:-1]
    assert Store(again.folder).rows == again.rows
    for network in (True, False):
        (found,) = verify(tmp_path, loader=odd, network=network)
        assert found.problems == []


def test_dipart_stays_where_cells_divide_the_last_layer(whole: Path) -> None:
    (store,) = truth("tiny:cnn", "grad_cam, eigen_cam", whole, suite=FEW, metrics=["complexity"])
    assert any(row.photo.startswith("dipart/") for row in store.rows)
    assert "DiPart is left out" not in tables(store).to_markdown()
    with store.writing():
        for row in [row for row in store.rows if row.photo.startswith("dipart/")]:
            store.remove(row.key)
    (found,) = verify(whole)
    assert any("grad_cam: 1 rows that the protocol asks for are missing" in problem for problem in found.problems)
    truth("tiny:cnn", "grad_cam, eigen_cam", whole, suite=FEW, metrics=["complexity"])


class Moody:
    """A method of a user's own that runs out of memory so many times."""

    def __init__(self, times: int) -> None:
        self.times, self.__name__ = times, "moody"

    def __call__(self, activations: Tensor, grads: Tensor) -> Tensor:
        if self.times > 0:
            self.times -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return (activations * grads).sum(1)


def test_memory_that_ran_out_is_given_back_and_the_row_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled: list[type] = []
    monkeypatch.setattr(maker, "settle", lambda device, error: settled.append(type(error)))
    suite = Suite(**{**vars(FEW), "scenes": 1, "tracks": ("single",)})
    for tries in (1, 2):
        (store,) = truth("tiny:cnn", Moody(1), tmp_path, suite=suite)
        assert [(row.kind, row.tries) for row in store.rows if row.kind] == [("accident", tries)]
        assert settled == [torch.OutOfMemoryError] * tries
    (store,) = truth("tiny:cnn", Moody(0), tmp_path, suite=suite)
    assert not [row for row in store.rows if row.kind or not row.vectors]


def test_a_metric_that_fails_spoils_only_its_own_grade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settled: list[type] = []
    monkeypatch.setattr(grade, "settle", lambda device, error: settled.append(type(error)))

    def moody(heatmap: Tensor) -> Tensor:
        if len(failures) < 2:
            failures.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return heatmap.mean()

    failures: list[int] = []
    moody.better = "lower"  # type: ignore[attr-defined]
    suite = Suite(**{**vars(FEW), "scenes": 1, "tracks": ("grade",)})
    (store,) = truth("tiny:cnn", "grad_cam", tmp_path, suite=suite, metrics=["complexity", moody])
    bad = [row for row in store.rows if row.kind]
    assert [row.kind for row in bad] == ["accident"] * 2
    assert settled == [torch.OutOfMemoryError] * 2
    assert all("complexity" in row.vectors and "single" in row.vectors for row in bad)
    assert all("moody:better=lower: OutOfMemoryError: CUDA out of memory" in row.problem for row in bad)
    assert all("in moody" in row.traceback for row in bad)
    (store,) = truth("tiny:cnn", "grad_cam", tmp_path, suite=suite, metrics=["complexity", moody])
    assert not [row for row in store.rows if row.kind or "moody:better=lower" not in row.vectors]


def test_the_model_and_the_generator_are_as_they_were(tmp_path: Path) -> None:
    loaded = load("tiny:cnn")
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    state = torch.get_rng_state()
    truth("tiny:cnn", "grad_cam", tmp_path, suite=Suite(**{**vars(FEW), "grids": 1}), loader=lambda name: loaded)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in loaded.model.state_dict().items())


def photos_of_two(folder: Path) -> Path:
    for name in ("0", "1"):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (32, 32), (200 * int(name), 90, 10)).save(folder / name / "one.png")
    return folder


def small(spec: str) -> Loaded:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 2)).eval()
    return of(net, input_size=32, mean=0.5, std=0.5, classes=["0", "1"])


def undefined(heatmap: Tensor) -> float:
    return float("nan")


def test_tracks_that_measure_nothing_are_named_before_a_folder_is_made(tmp_path: Path) -> None:
    photos = photos_of_two(tmp_path / "photos")
    suite = Suite(**{**vars(FEW), "tracks": ("tiny",)})
    with pytest.raises(UsageError, match=r"the tracks tiny measure nothing on these pictures: tiny takes scenes"):
        truth("mine", "grad_cam", tmp_path / "out", photos=str(photos), suite=suite, loader=small, layers="0")
    assert not (tmp_path / "out").exists()


def test_an_unknown_metric_ends_the_run_before_a_folder_is_made(tmp_path: Path) -> None:
    wrong: list[tuple[object, str]] = [(lambda heatmap: 1.0, "a name of its own"), ("insertoin", "no metric")]
    for metric, said in wrong:
        with pytest.raises(UsageError, match=said):
            truth("tiny:cnn", "grad_cam", tmp_path / "out", suite=FEW, metrics=[metric])
    assert not (tmp_path / "out").exists()


def test_a_metric_without_a_number_has_no_grade_and_stops_no_table(tmp_path: Path) -> None:
    suite = Suite(**{**vars(FEW), "tracks": ("grade",)})
    undefined.better = "higher"  # type: ignore[attr-defined]
    (store,) = truth("tiny:cnn", "grad_cam", tmp_path, suite=suite, metrics=["complexity", undefined])
    rows = [row for row in store.rows if row.photo.startswith("grade/")]
    assert rows
    assert all("complexity" in row.vectors and "undefined:better=higher" not in row.vectors for row in rows)
    assert all("undefined:better=higher: gives no finite number" in (row.problem or "") for row in rows)
    assert "complexity" in {grade.name for grade in grades_of(store)}

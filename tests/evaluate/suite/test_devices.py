"""The suite on another device than the CPU: a pretend one, which refuses what a GPU refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from camfn.evaluate import Photo, Suite, truth
from camfn.zoo import Loaded, load

from ... import pretend

FEW = Suite(grids=1, stitched=1, costly=1, scenes=2, measured=1, graded=1, subsets=3, orders=2, levels=(0.0, 1.0))


def there(name: str) -> Loaded:
    found = load(name)
    return found._replace(model=pretend.moved(found.model))


def test_every_track_runs_on_a_device_and_gives_the_numbers_of_the_cpu(tmp_path: Path) -> None:
    methods = "grad_cam, rise:samples=2, full_grad"
    metrics = ["energy_in_box"]
    (here,) = truth("tiny:cnn", methods, tmp_path / "here", suite=FEW, metrics=metrics)
    with pretend.Pretend():  # type: ignore[no-untyped-call]
        (found,) = truth(
            "tiny:cnn",
            methods,
            tmp_path / "there",
            suite=FEW,
            metrics=metrics,
            loader=there,
            device="pretend:0",
        )
    assert len(found.rows) == len(here.rows) > 40
    for row, expected in zip(found.rows, here.rows, strict=True):
        assert row.kind == expected.kind, (row.photo, row.case, row.problem)
        assert row.values == pytest.approx(expected.values, abs=1e-4), (row.photo, row.case)


def test_the_questions_of_a_photo_run_on_the_device(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 60).convert("RGB").save(tmp_path / "noise.png")
    photo = Photo("noise", tmp_path / "noise.png", "3")
    suite = Suite(**{**vars(FEW), "tracks": ("single", "contrast")})
    with pretend.Pretend():  # type: ignore[no-untyped-call]
        (store,) = truth(
            "tiny:cnn", "grad_cam", tmp_path / "out", suite=suite, photos=[photo], loader=there, device="pretend:0"
        )
    assert not [row.problem for row in store.rows if row.problem]
    assert "contrast" in next(row.values for row in store.rows if row.photo.startswith("questions"))

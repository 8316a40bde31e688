"""`tune`: the case that does best, and photos held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from camfn import catalogue
from camfn import evaluate as ev
from camfn._shared.errors import UsageError
from camfn.evaluate import Photo, Store
from tests.evaluate.common import draw_photo, load_net, make_cases


def test_tune_finds_the_case_that_was_made_to_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = []
    for seed in range(14):
        draw_photo(tmp_path / f"{seed}.png", seed % 8)
        x0 = (10 + 5 * (seed % 8)) / 80
        photos.append(Photo(str(seed), tmp_path / f"{seed}.png", "a", ((x0, 20 / 80, x0 + 31 / 80, 51 / 80),)))

    def yellow(
        activations: Tensor, grads: Any = None, outputs: Any = None, *, inputs: Tensor, power: int = 1
    ) -> Tensor:
        return ((inputs[:, 0] - inputs[:, 2] > 0.8).float() + 0.1) ** power

    rows = tuple(row._replace(function=yellow) if row.name == "fem" else row for row in catalogue.METHODS)
    monkeypatch.setattr(catalogue, "METHODS", rows)
    best = ev.tune(
        photos, make_cases("grad_cam", "fem:power=-1|0|1"), "energy_in_box", tmp_path / "out", loader=load_net
    )
    assert best.case.name == "fem:power=1"
    assert len(best.photos) == best.held_out.photos == 7
    kept = {row.photo for row in Store(tmp_path / "out" / "tuning").rows}
    assert not kept & set(best.photos)
    assert best.held_out.value > 0.99
    assert best.held_out.verdict == "+"
    assert {d.second.split()[-1] for d in best.against if d.verdict == "better"} == {"grad_cam", "center", "random"}
    assert all(d.first == str(best.case) and d.photos == 7 for d in best.against)


def test_tune_refuses_what_it_cannot_choose_by(photos: list[Photo], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot tune for 'entropy'"):
        ev.tune(photos, make_cases(), "entropy", tmp_path / "out", loader=load_net)
    with pytest.raises(UsageError, match="two or more of each"):
        ev.tune(photos[:3], make_cases(), "iou", tmp_path / "out", loader=load_net)

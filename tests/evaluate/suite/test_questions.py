"""RFxG's four scores: loops over pixels, laws, the questions of data, and folders that lack two of the four."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from camfn.evaluate import Photo, Store, Suite, truth, verify
from camfn.evaluate._suite import measures, suite
from camfn.evaluate._suite.asked import Asked, Weighted, sigmoids, softmaxed
from camfn.evaluate._suite.board import board_of
from camfn.evaluate._suite.explain import control
from camfn.evaluate._suite.questions import questioned
from camfn.evaluate._suite.scenes import Scenes
from camfn.evaluate._suite.sources import Photos
from camfn.evaluate._suite.tables import tables_of
from camfn.zoo import load
from tests.oracles import metrics as naive

FEW = Suite(tracks=("contrast",), scenes=4, measured=3)

CLASSES, A, B, GROUP, OTHER = 12, 1, 5, (0, 1, 2, 3), (5, 6, 7)
"""Two classes, and two groups of classes; the first class is of the first group."""


def net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(300, 40), nn.Tanh(), nn.Linear(40, CLASSES)).double().eval()


def weights(plus: tuple[int, ...], minus: tuple[int, ...] = ()) -> Tensor:
    return torch.tensor([float(k in plus) - float(k in minus) for k in range(CLASSES)], dtype=torch.float64)


QUESTIONS = {
    "contrast": ((A,), (B,)),
    "group": (GROUP, ()),
    "class_group": ((A,), tuple(k for k in GROUP if k != A)),
    "two_groups": (GROUP, OTHER),
}


def scores(model: nn.Module, images: Tensor, maps: Tensor, rows: list[Tensor], names: list[str]) -> dict[str, Tensor]:
    score = Weighted(torch.stack(rows), softmaxed)
    asked = Asked(images, score, score, names, names, removed=0.25)
    return questioned(model, asked, maps, Suite())


def test_the_four_scores_are_those_of_a_loop_over_pixels() -> None:
    model, generator = net(), torch.Generator().manual_seed(4)
    images = torch.rand(1, 3, 10, 10, generator=generator, dtype=torch.float64).expand(4, -1, -1, -1)
    maps = torch.randn(4, 10, 10, generator=generator, dtype=torch.float64)
    found = scores(model, images, maps, [weights(*each) for each in QUESTIONS.values()], list(QUESTIONS))

    def outputs(image: Tensor) -> list[float]:
        with torch.no_grad():
            given: list[float] = model(image[None])[0].softmax(0).tolist()
        return given

    base = torch.full((3, 10, 10), 0.25, dtype=torch.float64)
    for (name, (plus, minus)), cam in zip(QUESTIONS.items(), maps, strict=True):
        expected = naive.rfxg(outputs, images[0], cam, Suite().shares, base, plus, minus)
        assert found[name].item() == pytest.approx(expected, abs=1e-6), name
        # the sum of the two terms, as in the authors' code, is another number wherever there is a second term
        added = naive.rfxg(outputs, images[0], cam, Suite().shares, base, plus, minus, sign=1)
        assert (abs(added - expected) > 1e-4) == bool(minus)


def test_groups_that_change_places_change_the_sign_and_a_group_of_two_is_the_contrast() -> None:
    model, generator = net(), torch.Generator().manual_seed(5)
    images = torch.rand(1, 3, 10, 10, generator=generator, dtype=torch.float64).expand(4, -1, -1, -1)
    maps = torch.randn(1, 10, 10, generator=generator, dtype=torch.float64).expand(4, -1, -1)
    rows = [weights(GROUP, OTHER), weights(OTHER, GROUP), weights((A,), (B,)), weights(GROUP, GROUP)]
    found = scores(model, images, maps, rows, ["two_groups", "turned", "class_group", "same"])
    assert found["two_groups"].item() == pytest.approx(-found["turned"].item(), abs=1e-12)
    contrast = scores(model, images[:1], maps[:1], [weights((A,), (B,))], ["contrast"])
    assert found["class_group"].item() == pytest.approx(contrast["contrast"].item(), abs=1e-12)
    assert found["same"].item() == 0, "a group against itself asks nothing; a sum of the two terms would not be 0"


def test_of_four_digits_the_first_is_asked_against_the_others_and_two_against_two() -> None:
    loaded, source = load("tiny:cnn"), Scenes(Suite(scenes=12))
    assert source.kinds(loaded) == ["parts-000-009", "parts-010-011"]
    asked = source.groupings("parts-000-009", loaded)
    _, labels, masks = source.truth_of_parts("parts-000-009")
    with torch.no_grad():
        outputs = loaded.model(asked.images)
    a, b, c, d = outputs[:10].gather(1, labels).T
    expected = torch.cat([a - (b + c + d) / 3, (a + b) / 2 - (c + d) / 2])
    torch.testing.assert_close(asked.explained(outputs), expected)
    a, b, c, d = outputs[:10].sigmoid().gather(1, labels).T
    torch.testing.assert_close(asked.measured(outputs), torch.cat([a - (b + c + d) / 3, (a + b) / 2 - (c + d) / 2]))
    assert asked.own is not None
    assert torch.equal(asked.own[10:], masks[:, 0] | masks[:, 1])
    assert asked.own.shape == (20, 64, 64)
    assert sigmoids(outputs).shape == (20, 10)


def test_the_truth_answers_and_the_mask_of_the_others_answers_the_opposite() -> None:
    loaded, source, few = load("tiny:cnn"), Scenes(Suite(scenes=12)), Suite(scenes=12)
    asked = source.groupings("parts-000-009", loaded)
    assert asked.other is not None
    own = questioned(loaded.model, asked, control("truth", asked, few, "x"), few)
    other = questioned(loaded.model, asked, asked.other.float(), few)
    noise = questioned(loaded.model, asked, control("random", asked, few, "x"), few)
    for name in measures.GROUPED:
        assert own[name].mean() > noise[name].mean() > other[name].mean(), name
        assert own[name].mean() > 0.1
        assert other[name].mean() < 0


def test_a_photo_is_asked_against_its_kind_and_the_next_kind(tmp_path: Path) -> None:
    Image.new("RGB", (80, 64), "green").save(tmp_path / "a.png")
    loaded = load("torchvision:resnet18", weights="none")
    photos = tuple(Photo(name, tmp_path / "a.png", name) for name in ("151", "559", "7"))
    source = Photos(Suite(), photos)
    assert source.kinds(loaded) == ["151", "7"]
    asked = source.groupings("151", loaded)
    with torch.no_grad():
        logits = loaded.model(asked.images)
    given = logits[0].softmax(0)
    dogs, rest = given[151:269].sum(), given[152:269].sum()
    kinds = {name: given[a:b].sum() for name, (a, b) in {"wild dogs": (269, 276), "birds": (127, 147)}.items()}
    measured = asked.measured(logits)
    assert measured[0].item() == pytest.approx((given[151] - rest).item(), abs=1e-6)
    assert measured[1] <= dogs - max(kinds.values()) + 1e-6
    torch.testing.assert_close(asked.explained(logits)[0], logits[0, 151] - logits[0, 152:269].mean())
    first = source.groupings("7", loaded).names[1]
    assert not any(f"not {birds}" in first for birds in ("7 to 24", "80 to 100", "127 to 146")), "no bird against birds"
    with pytest.raises(ValueError, match="no kind that camfn knows"):
        source.groupings("559", loaded)


def test_a_folder_that_lacks_the_two_questions_of_groups_stays_and_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        known = {name: each for name, each in measures.MEASURES.items() if name not in measures.GROUPED}
        earlier.setattr(suite, "MEASURES", known)
        earlier.setattr(Scenes, "kinds", lambda self, loaded: [])
        (before,) = truth("tiny:cnn", "grad_cam, eigen_cam", tmp_path, suite=FEW)
    rows = dict(before.by_key)
    lines = {(line["method"], line["measure"]): line for line in board_of(before)}
    assert not verify(before.folder)[0].problems, "an earlier submission lacks nothing"
    made: list[int] = []
    (after,) = truth(
        "tiny:cnn", "grad_cam, eigen_cam", tmp_path, suite=FEW, progress=lambda done, total: made.append(done)
    )
    assert all(after.by_key[key] == row for key, row in rows.items())
    assert len(made) == len(after.rows) - len(rows) == 6, "two methods and four controls of one block"
    assert after.header["protocols"] == before.header["protocols"]
    now = {(line["method"], line["measure"]): line for line in board_of(after)}
    assert all(now[key] == line for key, line in lines.items()), "the leaderboard's lines are the same"
    assert {key[1] for key in now} - {key[1] for key in lines} == {"class_group", "two_groups"}
    (found,) = verify(after.folder)
    assert not found.problems
    (table,) = tables_of(Store(after.folder))
    assert all(set(figures) == {"contrast", "group", *measures.GROUPED} for figures in table.figures)
    assert [row.photo.partition("/")[0] for row in after.rows[: len(rows)]] == ["questions"] * len(rows)

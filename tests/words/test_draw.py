"""The strip of words: each over its map, and words that are not read from the picture in gray."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from camfn import CamfnError, words
from camfn.words import Carried, Explained, Span

MAPS = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(0))
PHOTO = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(1))


def explained(*spans: Span) -> Explained:
    return Explained([MAPS] * len(spans), list(spans), torch.arange(3), torch.zeros(3))


SPAN = Span(0, "image", torch.arange(24), (4, 6))


def carried(*read: bool) -> Carried:
    zeros = torch.zeros(len(read))
    return Carried(zeros, zeros, zeros, torch.tensor(read))


def test_flagged_words_have_no_color() -> None:
    strip = words.draw(
        explained(SPAN), PHOTO, ["a", "cat", "."], carried=carried(True, False, True), columns=3, cell=60
    )
    third = strip.shape[2] // 3
    spread = [(strip[:, :40, n * third : (n + 1) * third].std(0)).max() for n in range(3)]
    assert spread[1] < 1e-5 < 0.1 < min(spread[0], spread[2])


def test_a_map_is_stretched_over_its_own_range_and_a_blank_one_is_the_photo() -> None:
    one = words.draw(explained(SPAN), PHOTO, ["a", "b", "c"], cell=60)
    louder = explained(SPAN)._replace(maps=[7 * MAPS])
    assert torch.allclose(words.draw(louder, PHOTO, ["a", "b", "c"], cell=60), one, atol=1e-5)
    blank = explained(SPAN)._replace(maps=[torch.zeros(3, 4, 6)])
    plain = words.draw(blank, PHOTO, ["a", "b", "c"], cell=60)
    assert torch.isfinite(plain).all()
    assert not torch.allclose(plain, one)


def test_words_go_on_in_the_next_row() -> None:
    wide = words.draw(explained(SPAN), PHOTO, ["a", "b", "c"], columns=3, cell=60)
    tall = words.draw(explained(SPAN), PHOTO, ["a", "b", "c"], columns=1, cell=60)
    assert wide.shape[2] > 2.5 * tall.shape[2]
    assert tall.shape[1] > 2.5 * wide.shape[1]


def test_a_thumbnail_is_not_the_picture() -> None:
    thumbnail = Span(0, "thumbnail", torch.arange(4), (2, 2))
    both = Explained([MAPS[:, :2, :2], MAPS], [thumbnail, SPAN], torch.arange(3), torch.zeros(3))
    assert torch.equal(words.draw(both, PHOTO, ["a", "b", "c"]), words.draw(explained(SPAN), PHOTO, ["a", "b", "c"]))


def test_what_does_not_fit_is_refused() -> None:
    texts = ["a", "b", "c"]
    with pytest.raises(CamfnError, match=r"image=2: expected a picture, one of 0 \(image\)"):
        words.draw(explained(SPAN), PHOTO, texts, image=2)
    video = Explained([torch.rand(3, 2, 4, 6)], [Span(0, "video", torch.arange(48), (2, 4, 6))], torch.arange(3), MAPS)
    with pytest.raises(CamfnError, match="expected a picture"):
        words.draw(video, PHOTO, texts)
    with pytest.raises(CamfnError, match="texts"):
        words.draw(explained(SPAN), PHOTO, ["a"])
    with pytest.raises(CamfnError, match="carried"):
        words.draw(explained(SPAN), PHOTO, texts, carried=carried(True))
    with pytest.raises(CamfnError, match="photo"):
        words.draw(explained(SPAN), PHOTO[0], texts)
    for photo in (PHOTO * 255, PHOTO - 2, (PHOTO * 255).long(), PHOTO * float("nan"), PHOTO[..., :0]):
        with pytest.raises(CamfnError, match=r"photo: expected at least one pixel in \[0, 1\], or uint8"):
            words.draw(explained(SPAN), photo, texts)


@pytest.mark.parametrize("given", [3, (), "a", [True, False, True], torch.ones(3), {"read": torch.ones(3)}])
def test_what_words_do_not_return_is_refused(given: Any) -> None:
    texts = ["a", "b", "c"]
    with pytest.raises(CamfnError, match=r"carried: expected what words\.carried"):
        words.draw(explained(SPAN), PHOTO, texts, carried=given)
    wrong: tuple[Any, ...] = (given, None, MAPS)
    for one in wrong:
        with pytest.raises(CamfnError, match=r"explained: expected what words\.explain"):
            words.draw(one, PHOTO, texts)

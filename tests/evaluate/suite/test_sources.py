"""The data of the suite: scenes, photos, and the questions about them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from camfn.evaluate import Photo
from camfn.evaluate._suite.asked import sigmoids, softmaxed
from camfn.evaluate._suite.protocol import Suite
from camfn.evaluate._suite.scenes import Scenes
from camfn.evaluate._suite.sources import Photos, group_of
from camfn.tiny import scenes
from camfn.zoo import load

SUITE = Suite(scenes=12)


def test_a_block_has_the_scenes_of_the_world() -> None:
    source, world = Scenes(SUITE), scenes(12, generator=torch.Generator().manual_seed(2))
    assert source.blocks() == ["scene-000-009", "scene-010-011"]
    assert source.blocks(5) == ["scene-000-004"]
    asked = source.picture("scene-010-011", load("tiny:cnn"))
    assert torch.equal(asked.images, world.images[10:].repeat_interleave(2, 0))
    assert asked.clusters == ["scene-010"] * 2 + ["scene-011"] * 2
    assert torch.equal(asked.own, world.masks[10:].flatten(0, 1))  # type: ignore[arg-type]
    assert torch.equal(asked.other, world.masks[10:].flip(1).flatten(0, 1))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["cnn", "vit", "segmenter", "detector", "cnn-idsds"])
def test_every_model_of_the_tiny_world_is_asked_for_both_digits(name: str) -> None:
    loaded = load(f"tiny:{name}")
    asked = Scenes(SUITE).picture("scene-000-009", loaded)
    with torch.no_grad():
        outputs = loaded.model(asked.images)
        empty = loaded.model(scenes(12, generator=torch.Generator().manual_seed(2), without=(0, 1)).images[:10])
    there = asked.measured(outputs)
    assert there.shape == (20,)
    assert (there > 0.5).float().mean() > 0.8
    assert asked.explained(outputs).shape == (20,)
    del empty


def test_questions_are_arithmetic_of_classes() -> None:
    loaded = load("tiny:cnn")
    asked = Scenes(SUITE).questions("scene-000-004", loaded)
    world = scenes(12, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        outputs = loaded.model(asked.images)
    first, second = (outputs[:5].gather(1, world.labels[:5, k : k + 1])[:, 0] for k in (0, 1))
    torch.testing.assert_close(asked.explained(outputs), torch.cat([first - second, (first + second) / 2]))
    first, second = first.sigmoid(), second.sigmoid()
    torch.testing.assert_close(asked.measured(outputs), torch.cat([first - second, (first + second) / 2]))
    with pytest.raises(ValueError, match="asked of classifiers"):
        Scenes(SUITE).questions("scene-000", load("tiny:detector"))


def test_the_rival_of_a_photo_is_its_next_class(tmp_path: Path) -> None:
    Image.new("RGB", (80, 64), "green").save(tmp_path / "a.png")
    loaded = load("torchvision:resnet18", weights="none")
    photos = Photos(SUITE, (Photo("a", tmp_path / "a.png", "151"),))
    asked = photos.questions("a", loaded)
    with torch.no_grad():
        outputs = loaded.model(asked.images)
    given = softmaxed(outputs)[0]
    rest = given.clone()
    rest[151] = -1
    expected = torch.stack([given[151] - rest.amax(), given[151:269].sum()])
    torch.testing.assert_close(asked.measured(outputs), expected)
    assert [name.partition(":")[0] for name in asked.names] == ["contrast", "group"]
    assert group_of(7, 1000) == range(7, 25)
    assert sigmoids(torch.zeros(1, 2)).tolist() == [[0.5, 0.5]]


def test_a_manifest_changes_with_a_pixel(tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 8), "green")
    picture.save(tmp_path / "a.png")
    source = Photos(SUITE, (Photo("a", tmp_path / "a.png", "1"),))
    before = source.record()
    picture.putpixel((1, 1), (0, 0, 0))
    picture.save(tmp_path / "a.png")
    assert source.record() != before
    (tmp_path / "a.png").write_bytes(b"no image")
    assert source.record()["manifest"]["a"] == ["1", "unreadable: PhotoError"]

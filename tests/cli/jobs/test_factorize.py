"""`camfn factorize`: what it writes, prints and refuses, with real photos and weights, and with a net of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from camfn import observe
from camfn.factorize import concept_scores, deep_feature_factorization
from tests.cli.test_cli import Net, refused, run
from tests.cli.test_cli import forwards as forwards
from tests.cli.test_cli import lite0 as lite0
from tests.cli.test_cli import net as net
from tests.cli.test_cli import noise as noise
from tests.cli.test_cli import photos as photos

CHELSEA = "tiger cat"


def record(out: Path) -> dict[str, Any]:
    text: dict[str, Any] = json.loads((out / "concepts.json").read_text(encoding="utf-8"))
    return text


def shares(photo: dict[str, Any]) -> list[float]:
    return [concept["share"] for concept in photo["concepts"]]


def test_concepts_of_a_set_with_real_weights(photos: dict[str, Path], lite0: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    names = ("chelsea", "coffee", "rocket")
    result = run("factorize", *(photos[name] for name in names), "--rank", 3, "--out", out, "--batch-size", 2)
    assert (result.exit_code, result.stderr) == (0, "")
    files = [f"{name}.concepts.{end}" for name in names for end in ("npy", "png")]
    assert sorted(path.name for path in out.iterdir()) == sorted([*files, "concepts.json"])
    pictures = [Image.open(photos[name]).convert("RGB") for name in names]
    activations, _ = observe(lite0.model, "bn2")(torch.stack([lite0.preprocess(photo) for photo in pictures]))
    found = deep_feature_factorization(activations, 3)
    scores = concept_scores(found.concepts, lite0.model.classifier, strength=found.maps.amax((0, 2, 3))).detach()
    made = record(out)
    assert (made["layer"]["name"], made["rank"], made["together"]) == ("bn2", 3, True)
    for i, (name, photo) in enumerate(zip(names, made["photos"], strict=True)):
        raw = np.load(out / f"{name}.concepts.npy")
        np.testing.assert_allclose(raw, found.maps[i].numpy(), rtol=1e-2, atol=1e-2)
        assert (photo["picture"], photo["maps"]) == (f"{name}.concepts.png", f"{name}.concepts.npy")
        assert sum(shares(photo)) == pytest.approx(1)
        for k, concept in enumerate(photo["concepts"]):
            best = int(scores[k].argmax())
            assert concept["concept"] == k + 1
            assert concept["classes"][0]["index"] == best
            assert concept["classes"][0]["score"] == pytest.approx(float(scores[k, best]), rel=1e-2)
            assert concept["peak"] == pytest.approx(float(raw[k].max()))
    strongest = made["photos"][0]["concepts"][int(np.argmax(shares(made["photos"][0])))]
    assert CHELSEA in [best["name"] for best in strongest["classes"]]
    assert CHELSEA in result.stdout
    with Image.open(out / "chelsea.concepts.png") as picture:
        assert picture.height > picture.width  # the legend


def test_apart_is_each_photo_by_itself(net: Net, noise: Callable[..., Path], tmp_path: Path) -> None:
    given = [noise(f"{seed}.png", seed) for seed in range(3)]
    for size in (1, 2, 8):
        out = tmp_path / f"out{size}"
        words = ("--rank", 2, "--apart", "--layer", "last", "--batch-size", size, "--out", out)
        assert run("factorize", *given, *words).exit_code == 0
    for seed, photo in enumerate(given):
        alone = tmp_path / "alone"
        run("factorize", photo, "--rank", 2, "--layer", "last", "--out", alone)
        for size in (1, 2, 8):
            got = np.load(tmp_path / f"out{size}" / f"{seed}.concepts.npy")
            np.testing.assert_allclose(got, np.load(alone / f"{seed}.concepts.npy"), rtol=1e-2, atol=1e-3)
        (alone / "concepts.json").unlink()
    assert record(tmp_path / "out2")["together"] is False


def test_an_unreadable_photo_is_named_and_the_others_kept(net: Net, noise: Callable[..., Path], tmp_path: Path) -> None:
    text = tmp_path / "notes.jpg"
    text.write_text("not an image")
    given = [text, noise("a.png", 1), tmp_path / "absent.png", noise("b.png", 2)]
    for i, how in enumerate(("--together", "--apart")):
        out = tmp_path / f"out{i}"
        result = run("factorize", *given, "--rank", 2, "--layer", "last", "--out", out, how, "--batch-size", 1)
        assert result.exit_code == 1
        assert [line.count("cannot read the photo") for line in result.stderr.splitlines()] == [1, 1]
        made = record(out)["photos"]
        assert [photo["photo"] for photo in made] == [str(path) for path in given]
        assert [photo["problem"] is None for photo in made] == [False, True, False, True]
        assert (out / "a.concepts.png").is_file()
        assert (out / "b.concepts.png").is_file()
    result = run("factorize", text, "--out", tmp_path / "none")
    assert (result.exit_code, record(tmp_path / "none")["layer"]) == (1, None)


def test_a_photo_without_concepts_gets_no_picture(net: Net, noise: Callable[..., Path], tmp_path: Path) -> None:
    black = tmp_path / "black.png"
    Image.new("RGB", (24, 20)).save(black)
    with torch.no_grad():
        # nothing is active on black
        for layer, bias in (("features.0", 0.0), ("last.0", -0.01)):
            net.get_parameter(f"{layer}.bias").fill_(bias)
    out = tmp_path / "out"
    result = run("factorize", noise("a.png"), black, "--rank", 2, "--layer", "last", "--out", out)
    assert result.exit_code == 1
    assert f"{black}: no concept is found anywhere" in result.stderr
    assert not (out / "black.concepts.png").exists()
    assert shares(record(out)["photos"][1]) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--layer", "bn3"], "bn3"),
        (["--model", "lite1"], "lite0"),
        (["--device", "tpu"], "tpu"),
        (["--negative", "abs"], "'abs'"),
    ],
)
def test_refused_before_any_forward(
    photos: dict[str, Path], tmp_path: Path, forwards: list[str], words: list[str], said: str
) -> None:
    refused(run("factorize", photos["chelsea"], "--out", tmp_path / "out", *words), said)
    assert forwards == []
    assert not (tmp_path / "out").exists()


def test_existing_output_is_kept_without_force(
    net: Net, noise: Callable[..., Path], tmp_path: Path, forwards: list[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    start = ("factorize", noise("a.png"), "--rank", 2, "--layer", "last", "--out", out)
    for name in ("a.concepts.png", "a.concepts.npy", "concepts.json"):
        (out / name).write_bytes(b"mine")
        refused(run(*start), "--force", name)
        assert (out / name).read_bytes() == b"mine"
        (out / name).unlink()
    assert forwards == []
    assert run(*start).exit_code == 0
    assert run(*start, "--force").exit_code == 0


def test_what_only_the_activations_tell(net: Net, noise: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    start = ("factorize", noise("a.png"), "--out", out)
    refused(run(*start, "--layer", "last", "--rank", 6), "rank: expected 1 to 5")
    refused(run(*start, "--layer", "last.0", "--rank", 2), "negative", "--negative relu")
    assert not out.exists()
    assert run(*start, "--layer", "last.0", "--rank", 2, "--negative", "relu").exit_code == 0
    assert record(out)["negative"] == "relu"
    assert isinstance(net.last[0], nn.Conv2d)

"""The command line: several layers, transformations, comparisons, bars and interruptions."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("typer", reason="needs typer: pip install 'camfn[cli]'")
pytest.importorskip("timm", reason="needs timm: pip install 'camfn[cli]'")

from rich.console import Console
from rich.progress import Progress

from camfn import explainer, methods, zoo
from camfn.cli._terminal import terminal
from camfn.transforms import augment, eigen_smooth, fuse, smooth
from tests.cli.test_cli import Net, net, noise, record, refused, run

__all__ = ["net", "noise"]  # fixtures

Noise = Callable[..., Path]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--augment"], {"augment": True}),
        (["--eigen-smooth"], {"eigen_smooth": True}),
        (["--smooth", 3, "--seed", 5], {"smooth": 3}),
        (["--layers", "features,last", "--fuse", "product"], {"layers": ["features", "last"], "fuse": "product"}),
        (["--layers", "fea*s,last"], {"layers": ["features", "last"], "fuse": "mean"}),
        (["--augment", "--eigen-smooth", "--layers", "features,last"], {}),
    ],
)
def test_maps_are_those_of_the_library(
    net: Net, noise: Noise, tmp_path: Path, options: list[Any], named: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from camfn import zoo

    out, given = tmp_path / "out", [noise("a.png"), noise("b.png", 1)]
    result = run("explain", *given, "--method", "grad_cam", "--target", 1, "--out", out, *options)
    assert result.exit_code == 0, result.output
    from PIL import Image

    x = torch.stack([zoo.load("net").preprocess(Image.open(path)) for path in given])
    method = eigen_smooth(methods.grad_cam) if "--eigen-smooth" in options else methods.grad_cam
    how: Any = "product" if "product" in options else "mean"
    explain: Any = (
        fuse(method, net, ["features", "last"], how=how) if "--layers" in options else explainer(method, net, "last")
    )
    explain = augment(explain) if "--augment" in options else explain
    if "--smooth" in options:
        explain = smooth(explain, 3, generator=torch.Generator().manual_seed(5))
    for i, cam in enumerate(explain(x, 1)):
        found = np.load(out / f"{'ab'[i]}.grad_cam.1.npy")
        np.testing.assert_allclose(found, cam.numpy(), rtol=1e-4, atol=1e-6)
    told = record(out)["changes"]
    assert named.items() <= told.items()


def test_layers_of_different_layouts_are_fused(tmp_path: Path) -> None:
    """Channels first, and tokens behind a class token."""
    from PIL import Image

    from camfn import tiny

    pixels = tiny.scenes(1, generator=torch.Generator().manual_seed(0)).images[0]
    photo = Image.fromarray((pixels * 255).round().byte().permute(1, 2, 0).numpy())
    photo.save(tmp_path / "a.png")
    model, mixed = ["--model", "tiny:vit"], "body,blocks.?.norm1"
    result = run("explain", tmp_path / "a.png", *model, "--target", 1, "--layers", mixed, "--out", tmp_path / "o")
    assert result.exit_code == 0, result.output
    vit = tiny.load("vit")
    explain = fuse(methods.grad_cam, vit, ["body", *(f"blocks.{i}.norm1" for i in range(3))])
    found = np.load(tmp_path / "o" / "a.grad_cam.1.npy")
    x = zoo.load("tiny:vit").preprocess(photo)[None]
    np.testing.assert_allclose(found, explain(x, 1)[0].numpy(), rtol=1e-4, atol=1e-6)
    assert found.shape == (16, 16)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--layers", "features,lost"], ["lost", "Did you mean"]),
        (["--layers", "x*"], ["fits 'x*'"]),
        (["--layers", "features", "--layer", "last"], ["--layer beside it"]),
        (["--layers", "features", "--method", "cam"], ["another method than cam"]),
        (["--eigen-smooth", "--method", "eigen_cam"], ["takes no gradients"]),
        (["--eigen-smooth", "--method", "score_cam"], ["score_cam asks for"]),
    ],
)
def test_what_cannot_be_combined_is_refused(
    net: Net, noise: Noise, tmp_path: Path, options: list[Any], words: list[str]
) -> None:
    out = tmp_path / "out"
    refused(run("explain", noise("a.png"), "--out", out, *options), *words)
    assert not out.exists()


def test_compare_draws_all_methods_side_by_side(net: Net, noise: Noise, tmp_path: Path) -> None:
    few = [
        name
        for name in methods.__all__
        if name not in ("rise", "d_rise", "sobol", "hsic", "region_search", "ss_cam", "is_cam", "opti_cam")
    ]
    out = tmp_path / "deep" / "compare.png"
    result = run(
        "compare", noise("a.png"), "--methods", ",".join(few), "--layer", "last", "--out", out, "--target", "cat"
    )
    assert result.exit_code == 0, result.output
    from PIL import Image

    with Image.open(out) as picture:
        columns = int(np.ceil(np.sqrt(len(few) + 1)))
        assert picture.size[0] > columns * 24
    assert f"comparison: {out}" in result.stdout
    assert sorted(os.listdir(out.parent)) == ["compare.png"]


def test_compare_leaves_out_what_a_method_cannot_do_unless_it_was_named(net: Net, noise: Noise, tmp_path: Path) -> None:
    out = tmp_path / "compare.png"
    result = run("compare", noise("a.png"), "--layer", "features", "--out", out)  # six channels, a head of five
    assert result.exit_code == 0, result.output
    assert "cam is left out: cam needs global pooling" in result.stdout
    refused(
        run("compare", noise("a.png"), "--layer", "features", "--methods", "cam", "--out", out, "--force"), "pooling"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--methods", "grad_cam,score"], ["no method 'score'"]),
        (["--methods", ","], ["all, cheap, capped"]),
        (["--target", "top:2"], ["one target"]),
        (["--out", "x.txt"], [".png, .jpg"]),
        (["--layer", "lost"], ["lost"]),
    ],
)
def test_compare_refuses_before_any_forward(
    net: Net, noise: Noise, options: list[Any], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(run("compare", noise("a.png"), *options), *words)
    assert not (tmp_path / "compare.png").exists()


def test_compare_replaces_nothing_unasked(net: Net, noise: Noise, tmp_path: Path) -> None:
    out = tmp_path / "compare.png"
    out.write_bytes(b"mine")
    refused(run("compare", noise("a.png"), "--out", out), "--force")
    assert out.read_bytes() == b"mine"


@pytest.mark.parametrize("stage", ["numpy.save", "camfn.image.save"])
def test_an_interruption_leaves_no_half_written_file(
    net: Net, noise: Noise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    out = tmp_path / "out"

    def interrupted(*args: Any, **_: Any) -> None:
        path = next(Path(arg) for arg in args if isinstance(arg, (str, Path)))
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, interrupted)
    result = run("explain", noise("a.png"), "--out", out)
    assert result.exit_code == 130
    assert result.stderr == "camfn: interrupted; what was written is whole\n"
    left = sorted(os.listdir(out))
    # the overlay and the numbers are written side by side: what the interruption did not meet is whole
    assert left in ([], ["a.grad_cam.png"] if stage == "numpy.save" else ["a.grad_cam.npy"])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not net.training
    if left == ["a.grad_cam.npy"]:
        assert np.load(out / left[0]).ndim == 2
    if left == ["a.grad_cam.png"]:
        Image.open(out / left[0]).load()


def test_the_second_bar_shows_perturbed_forwards_while_they_run() -> None:
    progress = Progress(console=Console(quiet=True))
    task = progress.add_task("perturbing", visible=False)
    show_progress = terminal.second_bar(progress, task)
    seen = []
    for done, total in [(2, 6), (4, 6), (6, 6), (3, 9), (9, 9)]:
        show_progress(done, total)
        bar = progress.tasks[task]
        seen.append((bar.completed, bar.total, bar.visible))
    assert seen == [(2, 6, True), (4, 6, True), (6, 6, False), (3, 9, True), (9, 9, False)]
    show_progress(1, 6, engine="one by one")
    assert progress.tasks[task].description == "perturbing one by one"
    show_progress(2, 6, engine="folded")
    assert progress.tasks[task].description == "perturbing"


def test_a_method_that_perturbs_tells_the_bar(net: Net, noise: Noise, tmp_path: Path, monkeypatch: Any) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(terminal, "second_bar", lambda *_: lambda done, total: told.append((done, total)))
    result = run("explain", noise("a.png"), "--out", tmp_path / "o", "--method", "score_cam", "--chunk-size", 2)
    assert result.exit_code == 0, result.output
    assert told[-1] == (5, 5)
    assert len(told) == 3

"""`camfn export`: the page of files and of a model, the runtime, and what it refuses before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from camfn.cli._app import app
from camfn.export import _runtime

from ...export.handmade import handmade, network
from ...export.stand_in import stand_in


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for onnxruntime-web, fetched to nowhere yet."""
    return stand_in(tmp_path / "runtime" / "dist", tmp_path, monkeypatch).parent


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["export", *map(str, words)])


def test_the_runtime_is_fetched_once_and_pages_are_written(tmp_path: Path, runtime: Path) -> None:
    files = [handmade(tmp_path / f"{k}.onnx", network(k)) for k in range(2)]
    refused = run("--page", tmp_path / "site", *files)
    assert refused.exit_code == 2
    assert "run camfn export --fetch-runtime once" in refused.stderr
    fetched = run("--fetch-runtime", runtime)
    assert (fetched.exit_code, fetched.stderr) == (0, "")
    assert fetched.stdout.startswith(f"runtime: onnxruntime-web {_runtime.VERSION}, checked, in {tmp_path / 'cache'}")
    folder, single = run("--page", tmp_path / "site", *files), run("--page", tmp_path / "one.html", files[0])
    assert folder.exit_code == single.exit_code == 0
    assert f"serve it: python -m http.server --directory {tmp_path / 'site'}" in folder.stdout
    assert "one.html (0.1 MB); opens by a double click" in single.stdout
    assert len(list((tmp_path / "site" / "networks").iterdir())) == 2


@pytest.mark.sweep
def test_a_model_is_exported_by_each_method_at_each_layer(tmp_path: Path, runtime: Path) -> None:
    words = ("--model", "tiny:cnn", "--method", "grad_cam,cam", "--layer", "auto", "--runtime", runtime)
    done = run("--page", tmp_path / "one.html", *words)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert [line.split(" at ")[0] for line in lines] == ["grad_cam", "cam", lines[2]]
    assert "as eager, largest relative differences: logits " in lines[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "what is to be written? As in camfn export lite0.onnx, or camfn export --page one.html"),
        (("--page", "no/where/site"), "there is no folder"),
        (("--page", "{tmp}/site", "--methods", "grad_camm"), "no method 'grad_camm'"),
        (("--page", "{tmp}/site", "--methods", "full_grad"), "full_grad: of the whole network"),
        (("--page", "{tmp}/site", "--model", "tiny:cnn", "--layer", "nosuch"), "nosuch"),
        (("--page", "{tmp}/site", "{tmp}/no.onnx"), "there is no file"),
        (("--fetch-runtime", "a", "b"), "expected one tarball or folder, got a, b"),
        (("--fetch-runtime", "{tmp}/nowhere"), "expected a folder or a tarball of npm's package onnxruntime-web"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, runtime: Path, words: tuple[str, ...], said: str) -> None:
    given = [word.format(tmp=tmp_path) for word in words]
    done = run(*given, *(["--runtime", runtime] if "--page" in given else []))
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert not (tmp_path / "site").exists()

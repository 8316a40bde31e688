"""The version of this code: installed, in a source folder, beside another installed copy, and in no such place."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from camfn._shared import versions
from tests.house import ROOT

NEVER_INSTALLED = """
import importlib.metadata as metadata, sys
from pathlib import Path

def from_name(name, find=metadata.Distribution.from_name):
    if name.lower() in ("camfn", "pillow", "numpy"):
        raise metadata.PackageNotFoundError(name)
    return find(name)

metadata.Distribution.from_name = from_name
"""
"""Hides the metadata of camfn, as where no one installed it, and of two packages that some systems rename."""


def answer(source: Path, tmp_path: Path, code: str) -> str:
    """Run code against a copy of camfn whose metadata no one finds."""
    program = f"{NEVER_INSTALLED}\nsys.path.insert(0, {str(source)!r})\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder that holds the package alone, as a copy by hand leaves it."""
    return shutil.copytree(ROOT, tmp_path / "bare" / ROOT.name, ignore=shutil.ignore_patterns("__pycache__")).parent


def test_an_installed_copy_has_its_own_version() -> None:
    assert versions.own_version() == version("camfn")


def test_a_source_folder_has_the_version_that_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another installed copy does not speak for it."""
    monkeypatch.setattr(versions, "_SOURCE", tmp_path / "pyproject.toml")
    assert versions.own_version() == version("camfn")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "camfn"\nversion = "9.8.7"\n')
    assert versions.own_version() == "9.8.7+source"
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "vendor"\nversion = "9.8.7"\n')
    assert versions.own_version() == version("camfn")
    (tmp_path / "pyproject.toml").write_bytes(b'name = "camfn"\nversion = "\xff"\n')
    assert versions.own_version() == version("camfn")


@pytest.mark.parametrize("written", ["9.8.7", None])
def test_everything_that_names_the_version_works_where_camfn_was_never_installed(
    bare: Path, tmp_path: Path, written: str | None
) -> None:
    if written:
        (bare / "pyproject.toml").write_text(f'[project]\nname = "camfn"\nversion = "{written}"\n')
    expected = f"{written}+source" if written else "0+unknown"
    said = answer(
        bare,
        tmp_path,
        """
import contextlib, io, json
import numpy, torch
from PIL import Image
import camfn
from camfn import cli
from camfn.export import _page
from camfn.export._facts import facts
from camfn.export._plan import plan
from camfn._shared.versions import versions

def run(*words):
    sys.argv = ["camfn", *words]
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code, end.code

assert Path(camfn.__file__).is_relative_to(sys.path[0])
run("--version")
Image.fromarray(numpy.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=numpy.uint8)).save("a.png")
with contextlib.redirect_stdout(io.StringIO()):
    run("explain", "a.png", "--model", "tiny:cnn", "--out", "made")
net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten(), torch.nn.Linear(72, 2)).eval()
what = plan(camfn.explainer(camfn.methods.grad_cam, net, "0"), torch.rand(1, 3, 8, 8), 0, None, "fixed")
record = json.loads(Path("made", "explanations.jsonl").read_text().splitlines()[0])["versions"]
print(json.dumps([versions(), record, facts(what), _page._about([], [], 0)]))
""",
    )
    first, rest = said.split("\n", 1)
    assert first == f"camfn {expected}"
    mine, record, file, page = json.loads(rest)
    assert {mine["camfn"], record["camfn"], file["camfn"], page["camfn"]} == {expected}
    assert record["numpy"] == __import__("numpy").__version__
    assert page["pillow"] == __import__("PIL").__version__

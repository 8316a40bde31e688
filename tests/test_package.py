"""What goes into the package, and how `make release` builds a commit."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile
from functools import partial
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PROMISES = {
    "": "import camfn, camfn.metrics, camfn.factorize, camfn.network, camfn.attention, camfn.tiny",
    "cli": "import camfn.cli, camfn.zoo, timm, torchvision; sys.argv[1:] = ['explain', '--help']; camfn.cli.main()",
    "figure": "import matplotlib, camfn.cli",
    "hf": "import transformers; transformers.ViTModel",
    "ultralytics": "import camfn.zoo; camfn.zoo.load('yolo:yolo11n.yaml')",
    "rfdetr": "import camfn.zoo; camfn.zoo.load('rfdetr:nano', weights='none')",
    "export": "import onnx, onnxscript, onnxruntime, camfn.export",
    "notebook": "import PIL, anywidget, camfn.explore",
    "serve": "sys.path.insert(0, 'examples'); import serve; serve.service",
    "training": "import PIL, tensorboard, camfn.training",
    "medical": "import pydicom, nibabel, camfn.cli",
    "demo": "import camfn.zoo; camfn.zoo.load('lite0'); import skimage.data; skimage.data.chelsea()",
    "evaluate": "import camfn.evaluate, camfn.zoo, jinja2, matplotlib, pandas, pyarrow; camfn.zoo.load('lite2')",
    "docs": "import sphinx, pydata_sphinx_theme, myst_parser, sphinx_gallery, sphinx_design, sphinx_copybutton",
    "ray": "import ray, camfn.evaluate",
    "adapters": "import captum, quantus, torchmetrics, camfn.adapters",
}
"""What a person who installs an extra alone may run."""
ALONE = """
import importlib.abc, importlib.metadata as metadata, sys
from importlib.machinery import PathFinder

allowed = set({allowed!r})
owners = metadata.packages_distributions()


def hidden(name):
    of = [owner.lower().replace("_", "-").replace(".", "-") for owner in owners.get(name, [name])]
    return not allowed & set(of)


class Bare(importlib.abc.MetaPathFinder):
    find_distributions = staticmethod(PathFinder.find_distributions)

    def find_spec(self, name, path=None, target=None):
        root = name.partition(".")[0]
        if path is None and root in owners and hidden(root):  # but ray, say, brings a copy of psutil
            path = [place for place in sys.path if not place.endswith("site-packages")]
        return PathFinder.find_spec(name, path, target)


def from_name(name, find=metadata.Distribution.from_name):
    if name.lower().replace("_", "-").replace(".", "-") not in allowed:
        raise metadata.PackageNotFoundError(name)
    return find(name)


sys.meta_path[sys.meta_path.index(PathFinder)] = Bare()
metadata.Distribution.from_name = from_name
try:
    {code}
except SystemExit as end:
    assert not end.code, end.code
"""


def release() -> ModuleType:
    """Load the script behind `make release`."""
    spec = importlib.util.spec_from_file_location("release", ROOT / ".ci" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def own() -> list[str]:
    """What pyproject asks for, in the words of installed metadata, which may be older."""
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    project = toml.loads(PROJECT)["project"]
    listed = list(project["dependencies"])
    for extra, words in project["optional-dependencies"].items():
        for word, _, marker in (each.partition(";") for each in words):
            listed.append(f'{word}; {f"({marker}) and " if marker else ""}extra == "{extra}"')
    return listed


def closure(extra: str) -> set[str]:
    """All packages that camfn with one extra asks for, by what is installed here."""
    found, left = set(), [("camfn", frozenset({extra} - {""}))]
    while left:
        name, extras = left.pop()
        if (name, extras) in found:
            continue
        found.add((name, extras))
        try:
            wanted = own() if name == "camfn" else metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for requirement in map(Requirement, wanted):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": one}) for one in (*extras, "")):
                left.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return {name for name, _ in found}


def test_the_sdist_has_every_tracked_file_of_the_root() -> None:
    listed = re.search(r"sdist\]\n.*?include = \[(.*?)\]", PROJECT, re.DOTALL)
    assert listed is not None
    included = set(re.findall(r'"([^"]+)"', listed[1]))
    done = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    names = {line.partition("/")[0] for line in done.stdout.splitlines()} if done.returncode == 0 else set()
    assert names - included <= {".gitignore", "pyproject.toml"}  # which hatchling adds itself
    assert all((ROOT / name).exists() for name in included)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="it reads TOML by tomllib")
def test_the_lowest_versions_are_the_bounds_of_pyproject() -> None:
    spec = importlib.util.spec_from_file_location("pythons", ROOT / ".ci" / "pythons.py")
    assert spec is not None
    assert spec.loader is not None
    pythons = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pythons)
    found = pythons.bounds(PROJECT)
    assert {"torch==2.6", "numpy==1.26", "kornia==0.7.4"} <= set(found)
    assert len({word.partition("==")[0] for word in found}) == len(found)
    assert not [word for word in found if word.startswith(("pytest==", "ruff==", "camfn=="))]
    assert pythons.interpreter(".".join(map(str, sys.version_info[:2])))
    for line in pythons.LOWEST.read_text(encoding="utf-8").splitlines():
        name, _, reason = line.partition(" # ")
        assert line.startswith("#") or ((ROOT / name.partition("::")[0]).exists() and reason), line


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, built and unpacked: a folder that git knows nothing of."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(folder)]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (packed,) = folder.glob("camfn-*.tar.gz")
    assert packed.stat().st_size < 16e6
    with tarfile.open(packed) as file:
        file.extractall(folder, filter="data")
    return folder / packed.name.removesuffix(".tar.gz")


def test_the_sdist_has_what_is_tracked_and_nothing_of_a_run(unpacked: Path) -> None:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, check=False, text=True, capture_output=True)
    if done.returncode:
        pytest.skip("no checkout")
    tracked = {name for name in done.stdout.splitlines() if (ROOT / name).exists()}
    packed = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    others = subprocess.run(
        ["git", "ls-files", "--others", "--exclude-standard"], cwd=ROOT, check=False, text=True, capture_output=True
    )
    assert packed - set(others.stdout.splitlines()) == tracked | {"PKG-INFO"}


@pytest.mark.sweep
def test_the_sdist_passes_its_own_tests(unpacked: Path) -> None:
    """Those that read files of the tree, and a room; all of them ran by hand."""
    names = [
        f"tests/{name}" for name in ("test_package.py", "test_docs.py", "test_site.py", "test_structure.py", "tiny")
    ]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--quiet",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "-m",
        "not sweep",
        *names,
    ]
    done = subprocess.run(command, cwd=unpacked, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    where = [sys.executable, "-c", "import camfn; print(camfn.__file__)"]
    assert str(unpacked) in subprocess.run(where, cwd=unpacked, check=True, capture_output=True, text=True).stdout


def test_the_version_is_one() -> None:
    assert release().version_of() == metadata.version("camfn")


def test_a_version_that_differs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for name in ("pyproject.toml", "CITATION.cff", "docs/cite.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    cite = tmp_path / "CITATION.cff"
    cite.write_text(re.sub(r"(?m)^version: .*", "version: 9.9", cite.read_text()))
    with pytest.raises(SystemExit, match=r"the version differs.*9\.9"):
        release().version_of(tmp_path)


def test_a_version_that_has_a_tag_is_refused_before_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a repository of its own, whose build would fail."""
    script = release()
    version = script.version_of()
    for words in ("init -q", "-c user.name=a -c user.email=a@b.c commit -q --allow-empty -m one", f"tag v{version}"):
        subprocess.run(["git", *words.split()], cwd=tmp_path, check=True)
    monkeypatch.setattr(script, "run", partial(script.run, cwd=tmp_path))
    monkeypatch.setattr(sys, "argv", ["release.py", "https://h.org/o/n"])
    with pytest.raises(SystemExit, match=rf"there is a tag v{version}.*--no-tag"):
        script.main()


def test_links_of_the_long_description_lead_to_the_tag() -> None:
    text = '[a](docs/x.md) [b](#here) [c](https://d.e) <img src="p.webp"> <source srcset="q.webp">'
    assert release().absolute(text, "https://h/o/n", "v1") == (
        "[a](https://h/o/n/blob/v1/docs/x.md) [b](#here) [c](https://d.e) "
        '<img src="https://h/o/n/raw/v1/p.webp"> <source srcset="https://h/o/n/raw/v1/q.webp">'
    )
    readme = release().absolute((ROOT / "README.md").read_text(encoding="utf-8"), "https://h/o/n", "v1")
    assert not re.findall(r"\]\((?!https:)[^)]*\)", readme)


def test_every_extra_is_in_the_table_of_what_to_install_or_for_developers() -> None:
    extras = set(re.findall(r'extra == "(\w+)"', "\n".join(own())))
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    told = {word for words in re.findall(r"'camfn\[([\w,]+)\]'", index) for word in words.split(",")}
    assert extras - told <= {"dev", "bench", "sweep", "release"}
    assert told <= extras


@pytest.mark.sweep
@pytest.mark.parametrize("extra", PROMISES)
def test_an_extra_brings_all_that_it_promises(extra: str) -> None:
    if extra in ("ultralytics", "rfdetr"):  # not of `make test-all`'s environment, see the extra sweep
        pytest.importorskip(extra)
    code = ALONE.format(allowed=sorted(closure(extra)), code=PROMISES[extra])
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]

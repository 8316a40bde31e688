"""Run the suite by other interpreters, and on the lowest versions of pyproject: `make pythons`, `make lowest`.

Each gets a virtual environment in out/. An interpreter that is not at hand is named and left out.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import tomllib

ROOT = Path(__file__).parents[1]
VERSIONS = ("3.10", "3.12", "3.13")
TOOLS = {"dev", "bench", "docs", "release", "sweep", "ultralytics", "rfdetr"}
"""Extras of tools, and of packages that the suite's environment does not have."""
PHOTOS = ("foolbox==3.3.4", "alibi==0.9.4")
LOWEST = ROOT / ".ci" / "lowest.txt"
"""The tests that fail on the lowest versions, each with its reason; docs/limitations.md has them in words."""


def interpreter(version: str) -> str | None:
    """Find a Python of this version on the path, or among pyenv's."""
    pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
    for found in (shutil.which(f"python{version}"), *map(str, pyenv)):
        if found and subprocess.run([found, "-c", ""], check=False, capture_output=True).returncode == 0:
            return found
    return None


def bounds(text: str) -> list[str]:
    """Turn the lower bounds of what users install into the versions themselves, as constraints."""
    project = tomllib.loads(text)["project"]
    listed = [*project["dependencies"]]
    listed += [
        word for extra, words in project["optional-dependencies"].items() if extra not in TOOLS for word in words
    ]
    found = [match.groups() for word in listed if (match := re.match(r"([\w.-]+)(?:\[\w+\])?>=([\w.]+)", word))]
    return [f"{name}=={version}" for name, version in dict(found).items()]


def suite(name: str, python: str, constraints: Path, *options: str) -> int:
    """Build an environment, and run the short half of the suite in it."""
    folder = ROOT / "out" / name
    own = str(folder / "bin" / "python")
    if not Path(own).exists():
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
    install = [own, "-m", "pip", "install", "--quiet"]
    subprocess.run([*install, "--constraint", str(constraints), "--editable", ".[dev]"], cwd=ROOT, check=True)
    subprocess.run([*install, "--no-deps", *PHOTOS], cwd=ROOT, check=True)
    print(f"{name}: the suite by {own}", flush=True)
    command = [own, "-m", "pytest", "--quiet", "--numprocesses", "2", "-m", "not sweep", *options, "tests"]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def pinned(python: str, folder: Path) -> Path:
    """Return constraints.txt for a Python; 3.10 takes what is newest there, as some pinned releases need 3.11."""
    if not python.endswith("3.10"):
        return ROOT / "constraints.txt"
    empty = folder / "none.txt"
    empty.write_text("", encoding="utf-8")
    return empty


def main() -> None:
    """Run the versions that the command names, or `lowest`."""
    out = ROOT / "out"
    out.mkdir(exist_ok=True)
    failed = []
    for version in sys.argv[1:] or VERSIONS:
        python = interpreter("3.10" if version == "lowest" else version)
        if python is None:
            print(f"no Python {version} here: not tried")
            continue
        if version == "lowest":
            constraints = out / "lowest.txt"
            constraints.write_text("\n".join(bounds((ROOT / "pyproject.toml").read_text(encoding="utf-8"))) + "\n")
            lines = LOWEST.read_text(encoding="utf-8").splitlines()
            skipped = [f"--deselect={line.partition(' #')[0].strip()}" for line in lines if line.startswith("tests/")]
            code = suite("lowest", python, constraints, "-W", "default", *skipped)
        else:
            code = suite(f"python{version}", python, pinned(python, out))
        failed += [version] if code else []
    if failed:
        raise SystemExit(f"the suite fails: {', '.join(failed)}")


if __name__ == "__main__":
    main()

"""Build a release into out/release: `make release REPOSITORY=https://...`. Nothing is uploaded.

The address of the repository is in no file here: this writes it, as links and as URLs of the package, into a copy of
the commit, builds the sdist and from it the wheel, asks twine, renders the long description, and sets the tag.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUT = ROOT / "out" / "release"


def version_of(root: Path = ROOT) -> str:
    """The version, which pyproject, CITATION.cff, docs/cite.md and the changelog must agree on."""
    pattern = {
        "pyproject.toml": r'^version = "(.+)"$',
        "CITATION.cff": r"^version: (.+)$",
        "docs/cite.md": r"^  version = \{(.+)\},$",
        "CHANGELOG.md": r"^## (\S+)",
    }
    found = {name: re.search(p, (root / name).read_text(encoding="utf-8"), re.MULTILINE) for name, p in pattern.items()}
    told = {name: match[1] if match else None for name, match in found.items()}
    if len(set(told.values())) != 1 or None in told.values():
        raise SystemExit(f"the version differs: {told}")
    return str(told["pyproject.toml"])


def absolute(text: str, repository: str, tag: str) -> str:
    """Lead the links and pictures of a Markdown page of the repository's root to the tag."""
    page, raw = f"{repository}/blob/{tag}/", f"{repository}/raw/{tag}/"
    text = re.sub(r"(?<=\]\()(?![a-z]+:|#|/)", page, text)
    return re.sub(r'(?<=(?:src|set)=")(?![a-z]+:|/)', raw, text)


def urls(repository: str, tag: str) -> str:
    """The table of URLs in the package's metadata."""
    listed = {"Source": "", "Issues": "/issues", "Changelog": f"/blob/{tag}/CHANGELOG.md"}
    listed["Documentation"] = f"/blob/{tag}/docs/index.md"
    return "\n[project.urls]\n" + "".join(f'{name} = "{repository}{path}"\n' for name, path in listed.items())


def run(*words: str | Path, cwd: Path = ROOT) -> str:
    """Run a program, and end where it fails."""
    done = subprocess.run([str(word) for word in words], cwd=cwd, check=False, text=True, stdout=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(f"{done.stdout}\n{' '.join(map(str, words))}: ended with {done.returncode}")
    return done.stdout


def build(repository: str, tag: str, commit: str, *flags: str) -> None:
    """Build both files from a copy of the commit, and render the long description."""
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        run("git", "archive", "--output", copy / "commit.tar", commit)
        with tarfile.open(copy / "commit.tar") as packed:
            packed.extractall(copy / "camfn", filter="data")
        readme, project = copy / "camfn" / "README.md", copy / "camfn" / "pyproject.toml"
        readme.write_text(absolute(readme.read_text(encoding="utf-8"), repository, tag), encoding="utf-8")
        with project.open("a", encoding="utf-8") as file:
            file.write(urls(repository, tag))
        print(run(sys.executable, "-m", "build", *flags, "--outdir", OUT, copy / "camfn").splitlines()[-1])
        shown = run(sys.executable, "-m", "readme_renderer", "-o", OUT / "README.html", readme)
    print(shown + run(sys.executable, "-m", "twine", "--no-color", "check", "--strict", *OUT.glob("camfn-*")))
    loose = re.findall(r'(?:href|src)="(?!https?:|#)[^"]*"', (OUT / "README.html").read_text(encoding="utf-8"))
    if loose:
        raise SystemExit(f"links of the long description lead nowhere: {loose}")


def main() -> None:
    """Check, build, and set the tag."""
    parser = argparse.ArgumentParser(description="Build a release; nothing is uploaded.")
    parser.add_argument("repository", help="the address of the repository, https://...")
    parser.add_argument("--no-tag", action="store_true", help="only build")
    parser.add_argument("--no-isolation", action="store_true", help="with the hatchling that is installed")
    asked = parser.parse_args()
    repository = asked.repository.rstrip("/")
    if not re.fullmatch(r"https://[\w.-]+/[\w./-]+", repository):
        raise SystemExit(
            f"the address of the repository is https://HOST/OWNER/NAME, not {repository!r}: "
            "make release REPOSITORY=https://HOST/OWNER/NAME"
        )
    if run("git", "status", "--porcelain"):
        raise SystemExit("commit first: make release builds a commit")
    version, commit = version_of(), run("git", "rev-parse", "HEAD").strip()
    if not asked.no_tag and run("git", "tag", "--list", f"v{version}"):
        raise SystemExit(f"there is a tag v{version}: set another version, or give --no-tag to build alone")
    build(repository, f"v{version}", commit, *(["--no-isolation"] if asked.no_isolation else []))
    if not asked.no_tag:
        run("git", "tag", "--annotate", f"v{version}", "--message", f"camfn {version}", commit)
        print(f"tagged v{version}: git push origin v{version}")
    print(f"look at {OUT}/README.html, then: twine upload {OUT}/camfn-*")


if __name__ == "__main__":
    main()

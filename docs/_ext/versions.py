"""The versions of the site that lie side by side, for its menu: `python docs/_ext/versions.py FOLDER`.

Each version's site lies in a folder of its own name, such as `FOLDER/0.1.0`. This writes `FOLDER/switcher.json`, which
the pages of every version read, so that an old one leads to those that came after it. A site alone has one of its own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

Listed = list[dict[str, str]]


def versions_in(folder: Path) -> Listed:
    """The versions whose sites lie in a folder, the newest first."""
    found = {}
    for site in folder.iterdir():
        try:
            version = Version(site.name)
        except InvalidVersion:
            continue
        if (site / "index.html").is_file():
            found[version] = site.name
    names = [found[version] for version in sorted(found, reverse=True)]
    stable = next((found[version] for version in sorted(found, reverse=True) if not version.is_prerelease), None)
    return [
        {"version": name, "name": f"{name} (stable)" if name == stable else name, "url": f"{name}/"} for name in names
    ]


def save(folder: Path, listed: Listed) -> None:
    """Write the list, as the pages read it."""
    (folder / "switcher.json").write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")


def write(app: Any, error: Exception | None) -> None:
    """Write the list of a site alone: itself."""
    if error is None and app.builder.name == "html":
        own = app.config.version
        save(Path(app.outdir), [{"version": own, "name": f"{own} (this site)", "url": "./"}])


def setup(app: Any) -> None:
    """Register."""
    app.connect("build-finished", write)


def main() -> None:
    """Write the list of the folder that was named."""
    folder = Path(sys.argv[1])
    listed = versions_in(folder)
    save(folder, listed)
    print(", ".join(each["name"] for each in listed) or f"no version's site in {folder}")


if __name__ == "__main__":
    main()

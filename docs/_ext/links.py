"""Follow every link inside the built site, anchors and pictures included: `python docs/_ext/links.py out/site`.

It also finds examples whose output is a warning, with a path of the machine that built the site.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit


class Page(HTMLParser):
    """The links of a page, and the anchors that others may lead to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" or (name == "name" and tag == "a"):
                self.anchors.add(value or "")
            elif name in ("href", "src") and value:
                self.links.append(value)
            elif name == "srcset" and value:
                self.links += [part.split()[0] for part in value.split(",")]


def broken(site: Path) -> list[str]:
    """List the links that lead nowhere, and those that a page would load from another host."""
    files = [path for path in sorted(site.rglob("*.html")) if "_static" not in path.parts]  # a theme's own templates
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in files}
    found = []
    for path, page in pages.items():
        for link in dict.fromkeys(page.links):
            problem = _problem(link, path, site, pages)
            if problem:
                found.append(f"{path.relative_to(site)}: {link}: {problem}")
    return found


def warned(site: Path) -> list[str]:
    """List the warnings that an example's output shows."""
    found = []
    for path in sorted(site.glob("howto/*.html")):
        text = path.read_text(encoding="utf-8")
        found += [
            f"{path.relative_to(site)}: {line}" for line in re.findall(r"[^\s>]+\.py:\d+: \w*Warning.{0,80}", text)
        ]
    return found


def _problem(link: str, path: Path, site: Path, pages: dict[Path, Page]) -> str | None:
    """What is wrong with a link, or None. Other hosts are not asked."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None if parts.scheme in ("http", "https", "mailto", "data") else f"the scheme {parts.scheme}"
    address, anchor = urldefrag(link)
    target = path if not address else (path.parent / unquote(urlsplit(address).path)).resolve()
    if target.is_dir():
        target /= "index.html"
    if not target.exists():
        return "no such file"
    if anchor and target in pages and unquote(anchor) not in pages[target].anchors and target.name != "search.html":
        return "no such anchor"
    return None


def main() -> None:
    """Print what is broken; the exit status says whether anything is."""
    site = Path(sys.argv[1]).resolve()
    if not (site / "index.html").exists():
        raise SystemExit(f"{site} has no index.html: build the site first")
    found = broken(site) + warned(site)
    print("\n".join(found) if found else "every link inside the site leads somewhere; no example warns")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()

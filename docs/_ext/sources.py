"""Links to the source of public values and types, which viewcode gives to functions and classes alone."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import camfn_site

ROOT = Path(__file__).parents[2]
LINK = """<a class="reference internal" href="{page}">\
<span class="viewcode-link"><span class="pre">[source]</span></span></a>"""
ANCHOR = '<a class="headerlink" href="#{name}"'


def assigned(path: Path) -> set[str]:
    """The names that a file gives a value at its top."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def source_of(module: str, name: str) -> str | None:
    """The file that gives a public name of a module its value, as a dotted module: the module's own first."""
    own, shared = ROOT / module.replace(".", "/"), sorted((ROOT / "camfn" / "_shared").glob("*.py"))
    inside = [] if module == "camfn" else [own.with_suffix(".py"), *sorted(own.rglob("*.py"))]
    for path in (*inside, *shared):
        if path.exists() and name in assigned(path):
            return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    return None


def link(app: Any, error: Exception | None) -> None:
    """Put the link where viewcode has none, and the file has its page."""
    if error or app.builder.name != "html":
        return
    out = Path(app.outdir)
    for module, names in camfn_site.public_names().items():
        for name in names:
            page = out / "reference" / f"{module}.{name}.html"
            text = page.read_text(encoding="utf-8")
            anchor = ANCHOR.format(name=f"{module}.{name}")
            source = None if "viewcode-link" in text else source_of(module, name)
            if source is None or not (out / "_modules" / f"{source.replace('.', '/')}.html").exists():
                continue
            made = LINK.format(page=f"../_modules/{source.replace('.', '/')}.html")
            page.write_text(text.replace(anchor, made + anchor, 1), encoding="utf-8")


def setup(app: Any) -> None:
    """Register."""
    app.connect("build-finished", link)

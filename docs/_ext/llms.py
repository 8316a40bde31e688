"""`llms.txt` and `llms-full.txt`: the site as text for language models, from the same pages."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import method_pages
import metric_pages

DOCS = Path(__file__).parents[1]
EXAMPLES = DOCS.parent / "examples"
LEAD = """# camfn

> Class activation maps for PyTorch as pure functions over torch.func.
> `explainer(grad_cam, model, layer)(images, target)` is the raw map (B, h, w). A target is a class index or any
> function of the outputs; the layer comes from `layers.suggest(model, images)`; a `CamfnError` says which call works.
"""
PAGES = (
    "first", "concepts", "methods", "metrics", "tasks", "detectors", "multimodal", "training", "words", "check",
    "migrating", "from_torchcam", "from_captum", "evaluation", "suite", "records", "compile", "export", "page",
    "explore", "limitations", "reference",
)  # fmt: skip


def title_of(text: str) -> str:
    """The first heading of a page."""
    found = re.search(r"^# (.+)$", text, re.MULTILINE)
    assert found is not None
    return found[1]


def examples() -> list[tuple[Path, str, str]]:
    """Each example with its title and its question."""
    found = []
    for path in sorted(EXAMPLES.glob("plot_*.py")):
        told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        title, _, question = told.split("\n", 2)
        found.append((path, title, " ".join(question.split()).replace("``", "`")))
    return found


def short() -> str:
    """The list of pages with a line each."""
    lines = [LEAD, "## How do I", ""]
    for path, title, question in examples():
        lines.append(f"- [{title}](howto/{path.stem}.html): {question.split('. ')[0].rstrip('.?')}.")
    lines += ["", "## Pages", ""]
    for name in PAGES:
        lines.append(f"- [{title_of((DOCS / f'{name}.md').read_text(encoding='utf-8'))}]({name}.html)")
    lines += ["- [A skill of five steps](skill/SKILL.html)", "- [All of it as one text](llms-full.txt)", ""]
    return "\n".join(lines)


def plain(text: str) -> str:
    """A page with the tables that `make docs` puts into it, and without what only draws it."""
    made = method_pages.overview() if text.startswith("# Methods") else metric_pages.overview()
    text = re.sub(r"<!-- overview: .*? -->", lambda _: made, text)
    text = re.sub(r"^(`{3,})\{(?:toctree|eval-rst|image)\}.*?^\1\n", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^(?::{3,}.*|\{\..*\}|<!-- .* -->)\n", "", text, flags=re.MULTILINE)


def full() -> str:
    """All pages and examples as one text."""
    parts = [LEAD, (DOCS / "skill/SKILL.md").read_text(encoding="utf-8").split("---\n", 2)[2]]
    parts += [f"# {title}\n\n```python\n{path.read_text(encoding='utf-8')}```\n" for path, title, _ in examples()]
    parts += [plain((DOCS / f"{name}.md").read_text(encoding="utf-8")) for name in PAGES]
    return "\n\n".join(parts)


def write(app: Any, error: Exception | None) -> None:
    """Write both beside the pages."""
    if error is None and app.builder.name == "html":
        Path(app.outdir, "llms.txt").write_text(short(), encoding="utf-8")
        Path(app.outdir, "llms-full.txt").write_text(full(), encoding="utf-8")
        skill = (DOCS / "skill/SKILL.md").read_text(encoding="utf-8")
        Path(app.outdir, "skill", "SKILL.md").write_text(skill, encoding="utf-8")


def setup(app: Any) -> None:
    """Register."""
    app.connect("build-finished", write)

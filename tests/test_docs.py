"""The docs run, and leave no public name out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import camfn
from camfn import (
    attention,
    catalogue,
    evaluate,
    factorize,
    image,
    layers,
    layout,
    metrics,
    network,
    targets,
    transforms,
)

ROOT = Path(__file__).parents[1]
GENERATED = {"_build", "howto", "methods", "metrics", "reference"}
"""Folders of docs/ that `make docs` writes."""
PAGES = sorted(
    page
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"))
    if page.parent == ROOT or page.relative_to(ROOT / "docs").parts[0] not in GENERATED
)
CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [page for page in PAGES if CODE.search(page.read_text())], ids=lambda page: page.name)
def test_the_code_of_a_page_runs_from_top_to_bottom(page: Path) -> None:
    names: dict[str, object] = {}
    for block in CODE.findall(page.read_text()):
        exec(compile(block, str(page), "exec"), names)
    if page.name == "README.md":
        assert getattr(names["cam"], "shape", None) == (1, 7, 7)
        assert getattr(names["per_class"], "shape", None) == (1000, 1, 7, 7)


def test_the_readme_and_a_page_have_code() -> None:
    assert len(CODE.findall((ROOT / "README.md").read_text())) >= 2


def test_every_method_has_its_row() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/methods.md").read_text(), re.MULTILINE)
    assert rows == [info.name for info in catalogue.METHODS if info.kind != "attention"]


def test_every_method_on_attention_is_named() -> None:
    text = (ROOT / "docs/methods.md").read_text()
    assert not [info.name for info in catalogue.METHODS if not re.search(rf"\b{info.name}\b", text)]


def test_every_metric_has_its_row() -> None:
    rows = re.findall(r"^\| `(\w+)[(`]", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE)
    assert rows == metrics.__all__


def test_every_metric_of_quantus_has_its_twin_or_a_reason() -> None:
    quantus = pytest.importorskip("quantus")
    section = (ROOT / "docs/metrics.md").read_text().split("## The 37 metrics of Quantus 0.6")[1].split("\n## ")[0]
    rows = [line.split("|")[1:4] for line in section.splitlines() if line.startswith("| ") and "---" not in line][1:]
    named = [name.strip() for first, *_ in rows for name in first.split(",")]
    classes = {metric.__name__ for group in quantus.AVAILABLE_METRICS.values() for metric in group.values()}
    assert set(named) == classes
    assert len(named) == len(classes) == 37
    for _, twin, difference in rows:
        assert difference.strip()
        assert all(
            name in metrics.__all__ or name in ("smooth", "explainer", "explain")
            for name in re.findall(r"`(\w+)", twin)
        )


def test_links_to_files_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            made = re.sub(
                r"^howto/(\w+)\.rst$", r"../examples/\1.py", target
            )  # `make docs` makes these pages of the examples
            assert (page.parent / made).exists(), f"{page.name}: {target}"


def test_every_public_name_is_in_the_docs() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    public = [name for name in dir(camfn) if not name.startswith("_") and callable(getattr(camfn, name))]
    public += [name for name, value in vars(network).items() if not name.startswith("_") and callable(value)]
    public += [name for name in vars(attention) if not name.startswith("_")]
    for module in (targets, image, layers, layout, factorize, catalogue):
        public += [
            name
            for name, value in vars(module).items()
            if not name.startswith("_")
            and str(getattr(value, "__module__", "")).startswith(module.__name__)
            and callable(value)
        ]
    public += re.findall(r"import (\w+) as \1\n", Path(targets.__file__).read_text())
    public += re.findall(r"import (\w+) as \1\n", Path(evaluate.__file__).read_text())
    public += ["quantus_explain", "LayerAttribution", "torchmetric"]
    public += [name for name in vars(transforms) if not name.startswith("_") and name != "annotations"]
    missing = [name for name in public if not re.search(rf"\b{name}\b", text)]
    assert not missing


def test_the_walk_names_functions_that_exist() -> None:
    page = (ROOT / "docs/design.md").read_text()
    walk = page[page.index("### One walk") : page.index("### Where a new thing goes")]
    named = re.findall(r"`([\w/]+\.py)`\s+`(\w+)(?:\.(\w+))?`", walk)
    assert len(named) > 15
    for file, function, method in named:
        source = (ROOT / "camfn" / file).read_text()
        assert re.search(rf"^(def|class) {function}\b", source, re.MULTILINE), f"{file}: {function}"
        assert not method or f"    def {method}(" in source, f"{file}: {function}.{method}"

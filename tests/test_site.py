"""What the site is made of: a page for each method, and examples that answer a question each. `make docs` builds it."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from docutils.utils.math import latex2mathml

from camfn import catalogue, metrics

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("plot_*.py"))
NAMES = [info.name for info in catalogue.METHODS]


def part(name: str) -> ModuleType:
    """Load one of the files behind the site."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "_ext" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_every_method_has_its_words_in_the_order_of_the_catalogue() -> None:
    words = part("method_pages").table()
    assert list(words) == NAMES
    for name, told in words.items():
        assert {"title", "sentence", "formula", "helps", "fails"} <= set(told) <= {
            "title", "sentence", "formula", "helps", "fails", "equal", "picture"
        }, name  # fmt: skip
        latex2mathml.tex2mathml(told["formula"], as_block=True)  # or it raises a MathError
        named = re.findall(r"`(\w+)`", " ".join([*told["helps"], *told["fails"], told.get("equal", "")]))
        assert not [other for other in named if other not in {*NAMES, "completeness_gap", "roi_align"}], name


@pytest.mark.parametrize("name", NAMES)
def test_the_page_of_a_method_has_all_of_its_parts(name: str) -> None:
    page = part("method_pages").page(catalogue.find(name))
    assert "| Cost | " in page
    assert "| Source | " in page
    assert ("never asks for the class" in page) is not catalogue.find(name).explains_class
    assert (ROOT / "docs/_static/methods" / f"{name}.webp").stat().st_size > 5000


def test_a_costly_method_says_with_how_many_samples_its_picture_is_drawn() -> None:
    pages = part("method_pages")
    drawn = [name for name in NAMES if pages.picture(name)]
    assert {"rise", "d_rise", "score_cam", "ss_cam", "opti_cam"} <= set(drawn)
    for name in drawn:
        assert "To save time" in pages.page(catalogue.find(name))
    assert "`samples=150` (as it comes: 4000)" in pages.page(catalogue.find("rise"))


def test_a_method_has_its_row_of_the_leaderboard() -> None:
    page = part("method_pages").page(catalogue.find("grad_cam"))
    assert "| insertion ↑ |" in page
    assert "`auto grad_cam`" in page


def metric_pages() -> ModuleType:
    part("method_pages")  # which it imports
    return part("metric_pages")


def test_every_metric_has_its_words() -> None:
    pages = metric_pages()
    words, measures = pages.table(), pages.measures()
    assert set(words) == set(measures)
    assert set(pages.HELPERS) <= set(metrics.__all__)
    for name, told in words.items():
        assert set(told) - {"note"} == {"title", "sentence", "lies", "says", "formula", "call"}, name
        assert told["lies"], name
        assert re.search(rf"metrics\.{name}\(", told["call"]), name
        latex2mathml.tex2mathml(told["formula"], as_block=True)


@pytest.mark.parametrize("name", metrics.__all__)
def test_the_page_of_a_metric_says_first_what_lies(name: str) -> None:
    pages = metric_pages()
    if name in pages.HELPERS:
        return
    page = pages.page(name)
    assert "| Source | " in page or not pages.rows()[name].source
    assert f"camfn.metrics.{name}" in page
    assert page.index("What lies") < page.index("What it says")
    assert page.count("<figure>") == 7
    assert set(pages.values()[name]) == {*pages.values()["iou"]}


def test_a_metric_page_leads_to_the_leaders_and_to_maps_that_explain_nothing() -> None:
    pages = metric_pages()
    page = pages.page("insertion")
    board = {row["case"].split()[-1]: float(row["insertion"]) for row in pages.method_pages.leaderboard().values()}
    best = max(board, key=lambda case: board[case])
    assert re.search(rf"\| `{re.escape(best)}` \| {board[best]}", page)
    assert "| `center` |" in page
    assert "In the leaderboard" not in pages.page("spearman")  # which compares two maps


def test_the_values_of_six_maps_are_those_that_the_calls_give() -> None:
    pytest.importorskip("skimage")
    pages = metric_pages()
    part("strips")
    names = ["complexity", "energy_in_box", "iou", "pxap", "average_drop", "spearman", "single_deletion", "roc_auc"]
    for name, row in part("metric_values").measured(names).items():
        kept = {key: float(value) for key, value in pages.values()[name].items()}
        assert row == pytest.approx(kept, rel=0.02, abs=2e-3), name


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_asks_answers_and_leads_on(path: Path) -> None:
    text = path.read_text()
    title, rule, _, question = text.removeprefix('"""\n').split("\n", 3)
    assert len(rule) == len(title)
    assert len(question.partition('"""')[0]) > 80
    assert "**If it looks wrong:**" in text
    assert "**Next:**" in text
    assert part("camfn_site").CELL.search(text), "which cell of its picture is its thumbnail?"
    assert "sphinx_gallery_" not in text.partition("\n# %%\n")[2], "a setting in a block of text shows on the page"
    for ref in re.findall(r"sphx_glr_howto_(\w+)\.py", text):
        assert (ROOT / "examples" / f"{ref}.py").exists(), ref


def test_the_link_checker_finds_what_is_broken(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(
        '<a href="b.html#here">x</a><a href="b.html#gone">x</a><a href="c.html">x</a><img src="d.png">'
        '<a href="https://example.org">x</a><a href="ftp://x">x</a>'
    )
    (tmp_path / "b.html").write_text('<p id="here">x</p>')
    found = part("links").broken(tmp_path)
    assert [line.split(": ")[1] for line in found] == ["b.html#gone", "c.html", "d.png", "ftp://x"]


def test_the_link_checker_finds_an_example_that_warns(tmp_path: Path) -> None:
    (tmp_path / "howto").mkdir()
    page = tmp_path / "howto" / "plot_01.html"
    page.write_text("<pre>/home/me/torch/jit.py:14: FutureWarning: old\n  warnings.warn(\n</pre>")
    assert part("links").warned(tmp_path) == ["howto/plot_01.html: /home/me/torch/jit.py:14: FutureWarning: old"]
    page.write_text("<pre>a warning: look at x.py</pre>")
    assert not part("links").warned(tmp_path)


def test_a_docstring_of_markdown_becomes_restructured_text() -> None:
    lines = ["all `Record`s of (B, *S)", ">>> f(`x`, *y)", "`a` has `b`, where `c_`", "* one, *two"]
    part("camfn_site").markdown(None, "function", "f", None, None, lines)
    assert lines == [
        "all ``Record``\\ s of (B, \\*S)",
        ">>> f(`x`, *y)",
        "``a`` has ``b``, where ``c_``",
        "* one, \\*two",
    ]


def test_a_page_defines_the_names_that_its_call_takes() -> None:
    pages = metric_pages()
    lines = pages.definitions("metrics.trace(score, images, heatmap, cells, ceiling)")
    assert [line.split(" = ")[0] for line in lines] == ["cells", "ceiling"]
    assert not pages.definitions("image.superpixels(photo)")  # a function, not the name
    assert f"```py\n{lines[0]}\n{lines[1]}\n" in pages.page("trace")


def test_the_menu_of_versions_lists_the_sites_that_lie_side_by_side(tmp_path: Path) -> None:
    for name in ("0.1.0", "0.10.0", "0.9.0", "1.0.0rc1", "0.11.0", "pictures"):
        (tmp_path / name).mkdir()
        if name != "0.11.0":  # which has no site
            (tmp_path / name / "index.html").write_text("")
    subprocess.run([sys.executable, ROOT / "docs/_ext/versions.py", tmp_path], check=True, capture_output=True)
    listed = json.loads((tmp_path / "switcher.json").read_text())
    assert [each["version"] for each in listed] == ["1.0.0rc1", "0.10.0", "0.9.0", "0.1.0"]
    assert [each["name"] for each in listed if each["name"] != each["version"]] == ["0.10.0 (stable)"]
    assert all((tmp_path / each["url"] / "index.html").exists() for each in listed)


def usage() -> ModuleType:
    part("camfn_site")  # which it imports
    return part("usage")


def test_a_public_name_has_the_pages_that_use_it() -> None:
    uses = usage().uses()
    assert "concepts" in uses["camfn.capture"].pages
    assert "metrics" in uses["camfn.metrics.deletion"].pages  # by an attribute of a module
    assert "metrics/deletion" in uses["camfn.metrics.deletion"].pages  # its own
    assert "plot_31_black_box" in uses["camfn.methods.sobol"].examples
    assert "camfn.metrics.deletion" in uses["camfn.metrics.Curve"].given_by
    assert "camfn.layers.head" not in uses["camfn.targets.Head"].given_by  # another class of that name
    assert "camfn.targets.detections" in uses["camfn.targets.Head"].taken_by
    assert "camfn.targets.overlap_score" in uses["camfn.targets.Box"].taken_by  # by a field that it inherits
    assert "camfn.factorize.craft" in uses["camfn.factorize.Negative"].taken_by  # a type that is no class
    assert not uses["camfn.capture"].taken_by  # which an explainer holds, and nobody hands over


def test_code_names_what_it_uses_by_its_whole_name() -> None:
    code = (
        "import camfn\nfrom camfn import image as i\nfrom camfn.zoo import load\ni.overlay\ncamfn.tiny.load\nload(x).y"
    )
    assert usage().names_in(code) == {
        "camfn", "camfn.image", "camfn.image.overlay", "camfn.tiny", "camfn.tiny.load", "camfn.zoo.load"
    }  # fmt: skip


def test_a_public_name_is_in_an_example_or_on_a_page() -> None:
    usage_of = usage()
    uses = usage_of.uses()
    assert not usage_of.bare(), "new names: use them in an example, or in the code of a page"
    assert set(usage_of.SHELL) <= set(uses)
    assert not [name for name in usage_of.SHELL if uses[name].examples], "these have one now: take them off the table"


def test_a_public_value_has_its_source() -> None:
    part("camfn_site")
    sources = part("sources")
    assert sources.source_of("camfn.tiny", "SIZE") == "camfn.tiny._scenes"
    assert sources.source_of("camfn.attention", "METHODS") == "camfn.attention._explainer"  # not the catalogue's
    assert sources.source_of("camfn", "Target") == "camfn._shared.vocabulary"
    assert sources.source_of("camfn", "no_such_name") is None


def test_no_line_of_a_page_begins_with_a_sign_that_makes_it_a_list() -> None:
    pages = {
        page.name: re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S) for page in ROOT.glob("docs/*.md")
    }
    assert not [(name, line) for name, text in pages.items() for line in re.findall(r"^ *[+] .*", text, re.MULTILINE)]


def test_every_public_module_has_its_page_in_the_reference() -> None:
    text = (ROOT / "docs/reference.md").read_text()
    tree = re.search(r"autosummary::\n   :toctree: reference\n\n(.*?)```", text, re.DOTALL)
    assert tree is not None
    assert tree[1].split() == list(part("camfn_site").public_names())


def test_the_readme_counts_what_is_there() -> None:
    text = (ROOT / "README.md").read_text()
    assert f"**{len(NAMES)} methods**" in text
    assert f"**{len(metric_pages().measures())} metrics**" in text


def test_the_text_for_language_models_names_what_is_there() -> None:
    metric_pages()
    llms = part("llms")
    short, full = llms.short(), llms.full()
    pages = re.findall(r"\]\(([\w/]+)\.html\)", short)
    assert len(pages) == len(EXAMPLES) + len(llms.PAGES) + 1
    for page in pages:
        source = ROOT / "examples" / f"{page.removeprefix('howto/')}.py"
        assert (ROOT / "docs" / f"{page}.md").exists() or source.exists(), page
    assert all(f"`{name}`" in full or f"attention.{name}" in full for name in NAMES)
    assert "[Grad-CAM](methods/grad_cam.md) | Channels weighted" in full
    assert "[SaCo](metrics/saco.md) | Whether" in full
    assert not re.findall(r"^(?:`{3,}\{.*|:::.*|\{\..*|<!-- .*)$", full, re.MULTILINE)


def test_the_skill_has_its_name_and_five_steps() -> None:
    text = (ROOT / "docs/skill/SKILL.md").read_text()
    assert re.match(r"---\nname: [a-z-]+\ndescription: .{40,1000}\n---\n", text)
    assert re.findall(r"^## (\d)\. ", text, re.MULTILINE) == list("12345")


@pytest.mark.sweep
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path: Path) -> None:
    assert subprocess.run([sys.executable, "-W", "ignore", str(path)], cwd=ROOT, check=False).returncode == 0

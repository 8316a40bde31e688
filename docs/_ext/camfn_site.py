"""What camfn's site needs beside Sphinx: Markdown docstrings, pictures of examples, formulas, lists of public names."""

from __future__ import annotations

import importlib
import inspect
import re
from importlib import metadata
from pathlib import Path
from textwrap import indent
from typing import Any

MODULES = (
    "methods", "targets", "image", "layers", "layout", "transforms", "attention", "network", "factorize", "metrics",
    "evaluate", "export", "explore", "training", "words", "catalogue", "tiny", "zoo", "adapters",
)  # fmt: skip
"""The public modules, in the order of the reference. `camfn` itself comes first."""


def version() -> str:
    """The version of the package that is documented."""
    return metadata.version("camfn")


def names_of(module: str) -> list[str]:
    """List the public names of a module: its `__all__`, or what it defines or says that it hands on."""
    found = importlib.import_module(module)
    if listed := getattr(found, "__all__", None):
        return list(listed)
    text = Path(str(found.__file__)).read_text()
    handed_on = re.findall(r"import (\w+) as \1\b", text)
    if module == "camfn":
        return handed_on
    own = [
        name
        for name, value in vars(found).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", "") == module
    ]
    constants = re.findall(r"^([A-Z][A-Z_]+)\b[^=\n]*=", text, re.MULTILINE)
    return list(dict.fromkeys([*handed_on, *own, *constants]))


def public_names() -> dict[str, list[str]]:
    """The public names of each module, as the template of the reference takes them."""
    return {name: names_of(name) for name in ("camfn", *(f"camfn.{module}" for module in MODULES))}


def sweep(app: Any, config: Any) -> None:
    """Remove the pages of names that are public no more."""
    names = public_names()
    wanted = {*names, *(f"{module}.{name}" for module, listed in names.items() for name in listed)}
    for page in Path(app.srcdir, "reference").glob("*.rst"):
        if page.stem not in wanted:
            page.unlink()


def markdown(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Turn a docstring, which is Markdown, into reStructuredText: `x` is code, and a star is a star."""
    if what in ("data", "attribute") and lines and lines[0] == (inspect.getdoc(type(obj)) or " ").splitlines()[0]:
        lines[:] = []  # the words of dict or tuple, not of this value
    literal = False
    for i, line in enumerate(lines):
        literal = literal and (not line.strip() or line.startswith("    "))
        if literal or line.lstrip().startswith((">>>", "...")):
            continue
        lines[i] = _line(line)
        if line.endswith(":") and [*lines, "", ""][i + 1] == "" and [*lines, "", ""][i + 2].startswith("    "):
            lines[i], literal = f"{lines[i]}:", not line.startswith(" ")


def _line(line: str) -> str:
    line = re.sub(r"(?<![`:])`([^`]+)`(?!`)", r"``\1``", line)
    bullet = re.match(r"\s*\* (?=\S)|", line)
    assert bullet is not None
    parts = re.split(r"(``[^`]*``)", line[bullet.end() :])
    for i, part in enumerate(parts):
        if not part.startswith("``"):
            escaped = re.sub(r"([*|]|_(?=\W|$))", r"\\\1", part)
            parts[i] = rf"\ {escaped}" if i and part[:1].isalnum() else escaped  # a plural right behind code
    return bullet[0] + "".join(parts)


def skip(app: Any, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """Leave out the fields of named tuples, which their class's docstring describes."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def loose() -> list[str]:
    """List the pages that no toctree names: "More" lists a new page until it has a better place."""
    docs = Path(__file__).parents[1]
    texts = [page.read_text(encoding="utf-8") for page in docs.glob("*.md")]
    texts.append((docs.parent / "examples" / "GALLERY_HEADER.rst").read_text(encoding="utf-8"))
    trees = re.findall(r"(?:^```\{toctree\}$(.*?)^```|^\.\. toctree::(.*))", "\n".join(texts), re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"^\s*/?([\w/]+)$", "\n".join("\n".join(tree) for tree in trees), re.MULTILINE))
    return sorted(page.stem for page in docs.glob("*.md") if page.stem not in {*named, "index"})


def outside(app: Any, docname: str, source: list[str]) -> None:
    """Lead links to the pages at the root of the repository to the pages that include them."""
    if docname == "more":
        pages = loose()
        source[0] += "\n```{toctree}\n:maxdepth: 1\n\n" + "\n".join(pages) + "\n```\n" if pages else ""
    if docname == "howto/index":  # the questions come first beside a page, then the longer pages
        tree = re.search(r"^\.\. toctree::\n(?: +.*\n|\n(?= ))+", source[0], re.MULTILINE)
        assert tree is not None
        source[0] = source[0].replace(tree[0], "", 1) + f"\n{tree[0]}"
    for file, page in (("CONTRIBUTING", "contributing"), ("CHANGELOG", "changelog"), ("README", "index")):
        source[0] = source[0].replace(f"](../{file}.md", f"]({page}.md")


WIDE = 720
"""From so many pixels on, a picture slides on a phone, where its captions would else be too small to read."""


def pictures(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any], **kwargs: Any) -> str:
    """Save the value of a block's last expression where it is a picture: a PIL image, or whatever shows as a PNG."""
    from PIL import Image
    from sphinx_gallery.scrapers import figure_rst

    from camfn.explore import Explored

    shown = block_vars["example_globals"].get("___")
    if shown is None or not hasattr(shown, "_repr_png_") or isinstance(shown, Explored):  # a page, which shows itself
        return ""
    path = next(block_vars["image_path_iterator"])
    data = shown._repr_png_()
    Path(path).write_bytes(data[0] if isinstance(data, tuple) else data)
    block_vars["example_globals"]["___"] = None
    made = str(figure_rst([path], gallery_conf["src_dir"]))
    with Image.open(path) as picture:
        wide = picture.width >= WIDE
    return f".. container:: wide-picture\n{indent(made, '    ')}" if wide else made


CELL = re.compile(r"^# sphinx_gallery_thumbnail_cell = (\d+), (\d+)$", re.MULTILINE)
"""An example's line that names the cell of its picture, and of how many in a row, which is its thumbnail."""


def thumbnails(app: Any) -> None:
    """Cut each example's thumbnail out of its picture: a whole row of maps is too small to see."""
    from PIL import Image

    images, gap = Path(app.srcdir, "howto", "images"), 8
    for path in Path(app.srcdir).parent.glob("examples/plot_*.py"):
        found = CELL.search(path.read_text(encoding="utf-8"))
        assert found is not None, f"{path.name} names no cell"
        at, count = int(found[1]), int(found[2])
        with Image.open(images / f"sphx_glr_{path.stem}_001.png") as picture:
            margin = gap if count > 1 else 0
            side = (picture.width - margin * (count + 1)) // count
            left = margin + at * (side + margin)
            cut = picture.convert("RGB").crop((left, margin, left + side, min(margin + side, picture.height)))
            cut.resize((320, 320), Image.Resampling.LANCZOS).save(images / "thumb" / f"sphx_glr_{path.stem}_thumb.png")


def back(app: Any, error: Exception | None) -> None:
    """Lead the pages of source code back to the right name: viewcode knows one public module for each private file."""
    if error or app.builder.name != "html":
        return
    link = re.compile(r"(reference/(camfn[\w.]*)\.html#)([\w.]+)")

    def mended(match: re.Match[str]) -> str:
        page, anchor = match[2], match[3].split(".")
        own = page.rpartition(".")[2]
        rest = anchor[anchor.index(own) + 1 :] if own in anchor else []
        return match[1] + ".".join([page, *rest])

    for path in Path(app.outdir, "_modules").rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        if (right := link.sub(mended, text)) != text:
            path.write_text(right, encoding="utf-8")


def wide(app: Any, doctree: Any, docname: str) -> None:
    """Mark the columns of prose in tables, which a phone would else squeeze to a word a line."""
    from docutils import nodes

    for table in doctree.findall(nodes.table):
        rows = [list(row.findall(nodes.entry)) for row in table.findall(nodes.row)]
        for column in zip(*rows):  # rows of one length: Markdown has no others
            if max(len(entry.astext()) for entry in column) > 60:
                for entry in column:
                    entry["classes"].append("prose")


def _inline(translator: Any, node: Any) -> None:
    _write(translator, node, block=False)


def _block(translator: Any, node: Any) -> None:
    _write(translator, node, block=True)


def _write(translator: Any, node: Any, *, block: bool) -> None:
    """Write a formula as MathML, which browsers draw without a script."""
    from docutils import nodes
    from docutils.utils.math import latex2mathml

    translator.body.append(latex2mathml.tex2mathml(node.astext(), as_block=block).replace("\n", " "))
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, Any]:
    """Register all of it."""
    import llms
    import method_pages
    import metric_pages
    import sources
    import versions

    app.connect("build-finished", back)
    app.connect("config-inited", sweep)
    app.connect("autodoc-process-docstring", markdown, priority=900)
    app.connect("autodoc-skip-member", skip)
    app.connect("source-read", outside)
    app.connect("doctree-resolved", wide)
    app.connect("builder-inited", thumbnails, priority=900)  # behind the gallery's own
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    method_pages.setup(app)
    metric_pages.setup(app)
    llms.setup(app)
    sources.setup(app)
    versions.setup(app)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "version": version()}

"""A page for each method, and the table of all, from one source each: the words and formulas of `methods.toml`, the
rows of `methods.md`, the catalogue, and the leaderboard.
"""

from __future__ import annotations

import ast
import csv
import inspect
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from camfn import catalogue

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DOCS = Path(__file__).parents[1]
SHOWN = {"insertion": "insertion ↑", "deletion": "deletion ↓", "energy_in_box": "energy in box ↑", "pxap": "PxAP ↑"}
"""The metrics of the leaderboard that a page shows."""
CODE = {
    "layer": "from camfn import explainer\nfrom camfn.methods import {name}\n\n"
    "cam = explainer({name}, model, layer)(images, target)  # (B, H, W), raw and signed",
    "attention": "from camfn.attention import attention_explainer, {name}\n\n"
    "cam = attention_explainer({name}, vit)(images, target)  # (B, H, W)",
    "network": "from camfn.network import {name}\n\nmaps = {name}(model)(images, target)",
}
ASKED = "The same photos for every method, asked for *space shuttle*, *tripod*, *wooden spoon* and *Egyptian cat*."
STRIP = {
    "layer": f"{ASKED} Above: the last layer, 14 × 14 places; below: a layer in the middle, 28 × 28.",
    "attention": "Scenes of digits, each asked for its first digit, and a small vision transformer of the package.",
    "network": ASKED,
}
NO_CLASS = "\n:::{note}\nThis method never asks for the class: every class has the same map.\n:::\n"
ALL_ASKED = """::::{div} scroll
```{image} _static/methods-asked.webp
:alt: One photo asked for an espresso, where seven methods agree, and for a wooden spoon, which not all of them find.
:class: wide
```
::::

*Asked for what is largest in the photo, all agree. Asked for the spoon, Grad-CAM, XGrad-CAM and HiResCAM go to it;
LayerCAM and Grad-CAM++ find it and keep the cup, which is active; Eigen-CAM and FEM never ask for the
class and show one map twice.*

Costs are in forwards of the network (F), backwards of the part after the layer (b) or of all of it (B), and runs of the
part after the layer (t), with C channels and N positions.
"""


class Row(NamedTuple):
    """What `methods.md` says of a method."""

    map: str
    cost: str
    source: str
    differs: str


@cache
def table() -> dict[str, dict[str, Any]]:
    """The words and formulas of all methods, by name."""
    return tomllib.loads((DOCS / "methods.toml").read_text(encoding="utf-8"))


def picture(name: str) -> dict[str, Any]:
    """The options with which a method's picture is drawn, where they are not its own."""
    words = [word.split("=") for word in table()[name].get("picture", "").split(",") if word]
    return {key.strip(): ast.literal_eval(value) for key, value in words}


def two_layers(info: catalogue.MethodInfo) -> bool:
    """Whether a method's picture has a row for a layer in the middle, too."""
    return info.kind == "layer" and not info.perturbs and "head" not in info.needs


def _drawn(info: catalogue.MethodInfo) -> str:
    """Say in how many samples the picture is, and how many the method takes as it comes."""
    own = inspect.signature(info.function).parameters
    told = [
        f"`{key}={value}` (as it comes: {'all' if own[key].default is None else own[key].default})"
        for key, value in picture(info.name).items()
    ]
    return f" To save time the pictures are drawn with {' and '.join(told)}." if told else ""


@cache
def rows() -> dict[str, Row]:
    """The rows of the tables of `methods.md`, by method."""
    found = {}
    for line in (DOCS / "methods.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("| \n"))]
        if match := re.fullmatch(r"`(?:attention\.)?(\w+)`", cells[0]):
            found[match[1]] = Row(*[*cells[1:5], "", "", ""][:4])
    return found


@cache
def leaderboard() -> dict[str, dict[str, str]]:
    """The rows of the built-in evaluation of lite0, by method."""
    with (DOCS / "evaluation-lite0.csv").open(encoding="utf-8") as file:
        listed = list(csv.DictReader(file))
    return {row["case"].split()[-1].split(":")[0]: row for row in listed if len(row.get("case", "").split()) == 3}


def overview() -> str:
    """The table of all methods, and the list of their pages."""
    words, facts = table(), rows()
    kinds = {"layer": "At a layer", "attention": "On attention", "network": "Of a whole network"}
    lines = [ALL_ASKED]
    for kind, heading in kinds.items():
        lines += [
            f"## {heading}\n",
            "{.cards .method-cards}",
            "| method | what it is | cost | asks for the class |",
            "|---|---|---|---|",
        ]
        for info in catalogue.METHODS:
            if info.kind == kind:
                asks = "yes" if info.explains_class else "no"
                told = words[info.name]
                cost = facts[info.name].cost
                lines.append(f"| [{told['title']}](methods/{info.name}.md) | {told['sentence']} | {cost} | {asks} |")
        lines.append("")
    pages = "\n".join(f"methods/{info.name}" for info in catalogue.METHODS)
    return "\n".join([*lines, "```{toctree}", ":hidden:", "", pages, "```", ""])


def page(info: catalogue.MethodInfo) -> str:
    """The page of one method."""
    told, row, board = table()[info.name], rows()[info.name], leaderboard().get(info.name)
    module = {"layer": "camfn.methods", "attention": "camfn.attention", "network": "camfn.network"}[info.kind]
    strip = STRIP["attention"].replace("transformer", "detector") if info.name == "d_rise" else STRIP[info.kind]
    asks = "" if info.explains_class else NO_CLASS
    if info.gives == "picture":
        strip += " Gray is zero; the result has the channels of the image."
    if info.kind == "layer" and not two_layers(info):
        strip = ASKED if info.name != "d_rise" else strip
    strip += _drawn(info)
    facts = [("Cost", row.cost), ("Equal to", told.get("equal", "")), ("Source", linked(row.source))]
    facts += [("Where others differ", row.differs)]
    cards = "\n".join(
        f":::{{grid-item-card}} {title}\n" + "\n".join(f"- {line}" for line in told[key]) + "\n:::"
        for title, key in (("It helps", "helps"), ("It fails", "fails"))
    )
    code = (
        CODE[info.kind]
        .format(name=info.name)
        .replace("(model)(", "(model, layer)(" if info.needs & {"layer"} else "(model)(")
    )
    return f"""# {told["title"]}

**{told["sentence"]}**
{asks}
```{{image}} /_static/methods/{info.name}.webp
:alt: Maps of {told["title"]} over four photos.
:class: wide
```

*{strip}*

$$
{told["formula"]}
$$

`{row.map.replace("`", "")}`, with the letters of [the overview](../methods.md#formulas).

```py
{code}
```

::::{{grid}} 1 1 2 2
:gutter: 3

{cards}
::::

| | |
|---|---|
{chr(10).join(f"| {name} | {value} |" for name, value in facts if value)}
| Options, shapes, errors | {{py:func}}`{module}.{info.name}` |
{_standing(board)}"""


def linked(text: str) -> str:
    """Link the numbers of arXiv."""
    return re.sub(r"\b(\d{4}\.\d{5})\b", r"[arXiv \1](https://arxiv.org/abs/\1)", text)


def _standing(board: dict[str, str] | None) -> str:
    """The method's row of the leaderboard, with its intervals."""
    if board is None:
        return ""
    known = {key: name for key, name in SHOWN.items() if board.get(key)}
    cells = [f"{board[key]} ({board.get(f'{key}_low', '')} to {board.get(f'{key}_high', '')})" for key in known]
    names = " | ".join(["case", *known.values()])
    row = " | ".join([f"`{' '.join(board['case'].split()[1:])}`", *cells])
    return f"""
## In the leaderboard

| {names} |
|{"---|" * (len(cells) + 1)}
| {row} |

EfficientNet-Lite0 on 20 photos, with 95 % intervals, which overlap for most methods. All rows:
[Evaluation](../evaluation.md).
"""


def write(app: Any) -> None:
    """Write the page of each method."""
    write_pages(DOCS / "methods", {info.name: page(info) for info in catalogue.METHODS})


def write_pages(folder: Path, texts: dict[str, str]) -> None:
    """Write the pages that changed, and remove those of names that are no more."""
    folder.mkdir(exist_ok=True)
    pages = {folder / f"{name}.md": text for name, text in texts.items()}
    for stale in set(folder.glob("*.md")) - set(pages):
        stale.unlink()
    for path, text in pages.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def insert(app: Any, docname: str, source: list[str]) -> None:
    """Put the overview where `methods.md` has its comment."""
    if docname == "methods":
        source[0] = re.sub(r"<!-- overview: .*? -->", lambda _: overview(), source[0])


def setup(app: Any) -> None:
    """Register."""
    app.connect("builder-inited", write)
    app.connect("source-read", insert)

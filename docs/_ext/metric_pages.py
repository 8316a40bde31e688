"""A page for each metric: words of `metrics.toml`, rows of `metrics.md`, measured values, and the leaderboard."""

from __future__ import annotations

import csv
import inspect
import re
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import method_pages

from camfn import metrics

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DOCS = Path(__file__).parents[1]
VALUES = DOCS / "metric-values.csv"
TOP = ("classifier", "conv_head", "bn2", "blocks.6.0")
"""The modules that a page's call of `randomization` draws anew, from the head down."""
HELPERS = {
    "scores_of", "shared", "masked", "most_relevant", "removal_curve", "blur", "Curve", "impute", "box_ious",
    "box_masks", "boxes_in_pixels", "randomized", "resampled", "Cascade", "random_cells", "random_pixels",
    "label_masks", "region_sums", "region_curve", "mean_color", "drops", "noise_drops", "grid_cells",
    "trace_ceiling", "Ceiling",
}  # fmt: skip
"""Names of `camfn.metrics` that measure no map; the reference has their pages."""
TILE = """<figure><img src="../_static/metric-maps/{place}.webp" alt="{name}" width="220" height="220">\
<figcaption>{name}{value}</figcaption></figure>
"""
DEFINED = {
    "cells": "metrics.grid_cells((224, 224), 4)",
    "sets": "metrics.random_cells(metrics.grid_cells((224, 224), 8), 16, 100, generator=generator())",
    "superpixels": "metrics.label_masks(image.superpixels(photo)[0])",
    "ceiling": "metrics.trace_ceiling(score, images, cells, generator=generator())",
    "represent": 'lambda x: observe(model, "blocks.6.0")(x)[0]',
    "peak": "lambda maps: torch.nn.functional.adaptive_max_pool2d(maps, 4).flatten(1).argmax(1)",
}
"""Names that calls take, and that a page defines above its call."""
NAMES = {
    "many": "maps of several photos, (B, H, W)",
    "predicted": "the class that the network gives each, (B,)",
    "first": "another map of the photo, here Grad-CAM's",
    "box": "the object's box, `[torch.tensor([(x0, y0, x1, y1)])]`",
    "generator": "a function, `lambda: torch.Generator().manual_seed(0)`",
    "of_model": "a function of a network, its map of these images",
    "of_both": "a function of a network and images, its map",
    "of_class": "a function of classes (B,), the maps of these images",
    "explain": "a function of images, their maps, always of the same classes",
    "top": "names of modules, from the head down",
}
"""Names that calls take, and that a page explains below its call."""
BASELINES = ("center", "random")
"""Rows of the leaderboard that explain nothing."""
ASKED = "What it says of six maps of one photo, asked for the *tripod*"
SEVERAL = "What it says of six kinds of maps"
SIX = """
The six maps, on each metric's page: Grad-CAM, the same inverted, a blob in the middle, the edges of the photo, noise,
and a map that shows everything. A metric whose best is one of the last four is by itself no reason to prefer a method.
"""
MORE = "See [Evaluation](../evaluation.md) for all rows, and for what differences mean."


class Row(NamedTuple):
    """What `metrics.md` says of a metric."""

    call: str
    formula: str
    better: str
    cost: str
    source: str


@cache
def table() -> dict[str, dict[str, Any]]:
    """The words and formulas of the metrics, by name."""
    return tomllib.loads((DOCS / "metrics.toml").read_text(encoding="utf-8"))


@cache
def rows() -> dict[str, Row]:
    """The rows of the table of `metrics.md`, by metric."""
    found = {}
    for line in (DOCS / "metrics.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("| \n"))]
        if match := re.match(r"`(\w+)[(`]", cells[0]):
            found[match[1]] = Row(*[*cells, "", "", "", "", ""][:5])
    return found


@cache
def values() -> dict[str, dict[str, str]]:
    """The measured values of six maps, by metric and map."""
    with VALUES.open(encoding="utf-8") as file:
        return {row.pop("metric"): row for row in csv.DictReader(file)}


def measures() -> list[str]:
    """The metrics that have a page, in the order of the table."""
    return [name for name in metrics.__all__ if name not in HELPERS]


def words_of(name: str) -> dict[str, Any]:
    """A metric's words; of one without words, what its docstring says."""
    said = (inspect.getdoc(getattr(metrics, name)) or "").partition("\n")[0]
    plain = {"title": name, "sentence": said, "lies": [], "says": [], "formula": "", "call": "", "note": ""}
    return {**plain, **table().get(name, {})}


def _leaders(name: str, better: str) -> str:
    """The first methods of the leaderboard by this metric, and those that explain nothing."""
    board = method_pages.leaderboard()
    scored = [(float(row[name]), row) for row in board.values() if row.get(name)]
    if not scored or better[:1] not in "↑↓":
        return ""
    scored.sort(key=lambda each: each[0], reverse="↑" in better)
    is_baseline = [row["case"].split()[-1] in BASELINES for _, row in scored]
    shown = [pair for pair, hidden in zip(scored, is_baseline) if not hidden][:5]
    shown += [pair for pair, hidden in zip(scored, is_baseline) if hidden]
    lines = [
        f"| `{row['case'].split()[-1]}` | {row[name]} | {row[f'{name}_low']} to {row[f'{name}_high']} |"
        for _, row in shown
    ]
    return (
        "\n## In the leaderboard\n\n| | value | 95 % interval |\n|---|---|---|\n"
        + "\n".join(lines)
        + f"\n\nThe first five methods, and the maps that explain nothing: EfficientNet-Lite0 on 20 photos. {MORE}\n"
    )


def _best(name: str) -> list[str]:
    """The maps with the best value, none where all are alike or neither end is the better one."""
    row = {key: float(value) for key, value in values().get(name, {}).items()}
    ends = {"↑": max, "↓": min, "0": partial(min, key=abs)}
    best = ends.get(rows()[name].better[:1])
    if best is None or len(set(row.values())) < 2:
        return []
    return [key for key, value in row.items() if value == best(row.values())]


def _measured(name: str) -> str:
    """The photo and the six maps, each with its value, the best in bold."""
    row = values().get(name)
    if row is None:
        return ""
    shown = {
        key: f"<strong>{value}</strong>" if key in _best(name) else f"<span>{value}</span>"
        for key, value in row.items()
    }
    said = [text for text in ("The best value is bold." if _best(name) else "", words_of(name)["note"]) if text]
    tiles = [TILE.format(place=place, name=key, value=value) for place, (key, value) in enumerate(shown.items(), 1)]
    return (
        f'\n## {SEVERAL if words_of(name)["note"] else ASKED}\n\n```{{raw}} html\n<div class="metric-maps">\n'
        + TILE.format(place=0, name="the photo, with its box", value="")
        + f"{''.join(tiles)}</div>\n```\n\n*The last four read no network. {' '.join(said)}*\n"
    )


def definitions(call: str) -> list[str]:
    """The lines that define the names of a call."""
    listed = [name for name in DEFINED if re.search(rf"(?<![\w.]){name}\b", call)]
    lines = [line for name in listed for line in (*definitions(DEFINED[name]), f"{name} = {DEFINED[name]}")]
    return list(dict.fromkeys(lines))


def page(name: str) -> str:
    """The page of one metric: first what lies."""
    told, row = words_of(name), rows()[name]
    cards = "\n".join(
        f":::{{grid-item-card}} {title}\n" + "\n".join(f"- {line}" for line in told[key]) + "\n:::"
        for title, key in (("What lies", "lies"), ("What it says", "says"))
        if told[key]
    )
    formula = f"\n$$\n{told['formula']}\n$$\n" if told["formula"] else ""
    code = "\n".join([*definitions(told["call"]), told["call"]])
    names = [f"`{each}`: {what}." for each, what in NAMES.items() if re.search(rf"(?<![\w.]){each}\b(?!=)", code)]
    last = "The other names are" if names else "The names are"
    said = " ".join([*names, f"{last} those of [the overview](../metrics.md#how-to-call-them)."])
    call = f"\n```py\n{code}\n```\n\n{said}\n"
    facts = {"Better": row.better, "Cost": row.cost, "Source": method_pages.linked(row.source)}
    facts["Options, shapes, errors"] = f"{{py:obj}}`camfn.metrics.{name}`"
    listed = "\n".join(f"| {key} | {value} |" for key, value in facts.items() if value.strip("- "))
    grid = f"\n::::{{grid}} 1 1 2 2\n:gutter: 3\n\n{cards}\n::::\n" if cards else ""
    return (
        f"# {told['title']}\n\n**{told['sentence']}**\n{grid}{formula}{call if told['call'] else ''}"
        f"\n| | |\n|---|---|\n{listed}\n{_measured(name)}{_leaders(name, row.better)}"
    )


def overview() -> str:
    """The list of the pages, with what first misleads in each, and which of six maps wins."""
    lines = [
        "{.cards .metric-cards}",
        "| metric | what it asks | what lies first | best of six maps |",
        "|---|---|---|---|",
    ]
    for name in measures():
        told, best = words_of(name), _best(name)
        lies = told["lies"][0] if told["lies"] else ""
        wins = "all but one" if len(best) > 3 else ", ".join(best)
        lines.append(f"| [{told['title']}](metrics/{name}.md) | {told['sentence']} | {lies} | {wins} |")
    pages = "\n".join(f"metrics/{name}" for name in measures())
    return "\n".join([*lines, SIX, "```{toctree}", ":hidden:", "", pages, "```", ""])


def write(app: Any) -> None:
    """Write the pages that changed, and remove those of metrics that are no more."""
    method_pages.write_pages(DOCS / "metrics", {name: page(name) for name in measures()})


def insert(app: Any, docname: str, source: list[str]) -> None:
    """Put the overview where `metrics.md` has its comment, and lead the names in its table to their pages."""
    if docname != "metrics":
        return
    row = re.compile(r"^\| `((\w+)[^`]*)` \|", re.MULTILINE)

    def led(match: re.Match[str]) -> str:
        reference = f"{{py:obj}}`{match[1]} <camfn.metrics.{match[2]}>`"
        return f"| {reference} |" if match[2] in HELPERS else f"| [`{match[1]}`](metrics/{match[2]}.md) |"

    source[0] = row.sub(led, source[0])
    source[0] = re.sub(r"<!-- overview: .*? -->", lambda _: overview(), source[0])


def setup(app: Any) -> None:
    """Register."""
    app.connect("builder-inited", write)
    app.connect("source-read", insert)

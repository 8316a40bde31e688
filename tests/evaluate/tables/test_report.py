"""`write_report`: one HTML file; what it says, what it folds, and names that are markup."""

from __future__ import annotations

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jinja2", reason="needs jinja2: pip install 'camfn[evaluate]'")

from camfn import evaluate as ev
from camfn.evaluate import Photo, Protocol, Row, Store, rank
from camfn.evaluate._store.store import header_of
from camfn.evaluate._tables.shown import fold, group_of, model_of, sentences
from tests.evaluate.common import load_net, run_quickly
from tests.export.test_browser import MODULES, STEP, Session, needs_browser

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """The tags, attributes and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def rows_of(values: dict[str, list[float]], model: str = "net", metric: str = "iou") -> list[Row]:
    return [
        Row(f"photo {i}", f"{model} auto {name}", layer="last", forwards=cost, values={metric: value})
        for cost, (name, listed) in enumerate(values.items(), 1)
        for i, value in enumerate(listed)
    ]


def store_of(folder: Path, rows: list[Row], **header: Any) -> Store:
    store = Store(folder, header_of(Protocol(), "cpu") | header)
    with store.writing():
        for row in rows:
            store.append(row)
    return store


TELLING = {
    "a": [0.9, 0.8, 0.85, 0.9, 0.95, 0.8, 0.9, 0.85, 0.9, 0.8, 0.9, 0.95],
    "b": [0.88, 0.82, 0.85, 0.89, 0.96, 0.79, 0.9, 0.86, 0.88, 0.8, 0.91, 0.94],
    "c": [0.3, 0.2, 0.25, 0.3, 0.35, 0.2, 0.3, 0.25, 0.3, 0.2, 0.3, 0.35],
    "center": [0.4, 0.3, 0.35, 0.4, 0.45, 0.3, 0.4, 0.35, 0.4, 0.3, 0.4, 0.45],
}


def test_the_report_is_one_file_that_asks_for_nothing(photos: list[Photo], tmp_path: Path) -> None:
    store = run_quickly(photos, tmp_path / "out")
    text = ev.write_report(store, photos, loader=load_net, command="camfn evaluate x").read_text()
    page = Page(text)
    # two photos at each end, each with its boxes and with the maps of both methods and of the baseline
    pictures = page.of("img")
    assert len(pictures) == 4 * (1 + 3)
    assert all(str(each["src"]).startswith("data:image/jpeg;base64,") and each["alt"] for each in pictures)
    assert re.findall(r"https?:[^\s\"']+", text) == ["http://www.w3.org/2000/svg"]  # a name, which nothing opens
    assert not page.of("link")
    assert "camfn evaluate x" in "".join(page.texts)
    assert "last" in "".join(page.texts)  # the layer
    assert page.of("html")[0]["lang"] == "en"
    policy = page.of("meta")[2]["content"]
    assert policy is not None
    assert "default-src 'none'" in policy
    (table,) = ev.write_tables(store)
    header, *lines = table.read_text().splitlines()
    assert header.startswith("case,forwards,seconds,photos,energy_in_box,energy_in_box_low")
    assert len(lines) == 4


def test_the_same_rows_keep_their_report(tmp_path: Path) -> None:
    store = store_of(tmp_path, rows_of(TELLING))
    first = ev.write_report(store)
    data, seen = first.read_bytes(), first.stat().st_mtime_ns
    assert ev.write_report(store).stat().st_mtime_ns == seen
    first.unlink()
    assert ev.write_report(store).read_bytes() == data
    ev.write_report(store, by="iou", shown=2)
    assert first.read_bytes() != data


def test_names_are_text_whatever_is_in_them(tmp_path: Path) -> None:
    rows = rows_of({HOSTILE.replace(" ", "_"): [0.1, 0.2], "b": [0.2, 0.1]}, model="net")
    rows.append(Row(HOSTILE, "net auto b", problem=HOSTILE, kind="refusal"))
    store = store_of(tmp_path, rows)
    text = ev.write_report(store, command=f"camfn {HOSTILE}").read_text()
    page = Page(text)
    assert not page.of("img")
    assert len(page.of("script")) == 2
    assert "".join(page.texts).count("alert(2)") >= 4
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    assert HOSTILE.replace(" ", "_") in {row["n"] for row in json.loads(data[1])[0]["rows"]}


def test_nothing_is_hidden_in_a_name_or_a_command(tmp_path: Path) -> None:
    hidden = "a\u202eb\udcff\n\x00c"
    rows = [Row(f"p{i} {hidden}", f"net auto x{hidden}", values={"iou": 0.5}, problem=hidden) for i in range(2)]
    store = store_of(tmp_path, rows)
    text = ev.write_report(store, command=f"camfn {hidden}").read_text(encoding="utf-8")
    assert not set(text) & {"\u202e", "\udcff", "\x00"}
    assert text.count(r"\u202e") >= 4
    assert ev.write_tables(store)


def test_equal_rows_are_one_row_and_baselines_come_last() -> None:
    values = {"a": [0.5, 0.7], "center": [0.9, 0.9], "b": [0.5, 0.7000001], "c": [0.4, 0.7], "random": [0.9, 0.9]}
    ranking = rank(rows_of(values), "net")
    assert [[s.method for s in group] for group in fold(ranking)] == [["b", "a"], ["c"], ["center"], ["random"]]
    shown = model_of(ranking, rows_of(values), 0.1)
    assert [(row["name"], row["same"], row["base"]) for row in shown["rows"]][:2] == [
        ("b", ["a"], False),
        ("c", [], False),
    ]
    # of very different sizes: each number is held to its own
    far = {"a": [1e9, 1e9], "b": [1e-9, 2e-9], "c": [3.0, 4.0]}
    assert max(map(len, fold(rank(rows_of(far), "net")))) == 1
    # a case with another set of metrics is another row
    more = [*rows_of(values), Row("photo 0", "net auto b", values={"iou": 0.5, "deletion": 0.1})]
    assert max(map(len, fold(rank(more, "net")))) == 1


def test_the_sentences_say_what_the_rows_show() -> None:
    ranking = rank(rows_of(TELLING), "net")
    said = " ".join(sentences(ranking, fold(ranking)))
    assert said.startswith("a does best by iou: 0.875, 95 % interval 0.8")
    assert "1 of the 2 others is not told apart" in said
    assert "2 of 3 methods are better than the center" in said
    assert "cheapest" not in said  # a costs 1, b 2
    swapped = {"b": TELLING["b"], "a": TELLING["a"], "center": TELLING["center"]}
    ranking = rank(rows_of(swapped), "net")
    said = " ".join(sentences(ranking, fold(ranking)))
    assert "None of the 1 others" not in said
    assert "The other method is not told apart from it" in said
    assert "The cheapest of these, b, costs 1 forward in place of 2." in said
    alone = rank(rows_of({"a": TELLING["a"], "c": TELLING["c"]}), "net")
    assert "told apart from the other method" in " ".join(sentences(alone, fold(alone)))
    only = rank(rows_of({"center": TELLING["center"]}), "net")
    assert sentences(only, fold(only)) == ["No method has a number of iou."]
    described = rank(rows_of({"a": [1.0, 2.0], "b": [2.0, 1.0]}, metric="entropy"), "net")
    assert "told apart" not in " ".join(sentences(described, fold(described)))


def test_the_cells_mark_the_best_and_what_is_not_told_apart() -> None:
    shown = model_of(rank(rows_of(TELLING), "net"), rows_of(TELLING), 0.1)
    place = [column["key"] for column in shown["columns"]].index("iou")
    looks = {row["name"]: (row["cells"][place]["look"], row["cells"][place]["mark"]) for row in shown["rows"]}
    assert looks == {"a": ("best", "+"), "b": ("level", "=+"), "c": ("", "−"), "center": ("", "")}
    numbers = {row["n"]: row["m"]["iou"] for row in shown["data"]["rows"]}
    assert [numbers[name][3] for name in "abc"] == [2, 1, 0]
    assert numbers["a"][0] == pytest.approx(sum(TELLING["a"]) / 12, rel=1e-6)


def test_every_metric_has_a_group() -> None:
    groups = {name: group_of(name) for name in ev.METRICS}
    assert {groups[name] for name in ("iou", "pxap", "max_box_acc")} == {"localization"}
    assert groups["deletion"] == "faithfulness"
    assert groups["entropy"] == "shape"
    assert group_of("mine.py:mine:better=lower") == "your own"


def test_curves_and_what_json_cannot_hold() -> None:
    rows = [
        Row(
            f"p{i}",
            f"net auto {name}",
            forwards=1.0,
            values={"deletion": 0.5},
            vectors={"deletion": [1.0, 0.5, 0.1 * i]},
        )
        for name in ("a", "b")
        for i in range(2)
    ]
    data = model_of(rank(rows, "net"), rows, 0.5)["data"]
    assert data["rows"][0]["c"] == {"deletion": [1.0, 0.5, 0.05]}
    one = [row for row in rows if row.photo == "p0"]
    data = model_of(rank(one, "net"), one, 0.5)["data"]
    assert data["rows"][0]["m"]["deletion"][1:3] == [None, None]  # one photo has no interval
    json.dumps(data, allow_nan=False)
    ragged = [rows[0]._replace(vectors={"deletion": [1.0]}), *rows[1:]]
    assert model_of(rank(ragged, "net"), ragged, 0.5)["data"]["rows"][0]["c"] == {}


def test_several_models_and_one_without_numbers(tmp_path: Path) -> None:
    rows = [*rows_of(TELLING, "one"), *rows_of(TELLING, "two"), Row("p", "three auto a", problem="it has no head")]
    text = ev.write_report(store_of(tmp_path, rows)).read_text()
    page = Page(text)
    assert [each["id"] for each in page.of("section") if each.get("class") == "model"] == ["model-1", "model-2"]
    assert [each["href"] for each in page.of("a") if str(each["href"]).startswith("#")] == ["#model-1", "#model-2"]
    assert "it has no head" in " ".join(page.texts)


def test_links_lead_to_files_that_are_there(tmp_path: Path) -> None:
    store = store_of(tmp_path, rows_of(TELLING, "a b#c"))
    ev.write_tables(store)
    page = Page(ev.write_report(store).read_text())
    links = [str(each["href"]) for each in page.of("a")]
    assert links == ["rows.csv", "table-a-b-c.csv", "run.json", "maps/"]
    assert all((tmp_path / link).exists() for link in links)


def test_the_gallery_names_the_class_of_the_maps(photos: list[Photo], tmp_path: Path) -> None:
    store = run_quickly(photos, tmp_path / "out")
    unknown = [photo._replace(label=None) for photo in photos]
    text = ev.write_report(store, unknown, loader=load_net).read_text()
    titles = re.findall(r"<h4><bdi>(.*?)</bdi> <span class=\"quiet\"><bdi>(.*?)</bdi>", text)
    asked = {row.photo: "abcd"[row.target] for row in store.rows if row.target is not None}
    assert titles
    for title, note in titles:
        assert title == asked[note.partition(", ")[2]]


def test_a_map_that_is_missing_is_said(photos: list[Photo], tmp_path: Path) -> None:
    store = run_quickly(photos, tmp_path / "out")
    for file in (tmp_path / "out" / "maps").iterdir():
        if "grad_cam" in file.name:
            os.remove(file)
    page = Page(ev.write_report(store, photos, loader=load_net).read_text())
    assert "no map" in " ".join(page.texts)
    assert len(page.of("img")) < 16


# ---------------------------------------------------------------------------------------------------- in a browser


def opened(folder: Path, file: Path, *steps: STEP) -> list[Any]:
    """Open a page and take steps; nothing but the page may be asked for, and nothing may go wrong."""
    session = Session(folder, file.as_uri(), [{"do": "open"}, *steps])
    assert [one.partition("#")[0] for one in session.asked if not one.startswith("data:")] == [file.as_uri()]
    return session.returned[1:]


def value(code: str) -> STEP:
    return {"do": "value", "code": code}


NAMES = value("[...document.querySelectorAll('tbody tr th bdi:first-child')].map(each => each.textContent)")


@pytest.mark.sweep
@needs_browser
def test_a_head_sorts_and_the_plots_follow(tmp_path: Path) -> None:
    rows = [
        row._replace(values=row.values | {"deletion": 1 - row.values["iou"] if "auto a" not in row.case else 0.9})
        for row in rows_of(TELLING)
    ]
    rows = [row._replace(vectors={"deletion": [1.0, row.values["deletion"], 0.0]}) for row in rows]
    file = ev.write_report(store_of(tmp_path / HOSTILE.replace("/", "-"), rows))
    head, dots = "[data-key=deletion] button", value("document.querySelectorAll('.forest circle').length")
    sorts = value("[...document.querySelectorAll('th[aria-sort]')].map(each => [each.dataset.key, each.ariaSort])")
    steps = [
        *(NAMES, sorts, dots, value("document.querySelector('.of-curve').hidden")),
        *({"do": "toggle", "on": head}, NAMES, sorts, value("document.querySelector('.sorted').textContent")),
        *(value("document.querySelectorAll('.curve polyline').length"), {"do": "toggle", "on": head}, NAMES),
        value("document.querySelector('[data-key=seconds]').hidden"),
        value("document.querySelector('[name=group][value=cost]').click()"),
        value("document.querySelector('[data-key=seconds]').hidden"),
        value("document.querySelector('[name=intervals]').click()"),
        value("document.querySelectorAll('.interval:not([hidden])').length > 0"),
        value("document.querySelectorAll('.forest svg, .forest script').length"),
    ]
    said = opened(tmp_path, file, *steps)
    assert said[0] == ["a", "b", "c", "center"]
    assert (said[1], said[2], said[3]) == ([["iou", "descending"]], 4, True)
    assert said[5] == ["b", "c", "a", "center"]  # lower is better, baselines stay last
    assert said[6] == [["deletion", "ascending"]]
    assert (said[7], said[8]) == ("deletion ↓", 4)
    assert said[10] == ["a", "c", "b", "center"]
    assert (said[11], said[13], said[15], said[16]) == (True, False, True, 0)


@pytest.mark.sweep
@needs_browser
@pytest.mark.skipif(not (MODULES / "axe-core").is_dir(), reason="left out: needs npm's axe-core (make browser)")
def test_the_page_is_accessible_and_fits_a_phone(photos: list[Photo], tmp_path: Path) -> None:
    store = run_quickly(photos, tmp_path / "out")
    file = ev.write_report(store, photos, loader=load_net, command="camfn evaluate " + "x" * 300)
    steps: list[STEP] = []
    for width, dark in ((1366, False), (1366, True), (420, False), (420, True)):
        shot = {"do": "shot", "to": str(tmp_path / "a.png"), "width": width, "height": 900, "dark": dark}
        steps += [shot, {"do": "axe"}]
    said = opened(tmp_path, file, *steps)
    assert said[::2] == [0, 0, 0, 0]
    assert said[1::2] == [[], [], [], []]

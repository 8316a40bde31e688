"""The numbers of a check as verdicts and plain sentences, and the thresholds between them."""

# tested in tests/check/test_words.py

from __future__ import annotations

from textwrap import wrap
from typing import Literal, NamedTuple

from torch import Tensor

from .numbers import Numbers

SAME, ALIKE = 0.8, 0.5
"""Rank correlation from which two maps are the same to a reader, and from which they are alike."""

STEADY, SHAKY = 0.8, 0.5
"""Median rank correlation with the maps of noisy copies from which a map is steady, and below which it is not."""

REPEATS = 0.95
"""Rank correlation of two equal calls below which the method itself is random."""

BEATEN = 0.9
"""Share of the random parts that the marked part must beat."""

HALF = 0.5
"""Share of the probability that the marked part alone must keep, and that its removal must take."""

WORTH = 0.1
"""By how much the marked part must differ from the median of parts elsewhere, in shares of the whole probability."""

BORDER = 0.075
"""Distance to the edge, as a share of the side, below which a peak is at the border: the outermost cells of 7 by 7."""

ONE_PLACE, LARGE = 0.8, 0.5
"""Share of the strong values in one piece from which they are in one place; share of the area that is large."""

Verdict = Literal["good", "look", "bad", "none"]


class Line(NamedTuple):
    """One question of a check and its answer for one image.

    Attributes:
        name: of the question.
        value: the number that answers it; None where the question was left out.
        interval: the lowest and the highest of several draws, or of the parts elsewhere; None for one number.
        verdict: "good"; "look", where you should look for yourself; "bad"; or "none", where it was left out.
        sentence: the answer in words.
    """

    name: str
    value: float | None
    interval: tuple[float, float] | None
    verdict: Verdict
    sentence: str


def lines_of(check: Numbers, i: int, names: list[str] | None) -> tuple[Line, ...]:
    """Answer every question for image i."""
    if bool(check.blank[i]):
        sentence = "The map is the same everywhere, or not finite: there is nothing to check."
        return (Line("blank", None, None, "bad", sentence),)
    return (
        _again(check, i),
        _other_class(check, i, names),
        _redrawn(check, i),
        _noisy(check, i),
        _kept(check, i),
        _removed(check, i),
        _border(check, i),
        _one_place(check, i),
    )


def _left_out(check: Numbers, name: str) -> Line:
    return Line(name, None, None, "none", f"Left out: {check.missing[name]}.")


def _again(check: Numbers, i: int) -> Line:
    value = float(check.again[i])
    if value >= REPEATS:
        return Line("same call", value, None, "good", "The same call gives the same map again.")
    verdict: Verdict = "look" if value >= ALIKE else "bad"
    return Line(
        "same call",
        value,
        None,
        verdict,
        "The same call gives another map each time: average more samples, or trust no detail of it.",
    )


def _other_class(check: Numbers, i: int, names: list[str] | None) -> Line:
    if check.other_class is None or check.runner_up is None:
        return _left_out(check, "other class")
    value, index = float(check.other_class[i]), int(check.runner_up[i])
    label = names[index] if names else f"class {index}"
    line = _unlike(
        check,
        i,
        Line("other class", value, None, "good", ""),
        f"For the runner-up, {label}, the map is another one.",
        f"For the runner-up, {label}, the map is much alike: little of it is about the class.",
        f"For the runner-up, {label}, the map is the same: it does not say why this class.",
    )
    repeats = float(check.again.min()) >= REPEATS
    if line.verdict == "bad" and repeats and check.redrawn is not None and _median(check.redrawn[i])[0] < SAME:
        shared = f"For the runner-up, {label}, the map is the same: it shows what both share (and contrast, what not)."
        return line._replace(verdict="look", sentence=shared)
    return line


def _redrawn(check: Numbers, i: int) -> Line:
    if check.redrawn is None:
        return _left_out(check, "new head")
    value, interval = _median(check.redrawn[i])
    return _unlike(
        check,
        i,
        Line("new head", value, interval, "good", ""),
        f"With random weights in {check.head!r} the map is another one: it depends on what the head has learned.",
        f"With random weights in {check.head!r} the map is much alike: little depends on what the head has learned.",
        f"With random weights in {check.head!r} the map is the same: it does not depend on what the head has learned.",
    )


def _unlike(check: Numbers, i: int, line: Line, other: str, much: str, same: str) -> Line:
    """Choose the sentence of a map that should differ; a method that is random by itself differs for no reason."""
    value = line.value or 0.0
    # one lucky draw of a random method says nothing, so that the least repeatable image of the batch decides
    if float(check.again.min()) < REPEATS and value < SAME:
        return line._replace(verdict="none", sentence="Cannot be told: the same call gives another map each time.")
    if value >= SAME:
        return line._replace(verdict="bad", sentence=same)
    return line._replace(verdict="look", sentence=much) if value >= ALIKE else line._replace(sentence=other)


def _noisy(check: Numbers, i: int) -> Line:
    value, interval = _median(check.noisy[i])
    verdict, sentence = ("good", "A little noise on the image leaves the map as it is.")
    if value < STEADY:
        verdict, sentence = ("look", "A little noise on the image changes the map: trust its coarse shape alone.")
    if value < SHAKY:
        verdict, sentence = ("bad", "A little noise on the image makes another map of it.")
    return Line("noise", value, interval, verdict, sentence)  # type: ignore[arg-type]


def _kept(check: Numbers, i: int) -> Line:
    if check.kept is None:
        return _left_out(check, "kept")
    return _part(check, i, check.kept[i], "kept", 1)


def _removed(check: Numbers, i: int) -> Line:
    if check.removed is None:
        return _left_out(check, "removed")
    return _part(check, i, check.removed[i], "removed", -1)


def _part(check: Numbers, i: int, scores: Tensor, name: str, sign: int) -> Line:
    """Say whether the marked part does more than parts of the same size and shape elsewhere."""
    mine, others, whole = float(scores[0]), scores[1:], float(check.score[i])
    beaten = int((sign * mine > sign * others).sum())
    worth = not check.of_probability or sign * (mine - float(others.median())) >= WORTH * whole
    above = worth and beaten >= BEATEN * len(others)
    far = not check.of_probability or sign * mine >= sign * HALF * whole
    verdict: Verdict = "good" if above and far else "look" if above else "bad"
    part = (
        f"Alone, the strongest {check.share:.0%} has" if sign > 0 else f"Without the strongest {check.share:.0%} it has"
    )
    what = "probability" if check.of_probability else "score"
    numbers = f"{part} {what} {mine:.3g}, the whole image {whole:.3g}"
    rank = f"{'more' if sign > 0 else 'less'} than {beaten} of {len(others)} such parts elsewhere"
    interval = (float(others.min()), float(others.max()))
    return Line(name, mine, interval, verdict, f"{numbers}, {rank}: {_ENDS[name, verdict]}.")


_ENDS = {
    ("kept", "good"): "the part is enough",
    ("kept", "look"): "the part helps, but is not enough by itself",
    ("kept", "bad"): "the part is worth no more than others",
    ("removed", "good"): "the part is needed",
    ("removed", "look"): "the part matters, but others show the same",
    ("removed", "bad"): "the part is missed no more than others",
}


def _border(check: Numbers, i: int) -> Line:
    value = float(check.border[i])
    if value != value:
        return Line("border", None, None, "bad", "No place speaks for the target: the map has no positive value.")
    if value < BORDER:
        sentence = "The peak lies at the border of the image, where padding alone can make one."
        return Line("border", value, None, "look", sentence)
    return Line("border", value, None, "good", "The peak lies inside of the image.")


def _one_place(check: Numbers, i: int) -> Line:
    together, marked = float(check.together[i]), float(check.marked[i])
    if together != together:
        return Line("one place", None, None, "none", "Left out: the map has no positive value.")
    if marked > LARGE:
        return Line("one place", together, None, "look", f"It marks {marked:.0%} of the image: it hardly says where.")
    if together < ONE_PLACE:
        sentence = f"It is strong in several places: {together:.0%} of the strong values lie around the peak."
        return Line("one place", together, None, "look", sentence)
    return Line("one place", together, None, "good", f"It is strong in one place, {marked:.0%} of the image.")


def _median(values: Tensor) -> tuple[float, tuple[float, float]]:
    """Return the median of several draws, and the lowest and the highest."""
    ordered = values.sort().values
    n = len(ordered)
    middle = (float(ordered[(n - 1) // 2]) + float(ordered[n // 2])) / 2
    return middle, (float(ordered[0]), float(ordered[-1]))


def table_of(lines: tuple[Line, ...], width: int) -> str:
    """Lay out the lines of one image as text, sentences broken to fit the width."""
    rows = [("", "", "value", "range", "in words")]
    for line in lines:
        value = "" if line.value is None else f"{line.value:.2f}"
        spread = f"{line.interval[0]:.2f} to {line.interval[1]:.2f}" if line.interval else ""
        rows.append(("-" if line.verdict == "none" else line.verdict, line.name, value, spread, line.sentence))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    texts = []
    for verdict, name, value, spread, sentence in rows:
        start = f"{verdict:<{widths[0]}}  {name:<{widths[1]}}  {value:>{widths[2]}}  {spread:<{widths[3]}}  "
        broken = wrap(sentence, max(width - len(start), 30))
        texts += [start + broken[0], *(" " * len(start) + rest for rest in broken[1:])]
    return "\n".join(texts)

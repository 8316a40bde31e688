"""Naive versions of what is computed word by word, from the logits of all positions; imports nothing from camfn."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def tam(
    logits: Tensor, prompt: Sequence[int], answer: Sequence[int], places: Sequence[int], asked: Sequence[int]
) -> tuple[list[list[float]], list[tuple[float, float]]]:
    """TAM before its filter: for each word of an answer its map over places, and the range of the map and its text.

    Args:
        logits: (T, V), of prompt and answer.
        prompt: ids of the prompt.
        answer: ids of the answer.
        places: positions of the pictures' places.
        asked: positions of the words of the question.
    """
    score = logits.double().clamp(min=0).tolist()
    earlier: list[list[float]] = []
    names: list[int] = []
    texts = list(asked)
    for i, position in enumerate(asked):
        read = int(logits[position].argmax()) if i == 0 else prompt[position]
        earlier.append([score[place][read] for place in places])
        names.append(prompt[position])
    maps, ranges = [], []
    for k, word in enumerate(answer):
        own = [score[place][word] for place in places]
        likeness = [score[position][word] for position in texts]
        kept = [i for i, name in enumerate(names) if name != word]
        total = math.fsum(likeness[i] for i in kept)
        mixed = [
            math.fsum(likeness[i] / total * earlier[i][p] if total else 0.0 for i in kept) for p in range(len(own))
        ]
        square = math.fsum(value * value for value in mixed)
        factor = math.fsum(m * i for m, i in zip(own, mixed, strict=True)) / square if square else 0.0
        cleaned = [max(m - factor * i, 0.0) for m, i in zip(own, mixed, strict=True)]
        maps.append(cleaned)
        ranges.append((min([*cleaned, *likeness]), max([*cleaned, *likeness])))
        earlier.append(own)
        names.append(word)
        texts.append(len(prompt) - 1 + k)
    return maps, ranges


def decoder_relevance(attention: Sequence[Tensor], grads: Sequence[Tensor], query: int) -> Tensor:
    """GAE of one row (T,): from the last layer down, `r <- r + r mean_h relu(dA A)`, without the query itself."""
    tokens = attention[0].shape[-1]
    row = torch.zeros(tokens, dtype=torch.float64)
    row[query] = 1
    for a, g in zip(reversed(attention), reversed(grads), strict=True):
        matrix = (a[0].double() * g[0].double()).clamp(min=0).mean(0)
        row = row + row @ matrix
    row[query] -= 1
    return row


def trapezoid(heights: Sequence[float], at: Sequence[float]) -> float:
    """Area under a line through points."""
    pairs = zip(heights, heights[1:], at, at[1:], strict=False)
    return math.fsum((a + b) / 2 * (y - x) for a, b, x, y in pairs)


def best_overlap(maps: Tensor, mask: Tensor, threshold: Sequence[float]) -> tuple[float, float, float]:
    """IoU, precision and recall of the best of maps of 256 values, each cut above its own threshold."""
    best = (-1.0, 0.0, 0.0)
    for values, cut in zip(maps.tolist(), threshold, strict=True):
        both = part = whole = 0
        for row, own in zip(values, mask.tolist(), strict=True):
            for value, inside in zip(row, own, strict=True):
                both += int(value > cut and inside)
                part += int(value > cut)
                whole += int(inside)
        found = (both / (part + whole - both), both / part if part else 0.0, both / whole)
        best = max(best, found)
    return best

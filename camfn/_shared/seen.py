"""What a notebook shows of tensors: small pictures of maps as PNG, and tables in HTML; torch and zlib are enough."""

from __future__ import annotations

import html
import re
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .checks import is_concrete
from .embed import data_address

SIDE = 96
"""Longer side of the picture of one map, in pixels."""

MOST = 4
"""Samples that a record shows."""

_ABOVE, _BELOW, _UNKNOWN = (0.70, 0.02, 0.15), (0.02, 0.19, 0.58), (0.6, 0.6, 0.6)
"""Colors of the largest magnitude above and below zero, which is white; and of NaN."""


def png(rows: Tensor) -> bytes:
    """Encode a picture, (H, W, 3) in uint8, as PNG."""
    height, width = rows.shape[:2]
    lines = functional.pad(rows.reshape(height, -1).cpu(), (1, 0))  # each line begins with its filter: none
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))]
    parts += [(b"IDAT", zlib.compress(lines.numpy().tobytes())), (b"IEND", b"")]
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def signed_colors(cam: Tensor) -> Tensor:
    """Color a map (h, w) on its own scale, (h, w, 3) in [0, 1]: white is zero, red is above and blue below."""
    wide = cam.detach().to("cpu", torch.float64)
    top = wide.nan_to_num(0, 0, 0).abs().max()
    share = (wide / top.clamp_min(torch.finfo(torch.float64).tiny)).clamp(-1, 1)[..., None]
    ends = torch.where(share > 0, torch.tensor(_ABOVE).double(), torch.tensor(_BELOW).double())
    return torch.where(share.isnan(), torch.tensor(_UNKNOWN).double(), 1 - share.abs() * (1 - ends))


def sheet(rows: Sequence[Sequence[Tensor]], side: int = SIDE) -> bytes:
    """Draw rows of maps (h, w) as PNG, each map on its own scale; the pixels of a small map stay squares."""
    drawn = [[_enlarged(signed_colors(cam), side) for cam in row] for row in rows]
    height, width = (max(cell.shape[d] for row in drawn for cell in row) for d in (0, 1))
    columns = max(map(len, drawn))
    lines = []
    for row in drawn:
        cells = [_framed(cell, height, width) for cell in row]
        lines.append(torch.cat([*cells, *[torch.ones_like(cells[0])] * (columns - len(cells))], 1))
    return png((torch.cat(lines) * 255).round().byte())


def picture(data: bytes, words: str) -> str:
    """Return an element of HTML that holds a PNG, with words for those who do not see it."""
    return f'<img alt="{html.escape(words, quote=True)}" src="{data_address(data, "image/png")}">'


def words(text: str) -> str:
    """Write text for HTML, its `code` as such."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in HTML, whose cells are HTML; the first of each row is its head."""
    top = "".join(f"<th>{head}</th>" for head in heads)
    body = "".join(f"<tr><th>{name}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for name, *cells in rows)
    return f"<table>{f'<tr>{top}</tr>' if heads else ''}{body}</table>"


def facts_table(facts: Mapping[str, str]) -> str:
    """Return facts as a table in HTML, a line each: its name and the text, both from the left."""
    left = ' style="text-align:left;vertical-align:top;overflow-wrap:anywhere"'
    lines = (f"<tr><th{left}>{name}</th><td{left}>{html.escape(text)}</td></tr>" for name, text in facts.items())
    return f"<table>{''.join(lines)}</table>"


def record_table(record: Mapping[str, Any], pictured: Sequence[str] = (), over: str = "channels") -> str:
    """Show the tensors of a record: shape, type, ends of their values, and a small picture of those in `pictured`."""
    heads = ["", "shape", "dtype", "least", "largest"]
    seen = {name: visible(record[name]) for name in pictured}
    drawn = {name: picture(sheet([maps]), f"{name}, mean over {over}") for name, maps in seen.items() if maps}
    if drawn:
        heads.append(f"mean over {over}: red above zero, blue below")
    rows = []
    for name, value in record.items():
        cells = [name, *_described(value)]
        rows.append([*cells, *([drawn.get(name, "")] if drawn else [])])
    return table(heads, rows)


def record_sheet(*tensors: Any) -> bytes | None:
    """Draw the means over channels of tensors (B, C, *S), a row each; None where none of them is a map."""
    rows = [maps for maps in map(visible, tensors) if maps]
    return sheet(rows) if rows else None


def visible(value: Any, most: int = MOST) -> list[Tensor]:
    """Return the mean over channels of the first samples of (B, C, *S), as maps (h, w); none of what is no map.

    Of a volume it is the slice in the middle, of a sequence a strip.
    """
    if not isinstance(value, Tensor) or value.ndim < 3 or not value.numel() or not is_concrete(value):
        return []
    if value.is_complex() or value.layout != torch.strided:
        return []
    means = value.detach()[:most].to("cpu", torch.float64).mean(1)
    while means.ndim > 3:
        means = means[:, means.shape[1] // 2]
    return list(means if means.ndim == 3 else means[:, None])


def _enlarged(colors: Tensor, side: int) -> Tensor:
    """Bring the longer side of (h, w, 3) to a number of pixels: squares for a small map, means for a large one."""
    share = side / max(colors.shape[:2])
    size = [max(round(length * share), 1) for length in colors.shape[:2]]
    mode = "nearest-exact" if share >= 1 else "area"
    return functional.interpolate(colors.permute(2, 0, 1)[None], size, mode=mode)[0].permute(1, 2, 0)


def _framed(cell: Tensor, height: int, width: int) -> Tensor:
    """Put (h, w, 3) into a white cell of this size with a gray frame."""
    down, right = height - cell.shape[0], width - cell.shape[1]
    filled = functional.pad(cell, (0, 0, 0, right, 0, down), value=1)
    return functional.pad(functional.pad(filled, (0, 0, 1, 1, 1, 1), value=0.6), (0, 0, 2, 2, 2, 2), value=1)


def _described(value: Any) -> list[str]:
    """Describe one part of a record in four cells."""
    if isinstance(value, (str, bool)):
        return [html.escape(str(value)), "", "", ""]
    if not isinstance(value, Tensor):
        return [html.escape(type(value).__name__), "", "", ""]
    ends = ["", ""]
    if value.numel() and is_concrete(value) and not value.is_complex() and value.layout == torch.strided:
        plain = value.detach()
        ends = [f"{float(end):.3g}" for end in (plain.min(), plain.max())]
    return [str(tuple(value.shape)), str(value.dtype).removeprefix("torch."), *ends]

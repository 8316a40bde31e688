"""PNG files of every kind, written byte by byte: Pillow writes only some of them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
KINDS = [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2), (8, 4), (16, 4), (8, 6), (16, 6)]
"""Bits and color type, without palettes."""

_ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def write_png(
    path: Path,
    depth: int,
    kind: int,
    values: Array,
    *,
    interlaced: bool = False,
    chunks: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    """Write (H, W, C) values, each line by another filter, the data in two chunks."""
    passes = _ADAM7 if interlaced else [(0, 0, 1, 1)]
    parts = [values[y::down, x::across] for x, y, across, down in passes]
    data = zlib.compress(b"".join(_lines(part, depth) for part in parts if part.size))
    height, width = values.shape[:2]
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, int(interlaced))
    body = [
        chunk(b"IHDR", head),
        *(chunk(*pair) for pair in chunks),
        chunk(b"IDAT", data[:9]),
        chunk(b"IDAT", data[9:]),
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(body) + chunk(b"IEND", b""))


def _lines(values: Array, depth: int) -> bytes:
    unit = max(1, values.shape[2] * depth // 8)
    before: bytes | None = None
    out = b""
    for row, line in enumerate(values):
        packed = _packed(line.reshape(-1), depth)
        out += bytes([row % 5]) + _filtered(packed, before or bytes(len(packed)), unit, row % 5)
        before = packed
    return out


def _packed(line: Array, depth: int) -> bytes:
    if depth >= 8:
        return line.astype(">u2" if depth == 16 else np.uint8).tobytes()
    bits = (line[:, None] >> np.arange(depth - 1, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8).reshape(-1)).tobytes()


def _filtered(line: bytes, up: bytes, unit: int, kind: int) -> bytes:
    out = bytearray()
    for k, value in enumerate(line):
        left, corner = (line[k - unit], up[k - unit]) if k >= unit else (0, 0)
        guess = left + up[k] - corner
        nearest = min((left, up[k], corner), key=lambda other: abs(guess - other))
        out.append((value - (0, left, up[k], (left + up[k]) // 2, nearest)[kind]) % 256)
    return bytes(out)

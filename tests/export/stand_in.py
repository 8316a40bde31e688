"""Two small files that stand for onnxruntime-web where no browser runs them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from camfn.export import _runtime

CONTENTS = {"ort.wasm.bundle.min.mjs": b"export {}", "ort-wasm-simd-threaded.wasm": b"\0asm" * 999}


def stand_in(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the files into a folder, and make camfn take them for npm's; the cache is empty, in `tmp_path`."""
    known(tmp_path, monkeypatch)
    folder.mkdir(parents=True)
    for name, data in CONTENTS.items():
        (folder / name).write_bytes(data)
    return folder


def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make camfn know the files by their hashes; the cache is empty, in `tmp_path`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in CONTENTS.items()}
    monkeypatch.setattr(_runtime, "_FILES", hashes)

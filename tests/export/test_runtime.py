"""The runtime of the page: fetched, unpacked, and known by its hashes. The files here stand for npm's."""

from __future__ import annotations

import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from camfn import CamfnError
from camfn.export import _runtime, fetch_runtime
from camfn.export._runtime import cache, runtime_files

from .stand_in import CONTENTS, known


@pytest.fixture(autouse=True)
def stands_for_npm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known(tmp_path, monkeypatch)


def tarball(contents: dict[str, bytes] = CONTENTS) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A registry on this machine; yields the tarball's file."""
    file = tmp_path / "npm" / "onnxruntime-web" / "-" / f"onnxruntime-web-{_runtime.VERSION}.tgz"
    file.parent.mkdir(parents=True)
    handler = partial(_Silent, directory=str(tmp_path / "npm"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield file
        server.shutdown()


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def holds(folder: Path) -> bool:
    return {file.name: file.read_bytes() for file in folder.iterdir()} == CONTENTS


def test_from_the_registry(registry: Path) -> None:
    registry.write_bytes(tarball())
    told: list[tuple[int, int]] = []
    folder = fetch_runtime(progress=lambda come, total: told.append((come, total)))
    assert folder == cache()
    assert holds(folder)
    assert told[-1] == (len(tarball()), len(tarball()))
    assert runtime_files(None) == CONTENTS


def test_a_registry_without_the_package_is_named(registry: Path) -> None:
    with pytest.raises(CamfnError, match=r"cannot fetch http://127.*404.*npm pack onnxruntime-web@1.*--fetch-runtime"):
        fetch_runtime()
    assert not cache().exists()


def test_a_registry_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("npm_config_registry", "file:///etc")
    with pytest.raises(CamfnError, match="expected an address of http or https"):
        fetch_runtime()


@pytest.mark.parametrize("place", [".", "dist", "package/dist", "node_modules/onnxruntime-web/dist"])
def test_from_a_folder(tmp_path: Path, place: str) -> None:
    (tmp_path / "given" / place).mkdir(parents=True)
    for name, content in CONTENTS.items():
        (tmp_path / "given" / place / name).write_bytes(content)
    assert holds(fetch_runtime(tmp_path / "given"))
    assert runtime_files(tmp_path / "given") == CONTENTS


def test_from_a_tarball(tmp_path: Path) -> None:
    (tmp_path / "package.tgz").write_bytes(tarball())
    assert holds(fetch_runtime(tmp_path / "package.tgz"))


def test_other_bytes_are_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    changed = CONTENTS | {"ort-wasm-simd-threaded.wasm": b"\0asm" * 998 + b"evil"}
    (tmp_path / "package.tgz").write_bytes(tarball(changed))
    with pytest.raises(CamfnError, match=r"ort-wasm-simd-threaded.wasm is not that of onnxruntime-web 1"):
        fetch_runtime(tmp_path / "package.tgz")
    assert not cache().exists()


@pytest.mark.parametrize("content", [b"no tarball", tarball({"other.js": b""}), tarball()[:-40]])
def test_what_is_no_package_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "package.tgz").write_bytes(content)
    with pytest.raises(CamfnError, match=r"cannot be read.*npm pack onnxruntime-web@1"):
        fetch_runtime(tmp_path / "package.tgz")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(CamfnError, match="run camfn export --fetch-runtime once"):
        runtime_files(None)
    with pytest.raises(CamfnError, match="there is no "):
        fetch_runtime(tmp_path / "nowhere")
    with pytest.raises(CamfnError, match=r"has no ort\.wasm.bundle\.min\.mjs and ort-wasm"):
        fetch_runtime(tmp_path)


def test_the_hashes_are_of_two_files() -> None:
    assert len(_runtime._FILES) == 2

"""The widget and the frame in JupyterLab: a server, a kernel and headless Chromium."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..export.test_browser import CHROMIUM, MODULES, STEP, needs_browser
from ..house import ROOT

MAKE = """import torch, camfn.explore
from camfn import tiny
scenes = tiny.scenes(2, generator=torch.Generator().manual_seed(0))
methods = ["grad_cam", "layer_cam"]
found = camfn.explore.collect(tiny.load("cnn"), scenes.images, [3, 7], methods=methods, layers="auto:2")
shown = camfn.explore.widget(found)
shown"""
TOKEN = "of-this-test"


@contextlib.contextmanager
def jupyter(folder: Path) -> Iterator[str]:
    """Serve a folder by JupyterLab on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    options = [f"--port={port}", "--ip=127.0.0.1", "--no-browser", "--allow-root", f"--ServerApp.root_dir={folder}"]
    options += [f"--IdentityProvider.token={TOKEN}", "--ServerApp.port_retries=0"]
    options += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    homes = {name: str(folder / ".jupyter") for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")}
    environ = {**os.environ, **homes, "PYTHONPATH": str(ROOT.parent)}
    with subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options],
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            for _ in range(600):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"{address}/api/status?token={TOKEN}").close()
                    break
                assert server.poll() is None, "jupyterlab ended"
                time.sleep(0.2)
            yield address
        finally:
            server.terminate()


def ran(folder: Path, cells: list[str], *steps: STEP) -> list[Any]:
    """Open a notebook of these cells, and take steps."""
    nbformat: Any = pytest.importorskip("nbformat")
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(made, folder / "seen.ipynb")
    with jupyter(folder) as address:
        spec = {"chromium": CHROMIUM, "playwright": str(MODULES / "playwright-core"), "steps": steps}
        spec |= {"url": f"{address}/lab/tree/seen.ipynb?token={TOKEN}", "out": str(folder / "out.json")}
        (folder / "spec.json").write_text(json.dumps(spec))
        command = ["node", str(Path(__file__).with_name("notebook.cjs")), str(folder / "spec.json")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads((folder / "out.json").read_text())
    assert told["errors"] == []
    returned: list[Any] = told["returned"]
    return returned


@pytest.mark.sweep
@needs_browser
@pytest.mark.filterwarnings("ignore")
def test_the_widget_in_a_notebook_follows_the_user_and_leads_python(tmp_path: Path) -> None:
    pytest.importorskip("jupyterlab")
    pytest.importorskip("anywidget")
    pixels = "document.querySelector('.cv-frame canvas').toDataURL()"
    told = ran(
        tmp_path,
        [MAKE, "print(shown.method, shown.target)", "shown.target = 'class 7'; print('set')", "found"],
        *({"do": "run", "cell": 0}, {"do": "seen", "on": ".cv-frame canvas"}, {"do": "value", "code": pixels}),
        *({"do": "click", "on": ".cv-method label:nth-child(2)"}, {"do": "wait", "milliseconds": 500}),
        *({"do": "value", "code": pixels}, {"do": "run", "cell": 1}, {"do": "said", "cell": 1}),
        *({"do": "run", "cell": 2}, {"do": "wait", "milliseconds": 500}, {"do": "value", "code": pixels}),
        *({"do": "run", "cell": 3}, {"do": "seen", "on": "iframe[title='Maps to explore']"}),
        {"do": "shot", "to": os.environ.get("CAMFN_SHOT", str(tmp_path / "shot.png"))},
    )
    assert told[2] != told[5]  # another method, another map
    assert told[7].split() == ["layer_cam", "class", "3"]
    assert told[10] != told[5]  # another target, set in Python

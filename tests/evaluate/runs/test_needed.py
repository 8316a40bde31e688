"""A run looks for optional packages before it begins, and names the extra of one that is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from camfn._shared.errors import MissingPackageError
from camfn.evaluate import Photo, Protocol
from camfn.evaluate._runs.needed import require
from tests.evaluate.common import run_quickly

BLOCKED = """
import sys
for module, blocked in (("camfn.zoo", "PIL"), ("camfn.evaluate", "PIL")):
    sys.modules[blocked] = None
    try:
        __import__(module)
    except ImportError as error:
        print(error)
"""


def test_a_missing_pillow_is_named_by_every_module_that_needs_it() -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", BLOCKED], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "camfn.zoo needs Pillow: pip install 'camfn[cli]'",
        "camfn.evaluate needs Pillow: pip install 'camfn[evaluate]'",
    ]


def test_a_package_that_is_there_is_no_matter() -> None:
    require("torch", "a run", "everything")
    with pytest.raises(MissingPackageError, match=r"a run needs nowhere for its tea: pip install 'camfn\[evaluate\]'"):
        require("nowhere", "a run", "its tea")


@pytest.mark.parametrize(
    ("blocked", "options", "words"),
    [
        ("scipy", {"protocol": Protocol(metrics=("max_box_acc",))}, r"needs scipy .*camfn\[evaluate\]"),
        ("ray", {"engine": "ray"}, r"needs Ray: pip install 'camfn\[ray\]'"),
    ],
)
def test_a_missing_package_is_found_before_the_run(
    blocked: str,
    options: dict[str, object],
    words: str,
    photos: list[Photo],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, blocked, None)
    with pytest.raises(MissingPackageError, match=words):
        run_quickly(photos, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()

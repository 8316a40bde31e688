"""What needs no network needs no torch: help, version, completion, and how long they take."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("typer", reason="needs typer: pip install 'camfn[cli]'")

SAID = (
    "import sys, time; sys.argv = ['camfn', *{words}]; from camfn.cli import main\n"
    "try: main()\n"
    "except SystemExit as end: assert not end.code, end\n"
    "heavy = {{'torch', 'numpy', 'PIL', 'timm', 'torchvision', 'transformers'}} & set(sys.modules)\n"
    "print('heavy', *heavy, file=sys.stderr); print('seconds', time.process_time(), file=sys.stderr)"
)
COMMANDS = (
    "explain",
    "guided",
    "factorize",
    "compare",
    "concepts",
    "explore",
    "words",
    "evaluate",
    "tune",
    "table",
    "layers",
    "methods",
)


def said(*words: str) -> tuple[str, list[str], float]:
    """Output, the heavy libraries that were loaded, and the seconds of the processor."""
    program = SAID.format(words=list(words))
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    heavy, seconds = done.stderr.splitlines()[-2:]
    return done.stdout, heavy.split()[1:], float(seconds.split()[1])


@pytest.mark.parametrize("words", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)])
def test_help_and_version_load_no_torch(words: list[str]) -> None:
    text, heavy, _ = said(*words)
    assert text
    assert heavy == []


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["explain", "--help"]])
def test_help_and_version_take_half_a_second(words: list[str]) -> None:
    # of the processor, which a busy machine does not lengthen
    assert min(said(*words)[2] for _ in range(3)) <= 0.5


def test_completion_is_on() -> None:
    command = [sys.executable, "-m", "camfn"]
    environment = os.environ | {
        "_CAMFN_COMPLETE": "complete_bash",
        "COMP_WORDS": "camfn explain --mod",
        "COMP_CWORD": "2",
    }
    program = "import sys; sys.argv = ['camfn']; from camfn.cli import main; main()"
    done = subprocess.run(
        [*command[:1], "-c", program], env=environment, check=False, capture_output=True, text=True, timeout=60
    )
    assert "--model" in done.stdout.split()

"""The shape of the house, counted: rooms, floors, imports between rooms, and the walk of a call through the files.

Run `python -m tests.house` for the rooms, `python -m tests.house --walks` for the walks as well. A room is a folder or
a file directly in `camfn/`; its floor is one above the highest room that it imports. Every import counts, also one
inside a function or for types alone. A walk is the trace of one call on `tiny:cnn`: the files of `camfn` that
it enters, and how often a call goes from one file to another.
"""

from __future__ import annotations

import ast
import contextlib
import io
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from types import FrameType
from typing import Any

import camfn

ROOT = Path(camfn.__file__).parent
FILES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sorted(ROOT.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
INIT = "__init__"
"""The package itself, among the names of its modules."""


def room_of(name: str) -> str:
    """Name the room of a module: the folder or the file directly in `camfn/`."""
    return name.partition(".")[0]


@cache
def own_imports(name: str) -> frozenset[str]:
    """Modules of camfn that a module imports, at its top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # network/_guided.py is two levels deep: one dot is camfn.network, two are camfn
            package = ["camfn", *name.split(".")[:-1]]
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *filter(None, [node.module])])
            targets = [f"{start}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {module_of(target) for target in targets if target.split(".")[0] == "camfn"}
    return frozenset(found)


def module_of(target: str) -> str:
    """Name the module that holds a dotted name of camfn: the longest part of the name that is one."""
    parts = target.split(".")[1:]
    for end in range(len(parts), 0, -1):
        for name in (".".join(parts[:end]), ".".join([*parts[:end], INIT])):
            if name in FILES:
                return name
    return INIT


@cache
def rooms() -> dict[str, set[str]]:
    """Map each room to the other rooms that it imports."""
    found: dict[str, set[str]] = {room_of(name): set() for name in FILES}
    for name in FILES:
        found[room_of(name)] |= {room_of(other) for other in own_imports(name)} - {room_of(name)}
    return found


def floors() -> dict[str, int]:
    """Map each room to its floor, the ground being 1; raises `graphlib.CycleError` where rooms import in a circle."""
    levels: dict[str, int] = {}
    for room in TopologicalSorter(rooms()).static_order():
        levels[room] = 1 + max((levels[below] for below in rooms()[room]), default=0)
    return levels


def walked(call: Callable[[], object]) -> tuple[set[str], int]:
    """Run a call; return the files of `camfn` that it enters and the number of calls from one file to another."""
    files: set[str] = set()
    stack: list[str] = []
    moves = 0
    home = str(ROOT)

    def trace(frame: FrameType, event: str, _: Any) -> None:
        nonlocal moves
        if event not in ("call", "return") or not frame.f_code.co_filename.startswith(home):
            return
        if frame.f_code.co_name == "<module>":
            return
        if event == "call":
            file = frame.f_code.co_filename
            moves += bool(stack) and stack[-1] != file
            files.add(file)
            stack.append(file)
        elif stack:
            stack.pop()

    sys.setprofile(trace)
    try:
        call()
    finally:
        sys.setprofile(None)
    return files, moves


def walks() -> dict[str, Callable[[], object]]:
    """Name the walks that are counted, each as a call on `tiny:cnn` that ran once before."""
    import torch
    from PIL import Image

    import camfn.evaluate as judged
    from camfn import capture
    from camfn.tiny import scenes
    from camfn.zoo import load

    folder = Path(tempfile.mkdtemp())
    photo = folder / "a.png"
    picture = scenes(1, generator=torch.Generator().manual_seed(0)).images[0]
    Image.fromarray((picture.permute(1, 2, 0) * 255).byte().numpy()).save(photo)
    model = load("tiny:cnn").model

    def explain(*words: str) -> Callable[[], object]:
        def run() -> None:
            from camfn.cli import main

            before = sys.argv
            sys.argv = ["camfn", "explain", str(photo), "--model", "tiny:cnn", "--out", str(folder), "--force", *words]
            try:
                with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
                    main()
            finally:
                sys.argv = before

        return run

    def row() -> object:
        protocol = judged.Protocol(metrics=("average_drop", "insertion"))
        given = judged.Photo("a", photo, "3", ())
        case = judged.Case("tiny:cnn", "body", "grad_cam")
        return list(judged.evaluate_photo(given, [case], load("tiny:cnn"), protocol))

    return {
        "image: camfn explain": explain(),
        "image: camfn explain --layer body": explain("--layer", "body"),
        "image: camfn explain --target top:3": explain("--target", "top:3"),
        "image: camfn explain --target top:10": explain("--target", "top:10"),
        'target: capture(m, "body", layout="auto")(x, 3)': lambda: capture(model, "body", layout="auto")(
            picture[None], 3
        ),
        "one row of evaluate": row,
    }


def main() -> None:
    """Print the figures."""
    edges = sum(map(len, rooms().values()))
    levels = floors()
    print(f"{len(rooms())} rooms, {max(levels.values())} floors, {edges} imports between rooms")
    for floor in sorted(set(levels.values())):
        print(f"  floor {floor}: {', '.join(sorted(room for room in levels if levels[room] == floor))}")
    if "--walks" in sys.argv:
        for name, call in walks().items():
            call()
            files, moves = walked(call)
            entered = {room_of(Path(file).relative_to(ROOT).with_suffix("").parts[0]) for file in files}
            print(f"{name}: {len(entered)} rooms, {len(files)} files, {moves} moves between files")


if __name__ == "__main__":
    main()
